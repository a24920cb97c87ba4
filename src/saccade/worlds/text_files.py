"""Text files with one record a line: all lines are checked on reading, and pictures are opened on access."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar, overload

from saccade.core import Problem

Record = TypeVar("Record")


def parse_lines(path: Path, parse: Callable[[str], Record], noun: str) -> tuple[tuple[int, Record], ...]:
    """The number of each line that is not blank, and what ``parse`` makes of it.

    ValueError "FILE:LINE: why" for a line that ``parse`` refuses, and "FILE: why" for a file that cannot be read or has
    no records, which ``noun`` names in the plural.
    """
    try:
        # Not splitlines, because a text in JSON may contain other line separators.
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not text in UTF-8"
        raise ValueError(f"{path}: cannot be read: {why}") from None
    records = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            with error_at(path, number):
                records.append((number, parse(line.strip())))
    if not records:
        raise ValueError(f"{path}: no {noun} in this file")
    return tuple(records)


@contextmanager
def error_at(path: Path, line: int) -> Iterator[None]:
    """Prefixes the message of a ValueError from within: "FILE:LINE: why"."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{path}:{line}: {error}") from None


@dataclass(frozen=True)
class FileProblems(Sequence[Problem], Generic[Record]):
    """Problems of a file: a sequence that makes a problem, and opens its pictures, on access."""

    path: Path
    records: tuple[tuple[int, Record], ...]
    """Line number and content of each problem, as `parse_lines` returns them."""
    make: Callable[[int, Record], Problem]
    """Makes a problem of its index and content; its ValueErrors get file and line."""

    def __len__(self) -> int:
        return len(self.records)

    @overload
    def __getitem__(self, index: int) -> Problem: ...

    @overload
    def __getitem__(self, index: slice) -> list[Problem]: ...

    def __getitem__(self, index: int | slice) -> Problem | list[Problem]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        line, record = self.records[index]
        with error_at(self.path, line):
            return self.make(index % len(self), record)


def entry_of(line: str) -> dict[str, Any]:
    """The object on a line of JSON. ValueError for anything else."""
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not JSON: {error}") from None
    ensure(isinstance(entry, dict), f"{line[:40]!r} is not an object")
    return entry


def text_of(entry: dict[str, Any], name: str) -> str:
    """A text of an entry, without surrounding spaces. ValueError where the text is missing or blank."""
    value = entry.get(name)
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{name} {value!r} must be a text")
    return value.strip()


def file_of(entry: dict[str, Any], name: str, root: Path) -> Path:
    """A file below ``root`` that an entry names. ValueError where the name is missing or the file does not exist."""
    value = entry.get(name)
    if not isinstance(value, str) or not value:
        raise ValueError(f"{name} {value!r} must be a path")
    path = root / value
    ensure(path.is_file(), f"{name} '{path}' does not exist")
    return path


def ensure(condition: bool, why: str) -> None:
    """ValueError with the reason where the condition is false."""
    if not condition:
        raise ValueError(why)
