"""Pictures from elsewhere: files, folders of files, and the photographs that scikit-image ships."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from saccade.naming import require

UPRIGHT = ("astronaut", "camera", "chelsea", "coffee", "rocket", "stereo_motorcycle")
"""Photographs that have a top and a bottom."""

PHOTOGRAPHS = (
    *UPRIGHT, "brick", "clock", "coins", "grass", "gravel", "hubble_deep_field", "immunohistochemistry", "moon", "retina",
)  # fmt: skip
"""All photographs that come inside scikit-image's wheel, so that no download is needed."""

_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")


def open_picture(path: str | Path) -> np.ndarray:
    """A picture file as uint8 [H, W, 3], turned as its EXIF says. ValueError "PATH: why" where it cannot be read."""
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as image:
            return np.array(ImageOps.exif_transpose(image).convert("RGB"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path}: cannot be read as a picture: {error}") from None


@dataclass(frozen=True)
class Folder:
    """The pictures of a folder and all folders in it, in the order of their paths; each is read when it is asked
    for.
    """

    paths: tuple[Path, ...]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> np.ndarray:
        return open_picture(self.paths[index])


def folder(path: str | Path) -> Folder:
    """The pictures below a folder. ValueError where it is no folder or holds none."""
    path = Path(path).expanduser()
    if not path.is_dir():
        raise ValueError(f"picture folder '{path}' does not exist")
    found = tuple(sorted(p for p in path.rglob("*") if p.suffix.lower() in _SUFFIXES and p.is_file()))
    if not found:
        raise ValueError(f"picture folder '{path}' holds no pictures ({' '.join(_SUFFIXES)})")
    return Folder(found)


def photographs(names: Sequence[str] = UPRIGHT) -> list[np.ndarray]:
    """Photographs uint8 [H, W, 3] of their own sizes, gray ones with three equal channels.

    ValueError for an unknown name, or where scikit-image is not installed.
    """
    for name in names:
        require("photograph", name, PHOTOGRAPHS)
    try:
        from skimage import data
    except ImportError:
        raise ValueError("photographs need scikit-image: pip install scikit-image") from None
    return [_three_channels(getattr(data, name)()) for name in names]


def _three_channels(found: np.ndarray | tuple[np.ndarray, ...]) -> np.ndarray:
    """The picture itself, or the left one of a stereo pair."""
    picture = found[0] if isinstance(found, tuple) else found
    return np.repeat(picture[..., None], 3, -1) if picture.ndim == 2 else picture


@dataclass(frozen=True)
class Part:
    """Some items of a sequence, each read when it is asked for; a slice of it is a list."""

    whole: Sequence[Any]
    index: Sequence[int]

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, place: int | slice) -> Any:
        chosen = self.index[place]
        return [self.whole[i] for i in chosen] if isinstance(place, slice) else self.whole[chosen]
