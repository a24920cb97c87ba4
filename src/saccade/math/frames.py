"""Coordinate frames as a type: a box belongs to the picture in whose pixels it was written, and is mapped to others.

A frame shows a window of its parent at a size of its own: x_parent = left + x w / width, y_parent = top + y h / height,
with a scale for each axis, since processors round width and height separately. Coordinates are edges of pixels: a
picture spans 0 … width, and x2, y2 are exclusive.
"""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any

SLACK = 1e-6
"""Pixels by which rounding may move a box across an edge."""


@dataclass(frozen=True)
class Affine:
    """(x, y) -> (scale_x x + shift_x, scale_y y + shift_y): from the coordinates of one frame to those of another."""

    scale_x: float = 1.0
    scale_y: float = 1.0
    shift_x: float = 0.0
    shift_y: float = 0.0

    def __call__(self, x: Any, y: Any) -> tuple[Any, Any]:
        """A point, or tensors of points, in the other frame."""
        return self.scale_x * x + self.shift_x, self.scale_y * y + self.shift_y

    def then(self, after: Affine) -> Affine:
        """This map, followed by another."""
        return Affine(self.scale_x * after.scale_x, self.scale_y * after.scale_y, *after(self.shift_x, self.shift_y))

    def inverse(self) -> Affine:
        return Affine(1 / self.scale_x, 1 / self.scale_y, -self.shift_x / self.scale_x, -self.shift_y / self.scale_y)


@dataclass(frozen=True)
class Frame:
    """The pixels of one picture: an original, or what `displayed` and `crop` made of a frame.

    ``picture`` names the original: frames of pictures with different names are unrelated, whatever their sizes.
    ``kind`` is "original", "displayed" (all of its parent, resized) or "crop" (a part of it). ``window`` is the part of
    ``parent`` that is shown: left, top, right, bottom in integer pixels of the parent.
    """

    width: int
    height: int
    picture: Hashable
    kind: str = "original"
    parent: Frame | None = field(default=None, repr=False)
    window: tuple[int, int, int, int] | None = None

    def __post_init__(self) -> None:
        if min(self.width, self.height) < 1:
            raise ValueError(f"a frame of {self.width} x {self.height} pixels shows nothing; at least 1 x 1")
        if len({self.kind == "original", self.parent is None, self.window is None}) > 1:
            raise ValueError(
                f"a frame of kind '{self.kind}' is made by `displayed` or `crop` of another, which it keeps"
            )

    @classmethod
    def of(cls, pixels: Any, picture: Hashable) -> Frame:
        """The frame of an original given as an array ``[H, W, ...]``."""
        return cls(int(pixels.shape[1]), int(pixels.shape[0]), picture)

    @property
    def bounds(self) -> tuple[int, int, int, int]:
        return 0, 0, self.width, self.height

    @property
    def original(self) -> Frame:
        """The picture that this one was made from, however many steps ago."""
        return self if self.parent is None else self.parent.original

    @property
    def slices(self) -> tuple[slice, slice]:
        """Rows and columns to take from the parent's pixels ``[H, W, ...]``."""
        left, top, right, bottom = self.window or self.bounds
        return slice(top, bottom), slice(left, right)

    def displayed(self, width: int, height: int) -> Frame:
        """The frame of this picture resized, as a processor shows it to a model."""
        return Frame(width, height, self.picture, "displayed", self, self.bounds)

    def crop(self, box: Box) -> Frame:
        """The frame of all pixels that a box touches. ValueError unless the box lies inside this picture."""
        local = box.into(self)
        if not local.valid:
            clipped = local.clipped()
            nearest = clipped.corners if clipped.valid else self.bounds
            size = f"{self.width} x {self.height} pixels"
            raise ValueError(f"box {local.corners} cannot be cut from {size}; nearest: {nearest}")
        left, top = math.floor(local.x1 + SLACK), math.floor(local.y1 + SLACK)
        right, bottom = math.ceil(local.x2 - SLACK), math.ceil(local.y2 - SLACK)
        return Frame(right - left, bottom - top, self.picture, "crop", self, (left, top, right, bottom))

    def to(self, other: Frame) -> Affine:
        """The map from this frame's coordinates to another's. ValueError if their originals differ."""
        if self.original != other.original:
            of = lambda frame: f"picture {frame.picture!r} ({frame.original.width} x {frame.original.height})"
            raise ValueError(f"a box of {of(self)} has no place in {of(other)}")
        return self._to_original().then(other._to_original().inverse())

    def _to_original(self) -> Affine:
        """The map from this frame's coordinates to the original's."""
        if self.parent is None or self.window is None:
            return Affine()
        left, top, right, bottom = self.window
        return Affine((right - left) / self.width, (bottom - top) / self.height, left, top).then(
            self.parent._to_original()
        )


@dataclass(frozen=True)
class Box:
    """A rectangle in the pixels of one frame, x2 and y2 exclusive. Its numbers are not checked; see `valid`."""

    x1: float
    y1: float
    x2: float
    y2: float
    frame: Frame = field(repr=False)

    @property
    def corners(self) -> tuple[float, float, float, float]:
        return self.x1, self.y1, self.x2, self.y2

    @property
    def area(self) -> float:
        """In square pixels of the frame; 0 where the corners are in the wrong order."""
        return max(self.x2 - self.x1, 0.0) * max(self.y2 - self.y1, 0.0)

    @property
    def valid(self) -> bool:
        """Whether the numbers are finite, width and height positive, and the box inside its frame."""
        inside = -SLACK <= self.x1 and -SLACK <= self.y1
        inside = inside and self.x2 <= self.frame.width + SLACK and self.y2 <= self.frame.height + SLACK
        sides = min(self.x2 - self.x1, self.y2 - self.y1) > 2 * SLACK
        return inside and sides and all(map(math.isfinite, self.corners))

    def clipped(self) -> Box:
        """The part inside the frame; its `valid` is False if there is none."""
        x = lambda value: min(max(value, 0.0), float(self.frame.width))
        y = lambda value: min(max(value, 0.0), float(self.frame.height))
        return Box(x(self.x1), y(self.y1), x(self.x2), y(self.y2), self.frame)

    def into(self, frame: Frame) -> Box:
        """The same rectangle in the coordinates of another frame of its picture. ValueError for another picture."""
        if frame == self.frame:
            return self
        transform = self.frame.to(frame)
        return Box(*transform(self.x1, self.y1), *transform(self.x2, self.y2), frame)

    def contains(self, other: Box) -> bool:
        """Whether another box of the same picture lies inside this one."""
        x1, y1, x2, y2 = other.into(self.frame).corners
        return self.x1 <= x1 + SLACK and self.y1 <= y1 + SLACK and x2 <= self.x2 + SLACK and y2 <= self.y2 + SLACK
