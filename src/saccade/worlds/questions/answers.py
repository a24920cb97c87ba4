"""Answers as texts: words, boxes as ``[x1,y1,x2,y2]``, detections as lists of labelled boxes or ``None``."""

from __future__ import annotations

import json
from collections.abc import Sequence

NO_BOXES = "None"
"""The answer to a detection question without targets."""


def box_text(box: Sequence[float]) -> str:
    """One box with rounded coordinates: ``[x1,y1,x2,y2]``."""
    return "[" + ",".join(str(round(number)) for number in box) + "]"


def detection_text(boxes: Sequence[Sequence[float]], labels: Sequence[str]) -> str:
    """Labelled boxes as compact JSON, ``[{"bbox_2d":[x1,y1,x2,y2],"label":"square"},…]``, or ``None`` for none."""
    objects = (f'{{"bbox_2d":{box_text(box)},"label":{json.dumps(label)}}}' for box, label in zip(boxes, labels))
    return f"[{','.join(objects)}]" if len(boxes) else NO_BOXES


def join_words(words: Sequence[str]) -> str:
    """An enumeration: ``a, b and c``."""
    return " and ".join(filter(None, (", ".join(words[:-1]), words[-1])))
