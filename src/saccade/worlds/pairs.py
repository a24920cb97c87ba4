"""Preferences between pictures, as people give them: a file with a prompt, the picture chosen and the one rejected a line."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from saccade.core import Problem
from saccade.worlds.pictures import open_picture

FIELDS = ("prompt", "chosen", "rejected")


def load(path: str | Path) -> list[Problem]:
    """Problems from a JSONL of prompt, chosen, rejected; ``answer`` holds the two pictures' paths, relative ones to the file.

    Pictures are read when they are asked for (`pictures`). ValueError "FILE:LINE: why" for a line that does not fit.
    """
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: cannot be read: {error}") from None
    found = [_problem(path, number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if not found:
        raise ValueError(f"{path}: no preferences in this file")
    return found


def pictures(problems: Sequence[Problem], size: int) -> Tensor:
    """Chosen and rejected picture of each problem side by side, squares of ``size`` pixels: ``[2 P, 3, size, size]`` in [0, 1]."""
    paths = [p.answer[name] for p in problems for name in FIELDS[1:]]
    return torch.stack([_square(open_picture(path), size) for path in paths])


def _problem(path: Path, number: int, line: str) -> Problem:
    try:
        entry = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}:{number}: not JSON: {error}") from None
    for name in FIELDS:
        if not isinstance(entry, dict) or not isinstance(entry.get(name), str):
            raise ValueError(f"{path}:{number}: no text '{name}'; a line holds {', '.join(FIELDS)}")
    two = {name: str(path.parent / entry[name]) for name in FIELDS[1:]}
    return Problem(number - 1, entry["prompt"], two, path.stem)


def _square(picture: np.ndarray, size: int) -> Tensor:
    """The middle of a picture, resized."""
    edge = min(picture.shape[:2])
    top, left = ((side - edge) // 2 for side in picture.shape[:2])
    middle = torch.from_numpy(picture[top : top + edge, left : left + edge]).permute(2, 0, 1)[None].float() / 255
    return torch.nn.functional.interpolate(middle, (size, size), mode="bicubic", antialias=True)[0].clamp(0, 1)
