"""Requests to a renderer, its results, its limits, and what a back end provides."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from saccade.naming import suggestion

if TYPE_CHECKING:
    import numpy as np

LANGUAGES = ("svg",)
STATUSES = ("ok", "empty", "syntax", "unsafe", "timeout", "crash", "too_large")
"""Rendered; rendered, but every pixel is background; not well-formed; uses a forbidden feature; took too long; its
worker crashed twice; exceeds a limit of size."""

MAX_SIZE = 4096
"""Largest height and width of a picture in pixels."""

Box = tuple[float, float, float, float]
"""Left, top, width, height in the program's own coordinates."""


@dataclass(frozen=True)
class Request:
    """One program to render as ``size`` x ``size`` pixels on an opaque ``background`` (#rgb or #rrggbb).

    ``box`` is the part of the program's coordinates that fills the picture (centered, with its aspect ratio), None for
    the language's default; the canvas that the program declares is ignored. ValueError for invalid fields, ``code``
    apart.
    """

    code: str
    lang: str = "svg"
    size: int = 64
    background: str = "#fff"
    box: Box | None = None

    def __post_init__(self) -> None:
        if self.lang not in LANGUAGES:
            raise ValueError(f"unknown language '{self.lang}'{suggestion(self.lang, LANGUAGES)}")
        if not isinstance(self.code, str):
            raise ValueError(f"a program must be a text, not {type(self.code).__name__}")
        if type(self.size) is not int or not 1 <= self.size <= MAX_SIZE:
            raise ValueError(f"size is {self.size!r}; it must be a whole number from 1 to {MAX_SIZE}")
        if not re.fullmatch("#([0-9a-fA-F]{3}){1,2}", self.background):
            raise ValueError(f"background {self.background!r} must be #rgb or #rrggbb, such as '#fff'")
        if self.box is not None and not _is_valid(self.box):
            raise ValueError(f"box {self.box!r} must be left, top, width and height, finite, the last two above 0")


@dataclass(frozen=True, eq=False)
class Render:
    """A program's picture, uint8 ``[size, size, 3]`` and read-only, or None if there is none (see `STATUSES`).

    ``ms`` is the time of rendering in milliseconds, ``renderer`` its name, version and font, ``hash`` the SHA-256 of
    the code.
    """

    picture: np.ndarray | None
    status: str
    message: str
    ms: float
    renderer: str
    hash: str


@dataclass(frozen=True)
class Limits:
    """Limits of one program: its characters, wall and CPU seconds, and memory, files and processes of its worker."""

    characters: int
    seconds: float
    cpu_seconds: float
    memory_mb: int
    file_mb: int = 0
    open_files: int = 32
    processes: int = 0


class Refused(Exception):
    """A program that is not rendered: its ``status``, and the reason in one line as the message."""

    def __init__(self, status: str, message: str) -> None:
        super().__init__(message)
        self.status, self.message = status, message


class RendererBroken(RuntimeError):
    """A new worker cannot render a program that is known to be good, so the results of others would mean nothing."""


class BackEnd(Protocol):
    """The members of a language's module."""

    LIMITS: Limits
    PROBE: str
    """A program that must render."""
    BOX: Box
    """The box of requests that have none."""

    def renderer(self) -> str:
        """Name and version of the renderer, a part of every cache key. ValueError if it is not installed."""
        ...

    def find_program(self, text: str) -> str:
        """The program in a model's text."""
        ...

    def declared_canvas(self, code: str) -> Box:
        """The box that a program declares. `Refused` if it declares none."""
        ...

    def prepare(self) -> None:
        """Import what rendering needs; called in a worker alone, before it is confined."""
        ...

    def draw(self, code: str, size: int, background: str, box: Box) -> tuple[str, str, bytes]:
        """Status, message and RGB bytes of a render, called in a worker alone. `Refused` for a forbidden program."""
        ...


def _is_valid(box: Box) -> bool:
    return len(box) == 4 and all(math.isfinite(v) for v in box) and min(box[2:]) > 0
