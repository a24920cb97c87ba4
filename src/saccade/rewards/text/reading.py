"""Reading what a model wrote: its answer, its form, and the boxes in it, whatever else stands around them."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from saccade.core import Rollout
from saccade.rewards.text.parsing import answer

_NUMBER = r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?"

_FOUR = r"\[\s*" + r"\s*,\s*".join([f"({_NUMBER})"] * 4) + r"\s*,?\s*\]"

_STRING = r'"(?:[^"\\]|\\.)*+"'

_ITEM = re.compile(rf'(?P<object>\{{(?:[^{{}}"]|{_STRING})*+\}})|{_FOUR}', re.DOTALL)

_CORNERS = re.compile(rf"""bbox_2d["']?\s*:\s*{_FOUR}""")

_LABEL = re.compile(rf"""label["']?\s*:\s*({_STRING}|'[^']*')""", re.DOTALL)

_NONE = re.compile(r"""(?:```\w*)?[\s"'`]*(?:none|null|\[\s*\])[\s"'`.]*""", re.IGNORECASE)

_FORM = re.compile(r"\s*<think>(.*?)</think>\s*<answer>(.*?)</answer>\s*", re.DOTALL)

_TAG = re.compile(r"</?(?:think|answer)>")


@dataclass(frozen=True)
class Written:
    """One box as a model wrote it: x1, y1, x2, y2 in the pixels it was shown, and what it called it ("" = nothing)."""

    corners: tuple[float, float, float, float]
    label: str = ""


def said(text: str, tagged: bool = False) -> str | None:
    """What a text answers, after its thoughts: between its answer tags or, unless ``tagged``, all of it if it has none.

    None if that is nothing, or if an answer or thoughts without an answer were opened and never closed.
    """
    spoken = text.rpartition("</think>")[2]
    if tagged or "<answer>" in spoken:
        return answer(spoken)
    return None if "<think>" in spoken else spoken.strip() or None


def in_form(text: str) -> bool:
    """Whether a text is thoughts between their tags, then an answer between its own, neither empty, and nothing
    else.
    """
    found = _FORM.fullmatch(text) if len(_TAG.findall(text)) == 4 else None
    return bool(found) and all(part.strip() for part in found.groups())


def boxes(text: str, tagged: bool = False) -> list[Written] | None:
    """The boxes of an answer in the order written: none for "None", "null" or "[]"; None if it cannot be read as boxes.

    ``tagged`` reads nothing but what stands between answer tags.

    A box is ``{"bbox_2d": [x1, y1, x2, y2], "label": "…"}``, or four finite numbers in brackets, alone, in a list or
    amid words. What surrounds it need not be valid JSON, so a list that was cut off still gives its whole boxes.
    """
    content = said(text, tagged) or ""
    found = [box for item in _ITEM.finditer(content) if (box := _box(item))]
    return found if found or _NONE.fullmatch(content) else None


def _box(item: re.Match) -> Written | None:
    inside, label = item["object"], ""
    if inside:
        item, label = _CORNERS.search(inside), _label(inside)
    corners = tuple(float(number) for number in item.groups()[-4:]) if item else (math.nan,)
    return Written(corners, label) if all(map(math.isfinite, corners)) else None


def _label(inside: str) -> str:
    found = _LABEL.search(inside)
    literal = found.group(1) if found else '""'
    try:
        return json.loads(literal, strict=False)
    except ValueError:  # single quotes, or a backslash that JSON does not know
        return literal[1:-1]


def each_row(rollout: Rollout, verdict: Callable[..., float], *more: Sequence[Any]) -> Tensor:
    """``verdict(problem, text, …)`` of each row, with a value of each of ``more``: float32 ``[B]``.

    An output that is no text is judged as an empty one.
    """
    texts = [text if isinstance(text, str) else "" for text in rollout.outputs]
    return torch.tensor([verdict(*row) for row in zip(rollout.problems, texts, *more)], dtype=torch.float32)
