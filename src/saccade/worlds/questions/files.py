"""Questions about pictures from JSONL files; pictures are loaded on access. See `lines` for the formats."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from saccade.core import Problem, Question
from saccade.models.pictures import open_picture
from saccade.models.tables import object_of
from saccade.worlds.questions.answers import NO_BOXES, detection_text
from saccade.worlds.questions.choices import has_choices, parse_choice_question
from saccade.worlds.questions.lines import parse_question, picture_paths
from saccade.worlds.text_files import FileProblems, Lines, ensure

_SLACK = 1.0
"""Pixels by which annotated boxes may extend beyond the picture."""


@dataclass(frozen=True)
class Record:
    """One line of a file, without its pictures."""

    text: str
    paths: tuple[Path, ...]
    answer: dict[str, Any]
    source: str


def load_questions(path: str | Path, images: str | Path | None = None) -> FileProblems[Record]:
    """FileProblems of a JSONL file; pictures lie below ``images``, or below the file's own folder where it is None.

    ``source`` is the line's own or its "category", else the file's stem. An answer that is a box or a list of labelled
    boxes gets "boxes" and "labels"; in a file with such answers "None" is the empty list. A question with lettered
    choices has the letter as its answer. ValueError "FILE:LINE: why" for an invalid line or a picture that does not
    exist, and where the file cannot be read or is empty.
    """
    path = Path(path).expanduser()
    root = path.parent if images is None else Path(images).expanduser()
    kinds: set[str] = set()

    def read(line: str) -> Record:
        record = _record(line, root, path.stem)
        kinds.add(record.answer["kind"])
        return record

    lines = Lines(path, read, "questions")
    return FileProblems(path, lines.mapped(_with_empty_list) if "boxes" in kinds else lines, _problem)


def _record(line: str, root: Path, stem: str) -> Record:
    entry = object_of(line)
    text, answer = parse_choice_question(entry) if has_choices(entry) else parse_question(entry)
    source = entry.get("source", entry.get("category", stem))
    ensure(isinstance(source, str), f"source {source!r} must be a text")
    return Record(text, picture_paths(entry, root), answer, source)


def _problem(index: int, record: Record) -> Problem:
    pictures = tuple(open_picture(path) for path in record.paths)
    _check_inside(record.answer.get("boxes", []), pictures[0])
    return Problem(index, Question(record.text, pictures), record.answer, record.source)


def _with_empty_list(record: Record) -> Record:
    """A record of a file whose answers are boxes: its answer "None" is an empty list of boxes."""
    if record.answer["text"] != NO_BOXES:
        return record
    return replace(
        record, answer=record.answer | {"text": detection_text([], []), "kind": "boxes", "boxes": [], "labels": []}
    )


def _check_inside(boxes: list[list[float]], picture: np.ndarray) -> None:
    height, width = picture.shape[:2]
    for box in boxes:
        inside = -_SLACK <= min(box[:2]) and box[2] <= width + _SLACK and box[3] <= height + _SLACK
        ensure(inside, f"box {box} lies outside its picture of {width} x {height} pixels")
