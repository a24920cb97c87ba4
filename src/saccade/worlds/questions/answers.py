"""Answers as texts: words as they are, boxes as ``[x1,y1,x2,y2]``, detections as lists of labelled boxes or
``None``.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

NOTHING = "None"
"""The answer of a detection without targets."""


def box_text(box: Sequence[float]) -> str:
    """One box, its numbers rounded: ``[x1,y1,x2,y2]``."""
    return "[" + ",".join(str(round(number)) for number in box) + "]"


def detection_text(boxes: Sequence[Sequence[float]], labels: Sequence[str]) -> str:
    """Labelled boxes as compact JSON, ``[{"bbox_2d":[x1,y1,x2,y2],"label":"square"},…]``, or ``None`` for none."""
    listed = (f'{{"bbox_2d":{box_text(box)},"label":{json.dumps(label)}}}' for box, label in zip(boxes, labels))
    return f"[{','.join(listed)}]" if len(boxes) else NOTHING


def listing(words: Sequence[str]) -> str:
    """``a, b and c``."""
    return " and ".join(filter(None, (", ".join(words[:-1]), words[-1])))
