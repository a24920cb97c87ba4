"""What two runs must share to be the same run: everything that they logged and kept but the time it took."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from golden import timed
from safetensors.torch import load_file

from saccade import catalog
from saccade.training.run import Run


def contents(folder: Path) -> dict[str, Any]:
    """All that a run's folder holds, by place: lines, pictures, tables, result, and the tensors of every checkpoint."""
    found: dict[str, Any] = {}
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        place = str(file.relative_to(folder))
        if file.suffix == ".jsonl":
            found[place] = [_untimed(json.loads(line)) for line in file.read_text().splitlines()]
        elif file.suffix == ".safetensors":
            tensors = load_file(file)
            found[place] = {name: (x.dtype, x.shape, x.numpy(force=True).tobytes()) for name, x in tensors.items()}
        elif file.name == "config.json":
            found[place] = json.loads(file.read_text())["settings" if "settings" in file.read_text() else "recipe"]
        elif file.name in ("state.json", "tables.json", "result.json"):
            found[place] = _untimed(json.loads(file.read_text()))
        elif file.name != "manifest.json":  # the sums of the others, and seconds in them
            found[place] = file.read_bytes()
    return found


def different(one: Path, other: Path) -> list[str]:
    """The places at which two runs' folders differ."""
    a, b = contents(one), contents(other)
    return [place for place in sorted({*a, *b}) if a.get(place) != b.get(place)]


def _untimed(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _untimed(inner) for key, inner in value.items() if key != "run" and not timed(key)}
    return [_untimed(inner) for inner in value] if isinstance(value, list) else value


def train(recipe: str, cfg: Any, folder: Path) -> None:
    """Begin or resume the run in a folder and finish it."""
    begun = (folder / "config.json").exists()
    run = Run.resume(folder, display=False) if begun else Run.start(folder, {"recipe": recipe}, display=False)
    with run:
        run.finish(catalog.load(recipe).train(cfg, run))


def copies_at_first_checkpoints(recipe: str, cfg: Any, folder: Path, monkeypatch: Any) -> list[Path]:
    """Run a recipe to its end; copies of its folder as it was at the first checkpoint of each stage and of the run."""
    copies: dict[Path, Path] = {}
    save = Run.save

    def saving(self: Run, step: int, state: Any, kind: str = "checkpoints") -> Path:
        path = save(self, step, state, kind)
        if step and self.folder not in copies:
            copies[self.folder] = folder.with_name(f"{folder.name}-{self.folder.name}")
            shutil.copytree(folder, copies[self.folder])
        return path

    with monkeypatch.context() as patch:
        patch.setattr(Run, "save", saving)
        train(recipe, cfg, folder)
    return list(copies.values())


def killed_at(operation: int, folder: Path, work: Callable[[], object]) -> int:
    """Work in a process that is killed before so many operations on files of ``folder``; those that it came to.

    Operations are opening for writing, making, renaming, removing and syncing.
    """
    told, tell = os.pipe()
    child = os.fork()
    if not child:
        _count(operation, str(folder), tell)
        try:
            work()
        finally:
            os._exit(0)
    os.close(tell)
    with os.fdopen(told, "rb") as counted:
        seen = len(counted.read())
    os.waitpid(child, 0)
    return seen


def _count(last: int, root: str, tell: int) -> None:
    """Tell of each operation on a file below ``root`` by a byte, and kill this process before the ``last``."""
    seen = 0

    def hit(place: Any) -> None:
        nonlocal seen
        if isinstance(place, (str, bytes, os.PathLike)) and os.fsdecode(place).startswith(root):
            os.write(tell, b".")
            seen += 1
            if seen == last:
                os.kill(os.getpid(), signal.SIGKILL)

    def hear(event: str, given: tuple) -> None:
        opened = event == "open" and (given[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        if opened or event in ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate"):
            hit(given[0])

    fsync = os.fsync
    os.fsync = lambda descriptor: hit(os.readlink(f"/proc/self/fd/{descriptor}")) or fsync(descriptor)
    sys.addaudithook(hear)
