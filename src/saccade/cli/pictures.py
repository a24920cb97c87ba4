"""Pictures between files and tensors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from saccade.math.pixels import to_bytes, to_unit

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
_GAP = 2


def find(folder: Path) -> list[Path]:
    """The pictures of a folder, sorted by name. ValueError if there is no such folder, or no picture in it."""
    if not folder.is_dir():
        raise ValueError(f"there is no folder '{folder}'")
    found = sorted(file for file in folder.iterdir() if file.suffix.lower() in SUFFIXES)
    if not found:
        raise ValueError(f"no pictures in {folder} ({', '.join(SUFFIXES)})")
    return found


def read(file: Path) -> Tensor:
    """A picture as ``[3, H, W]`` in [0, 1]. ValueError that names the file if it is broken."""
    from PIL import Image

    try:
        with Image.open(file) as picture:
            pixels = np.array(picture.convert("RGB"))
    except Exception as error:  # damaged files make every kind of error in the decoders
        raise ValueError(f"{file} is not a readable picture: {error}") from None
    return to_unit(pixels)


def write_grid(rows: Sequence[Sequence[Tensor]], file: Path) -> None:
    """Write pictures ``[3, H, W]`` in [0, 1] side by side, rows beneath one another; a single one as it is."""
    from PIL import Image

    height, width = rows[0][0].shape[1:]
    columns = max(len(row) for row in rows)
    size = (len(rows) * (height + _GAP) - _GAP, columns * (width + _GAP) - _GAP)
    sheet = torch.ones(3, *size)
    for r, row in enumerate(rows):
        for c, picture in enumerate(row):
            top, left = r * (height + _GAP), c * (width + _GAP)
            sheet[:, top : top + height, left : left + width] = picture
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(to_bytes(sheet)).save(file)
