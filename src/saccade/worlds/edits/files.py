"""Edits from JSONL files, whose pictures are opened when a problem is accessed.

A line has "image" and "instruction", and may have "edit_type", "caption_before", "caption_after", "target" (path of the
expected picture) and "questions", a list of {"text", "answer": "yes" or "no", "about": "edit" or "keep"}, where a
missing "about" means "edit".
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from saccade.core import Problem, Question
from saccade.models.pictures import open_picture
from saccade.models.tables import object_of
from saccade.worlds.edits.vqa import VQAQuestion
from saccade.worlds.text_files import FileProblems, Lines, ensure, file_of, text_of

_CAPTIONS = ("caption_before", "caption_after")


@dataclass(frozen=True)
class EditRecord:
    """One line of a file, with paths of its pictures; ``answer`` lacks the expected picture."""

    instruction: str
    image: Path
    target: Path | None
    answer: dict[str, Any]


def load_edits(path: str | Path, images: str | Path | None = None) -> FileProblems[EditRecord]:
    """Problems of a JSONL file; paths of pictures are relative to ``images``, or to the file's folder if it is None.

    ``answer`` has the keys of the embedded world: "kind" is the edit's type ("" where the line has none); scenes are
    None, and so are captions and an expected picture that the line lacks. ValueError "FILE:LINE: why" for a line that
    does not fit or names a picture that does not exist, and for a file that cannot be read or is empty.
    """
    path = Path(path).expanduser()
    root = path.parent if images is None else Path(images).expanduser()
    return FileProblems(path, Lines(path, lambda line: _record(line, root), "edits"), partial(_problem, path.stem))


def _record(line: str, root: Path) -> EditRecord:
    entry = object_of(line)
    optional = lambda name, parse, *root: None if entry.get(name) is None else parse(entry, name, *root)
    captions = {name: optional(name, text_of) for name in _CAPTIONS}
    fixed = {"kind": optional("edit_type", text_of) or "", "before": None, "after": None}
    answer = fixed | captions | {"questions": _questions(entry.get("questions", []))}
    return EditRecord(
        text_of(entry, "instruction"), file_of(entry, "image", root), optional("target", file_of, root), answer
    )


def _problem(stem: str, index: int, record: EditRecord) -> Problem:
    answer = record.answer | {"picture": record.target and open_picture(record.target)}
    return Problem(
        index, Question(record.instruction, (open_picture(record.image),)), answer, record.answer["kind"] or stem
    )


def _questions(listed: Any) -> tuple[VQAQuestion, ...]:
    ensure(
        isinstance(listed, list) and all(isinstance(q, dict) for q in listed),
        f"questions {listed!r} must be a list of objects",
    )
    return tuple(_question(entry) for entry in listed)


def _question(entry: dict[str, Any]) -> VQAQuestion:
    answer, about = entry.get("answer"), entry.get("about", "edit")
    expected = str(answer).strip().lower()
    ensure(expected in ("yes", "no"), f"answer {answer!r} of a question must be yes or no")
    ensure(about in ("edit", "keep"), f"about {about!r} of a question must be edit or keep")
    return text_of(entry, "text"), expected, str(about)
