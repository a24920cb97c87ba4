"""Rows of files that people write: lines of text, JSONL, CSV and Parquet. The only place that reads one.

A byte-order mark is no part of a text. Only regular files are read, and one whose content is beyond `LARGEST` bytes is
refused before it is read.
"""

from __future__ import annotations

import codecs
import csv
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path
from typing import Any, BinaryIO

LARGEST = 1 << 32
"""Bytes of the largest file, and of the largest table unfolded, that is read into memory."""

_LONGEST_FIELD = 1 << 26
"""Characters of a field of a CSV file."""
_MARKS = {codecs.BOM_UTF8: "utf-8", codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}


@contextmanager
def _reading(path: Path) -> Iterator[BinaryIO]:
    """A file that is read. ValueError "FILE: cannot be read: why", also for what reading raises within."""
    try:
        if path.exists() and not path.is_file():
            raise ValueError("it is no regular file")
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size > LARGEST:
                raise ValueError(f"it has more than {LARGEST >> 30} GiB")
            yield file
    except UnicodeDecodeError:
        raise ValueError(f"{path}: cannot be read: it is not text in UTF-8") from None
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise ValueError(f"{path}: cannot be read: {why}") from None


def _decoded(file: BinaryIO, offset: int = 0) -> TextIOWrapper:
    """The text behind the byte-order mark, or from an offset in bytes on. Only line feeds end its lines, because a
    text in JSON may contain other line separators.
    """
    start = file.read(3)
    mark = next((mark for mark in _MARKS if start.startswith(mark)), b"")
    file.seek(max(offset, len(mark)))
    return TextIOWrapper(file, _MARKS.get(mark, "utf-8"), newline="\n")


def read_text(path: Path) -> str:
    """A file of text in UTF-8, or in UTF-16 with its byte-order mark. ValueError "FILE: cannot be read: why"."""
    with _reading(path) as file:
        return _decoded(file).read()


def read_lines(path: Path) -> Iterator[tuple[int, int, str]]:
    """Number from 1 on, place in bytes and text, without surrounding spaces, of each line that is not blank.

    One line at a time is in memory. ValueError as in `read_text`.
    """
    with _reading(path) as file:
        text = _decoded(file)
        offset = file.tell()
        for number, line in enumerate(text, 1):
            if line.strip():
                yield number, offset, line.strip()
            offset += len(line.encode(text.encoding))


def line_at(path: Path, offset: int) -> str:
    """The line of a text that begins at a place in bytes, as `read_lines` returns it."""
    with _reading(path) as file:
        return _decoded(file, offset).readline().strip()


def object_of(line: str) -> dict[str, Any]:
    """The object on a line of JSON. ValueError for anything else."""
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not JSON: {error}") from None
    if not isinstance(entry, dict):
        raise ValueError(f"{line[:40]!r} is not an object")
    return entry


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """The object of each line. ValueError "FILE:LINE: why" for a line that is none."""
    rows = []
    for number, _, line in read_lines(path):
        try:
            rows.append(object_of(line))
        except ValueError as error:
            raise ValueError(f"{path}:{number}: {error}") from None
    return rows


def read_csv(path: Path) -> list[dict[str, Any]]:
    """The rows of a CSV file with a head line. ValueError "FILE:LINE: why" for a row of another length."""
    csv.field_size_limit(_LONGEST_FIELD)
    reader = csv.DictReader(read_text(path).splitlines(keepends=True))
    try:
        rows = [dict(row) for row in reader]
    except csv.Error as error:
        raise ValueError(f"{path}:{reader.line_num}: {error}") from None
    for number, row in enumerate(rows, 1):
        if None in row or None in row.values():
            raise ValueError(f"{path}: row {number} has not {len(reader.fieldnames or ())} fields, as the head has")
    return rows


def read_parquet(path: Path) -> Any:
    """A Parquet file as a pyarrow table. ValueError for another file, and where pyarrow is not installed."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise ValueError(f"{path} needs a package: pip install pyarrow ({error})") from None
    try:
        with parquet.ParquetFile(path) as file:
            groups = [file.metadata.row_group(i) for i in range(file.metadata.num_row_groups)]
            if sum(group.total_byte_size for group in groups) > LARGEST:
                raise ValueError(f"unfolded it has more than {LARGEST >> 30} GiB")
            return file.read()
    except (OSError, ValueError, pyarrow.ArrowException) as error:
        raise ValueError(f"{path} is not a readable parquet file: {str(error).splitlines()[0]}") from None
