"""Data from Python or from files of other formats, written as files that the worlds read, inside the run folder.

A list of texts or of `core.Problem`, a mapping of columns, a ``datasets.Dataset`` (or anything else that gives columns
by name), a CSV or Parquet file, and a folder of pictures with captions all become rows, and rows become one file of the
format that the setting's world reads. So a run keeps the data that it was trained on, and a resumed run finds them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from saccade.models.pictures import SUFFIXES, open_picture
from saccade.models.tables import object_of, read_csv, read_jsonl, read_lines, read_parquet, read_text
from saccade.naming import suggestion

TEXTS = {"prompts": "prompt", "questions": "question", "edits": "instruction", "programs": "Svg", "images": ""}
"""Settings that name data, and the column that holds the text there; "images" is a folder of pictures alone."""
HELD_OUT = ("held_out", "held_out_images", "in_domain", "out_of_domain")
"""Settings that name more data of the same kind as the first one of their group."""
ALIASES = ("prompt", "text", "caption", "question", "instruction", "svg", "Svg", "program")
"""Columns that are read as the text where the one that the setting asks for is missing."""
PICTURE_COLUMNS = ("image", "picture", "source", "file_name")

Row = dict[str, Any]


@dataclass(frozen=True)
class Table:
    """Rows for a data setting, whose text stands in the column ``text`` ("" for pictures alone)."""

    rows: Sequence[Row]
    text: str

    @property
    def name(self) -> str:
        """How the file is called in the run folder: plain text for rows of nothing but a prompt."""
        if not self.text:
            return ""
        return ".txt" if self.text == "prompt" and all(set(row) == {"prompt"} for row in self.rows) else ".jsonl"

    def write(self, path: Path) -> None:
        """Write the rows to ``path``, pictures beside it. ValueError if other rows lie there already."""
        content = self._content(path)
        if path.is_file() and path.read_text(encoding="utf-8") != content:
            raise ValueError(f"{path} holds other data than those given now: name a new folder")
        path.parent.mkdir(parents=True, exist_ok=True)
        if self.text:
            path.write_text(content, encoding="utf-8")

    def _content(self, path: Path) -> str:
        beside = path.with_suffix("")
        rows = [
            {key: _plain(value, beside / f"{i:05d}-{key}", path.parent) for key, value in row.items()}
            for i, row in enumerate(self.rows)
        ]
        if path.suffix == ".txt":
            return "".join(f"{row['prompt']}\n" for row in rows)
        return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def text_column(name: str, siblings: Iterable[str]) -> str | None:
    """The column of texts for a setting with a dotted ``name`` among all ``siblings``; None if it names no data."""
    group, _, last = name.rpartition(".")
    if last in TEXTS:
        return TEXTS[last]
    if last in HELD_OUT:
        beside = (s.rpartition(".")[2] for s in siblings if s.rpartition(".")[0] == group)
        return next((TEXTS[one] for one in beside if one in TEXTS), None)
    return None


def table(value: Any, text: str, name: str) -> Table | None:
    """What ``value`` holds as a table; None for text that the world reads by itself (a file, the name of a world).

    ValueError, with the ``name`` of the setting, for data that have no column of texts, and for anything else.
    """
    if isinstance(value, (str, Path)):
        rows = _rows_of_path(Path(value).expanduser(), text)
        return None if rows is None else _table(rows, text, str(value))
    return _table(list(_rows(value, text, name)), text, name)


def _rows_of_path(path: Path, text: str) -> list[Row] | None:
    if path.is_dir():
        captioned = text not in ("", "Svg") and any(file.suffix.lower() in SUFFIXES for file in path.iterdir())
        return _captioned(path) if captioned else None
    match path.suffix.lower() if path.is_file() else "":
        case ".csv":
            return [_with_paths(row, path.parent) for row in read_csv(path)]
        case ".parquet":
            return [_with_paths(row, path.parent) for row in read_parquet(path).to_pylist()]
        case ".jsonl":
            return _renamed_jsonl(path, text)
    return None


def _renamed_jsonl(path: Path, text: str) -> list[Row] | None:
    """Rows of a JSONL file whose text has another name than the world asks for; None where the world can read it."""
    try:
        row = next((object_of(line) for *_, line in read_lines(path)), {})
    except ValueError:
        return None  # the world's reader gives the line that is broken
    needs_name = text not in row and "conversations" not in row and set(row) & {*ALIASES}
    return [_with_paths(row, path.parent) for row in read_jsonl(path)] if text and needs_name else None


def _captioned(folder: Path) -> list[Row]:
    """Pictures of a folder with their captions: ``metadata.jsonl`` or ``.csv`` by file_name, or ``a.txt`` by ``a.png``.

    ValueError for a picture without a caption.
    """
    for name, read in (("metadata.jsonl", read_jsonl), ("metadata.csv", read_csv)):
        if (folder / name).is_file():
            rows = [_with_paths(row, folder) for row in read(folder / name)]
            return [{"image": row.pop("file_name"), **row} if "file_name" in row else row for row in rows]
    files = sorted(file for file in folder.iterdir() if file.suffix.lower() in SUFFIXES)
    bare = next((file for file in files if not file.with_suffix(".txt").is_file()), None)
    if bare:
        raise ValueError(
            f"{folder} has no caption for {bare.name}: put it into {bare.stem}.txt, or all of them into metadata.jsonl"
        )
    return [{"image": file.resolve(), "caption": read_text(file.with_suffix(".txt")).strip()} for file in files]


def _with_paths(row: Row, root: Path) -> Row:
    """A row whose picture columns are paths that hold from any folder."""
    path = lambda value: (root / value).resolve() if isinstance(value, str) and (root / value).is_file() else value
    return {key: path(value) if key in PICTURE_COLUMNS or key == "target" else value for key, value in row.items()}


def _rows(value: Any, text: str, name: str) -> Iterator[Row]:
    """Rows of data in memory."""
    from saccade.core import Problem, Question

    if isinstance(value, Mapping) or hasattr(value, "column_names") or hasattr(value, "columns"):
        columns = list(getattr(value, "column_names", None) or getattr(value, "columns", None) or value)
        yield from (dict(zip(columns, row)) for row in zip(*(list(value[column]) for column in columns)))
        return
    if not isinstance(value, Iterable):
        raise ValueError(f"{name} must be a list, a file, a folder or a data set, not a {type(value).__name__}")
    for item in value:
        match item:
            case Problem(inputs=Question() as question):
                yield {text: question.text, "images": list(question.pictures), **_answer(item.answer)}
            case Problem():
                yield {text: str(item.inputs), **_answer(item.answer)}
            case Mapping():
                yield dict(item)
            case str():
                yield {text or "image": item}
            case _:
                yield {"image": item}


def _answer(answer: Any) -> Row:
    """What rewards may see of a problem, as columns."""
    if answer is None:
        return {}
    if not isinstance(answer, Mapping):
        return {"answer": answer}
    found = dict(answer)
    if "text" in found and "kind" in found:  # an answer to a question, as `worlds.questions` keeps it
        found["answer"] = found.pop("text")
    return found


def _table(rows: list[Row], text: str, name: str) -> Table:
    if not rows:
        raise ValueError(f"{name} holds no rows")
    if not text:
        return Table([{"image": row["image"]} for row in rows], "")
    column = next((one for one in (text, *ALIASES) if one in rows[0]), None)
    if column is None:
        known = ", ".join(map(str, rows[0])) or "none"
        raise ValueError(f"{name} has no column '{text}'{suggestion(text, map(str, rows[0]))} (of {known})")
    renamed = []
    for number, row in enumerate(rows, 1):
        value = row.get(column)
        if not isinstance(value, str) or not value.strip():
            raise ValueError(f"{name} row {number}: {column} {value!r} must be a text")
        others = {key: other for key, other in row.items() if key != column}
        renamed.append({text: " ".join(value.split()) if text == "prompt" else value, **others})
    return Table(renamed, text)


def _plain(value: Any, place: Path, root: Path) -> Any:
    """A value as JSON holds it; a picture becomes a PNG file in ``place``, named by its path below ``root``."""
    if isinstance(value, Path):
        return str(value)
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    if isinstance(value, Mapping) and isinstance(value.get("bytes"), bytes):  # a picture of a data set, as stored
        value = open_picture(value["bytes"])
    if isinstance(value, Mapping):
        return {str(key): _plain(inner, place.with_name(f"{place.name}-{key}"), root) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner, place.with_name(f"{place.name}-{i}"), root) for i, inner in enumerate(value)]
    from saccade.api.pictures import as_image, is_picture

    if is_picture(value):
        file = place.with_name(f"{place.name}.png")
        file.parent.mkdir(parents=True, exist_ok=True)
        as_image(value).save(file)
        return str(file.relative_to(root))
    return value.tolist() if hasattr(value, "tolist") else str(value)
