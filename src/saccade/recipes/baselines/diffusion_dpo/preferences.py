"""Human preferences between pictures from a file: a prompt, the chosen picture and the rejected one a line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from saccade.core import Problem
from saccade.math.pixels import to_float
from saccade.models.pictures import open_picture
from saccade.models.tables import object_of
from saccade.worlds.text_files import ensure, parse_lines

FIELDS = ("prompt", "chosen", "rejected")


def load_preferences(path: str | Path) -> list[Problem]:
    """Problems from a JSONL of prompt, chosen, rejected; ``answer`` holds the paths of both pictures.

    Relative paths are relative to the file. Pictures are opened later (`open_pairs`). ValueError "FILE:LINE: why" for a
    line that does not fit.
    """
    path = Path(path).expanduser()
    entries = parse_lines(path, _entry, "preferences")
    paths = lambda entry: {name: str(path.parent / entry[name]) for name in FIELDS[1:]}
    return [Problem(number - 1, entry["prompt"], paths(entry), path.stem) for number, entry in entries]


def open_pairs(problems: Sequence[Problem], size: int) -> Tensor:
    """Chosen and rejected picture of each problem as neighbours, ``[2 P, 3, size, size]`` in [0, 1]."""
    paths = [problem.answer[name] for problem in problems for name in FIELDS[1:]]
    return torch.stack([_center_crop(open_picture(path), size) for path in paths])


def _entry(line: str) -> dict[str, Any]:
    entry = object_of(line)
    for name in FIELDS:
        ensure(isinstance(entry.get(name), str), f"no text '{name}'; a line holds {', '.join(FIELDS)}")
    return entry


def _center_crop(picture: np.ndarray, size: int) -> Tensor:
    """The central square of a picture uint8 ``[H, W, 3]``, resized: ``[3, size, size]``."""
    edge = min(picture.shape[:2])
    top, left = ((side - edge) // 2 for side in picture.shape[:2])
    square = to_float(picture[top : top + edge, left : left + edge])[None]
    return torch.nn.functional.interpolate(square, (size, size), mode="bicubic", antialias=True)[0].clamp(0, 1)
