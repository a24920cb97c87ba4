"""The files of a run folder: config, metrics, samples, tables; how each is begun, written and cut back."""

from __future__ import annotations

import io
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from saccade.math.pixels import to_uint8
from saccade.naming import nearest
from saccade.training import files, video

RESERVED = ("checkpoints", "best", "samples", "tensorboard", "wandb")
PROBLEM_SCORES = "problem_scores.jsonl"
BOXES = ("predicted", "true")
"""Kinds of boxes in a sample's picture: the model's, and the right ones."""
_CONFIG: dict[str, type] = {
    "recipe": str, "file": str, "preset": str, "settings": dict, "seed": int, "command": str, "resume": str,
    "started": str, "stage": str, "data": dict, "code": dict, "functions": list, "resumed": list, "stages_of": str,
    "keep_best": str, "patience": int, "versions": dict, "processes": int,
}  # fmt: skip
"""Of which kind the entries of config.json are, where they are there."""
_LOGS = ("metrics.jsonl", "samples.jsonl", PROBLEM_SCORES)
_NAME = re.compile(r"\w[\w .,+=()-]*(?<! )")


def begin(folder: Path, config: Mapping[str, Any]) -> None:
    """Make the folder of a new run and write its config.json; a folder that holds anything is a ValueError."""
    refuse_taken(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_config(folder, config)


def refuse_taken(folder: Path) -> None:
    """ValueError for a folder in which no run can begin."""
    if not is_new(folder):
        raise ValueError(f"{folder} exists and is not empty: resume the run in it, or name a new folder")


def is_new(folder: Path) -> bool:
    """Whether a run can begin in ``folder``: it does not exist, or holds nothing but what a kill left half-written."""
    return not folder.exists() or (folder.is_dir() and files.is_empty(folder))


def write_config(folder: Path, config: Mapping[str, Any]) -> None:
    """Write config.json in one step, and wait until its name is on the disk."""
    files.replace(folder / "config.json", config)
    files.sync(folder)
    files.sync(folder.parent)


def config(folder: Path) -> dict[str, Any]:
    """The config of the run in ``folder``; a folder without one is a ValueError that names the nearest run."""
    path = folder / "config.json"
    if not path.exists():
        beside = [p.parent.name for p in folder.parent.glob("*/config.json")]
        near = f"; nearest: {folder.parent / nearest(folder.name, beside)}" if beside else ""
        raise ValueError(f"there is no run in {folder}{near}")
    found = files.read(path, "the config of a run")
    for name, kind in _CONFIG.items():
        if not isinstance(found.get(name), kind | None):
            raise ValueError(f"{path} is not the config of a run: its {name!r} is no {kind.__name__}")
    for place in (found.get("data") or {}).values():
        if not isinstance(place, str) or Path(place).name != place:
            raise ValueError(f"{path} is not the config of a run: it names data outside the run, {str(place)[:60]!r}")
    return found


def with_stages(folder: Path, new: Mapping[str, Any]) -> Path:
    """The run in ``folder``, whose stages a run with the config ``new`` can take. ValueError if it cannot."""
    kept = config(folder)
    for name in ("recipe", "seed"):
        if kept.get(name) != new.get(name):
            raise ValueError(
                f"the stages of {folder} are of {name} {kept.get(name)}; those of {name} {new.get(name)} are wanted"
            )
    if not any(folder.glob("*/config.json")):
        raise ValueError(f"the run in {folder} has no stages to take")
    return folder


def copy_stage(stage: Path, folder: Path) -> None:
    """Copy a stage of another run in one step, unless this run has it already or the other run has none."""
    if folder.exists() or not (stage / "config.json").is_file():
        return
    beside = folder.with_name(f".{folder.name}.new")
    shutil.rmtree(beside, ignore_errors=True)
    shutil.copytree(stage, beside)
    beside.rename(folder)


def metrics(folder: Path, record: Mapping[str, Any]) -> None:
    """Add one line to metrics.jsonl."""
    files.append(folder / "metrics.jsonl", record)


def problem_scores(folder: Path, step: int, scores: Mapping[str, Tensor]) -> None:
    """Add one line to problem_scores.jsonl: the scores of single held-out problems, in six digits."""
    rounded = {name: [float(f"{value:.6g}") for value in values.tolist()] for name, values in scores.items()}
    files.append(folder / PROBLEM_SCORES, {"step": step, "scores": rounded})


def samples(folder: Path, step: int, name: str, items: Sequence[Mapping[str, Any]]) -> None:
    """Write the pictures of one sample set and one line of samples.jsonl that describes them."""
    pictures: dict[str, bytes] = {}
    described = [_described(item, f"samples/{name}/{step:06d}-{i:02d}", pictures) for i, item in enumerate(items)]
    (folder / "samples" / name).mkdir(parents=True, exist_ok=True)
    for place, picture in pictures.items():
        files.replace_bytes(folder / place, picture)
    files.append(folder / "samples.jsonl", {"step": step, "set": name, "items": described})


def table(folder: Path, title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Put a table into tables.json under its title, in place of a former one."""
    uneven = next((row for row in rows if len(row) != len(columns)), None)
    if uneven is not None:
        raise ValueError(f"table {title!r} has {len(columns)} columns, but one row has {len(uneven)}")
    path = folder / "tables.json"
    known = tables(folder)
    files.replace(path, known | {title: {"columns": list(columns), "rows": [list(row) for row in rows]}})


def tables(folder: Path) -> dict[str, Any]:
    """The tables by title. ValueError for a file that holds none."""
    path = folder / "tables.json"
    found = files.read(path, "a file of tables") if path.exists() else {}
    for title, kept in found.items():
        if not isinstance(kept, dict) or not all(isinstance(kept.get(part), list) for part in ("columns", "rows")):
            raise ValueError(f"{path} is broken: table {title!r} lacks columns or rows")
    return found


def result(folder: Path) -> dict[str, Any] | None:
    """What result.json holds, None while the run is not finished. ValueError for a broken file."""
    path = folder / "result.json"
    if not path.exists():
        return None
    found = files.read(path, "the result of a run")
    for name in ("before", "after"):
        if not isinstance(found.get(name), dict | None):
            raise ValueError(f"{path} is not the result of a run: its {name!r} is no object")
    return found


def sync_lines(folder: Path, step: int) -> dict[str, int]:
    """Wait until all lines of metrics and samples are on the disk; how many there are up to ``step``, by file."""
    found = [name for name in _LOGS if (folder / name).exists()]
    for name in found:
        files.sync(folder / name)
    files.sync(folder)
    return {name: _count(folder / name, step) for name in found}


def lost(folder: Path, step: int, lines: Mapping[str, int]) -> str | None:
    """What is missing of the ``lines`` that had been logged when the checkpoint of a step was written, if anything."""
    for name, count in lines.items():
        if (left := _count(folder / name, step)) < count:
            return f"{folder / name} has {left} of the {count} lines that were there at the checkpoint of step {step}"
    return None


def _count(path: Path, step: int) -> int:
    return sum(record["step"] <= step for record in files.records(path))


def cut(folder: Path, step: float, lines: Mapping[str, int] | None = None) -> float:
    """Take metrics, samples and scores back to ``step``, and to as many ``lines`` as there were then.

    Returns the seconds that the last line of metrics kept had reached.
    """
    for name in _LOGS:
        files.cut(folder / name, step, (lines or {}).get(name))
    return max((record.get("time", 0.0) for record in files.records(folder / "metrics.jsonl")), default=0.0)


def folder_name(name: str, what: str) -> str:
    """``name`` if it can be a folder's name inside a run, else a ValueError that offers the nearest."""
    if not _NAME.fullmatch(name):
        near = re.sub(r"[^\w.,+=()]+", "-", name).strip("-.,+=()") or "main"
        raise ValueError(f"{what} {name!r} cannot name a folder; the nearest that can is {near!r}")
    return name


def png(image: Tensor) -> bytes:
    """A picture ``[3, H, W]`` in [0, 1] as a PNG file; values outside are clipped, NaN is black."""
    from PIL import Image

    if image.ndim != 3 or image.shape[0] != 3:
        raise ValueError(f"a sample's image must be [3, H, W], not {list(image.shape)}")
    buffer = io.BytesIO()
    Image.fromarray(to_uint8(image)).save(buffer, "PNG")
    return buffer.getvalue()


def _described(item: Mapping[str, Any], place: str, pictures: dict[str, bytes]) -> dict[str, Any]:
    """An item as samples.jsonl holds it; its pictures are added to ``pictures``, under names from ``place``."""
    found = {"prompt": str(item["prompt"])} | (_picture(item, place, pictures) if "image" in item else {})
    if item.get("clip") is not None:
        found |= _clip(item, place, pictures)
    if item.get("note") is not None:
        found["note"] = str(item["note"])
    if item.get("text") is not None:
        found["text"] = str(item["text"])
    if item.get("score") is not None:
        found["score"] = files.number("score", item["score"])
    for name in ("source", "target"):
        if item.get(name) is not None:
            found[name] = _picture({"image": item[name]}, f"{place}-{name}", pictures)["image"]
    if item.get("turns") is not None:
        found["turns"] = [_turn(turn, f"{place}-{k}", pictures) for k, turn in enumerate(item["turns"])]
    return found


def _clip(item: Mapping[str, Any], place: str, pictures: dict[str, bytes]) -> dict[str, Any]:
    """The files of a clip, its strip where the item has no picture of its own, and its path."""
    pictures[f"{place}.webp"] = video.webp(item["clip"])
    still = {} if "image" in item else _picture({"image": video.thumbnails(item["clip"])}, place, pictures)
    path = np.asarray(item["path"], float) if item.get("path") is not None else np.zeros((0, 2))
    if path.ndim != 2 or path.shape[1] != 2 or not np.isfinite(path).all():
        raise ValueError(f"a sample's path must be finite places [T, 2], not {list(path.shape)}")
    return {**still, "clip": f"{place}.webp"} | (
        {"path": [[float(f"{x:.6g}") for x in point] for point in path]} if len(path) else {}
    )


def _turn(turn: Mapping[str, Any], place: str, pictures: dict[str, bytes]) -> dict[str, Any]:
    shown = [_picture(picture, f"{place}-{k}", pictures) for k, picture in enumerate(turn.get("pictures", ()))]
    return {
        "who": str(turn["who"]),
        "text": str(turn["text"]),
        "pictures": shown,
        "trained": bool(turn.get("trained", False)),
    }


def _picture(item: Mapping[str, Any], place: str, pictures: dict[str, bytes]) -> dict[str, Any]:
    pictures[f"{place}.png"] = png(item["image"])
    boxes = [_box(box) for box in item.get("boxes") or ()]
    return {"image": f"{place}.png"} | ({"boxes": boxes} if boxes else {})


def _box(box: Mapping[str, Any]) -> dict[str, Any]:
    corners = [files.number("corners", x) for x in box["corners"]]
    if len(corners) != 4 or None in corners:
        raise ValueError(f"a sample's box must have four finite corners, not {box['corners']}")
    kind = str(box.get("kind", BOXES[0]))
    if kind not in BOXES:
        raise ValueError(f"a sample's box is of kind '{kind}'; nearest: {nearest(kind, BOXES)}")
    return {"corners": corners, "label": str(box.get("label", "")), "kind": kind}
