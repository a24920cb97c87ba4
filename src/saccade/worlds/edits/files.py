"""Edits from JSONL files, their pictures read when they are asked for.

A line is {"image", "instruction"}, and may have "edit_type", "caption_before", "caption_after", "target" (the path of the
expected picture) and "questions", a list of {"text", "answer": "yes" or "no", "about": "edit" or "keep"}, "about" being
"edit" where it is missing.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from saccade.core import Problem, Question
from saccade.worlds.edits.asking import Asked
from saccade.worlds.pictures import open_picture
from saccade.worlds.questions.lines import entry_of, need

_CAPTIONS = ("caption_before", "caption_after")


@dataclass(frozen=True)
class Record:
    """One line of a file; its pictures are still on disk. ``answer`` lacks the expected picture."""

    line: int
    instruction: str
    image: Path
    target: Path | None
    answer: dict[str, Any]


@dataclass(frozen=True)
class Records:
    """Problems of a file: a sequence that reads a problem's pictures whenever it is asked for."""

    path: Path
    records: tuple[Record, ...]

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Problem:
        """Problem ``index``. ValueError "FILE:LINE: why" for a damaged picture."""
        record = self.records[index]
        try:
            picture = open_picture(record.image)
            target = None if record.target is None else open_picture(record.target)
        except ValueError as error:
            raise ValueError(f"{self.path}:{record.line}: {error}") from None
        source = record.answer["kind"] or self.path.stem
        return Problem(index % len(self), Question(record.instruction, (picture,)), record.answer | {"picture": target}, source)


def load(path: str | Path, images: str | Path | None = None) -> Records:
    """Problems of a JSONL file; pictures lie below ``images``, or below the file's own folder where it is None.

    ``answer`` has the keys of the embedded world: "kind" is the edit's type ("" where none is named), scenes are None, and
    so are captions and a picture that the line does not give. ValueError "FILE:LINE: why" for a line that does not fit or
    names a picture that does not exist, and where the file cannot be read or is empty.
    """
    path = Path(path).expanduser()
    root = path.parent if images is None else Path(images).expanduser()
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: cannot be read: {error}") from None
    records = tuple(_record(path, number, line, root) for number, line in enumerate(lines, 1) if line.strip())
    if not records:
        raise ValueError(f"{path}: no edits in this file")
    return Records(path, records)


def _record(path: Path, number: int, line: str, root: Path) -> Record:
    try:
        entry = entry_of(line)
        captions = {name: _text(entry, name, optional=True) for name in _CAPTIONS}
        known = {"kind": _text(entry, "edit_type", optional=True) or "", "before": None, "after": None}
        answer = known | captions | {"questions": _questions(entry.get("questions", []))}
        target = _file(entry, "target", root) if entry.get("target") is not None else None
        return Record(number, _text(entry, "instruction"), _file(entry, "image", root), target, answer)
    except ValueError as error:
        raise ValueError(f"{path}:{number}: {error}") from None


def _text(entry: dict[str, Any], name: str, optional: bool = False) -> str | None:
    value = entry.get(name)
    if optional and value is None:
        return None
    need(isinstance(value, str) and value.strip() != "", f"{name} {value!r} must be a text")
    return value.strip()


def _file(entry: dict[str, Any], name: str, root: Path) -> Path:
    value = entry.get(name)
    need(isinstance(value, str) and value != "", f"{name} {value!r} must be a path")
    path = root / value
    need(path.is_file(), f"{name} '{path}' does not exist")
    return path


def _questions(listed: Any) -> tuple[Asked, ...]:
    need(isinstance(listed, list) and all(isinstance(q, dict) for q in listed), f"questions {listed!r} must be a list of objects")
    return tuple(_question(entry) for entry in listed)


def _question(entry: dict[str, Any]) -> Asked:
    answer, about = entry.get("answer"), entry.get("about", "edit")
    said = answer.strip().lower() if isinstance(answer, str) else answer
    need(said in ("yes", "no"), f"answer {answer!r} of a question must be yes or no")
    need(about in ("edit", "keep"), f"about {about!r} of a question must be edit or keep")
    return _text(entry, "text"), said, about
