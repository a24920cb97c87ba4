"""Questions about pictures from JSONL files; pictures are loaded on access. See `lines` for the formats."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from saccade.core import Problem, Question
from saccade.worlds.images import open_picture
from saccade.worlds.questions.answers import NO_BOXES, detection_text
from saccade.worlds.questions.choices import has_choices, parse_choice_question
from saccade.worlds.questions.lines import parse_question, picture_paths
from saccade.worlds.text_files import FileProblems, ensure, entry_of, parse_lines

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
    records = parse_lines(path, lambda line: _record(line, root, path.stem), "questions")
    _convert_empty_lists([record for _, record in records])
    return FileProblems(path, records, _problem)


def _record(line: str, root: Path, stem: str) -> Record:
    entry = entry_of(line)
    text, answer = parse_choice_question(entry) if has_choices(entry) else parse_question(entry)
    source = entry.get("source", entry.get("category", stem))
    ensure(isinstance(source, str), f"source {source!r} must be a text")
    return Record(text, picture_paths(entry, root), answer, source)


def _problem(index: int, record: Record) -> Problem:
    pictures = tuple(open_picture(path) for path in record.paths)
    _check_inside(record.answer.get("boxes", []), pictures[0])
    return Problem(index, Question(record.text, pictures), record.answer, record.source)


def _convert_empty_lists(records: list[Record]) -> None:
    """Turn the answer "None" into an empty list of boxes where other answers of the file are boxes."""
    if any(record.answer["kind"] == "boxes" for record in records):
        for record in records:
            if record.answer["text"] == NO_BOXES:
                record.answer.update({"text": detection_text([], []), "kind": "boxes", "boxes": [], "labels": []})


def _check_inside(boxes: list[list[float]], picture: np.ndarray) -> None:
    height, width = picture.shape[:2]
    for box in boxes:
        inside = -_SLACK <= min(box[:2]) and box[2] <= width + _SLACK and box[3] <= height + _SLACK
        ensure(inside, f"box {box} lies outside its picture of {width} x {height} pixels")
