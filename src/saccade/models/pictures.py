"""Picture files, read through Pillow: the only place that opens one.

Formats are named, so that a file is never handed to a program outside (Pillow draws EPS with Ghostscript). Only regular
files are opened, and a picture of more than `LARGEST` pixels is refused before it is decoded.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")
"""Pillow's names of the formats that are read."""
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
"""Ends of the names of picture files."""
LARGEST = 1 << 26
"""Pixels of the largest picture that is decoded, which then takes 200 MB."""

_DEEP = ("I;16", "I;16L", "I;16B", "I")
_DEEPEST = 65_535


def open_picture(source: str | Path | bytes) -> np.ndarray:
    """A picture file, or its content, as uint8 ``[H, W, 3]``: upright as its EXIF tag says, on white, 8 bits deep.

    ValueError "PATH: why", one line, if it cannot be read.
    """
    with opened(source) as image:
        return as_rgb(image)


@contextmanager
def opened(source: str | Path | bytes, formats: Sequence[str] = FORMATS) -> Iterator[Any]:
    """A picture as an image of Pillow's, not decoded yet. ValueError "PATH: why" for what is raised within."""
    from PIL import Image

    name = "the picture" if isinstance(source, bytes) else source
    try:
        if not isinstance(source, bytes) and not Path(source).is_file():
            raise ValueError("there is no such file" if not Path(source).exists() else "it is no regular file")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of sizes that are refused below
            image = Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=list(formats))
        with image:
            width, height = image.size
            if width * height > LARGEST:
                raise ValueError(f"{width} x {height} pixels are more than {LARGEST}")
            yield image
    except Exception as error:  # damaged files make every kind of error in the decoders
        why = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(f"{name}: cannot be read as a picture: {why}") from None


def as_rgb(image: Any) -> np.ndarray:
    """An image of Pillow's as uint8 ``[H, W, 3]``. ValueError for pixels deeper than 16 bits."""
    from PIL import Image, ImageOps

    image = ImageOps.exif_transpose(image)
    if image.mode in _DEEP:
        return _shallow(np.asarray(image))
    if image.mode == "F":
        raise ValueError("its pixels are fractions, whose range is unknown; save it with 8 or 16 bits")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.array(image.convert("RGB"))


def _shallow(deep_HW: np.ndarray) -> np.ndarray:
    """Gray pixels of 16 bits as uint8 ``[H, W, 3]``."""
    if deep_HW.size and not 0 <= deep_HW.min() <= deep_HW.max() <= _DEEPEST:
        raise ValueError("its pixels have more than 16 bits; save it with 8 or 16")
    gray_HW = np.round(deep_HW.astype(np.float64) * (255 / _DEEPEST)).astype(np.uint8)
    return np.repeat(gray_HW[..., None], 3, -1)
