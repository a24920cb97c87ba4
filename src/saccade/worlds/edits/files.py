"""Edits from JSONL files, their pictures read when they are asked for.

A line is {"image", "instruction"}, and may have "edit_type", "caption_before", "caption_after", "target" (the path of
the expected picture) and "questions", a list of {"text", "answer": "yes" or "no", "about": "edit" or "keep"}, "about"
being "edit" where it is missing.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from saccade.core import Problem, Question
from saccade.worlds.edits.asking import Asked
from saccade.worlds.images import open_picture
from saccade.worlds.text_files import FileProblems, entry_of, file_of, need, parse_lines, text_of

_CAPTIONS = ("caption_before", "caption_after")


@dataclass(frozen=True)
class Record:
    """One line of a file; its pictures are still on disk. ``answer`` lacks the expected picture."""

    instruction: str
    image: Path
    target: Path | None
    answer: dict[str, Any]


def load(path: str | Path, images: str | Path | None = None) -> FileProblems[Record]:
    """Problems of a JSONL file; pictures lie below ``images``, or below the file's own folder where it is None.

    ``answer`` has the keys of the embedded world: "kind" is the edit's type ("" where none is named), scenes are None,
    and so are captions and a picture that the line does not give. ValueError "FILE:LINE: why" for a line that does not
    fit or names a picture that does not exist, and where the file cannot be read or is empty.
    """
    path = Path(path).expanduser()
    root = path.parent if images is None else Path(images).expanduser()
    return FileProblems(
        path, parse_lines(path, lambda line: _record(line, root), "edits"), partial(_problem, path.stem)
    )


def _record(line: str, root: Path) -> Record:
    entry = entry_of(line)
    given = lambda name, read, *where: None if entry.get(name) is None else read(entry, name, *where)
    captions = {name: given(name, text_of) for name in _CAPTIONS}
    known = {"kind": given("edit_type", text_of) or "", "before": None, "after": None}
    answer = known | captions | {"questions": _questions(entry.get("questions", []))}
    return Record(text_of(entry, "instruction"), file_of(entry, "image", root), given("target", file_of, root), answer)


def _problem(stem: str, index: int, record: Record) -> Problem:
    answer = record.answer | {"picture": record.target and open_picture(record.target)}
    return Problem(
        index, Question(record.instruction, (open_picture(record.image),)), answer, record.answer["kind"] or stem
    )


def _questions(listed: Any) -> tuple[Asked, ...]:
    need(
        isinstance(listed, list) and all(isinstance(q, dict) for q in listed),
        f"questions {listed!r} must be a list of objects",
    )
    return tuple(_question(entry) for entry in listed)


def _question(entry: dict[str, Any]) -> Asked:
    answer, about = entry.get("answer"), entry.get("about", "edit")
    said = answer.strip().lower() if isinstance(answer, str) else answer
    need(said in ("yes", "no"), f"answer {answer!r} of a question must be yes or no")
    need(about in ("edit", "keep"), f"about {about!r} of a question must be edit or keep")
    return text_of(entry, "text"), said, about
