"""Parsing of one line of a file of questions: a JSON object in one of two formats; `choices` has a third.

VLM-R1's and RefCOCO's conversations have "image" (a path or a list of them) and "conversations", a turn from human and
a turn from gpt, each with "from" and "value"; ``<image>`` marks are removed from the text. Records have "image" or
"images", "question" and "answer". Both may have "boxes" with "labels", "kind" and "source".
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from saccade.worlds.questions.answers import NO_BOXES
from saccade.worlds.text_files import ensure

_MARK = "<image>"
_WRAPPING = re.compile(r"</?answer>|^```(json)?|```$", re.MULTILINE)
Boxes = tuple[list[list[float]], list[str]]
"""Boxes and their labels."""


def parse_question(entry: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The text of the question, and the answer as `parse_reply` gives it."""
    text, reply = question_and_reply(entry)
    return text, parse_reply(entry, reply)


def question_and_reply(entry: dict[str, Any]) -> tuple[str, Any]:
    """The question and its answer. ValueError where one is missing or the marks are not as many as the pictures."""
    if "conversations" in entry:
        turns = entry["conversations"]
        valid = isinstance(turns, list) and all(isinstance(turn, dict) and "value" in turn for turn in turns)
        valid = valid and [turn.get("from") for turn in turns] == ["human", "gpt"]
        ensure(valid, "conversations must be a turn from human and a turn from gpt, each with its value")
        question, reply = (turn["value"] for turn in turns)
    else:
        missing = [name for name in ("question", "answer") if name not in entry]
        ensure(not missing, f"{' and '.join(missing)} missing; a line has question and answer, or conversations")
        question, reply = entry["question"], entry["answer"]
    ensure(isinstance(question, str), f"question {question!r} must be a text")
    text = question.replace(_MARK, "").strip()
    ensure(text != "", f"question {question!r} is empty")
    marks, pictures = question.count(_MARK), len(_picture_names(entry))
    ensure(marks in (0, pictures), f"the question has {marks} marks {_MARK} for {pictures} pictures")
    return text, reply


def picture_paths(entry: dict[str, Any], root: Path) -> tuple[Path, ...]:
    """The files of the pictures. ValueError for a file that does not exist."""
    paths = tuple(root / name for name in _picture_names(entry))
    for path in paths:
        ensure(path.is_file(), f"picture '{path}' does not exist")
    return paths


def parse_reply(entry: dict[str, Any], reply: Any) -> dict[str, Any]:
    """The text and kind of an answer, and the boxes that it consists of or that the entry has.

    A list of texts is several right answers: the first one, and "others".
    """
    kind = entry.get("kind")
    ensure(kind is None or isinstance(kind, str), f"kind {kind!r} must be a text")
    if isinstance(reply, list) and len(reply) > 1 and all(isinstance(each, str) and each.strip() for each in reply):
        return parse_reply(entry, reply[0]) | {"others": [each.strip() for each in reply[1:]]}
    valid = isinstance(reply, (str, list, dict)) or _is_number(reply)
    ensure(valid, f"answer {reply!r} must be a text, a number or boxes")
    text = _WRAPPING.sub("", reply).strip() if isinstance(reply, str) else json.dumps(reply)
    ensure(text != "", f"answer {reply!r} is empty")
    if "boxes" in entry:
        boxes = entry["boxes"]
        found = _checked(boxes, entry.get("labels", [""] * len(boxes) if isinstance(boxes, list) else None))
        return {"text": text, "kind": kind or _kind(text), "boxes": found[0], "labels": found[1]}
    found: Boxes | None = None
    if kind == "boxes" and text == NO_BOXES:
        found = [], []
    elif kind in (None, "boxes"):
        found = _parse_boxes(text)
    ensure(kind != "boxes" or found is not None, f"answer {text[:40]!r} holds no boxes")
    if found is None:
        return {"text": text, "kind": kind or _kind(text)}
    return {"text": text, "kind": "boxes", "boxes": found[0], "labels": found[1]}


def _picture_names(entry: dict[str, Any]) -> list[str]:
    value = entry.get("images", entry.get("image"))
    names = [value] if isinstance(value, str) else value if isinstance(value, list) else []
    valid = names and all(isinstance(name, str) and name for name in names)
    ensure(bool(valid), f"image {value!r} must be a path, or images a list of paths")
    return names


def _parse_boxes(text: str) -> Boxes | None:
    """The boxes that a text consists of: one box, one labelled box, or a list of labelled boxes; else None."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    listed = [value] if isinstance(value, dict) else value
    if not isinstance(listed, list):
        return None
    if all(isinstance(item, dict) and "bbox_2d" in item for item in listed):
        return _checked([item["bbox_2d"] for item in listed], [item.get("label", "") for item in listed])
    return _checked([listed], [""]) if len(listed) == 4 and all(map(_is_number, listed)) else None


def _checked(boxes: Any, labels: Any) -> Boxes:
    """Boxes and labels. ValueError for boxes that are malformed, empty or not in pixels."""
    ensure(isinstance(boxes, list) and isinstance(labels, list), f"boxes {boxes!r} and labels {labels!r} must be lists")
    ensure(len(boxes) == len(labels), f"there are {len(boxes)} boxes but {len(labels)} labels")
    ensure(all(isinstance(label, str) for label in labels), f"labels {labels!r} must be texts")
    for box in boxes:
        ensure(
            isinstance(box, list) and len(box) == 4 and all(map(_is_number, box)), f"box {box!r} must be four numbers"
        )
        ensure(box[0] < box[2] and box[1] < box[3], f"box {box} is empty; x1 < x2 and y1 < y2 are needed")
        ensure(max(box) > 1, f"box {box} must be in pixels of its picture, not in shares of its sides")
    return [[float(number) for number in box] for box in boxes], labels


def _kind(text: str) -> str:
    return "number" if re.fullmatch(r"[-+]?\d+(\.\d+)?", text) else "word"


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and -1e300 < value < 1e300
