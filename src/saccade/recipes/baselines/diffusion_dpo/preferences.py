"""Preferences between pictures, as people give them: a file with a prompt, the picture chosen and the one rejected a
line.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from saccade.core import Problem
from saccade.math.pixels import to_unit
from saccade.worlds.images import open_picture
from saccade.worlds.text_files import entry_of, need, parse_lines

FIELDS = ("prompt", "chosen", "rejected")


def load(path: str | Path) -> list[Problem]:
    """Problems from a JSONL of prompt, chosen, rejected; ``answer`` holds the two pictures' paths, relative ones to the
    file.

    Pictures are read when they are asked for (`pictures`). ValueError "FILE:LINE: why" for a line that does not fit.
    """
    path = Path(path).expanduser()
    entries = parse_lines(path, _entry, "preferences")
    place = lambda entry: {name: str(path.parent / entry[name]) for name in FIELDS[1:]}
    return [Problem(number - 1, entry["prompt"], place(entry), path.stem) for number, entry in entries]


def pictures(problems: Sequence[Problem], size: int) -> Tensor:
    """Chosen and rejected picture of each problem side by side, squares of ``size`` pixels: ``[2 P, 3, size, size]``
    in [0, 1].
    """
    paths = [p.answer[name] for p in problems for name in FIELDS[1:]]
    return torch.stack([_square(open_picture(path), size) for path in paths])


def _entry(line: str) -> dict[str, Any]:
    entry = entry_of(line)
    for name in FIELDS:
        need(isinstance(entry.get(name), str), f"no text '{name}'; a line holds {', '.join(FIELDS)}")
    return entry


def _square(picture: np.ndarray, size: int) -> Tensor:
    """The middle of a picture, resized."""
    edge = min(picture.shape[:2])
    top, left = ((side - edge) // 2 for side in picture.shape[:2])
    middle = to_unit(picture[top : top + edge, left : left + edge])[None]
    return torch.nn.functional.interpolate(middle, (size, size), mode="bicubic", antialias=True)[0].clamp(0, 1)
