"""Files with one thing a line: read and checked as a whole, what is wrong told with its line, pictures opened when
asked for.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from saccade.core import Problem

Made = TypeVar("Made")


def read(path: Path, parse: Callable[[str], Made], what: str) -> tuple[tuple[int, Made], ...]:
    """What ``parse`` makes of each line that is not blank, with the line's number.

    ValueError "FILE:LINE: why" for a line that ``parse`` refuses, and where the file cannot be read or holds no
    ``what``.
    """
    try:
        lines = path.read_text(encoding="utf-8").split(
            "\n"
        )  # not splitlines: JSON may hold other ends of lines in a text
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not text in UTF-8"
        raise ValueError(f"{path}: cannot be read: {why}") from None
    found = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            with at(path, number):
                found.append((number, parse(line.strip())))
    if not found:
        raise ValueError(f"{path}: no {what} in this file")
    return tuple(found)


@contextmanager
def at(path: Path, line: int) -> Iterator[None]:
    """A ValueError from within is told as "FILE:LINE: why"."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{path}:{line}: {error}") from None


@dataclass(frozen=True)
class Problems(Generic[Made]):
    """Problems of a file: a sequence that makes a problem, and reads its pictures, whenever it is asked for."""

    path: Path
    records: tuple[tuple[int, Made], ...]
    """Line and content, as `read` gives them."""
    make: Callable[[int, Made], Problem]
    """Number and content of a problem -> the problem. Its ValueErrors are told with file and line."""

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Problem:
        line, record = self.records[index]
        with at(self.path, line):
            return self.make(index % len(self), record)


def entry_of(line: str) -> dict[str, Any]:
    """The object on a line of JSON. ValueError for anything else."""
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not JSON: {error}") from None
    need(isinstance(entry, dict), f"{line[:40]!r} is not an object")
    return entry


def text_of(entry: dict[str, Any], name: str) -> str:
    """A text of an entry without spaces around it. ValueError where it is missing or blank."""
    value = entry.get(name)
    need(isinstance(value, str) and value.strip() != "", f"{name} {value!r} must be a text")
    return value.strip()


def file_of(entry: dict[str, Any], name: str, root: Path) -> Path:
    """A file below ``root`` that an entry names. ValueError where it names none, or one that does not exist."""
    value = entry.get(name)
    need(isinstance(value, str) and value != "", f"{name} {value!r} must be a path")
    path = root / value
    need(path.is_file(), f"{name} '{path}' does not exist")
    return path


def need(condition: bool, why: str) -> None:
    """ValueError with the reason where a condition does not hold."""
    if not condition:
        raise ValueError(why)
