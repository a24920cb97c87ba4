"""Text files with one record a line: all lines are checked on reading, and pictures are opened on access."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar, overload

import numpy as np

from saccade.core import Problem
from saccade.models.tables import line_at, read_lines

Record = TypeVar("Record")


def parse_lines(path: Path, parse: Callable[[str], Record], noun: str) -> tuple[tuple[int, Record], ...]:
    """The number of each line that is not blank, and what ``parse`` makes of it.

    ValueError "FILE:LINE: why" for a line that ``parse`` refuses, and "FILE: why" for a file that cannot be read or has
    no records, which ``noun`` names in the plural.
    """
    return tuple((number, record) for number, _, record in _parsed(path, parse, noun))


class Lines(Sequence[tuple[int, Record]]):
    """What `parse_lines` returns, of a long file: all lines are checked on reading, and each is read and
    parsed again on access, so that a million of them take the memory of their places.

    ValueErrors as there, and on access where the file has changed since.
    """

    def __init__(self, path: Path, parse: Callable[[str], Record], noun: str):
        self.path, self.parse = path, parse
        places = np.fromiter((found[:2] for found in _parsed(path, parse, noun)), np.dtype((np.int64, 2)))
        self.numbers, self.offsets = places[:, 0], places[:, 1]
        self.version = _version(os.stat(path))

    def mapped(self, change: Callable[[Record], Record]) -> Lines[Record]:
        """The same lines with a change made to each record on access."""
        lines, parse = copy.copy(self), self.parse
        lines.parse = lambda line: change(parse(line))
        return lines

    def __len__(self) -> int:
        return len(self.numbers)

    @overload
    def __getitem__(self, index: int) -> tuple[int, Record]: ...

    @overload
    def __getitem__(self, index: slice) -> list[tuple[int, Record]]: ...

    def __getitem__(self, index: int | slice) -> tuple[int, Record] | list[tuple[int, Record]]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        number = int(self.numbers[index])
        ensure(_version(os.stat(self.path)) == self.version, f"{self.path} has changed since it was read")
        return number, self.parse(line_at(self.path, int(self.offsets[index])))


def _version(stat: os.stat_result) -> tuple[int, int]:
    return stat.st_size, stat.st_mtime_ns


def _parsed(path: Path, parse: Callable[[str], Record], noun: str) -> Iterator[tuple[int, int, Record]]:
    """Number, offset in bytes and record of each line that is not blank."""
    empty = True
    for number, offset, line in read_lines(path):
        empty = False
        with error_at(path, number):
            record = parse(line)
        yield number, offset, record
    if empty:
        raise ValueError(f"{path}: no {noun} in this file")


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
    records: Sequence[tuple[int, Record]]
    """Line number and content of each problem, as `parse_lines` or `Lines` return them."""
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
