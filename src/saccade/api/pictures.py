"""Pictures between files, Pillow's images, arrays and tensors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from saccade.math.pixels import to_float, to_uint8
from saccade.models.pictures import SUFFIXES, as_rgb, open_picture

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
    """A picture file as ``[3, H, W]`` in [0, 1]. ValueError that names the file if it is broken."""
    return to_float(open_picture(file))


def is_picture(value: Any) -> bool:
    """Whether a value is a Pillow image, a tensor ``[3, H, W]`` or an array uint8 ``[H, W, 3]``."""
    if isinstance(value, Tensor):
        return value.ndim == 3 and value.shape[0] == 3
    return isinstance(value, Image.Image) or (
        isinstance(value, np.ndarray) and value.dtype == np.uint8 and value.ndim == 3 and value.shape[2] == 3
    )


def as_tensor(picture: Any) -> Tensor:
    """A file, Pillow image, array uint8 ``[H, W, 3]`` or tensor as ``[3, H, W]`` in [0, 1]. ValueError for others."""
    if isinstance(picture, (str, Path)):
        return read(Path(picture))
    if not is_picture(picture):
        shape = f" {list(picture.shape)}" if hasattr(picture, "shape") else ""
        raise ValueError(
            "a picture is a file, a Pillow image, a tensor [3, H, W] in [0, 1] or an array uint8 [H, W, 3],"
            f" not {type(picture).__name__}{shape}"
        )
    if isinstance(picture, Tensor):
        return picture.detach().float().cpu()
    return to_float(as_rgb(picture) if isinstance(picture, Image.Image) else picture)


def as_image(picture: Any) -> Image.Image:
    """The same pictures as one of Pillow's images."""
    return picture if isinstance(picture, Image.Image) else Image.fromarray(to_uint8(as_tensor(picture)))


def write_grid(rows: Sequence[Sequence[Image.Image]], file: Path) -> None:
    """Write pictures of one size side by side, rows beneath one another; a single one as it is."""
    width, height = rows[0][0].size
    columns = max(len(row) for row in rows)
    size = (columns * (width + _GAP) - _GAP, len(rows) * (height + _GAP) - _GAP)
    sheet = Image.new("RGB", size, "white")
    for r, row in enumerate(rows):
        for c, picture in enumerate(row):
            sheet.paste(picture, (c * (width + _GAP), r * (height + _GAP)))
    file.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(file)
