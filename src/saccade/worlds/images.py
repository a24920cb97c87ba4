"""Real pictures: files, folders of files, and the photographs that scikit-image ships."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar, overload

import numpy as np

from saccade.models.pictures import SUFFIXES, open_picture
from saccade.naming import require

Item = TypeVar("Item")
ItemOut = TypeVar("ItemOut", covariant=True)

UPRIGHT = ("astronaut", "camera", "chelsea", "coffee", "rocket", "stereo_motorcycle")
"""Names of the photographs that have a top and a bottom."""

_ANY_SIDE_UP = "brick clock coins grass gravel hubble_deep_field immunohistochemistry moon retina"
PHOTOGRAPHS = (*UPRIGHT, *_ANY_SIDE_UP.split())
"""Names of all photographs in scikit-image's wheel, which need no download."""


@dataclass(frozen=True)
class ImageFolder(Sequence[np.ndarray]):
    """The pictures of a folder and its subfolders in the order of their paths; each is read on access."""

    paths: tuple[Path, ...]

    def __len__(self) -> int:
        return len(self.paths)

    @overload
    def __getitem__(self, index: int) -> np.ndarray: ...

    @overload
    def __getitem__(self, index: slice) -> list[np.ndarray]: ...

    def __getitem__(self, index: int | slice) -> np.ndarray | list[np.ndarray]:
        if isinstance(index, slice):
            return [open_picture(path) for path in self.paths[index]]
        return open_picture(self.paths[index])


def load_folder(path: str | Path) -> ImageFolder:
    """The pictures below a folder. ValueError where the folder does not exist or has no pictures."""
    path = Path(path).expanduser()
    if not path.is_dir():
        raise ValueError(f"picture folder '{path}' does not exist")
    found = tuple(sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file()))
    if not found:
        raise ValueError(f"picture folder '{path}' has no pictures ({' '.join(SUFFIXES)})")
    return ImageFolder(found)


def photographs(names: Sequence[str] = UPRIGHT) -> list[np.ndarray]:
    """Photographs uint8 ``[H, W, 3]`` of different sizes, gray ones with three equal channels.

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
    """The picture as RGB; of a stereo pair the left picture."""
    picture = found[0] if isinstance(found, tuple) else found
    return np.repeat(picture[..., None], 3, -1) if picture.ndim == 2 else picture


class Indexed(Protocol[ItemOut]):
    """What has a length and items by index: a list, an array, or a folder of pictures."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> ItemOut: ...


@dataclass(frozen=True)
class Subset(Sequence[Item]):
    """Items of a sequence by their indices, each read on access; a slice of a subset is a list."""

    items: Indexed[Item]
    indices: Sequence[int]

    def __len__(self) -> int:
        return len(self.indices)

    @overload
    def __getitem__(self, place: int) -> Item: ...

    @overload
    def __getitem__(self, place: slice) -> list[Item]: ...

    def __getitem__(self, place: int | slice) -> Item | list[Item]:
        if isinstance(place, slice):
            return [self.items[i] for i in self.indices[place]]
        return self.items[self.indices[place]]
