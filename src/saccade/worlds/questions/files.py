"""Questions about pictures from JSONL files, the pictures read when they are asked for; see `lines` for the formats."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from saccade.core import Problem, Question
from saccade.worlds.images import open_picture
from saccade.worlds.questions.answers import NOTHING, detection_text
from saccade.worlds.questions.choices import chosen, has_choices
from saccade.worlds.questions.lines import pictures_of, told
from saccade.worlds.text_files import FileProblems, entry_of, need, parse_lines

_SLACK = 1.0
"""Pixels by which annotations may reach beyond the picture."""


@dataclass(frozen=True)
class Record:
    """One line of a file; the pictures are still on disk."""

    text: str
    paths: tuple[Path, ...]
    answer: dict[str, Any]
    source: str


def load(path: str | Path, images: str | Path | None = None) -> FileProblems[Record]:
    """Problems of a JSONL file; pictures lie below ``images``, or below the file's own folder where it is None.

    ``source`` is the line's own or its "category", else the file's stem. An answer that is a box or a list of labelled
    boxes gets "boxes" and "labels"; in a file with such answers "None" is the empty list. A question with lettered
    choices has the letter as its answer. ValueError "FILE:LINE: why" for a line that does not fit or names a picture
    that does not exist, and where the file cannot be read or is empty.
    """
    path = Path(path).expanduser()
    root = path.parent if images is None else Path(images).expanduser()
    records = parse_lines(path, lambda line: _record(line, root, path.stem), "questions")
    _empty_lists([record for _, record in records])
    return FileProblems(path, records, _problem)


def _record(line: str, root: Path, stem: str) -> Record:
    entry = entry_of(line)
    text, answer = chosen(entry) if has_choices(entry) else told(entry)
    source = entry.get("source", entry.get("category", stem))
    need(isinstance(source, str), f"source {source!r} must be a text")
    return Record(text, pictures_of(entry, root), answer, source)


def _problem(index: int, record: Record) -> Problem:
    pictures = tuple(open_picture(path) for path in record.paths)
    _inside(record.answer.get("boxes", []), pictures[0])
    return Problem(index, Question(record.text, pictures), record.answer, record.source)


def _empty_lists(records: list[Record]) -> None:
    """In a file of boxes the answer "None" is an empty list of them."""
    if any(record.answer["kind"] == "boxes" for record in records):
        for record in records:
            if record.answer["text"] == NOTHING:
                record.answer.update({"text": detection_text([], []), "kind": "boxes", "boxes": [], "labels": []})


def _inside(boxes: list[list[float]], picture: np.ndarray) -> None:
    height, width = picture.shape[:2]
    for box in boxes:
        good = -_SLACK <= min(box[:2]) and box[2] <= width + _SLACK and box[3] <= height + _SLACK
        need(good, f"box {box} lies outside its picture of {width} x {height} pixels")
