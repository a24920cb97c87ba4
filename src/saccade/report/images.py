"""Picture files as data URIs, with the boxes that are drawn into them, and clips."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import PIL.Image

from saccade.models.pictures import as_rgb, opened

_LARGEST = 512
_PIXELATED_TO = 128
_TAG = 12
"""Percent of a picture's height that a label takes."""


@dataclass(frozen=True)
class Outline:
    """A box in percent of its picture's sides; ``kind`` is "predicted" or "true"."""

    left: float
    top: float
    width: float
    height: float
    label: str
    kind: str

    @property
    def tag(self) -> str:
        """Place of the label: "above" or "below" the box, "inside" where there is no room for it outside."""
        if self.top > _TAG:
            return "above"
        return "below" if self.top + self.height < 100 - _TAG else "inside"


@dataclass(frozen=True)
class Image:
    """A picture, whether it is shown pixelated, its width over its height, and the boxes in it."""

    uri: str
    pixelated: bool
    aspect: float
    boxes: tuple[Outline, ...] = ()


@dataclass(frozen=True)
class Clip:
    """A clip, whether it is shown pixelated, and its width over its height."""

    uri: str
    pixelated: bool
    aspect: float


def load_clip(path: Path) -> Clip | None:
    """An animated WebP as it is; None if the file is gone. ValueError if it is none."""
    if not path.exists():
        return None
    try:
        with opened(path, ["WEBP"]) as clip:
            clip.load()
            return Clip(_uri("webp", path.read_bytes()), max(clip.size) <= _PIXELATED_TO, clip.size[0] / clip.size[1])
    except ValueError:
        raise ValueError(f"{path} is not a clip") from None


def load_picture(path: Path, boxes: Sequence[dict[str, Any]] = ()) -> Image | None:
    """A picture with ``boxes`` in its pixels; None if the file is gone. ValueError if it is no picture."""
    if not path.exists():
        return None
    try:
        with opened(path) as image:
            image.load()
            size, drawn = image.size, _outlines(boxes, *image.size)
            if max(size) <= _LARGEST and image.format == "PNG":
                return Image(_uri("png", path.read_bytes()), max(size) <= _PIXELATED_TO, size[0] / size[1], drawn)
            small = PIL.Image.fromarray(as_rgb(image))
    except ValueError:
        raise ValueError(f"{path} is not a picture") from None
    small.thumbnail((_LARGEST, _LARGEST))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=90)
    return Image(_uri("jpeg", buffer.getvalue()), False, size[0] / size[1], drawn)


def _outlines(boxes: Sequence[dict[str, Any]], width: int, height: int) -> tuple[Outline, ...]:
    """Boxes as far as they lie inside; those that do not are left out."""
    found, percent = [], lambda share: round(100 * share, 3)
    for box in boxes:
        x1, y1, x2, y2 = (min(max(x / side, 0.0), 1.0) for x, side in zip(box["corners"], (width, height) * 2))
        if x1 < x2 and y1 < y2:
            sides = percent(x1), percent(y1), percent(x2 - x1), percent(y2 - y1)
            found.append(Outline(*sides, label=box["label"], kind=box["kind"]))
    return tuple(found)


def _uri(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
