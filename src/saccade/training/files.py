"""Small files that survive a kill: JSON replaced in one step, records appended line by line and cut back."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor


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
    temporary = path.with_name(f".{path.name}.new")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def append(path: Path, record: Mapping[str, Any]) -> None:
    """Add one line of JSON in one write, so that a kill between lines tears nothing."""
    line = json.dumps(plain(record), ensure_ascii=False) + "\n"
    with path.open("ab", buffering=0) as file:
        file.write(line.encode(errors="replace"))


def cut(path: Path, step: float) -> None:
    """Keep the records up to ``step`` (``math.inf``: all) and drop a last line that a kill has torn."""
    if path.exists():
        kept = [record for record in records(path) if record["step"] <= step]
        replace_bytes(path, "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in kept).encode(errors="replace"))


def records(path: Path) -> list[dict[str, Any]]:
    """The records of a file, without a torn last line; any other broken line is a ValueError that names it."""
    if not path.exists():
        return []
    *lines, _torn = path.read_bytes().split(b"\n")
    return [_record(path, i, line) for i, line in enumerate(lines, 1)]


def _record(path: Path, place: int, line: bytes) -> dict[str, Any]:
    try:
        record = json.loads(line)
        record["step"] + 0
    except (ValueError, TypeError, KeyError):
        raise ValueError(f"{path} line {place} is not a record: {line[:40].decode(errors='replace')!r}") from None
    return record
