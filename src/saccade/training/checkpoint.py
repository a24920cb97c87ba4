"""Checkpoints that are whole or absent: written beside, synced to disk, renamed; the newest two are kept.

A checkpoint is a folder ``step-000100`` of tensors.safetensors, state.json and manifest.json (the sizes and SHA-256
sums of the other two, and how many lines of records the run had logged). While a step is saved anew, its former folder
waits as ``step-000100~``, so that no moment is without one.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from saccade.training import files
from saccade.training.state import pack, unpack

KEEP = 2
_VOUCHED = ("tensors.safetensors", "state.json")
_NAME = re.compile(r"step-(\d{6,})(~?)")


def write(
    folder: Path, step: int, state: Mapping[str, Any], lines: Mapping[str, int] | None = None, passing: bool = False
) -> Path:
    """Save nested ``state`` as ``folder/step-<step>`` and remove all but the newest two.

    ``lines`` counts the records in the run's files, by name. A ``passing`` checkpoint is removed
    once a later one is written.
    A failure (full disk: OSError with one line) or a kill at any moment leaves the checkpoints that were there
    untouched.
    """
    if step < 0:
        raise ValueError(f"a checkpoint's step is 0 or more, not {step}")
    tree, tensors = pack(state)
    final = path_of(folder, step)
    temporary = folder / f".{final.name}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _sweep(folder)
        temporary.mkdir()
        _fill(temporary, {"step": step, "passing": passing, "lines": dict(lines or {})}, tree, tensors)
        _publish(temporary, final)
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if isinstance(error, (OSError, SafetensorError)):
            raise OSError(f"cannot write checkpoint {final}: {getattr(error, 'strerror', None) or error}") from error
        raise
    _prune(folder, final)
    return final


def discard(folder: Path, step: int) -> None:
    """Remove the checkpoint of a step, if there is one."""
    for path in (final := path_of(folder, step), final.with_name(f"{final.name}~")):
        _remove(path)


def path_of(folder: Path, step: int) -> Path:
    """Where the checkpoint of a step lies."""
    return folder / f"step-{step:06d}"


def step_of(path: Path) -> int:
    """The step that a checkpoint folder is named after."""
    return int(path.name.removeprefix("step-").rstrip("~"))


def latest(folder: Path, lost: Callable[[int, Mapping[str, int]], str | None] | None = None) -> Path | None:
    """The newest whole checkpoint; None if there never was one.

    Passes over a broken one with a warning; if all are broken it is a ValueError, since starting afresh in silence
    would lose the run. ``lost`` tells, by the step and the counted lines, which records below a checkpoint are missing;
    such a checkpoint is passed over too.
    """
    flaws = []
    for path in _present(folder):
        flaw = _flaw(path) or (lost(step_of(path), lines_of(path)) if lost else None)
        if flaw is None:
            for line in flaws:
                warnings.warn(f"{line}; going back to {path.name}", stacklevel=2)
            return path
        flaws.append(flaw)
    if flaws:
        raise ValueError(f"no whole checkpoint in {folder}: {flaws[0]}")
    return None


def read(path: Path) -> tuple[int, dict[str, Any]]:
    """The step and the state of a checkpoint folder, on the CPU. A torn or altered one is a ValueError."""
    flaw = _flaw(path)
    if flaw is not None:
        raise ValueError(flaw)
    tree = json.loads((path / "state.json").read_text())
    # The file's tensors lie in memory wherever its header ends, and kernels round otherwise where they are not aligned.
    tensors = {name: tensor.clone() for name, tensor in load_file(path / "tensors.safetensors").items()}
    return step_of(path), unpack(tree, tensors)


def lines_of(path: Path) -> dict[str, int]:
    """How many lines of records there were when a checkpoint was written, by the name of their file."""
    return dict(_manifest(path).get("lines", {}))


def _fill(folder: Path, notes: Mapping[str, Any], tree: Any, tensors: Mapping[str, Any]) -> None:
    """Write the three files; the manifest comes last and vouches for the others."""
    save_file(dict(tensors), folder / "tensors.safetensors")
    (folder / "state.json").write_text(json.dumps(tree, allow_nan=False))
    sums = {name: _fingerprint(folder / name) for name in _VOUCHED}
    (folder / "manifest.json").write_text(json.dumps({**notes, "files": sums}))
    for name in (*sums, "manifest.json", "."):
        files.sync(folder / name)


def _publish(temporary: Path, final: Path) -> None:
    """Put the finished folder in its place; a former one of the same step stands aside until ``_prune``."""
    aside = final.with_name(final.name + "~")
    if final.exists():
        _remove(aside)
        final.rename(aside)
    temporary.rename(final)
    files.sync(final.parent)
    files.sync(final.parent.parent)


def _prune(folder: Path, newest: Path) -> None:
    """Remove all but ``newest`` and the best of its elders."""
    others = [path for path in _present(folder) if path != newest]
    doomed = [path for path in others if path.name.endswith("~") or _is_passing(path)]
    doomed += [path for path in others if path not in doomed][KEEP - 1 :]
    for path in doomed:
        _remove(path)


def _remove(path: Path) -> None:
    """Remove a checkpoint, hidden first so that a half-removed one is never met."""
    if path.exists():
        hidden = path.rename(path.with_name(f".{path.name}"))
        shutil.rmtree(hidden, ignore_errors=True)


def _sweep(folder: Path) -> None:
    """Remove what killed processes left half-written or half-removed."""
    for path in folder.glob(".step-*"):
        shutil.rmtree(path, ignore_errors=True)


def _present(folder: Path) -> list[Path]:
    """Checkpoint folders, newest first; a step's set-aside former folder comes after the step itself."""
    found = [path for path in folder.glob("step-*") if _NAME.fullmatch(path.name) and path.is_dir()]
    return sorted(found, key=lambda path: (-step_of(path), path.name))


def _flaw(path: Path) -> str | None:
    """Why a checkpoint cannot be trusted, in one line, or None."""
    try:
        manifest = _manifest(path)
        counted = manifest.get("lines", {}).values()
        if manifest["step"] != step_of(path) or not all(type(count) is int for count in counted):
            return f"checkpoint {path} is broken: its manifest is that of another one"
        for name in _VOUCHED:
            expected = manifest["files"][name]
            if (path / name).stat().st_size != expected["bytes"] or _fingerprint(path / name) != expected:
                return f"checkpoint {path} is broken: {name} does not match its manifest"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"checkpoint {path} is broken: {getattr(error, 'strerror', None) or 'unreadable manifest.json'}"
    return None


def _manifest(path: Path) -> dict[str, Any]:
    return files.read(path / "manifest.json", "the manifest of a checkpoint")


def _is_passing(path: Path) -> bool:
    """Whether a checkpoint says that only an interruption asked for it."""
    try:
        return bool(_manifest(path).get("passing"))
    except (OSError, ValueError):
        return False


def _fingerprint(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
