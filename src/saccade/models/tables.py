"""Rows of files that people write: lines of text, JSONL, CSV and Parquet. The only place that reads one.

A byte-order mark is no part of a text. Only regular files are read, and one whose content is beyond `LARGEST` bytes is
refused before it is read.
"""

from __future__ import annotations

import codecs
import csv
import json
from pathlib import Path
from typing import Any

LARGEST = 1 << 32
"""Bytes of the largest file, and of the largest table unfolded, that is read into memory."""

_LONGEST_FIELD = 1 << 26
"""Characters of a field of a CSV file."""
_MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}


def read_text(path: Path) -> str:
    """A file of text in UTF-8, or in UTF-16 with its byte-order mark. ValueError "FILE: cannot be read: why"."""
    try:
        if path.exists() and not path.is_file():
            raise ValueError("it is no regular file")
        if path.stat().st_size > LARGEST:
            raise ValueError(f"it has more than {LARGEST >> 30} GiB")
        content = path.read_bytes()
        encoding = next((name for mark, name in _MARKS.items() if content.startswith(mark)), "utf-8")
        return content.decode(encoding)
    except UnicodeDecodeError:
        raise ValueError(f"{path}: cannot be read: it is not text in UTF-8") from None
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise ValueError(f"{path}: cannot be read: {why}") from None


def read_lines(path: Path) -> list[tuple[int, str]]:
    """The lines of a text that are not blank, without surrounding spaces, with their numbers from 1 on."""
    # Not splitlines, because a text in JSON may contain other line separators.
    return [(number, line.strip()) for number, line in enumerate(read_text(path).split("\n"), 1) if line.strip()]


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
    for number, line in read_lines(path):
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
