"""Parsing of generated texts: the answer, its format, and the boxes in it, whatever else stands around them."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from saccade.core import Rollout

_NUMBER = r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?"
_FOUR = r"\[\s*" + r"\s*,\s*".join([f"({_NUMBER})"] * 4) + r"\s*,?\s*\]"
_STRING = r'"(?:[^"\\]|\\.)*+"'
_ITEM = re.compile(rf'(?P<object>\{{(?:[^{{}}"]|{_STRING})*+\}})|{_FOUR}', re.DOTALL)
_CORNERS = re.compile(rf"""bbox_2d["']?\s*:\s*{_FOUR}""")
_LABEL = re.compile(rf"""label["']?\s*:\s*({_STRING}|'[^']*')""", re.DOTALL)
_NONE = re.compile(r"""(?:```\w*)?[\s"'`]*(?:none|null|\[\s*\])[\s"'`.]*""", re.IGNORECASE)
_THINK_FORMAT = re.compile(r"\s*<think>(.*?)</think>\s*<answer>(.*?)</answer>\s*", re.DOTALL)
_TAG = re.compile(r"</?(?:think|answer)>")


def tagged_answer(text: str) -> str | None:
    """The text between the first ``<answer>`` and ``</answer>``, stripped; None if it is empty or missing."""
    # A regular expression would take quadratic time on tags that are never closed.
    inside, closed, _ = text.partition("<answer>")[2].partition("</answer>")
    return inside.strip() or None if closed else None


def has_answer(rollout: Rollout) -> Tensor:
    """1 where a text has a non-empty answer between its tags, else 0: ``[B]``."""
    return torch.tensor([float(tagged_answer(text) is not None) for text in rollout.outputs])


def parse_answer(text: str, require_tags: bool = False) -> str | None:
    """The answer after the thoughts: between its tags or, unless ``require_tags``, all of it if there are no tags.

    None if it is empty, or if an answer or thoughts without an answer were opened and never closed.
    """
    content = text.rpartition("</think>")[2]
    if require_tags or "<answer>" in content:
        return tagged_answer(content)
    return None if "<think>" in content else content.strip() or None


def follows_think_format(text: str) -> bool:
    """Whether a text is thoughts in tags, then an answer in tags, neither empty, and nothing else."""
    found = _THINK_FORMAT.fullmatch(text) if len(_TAG.findall(text)) == 4 else None
    return found is not None and all(part.strip() for part in found.groups())


@dataclass(frozen=True)
class ParsedBox:
    """A box as it was written: x1, y1, x2, y2 in the pixels of the picture as it was shown, and its label or ""."""

    corners: tuple[float, float, float, float]
    label: str = ""


def parse_boxes(text: str, require_tags: bool = False) -> list[ParsedBox] | None:
    """The boxes of an answer in order; [] for "None", "null" or "[]"; None if it cannot be parsed as boxes.

    With ``require_tags`` only the text between answer tags counts.

    A box is ``{"bbox_2d": [x1, y1, x2, y2], "label": "…"}``, or four finite numbers in brackets, alone, in a list or
    amid words. The text around it need not be valid JSON, so a list that was cut off still gives its complete boxes.
    """
    content = parse_answer(text, require_tags) or ""
    found = [box for item in _ITEM.finditer(content) if (box := _box(item))]
    return found if found or _NONE.fullmatch(content) else None


def _box(item: re.Match[str]) -> ParsedBox | None:
    fields, label = item["object"], ""
    corners: re.Match[str] | None = item
    if fields:
        corners, label = _CORNERS.search(fields), _label(fields)
    if corners is None:
        return None
    x1, y1, x2, y2 = (float(number) for number in corners.groups()[-4:])
    return ParsedBox((x1, y1, x2, y2), label) if all(map(math.isfinite, (x1, y1, x2, y2))) else None


def _label(fields: str) -> str:
    found = _LABEL.search(fields)
    literal = found.group(1) if found else '""'
    try:
        return json.loads(literal, strict=False)
    except ValueError:  # single quotes, or a backslash that JSON does not know
        return literal[1:-1]


def score_rows(rollout: Rollout, score: Callable[..., float], *columns: Sequence[Any]) -> Tensor:
    """``score(problem, text, …)`` of each row, with the row's value of each of ``columns``: float32 ``[B]``.

    An output that is not a text is scored as an empty one.
    """
    texts = [text if isinstance(text, str) else "" for text in rollout.outputs]
    return torch.tensor([score(*row) for row in zip(rollout.problems, texts, *columns)], dtype=torch.float32)


def edit_distance(a: Sequence[Hashable], b: Sequence[Hashable]) -> int:
    """Levenshtein distance between two texts, or two sequences of tokens."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        diagonal, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (x != y))
    return row[-1]
