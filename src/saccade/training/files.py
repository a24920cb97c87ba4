"""Small files that survive a kill: JSON replaced in one step, records appended line by line and cut back."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

_SCRAP = ".new"
"""How the name of a file ends that is not yet in its place."""


def plain(value: Any) -> Any:
    """What JSON can hold: tensors and arrays become numbers or lists, dataclasses dicts, NaN and infinity None."""
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, Tensor):
        return plain(value.detach().cpu().tolist())
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return plain({field.name: getattr(value, field.name) for field in dataclasses.fields(value)})
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(inner) for inner in value]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    return str(value)


def number(name: str, value: Any) -> float | int | None:
    """One metric as a JSON number; NaN and infinity are None, anything but a number is a ValueError."""
    single = plain(value)
    while isinstance(single, list) and len(single) == 1:
        single = single[0]
    if single is not None and not isinstance(single, (int, float)):
        raise ValueError(f"metric {name} must be one number, not {str(value)[:60]!r}")
    return int(single) if isinstance(single, bool) else single


def replace(path: Path, value: Any) -> None:
    """Write ``value`` as JSON so that a reader finds the old file or the new one, never a part."""
    replace_bytes(path, (json.dumps(plain(value), indent=2, ensure_ascii=False) + "\n").encode(errors="replace"))


def replace_bytes(path: Path, content: bytes) -> None:
    """Write a file beside its place, sync it, rename it; on failure the former one stays and no scrap is left."""
    temporary = path.with_name(f".{path.name}{_SCRAP}")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def is_empty(folder: Path) -> bool:
    """Whether a folder holds nothing but what a kill has left of a file that was being replaced."""
    return all(path.name.startswith(".") and path.name.endswith(_SCRAP) for path in folder.iterdir())


def read(path: Path, what: str) -> dict[str, Any]:
    """The JSON object in a file; any other content is a ValueError that says that the file is not ``what``."""
    try:
        found = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise ValueError(f"{path} is not {what}: no whole JSON object")
    return found


def append(path: Path, record: Mapping[str, Any]) -> None:
    """Add one line of JSON. A disk without room for all of it is an OSError, and nothing of it is left."""
    line = (json.dumps(plain(record), ensure_ascii=False) + "\n").encode(errors="replace")
    with path.open("ab", buffering=0) as file:
        end = file.seek(0, os.SEEK_END)
        try:
            written = 0
            while written < len(line):  # a disk that is nearly full takes a part and says so only the next time
                written += file.write(line[written:])
        except OSError:
            file.truncate(end)
            raise


def cut(path: Path, step: float, count: int | None = None) -> None:
    """Keep the records up to ``step`` (``math.inf``: all), at most the first ``count``, and no torn last line."""
    if path.exists():
        kept = [record for record in records(path) if record["step"] <= step][:count]
        replace_bytes(path, "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in kept).encode(errors="replace"))


NESTED = ("set", "items", "scores")
"""Names in records of samples and of the scores of single problems whose values are no single number."""


def records(path: Path) -> list[dict[str, Any]]:
    """The records of a file, without a torn last line; any other broken line is a ValueError that names it.

    A record is an object with a finite number ``step``; its other values are finite numbers or null, except those in
    NESTED.
    """
    if not path.exists():
        return []
    *lines, _torn = path.read_bytes().split(b"\n")
    return [_record(path, i, line) for i, line in enumerate(lines, 1)]


def _record(path: Path, place: int, line: bytes) -> dict[str, Any]:
    try:
        record = json.loads(line)
        if _finite([record["step"], *(v for k, v in record.items() if k not in NESTED and v is not None)]):
            return record
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        pass
    raise ValueError(f"{path} line {place} is not a record: {line[:40].decode(errors='replace')!r}")


def _finite(values: Iterable[Any]) -> bool:
    bound = sys.float_info.max
    return all(isinstance(x, (int, float)) and not isinstance(x, bool) and -bound <= x <= bound for x in values)
