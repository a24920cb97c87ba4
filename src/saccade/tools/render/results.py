"""What is asked of a renderer, what comes back, and the bounds it works in."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from saccade.naming import nearest

if TYPE_CHECKING:
    import numpy as np

LANGUAGES = ("svg",)
STATUSES = ("ok", "empty", "syntax", "unsafe", "timeout", "crash", "too_large")
"""Drawn; drawn, but every pixel is background; not well formed; reaches for what it may not have; took too long;
took its worker down twice; beyond a limit of size."""

LARGEST = 4096
"""Most pixels on a side."""

Box = tuple[float, float, float, float]
"""Left, top, width, height in the program's own coordinates."""


@dataclass(frozen=True)
class Request:
    """One program to draw as ``size`` x ``size`` pixels on an opaque ``background`` (#rgb or #rrggbb).

    ``box`` is the part of the program's coordinates that fills the picture (centred, aspect kept), None for the
    language's own; what the program says about its canvas changes nothing. ValueError for anything but ``code`` that
    makes no sense.
    """

    code: str
    lang: str = "svg"
    size: int = 64
    background: str = "#fff"
    box: Box | None = None

    def __post_init__(self) -> None:
        if self.lang not in LANGUAGES:
            raise ValueError(f"unknown language '{self.lang}'; nearest: {nearest(self.lang, LANGUAGES)}")
        if not isinstance(self.code, str):
            raise ValueError(f"a program must be a text, not {type(self.code).__name__}")
        if type(self.size) is not int or not 1 <= self.size <= LARGEST:
            raise ValueError(f"size is {self.size!r}; it must be a whole number from 1 to {LARGEST}")
        if not re.fullmatch("#([0-9a-fA-F]{3}){1,2}", self.background):
            raise ValueError(f"background {self.background!r} must be #rgb or #rrggbb, such as '#fff'")
        if self.box is not None and not _sound(self.box):
            raise ValueError(f"box {self.box!r} must be left, top, width and height, finite, the last two above 0")


@dataclass(frozen=True, eq=False)
class Render:
    """A program's picture, uint8 ``[size, size, 3]`` and read-only, or None where there is none (see `STATUSES`).

    ``ms`` is what drawing took, ``renderer`` who drew (name, version, font), ``hash`` the SHA-256 of the code.
    """

    picture: np.ndarray | None
    status: str
    message: str
    ms: float
    renderer: str
    hash: str


@dataclass(frozen=True)
class Limits:
    """Bounds of one program: its length, wall and CPU seconds, and what its worker may hold, write and start."""

    characters: int
    seconds: float
    cpu_seconds: float
    memory_mb: int
    file_mb: int = 0
    open_files: int = 32
    processes: int = 0


class Refused(Exception):
    """A program that will not be drawn: its ``status`` and the reason in one line."""

    def __init__(self, status: str, message: str) -> None:
        super().__init__(message)
        self.status, self.message = status, message


class RendererBroken(RuntimeError):
    """A fresh worker cannot draw a program that is known to be good: no verdict on any program would mean anything."""


def _sound(box: Box) -> bool:
    return len(box) == 4 and all(math.isfinite(v) for v in box) and min(box[2:]) > 0
