"""Parsing of generated texts: the answer, its format, and the number, letter or boxes in it, amid other words.

Every function takes any text, in time linear in its length.
"""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor

from saccade.core import Rollout

T = TypeVar("T")

_SPACE = r"\s*+"
_NUMBER = r"[+-]?(?:[0-9]++(?:\.[0-9]*+)?|\.[0-9]++)(?:[eE][+-]?[0-9]++)?"
_ENTRY = rf"""["']?{_SPACE}({_NUMBER}){_SPACE}["']?"""
_COMMA = rf"{_SPACE},{_SPACE}"
_FOUR = _COMMA.join([_ENTRY] * 4)
_TWO = _COMMA.join([_ENTRY] * 2)
_CORNERS = "|".join(
    [
        rf"\[{_SPACE}{_FOUR}{_SPACE},?{_SPACE}\]",
        rf"\({_SPACE}{_FOUR}{_SPACE}\)",
        rf"\({_SPACE}{_TWO}{_SPACE}\){_SPACE},?{_SPACE}\({_SPACE}{_TWO}{_SPACE}\)",
    ]
)
_PAIRS = rf"\[{_SPACE}\[{_SPACE}{_TWO}{_SPACE}\]{_COMMA}\[{_SPACE}{_TWO}{_SPACE}\]{_SPACE}\]"
_LONGEST_TEXT = 1000
"""Characters of a key or a label; a quote without an end would otherwise be searched for through the whole answer."""
_TEXT = rf"""(?P<text>"(?:[^"\\]|\\.){{0,{_LONGEST_TEXT}}}+"|'[^'\n]{{0,{_LONGEST_TEXT}}}+'|(?<!\w)\w{{1,64}}+)"""
_OUTSIDE = re.compile(rf"(?P<open>\{{)|(?P<box>{_CORNERS})")
_INSIDE = re.compile(
    rf"(?P<open>\{{)|(?P<close>\}})|(?P<box>{_PAIRS}|{_CORNERS})|{_TEXT}{_SPACE}(?P<colon>:)?", re.DOTALL
)
_BOX_KEYS = frozenset(("bbox_2d", "bbox", "box_2d", "box", "bounding_box", "position"))
_LABEL_KEY = "label"
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

    A box is an object with the key bbox_2d (or bbox, box_2d, box, bounding_box, Position) and perhaps a label, or four
    finite numbers amid words, ``[x1, y1, x2, y2]`` or ``(x1, y1), (x2, y2)``. The text around it need not be valid
    JSON, so a list that was cut off still gives its complete boxes. Digits and signs may be those of any script.
    """
    content = parse_answer(text, require_tags) or ""
    found = _boxes(content)
    return found if found or _NONE.fullmatch(content) else None


@dataclass(frozen=True)
class _Object:
    """An object that is being read: its boxes with their places in the text, and what stands under its keys."""

    boxes: list[tuple[int, tuple[float, float, float, float]]] = field(default_factory=list)
    values: dict[str, str] = field(default_factory=dict)
    keys: list[str] = field(default_factory=list)

    def add_text(self, text: str, is_key: bool, place: int) -> None:
        """Add a key, or a value of the latest key; boxes may be written as a text."""
        if is_key:
            self.keys.append(text.casefold())
        elif self.keys:
            self.values.setdefault(self.keys[-1], text)
            for item in _OUTSIDE.finditer(text):
                self.add_box(item, place)

    def add_box(self, item: re.Match[str], place: int) -> None:
        """Add four numbers, unless they stand under a key that names no box."""
        corners = _corners(item)
        if corners and (not self.keys or self.keys[-1] in _BOX_KEYS):
            self.boxes.append((place, corners))

    def parsed(self) -> list[tuple[int, ParsedBox]]:
        """The boxes with their label."""
        label = self.values.get(_LABEL_KEY, "")
        return [(place, ParsedBox(corners, label)) for place, corners in self.boxes]


def _boxes(content: str) -> list[ParsedBox]:
    """The boxes of a text in their order, in time linear in its length."""
    plain, place = ascii_digits(content), 0
    found, closed, stack = _Object(), [], []
    while item := (_INSIDE if stack else _OUTSIDE).search(plain, place):
        inner, place = stack[-1] if stack else found, item.end()
        match item.lastgroup:
            case "open":
                stack.append(_Object())
            case "close":
                closed += stack.pop().parsed()
            case "box":
                inner.add_box(item, item.start())
            case _:
                inner.add_text(_unquoted(content[slice(*item.span("text"))]), item["colon"] is not None, item.start())
    everything = [*closed, *(box for each in (found, *stack) for box in each.parsed())]
    return [box for _, box in sorted(everything, key=lambda placed: placed[0])]


def _corners(item: re.Match[str]) -> tuple[float, float, float, float] | None:
    """The four numbers of a box; None where they are not finite, or there are none."""
    numbers = [float(group) for group in re.findall(_NUMBER, item["box"] or "")]
    if len(numbers) != 4 or not all(map(math.isfinite, numbers)):
        return None
    x1, y1, x2, y2 = numbers
    return x1, y1, x2, y2


def _unquoted(literal: str) -> str:
    if literal[0] not in "\"'":
        return literal
    try:
        return json.loads(literal, strict=False)
    except ValueError:  # single quotes, or a backslash that JSON does not know
        return literal[1:-1]


_DASHES = "\u2010\u2011\u2012\u2013\u2014\u2212\ufe58\ufe63\uff0d"
_SAME = str.maketrans(_DASHES + "\uff0b\uff0c\uff0e\uff1a\u066b\u066c", "-" * len(_DASHES) + "+,.:.,")
_BRACKETS = str.maketrans("\uff08\uff09\uff3b\uff3d\uff5b\uff5d\u3010\u3011", "()[]{}[]")
_FOREIGN_DIGIT = re.compile(r"[^\D0-9]")


def ascii_digits(text: str) -> str:
    """A text of equal length whose digits, signs, separators and brackets are those of ASCII, whatever their script."""
    return _FOREIGN_DIGIT.sub(lambda one: str(unicodedata.digit(one[0])), text.translate(_SAME).translate(_BRACKETS))


_TEX = re.compile(r"\\[,;:! ]|\\(?:boxed|quad|text|mathrm|mathbf)\b|[{}$]")
_THIN_GROUP = re.compile(r"(?<=[0-9])[\u00a0\u2009\u202f](?=[0-9]{3}(?![0-9]))")
_DETACHED_SIGN = re.compile(r"(?:\A|(?<=[=:(\[]))(\s*+[+-])\s++(?=[0-9.])")
_SIGNED = re.compile(
    r"(?<![\w.])[+-]?(?:(?:[0-9]{1,3}(?:,[0-9]{3})++(?![0-9])|[0-9]++)(?:\.[0-9]++)?|\.[0-9]++)"
    r"(?:[eE][+-]?[0-9]++)?(?![\u00b2\u00b3\u00b9\u00bc-\u00be\u2070-\u209f\u2150-\u218f])"
)


def parse_number(text: str) -> float | None:
    """The one finite number of a text; None if it has none, or two different ones.

    Signs and digits may be those of any script, thousands may be grouped by commas or thin spaces, and a number may
    stand in TeX. A sign apart from its number counts where nothing precedes it.
    """
    plain = _THIN_GROUP.sub("", ascii_digits(_TEX.sub(_without_tex, text)))
    plain = _DETACHED_SIGN.sub(r"\1", plain)
    number = only([float(word.replace(",", "")) for word in _SIGNED.findall(plain)])
    return number if number is not None and math.isfinite(number) else None


def _without_tex(found: re.Match[str]) -> str:
    return "" if found[0] in "{}" else "\u2009" if len(found[0]) == 2 else " "


_MARKS = re.compile(r"\\(?:boxed|text|mathrm|mathbf)\b|[{}$*_`\u200b]")
_WHOLE = re.compile(r"\W*([A-Za-z])\W*")
_STATED = re.compile(
    r"\b(?:answer|choice|option)\s*+(?:is|:|=)\s*+(?:(?:option|choice)\s++)?"
    r"(?:\(([A-Za-z])\)|([A-Z])(?![\w'])|([a-z])(?=\s*+(?:[.)\n]|\Z)))",
    re.IGNORECASE,
)
_ANOTHER = re.compile(r"\s*+(?:,|/|or\b|and\b|&)\s*+(?:or\s++|and\s++)?\(?[A-Z](?![\w'])")
_MARKED = re.compile(r"\(([A-Za-z])\)|(?<![\w'])([A-Za-z])\)|\A\W*([A-Za-z])[.:]|(?<![\w'])([A-Z])[.:\])]")
_LONE = re.compile(r"(?<![\w'\u2019-])([A-HJ-Z])(?![\w'\u2019]|-\w)")
_ARTICLE = re.compile(r"A\s++(?!(?:because|since|as|is|was|and|or|but|for|so|if|not|seems|fits|shows|matches)\b)[a-z]")


def parse_letter(text: str) -> str | None:
    """The one letter of a choice in an answer, as a capital; None if there is none, or are several.

    It is all that the answer says, stated ("the answer is B"), marked ("(b) red", "B. red") or a lone capital. An
    article ("A dog") and "I" are words.
    """
    plain = _MARKS.sub("", unicodedata.normalize("NFKC", text))
    if whole := _WHOLE.fullmatch(plain):
        return whole[1].upper()
    stated = [found for found in _STATED.finditer(plain) if not _ARTICLE.match(plain, found.end() - 1)]
    if stated:
        several = any(_ANOTHER.match(plain, found.end()) for found in stated)
        return None if several else only([_group(found) for found in stated])
    marked = [_group(found) for found in _MARKED.finditer(plain)]
    lone = [found[1] for found in _LONE.finditer(plain) if not _ARTICLE.match(plain, found.start())]
    return only([*marked, *lone])


def _group(found: re.Match[str]) -> str:
    return next(letter for letter in found.groups() if letter).upper()


def only(values: Sequence[T]) -> T | None:
    """The value that all of them have; None if they differ or there is none."""
    return values[0] if len(set(values)) == 1 else None


def score_rows(rollout: Rollout, score: Callable[..., float], *columns: Sequence[Any]) -> Tensor:
    """``score(problem, text, …)`` of each row, with the row's value of each of ``columns``: float32 ``[B]``.

    An output that is not a text is scored as an empty one.
    """
    texts = [text if isinstance(text, str) else "" for text in rollout.outputs]
    return torch.tensor([score(*row) for row in zip(rollout.problems, texts, *columns)], dtype=torch.float32)


def edit_distance(a: Sequence[Hashable], b: Sequence[Hashable]) -> int:
    """Levenshtein distance between two texts, or two sequences of tokens.

    Myers 1999, "A fast bit-vector algorithm for approximate string matching": a column of the table is two integers.
    """
    if not a or not b:
        return len(a) + len(b)
    places: dict[Hashable, int] = {}
    for i, x in enumerate(a):
        places[x] = places.get(x, 0) | 1 << i
    full, last = (1 << len(a)) - 1, 1 << len(a) - 1
    rises, falls, distance = full, 0, len(a)
    for y in b:
        same = places.get(y, 0)
        diagonal = (((same & rises) + rises) ^ rises) | same | falls
        up, down = falls | ~(diagonal | rises) & full, rises & diagonal
        distance += bool(up & last) - bool(down & last)
        up, down = up << 1 | 1, down << 1
        rises, falls = (down | ~(diagonal | up)) & full, up & diagonal & full
    return distance
