"""Rewards on short answers against ``problem.answer["text"]``: a way to compare two texts, and one reward around it.

A comparison takes what was said and what is true and gives a number in [0, 1], NaN where the truth is not of its kind
(a letter is asked for and the truth is none), which is no verdict. Whatever is said, it is judged.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from saccade.core import Problem, Rollout
from saccade.rewards.text.parsing import edit_distance
from saccade.rewards.text.reading import each_row, in_form, said

Comparison = Callable[[str, str], float]

_NUMBER = re.compile(
    r"(?<![\w.])[+-]?(?:(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?"
)

_LEADING = re.compile(r"\W*([A-Za-z])(?:[).:\]*]|\W*\Z)")

_ALONE = re.compile(r"(?<![\w'])[A-Z](?![\w'])")

_YES_NO = re.compile(r"\b(?:yes|no)\b", re.IGNORECASE)

_INDEX = re.compile(r"\s*([0-9]{1,9})\s*")


@dataclass(frozen=True)
class Answer:
    """How well the answer of a text compares with the true one; nothing said scores 0.

    An answer stands between its tags, or is all that follows the thoughts; with ``tagged`` only tags make one.
    """

    compare: Comparison
    tagged: bool = False

    def __call__(self, rollout: Rollout) -> Tensor:
        """In [0, 1] ``[B]``; NaN where the problem has no text to compare with, or one of another kind."""
        return each_row(rollout, self._verdict)

    def _verdict(self, problem: Problem, text: str) -> float:
        true = problem.answer.get("text") if isinstance(problem.answer, dict) else None
        if not isinstance(true, str) or not true.strip():
            return math.nan
        return float(self.compare(said(text, self.tagged) or "", true.strip()))


@dataclass(frozen=True)
class DispatchByType:
    """An answer compared as ``problem.answer["kind"]`` asks: lists place by place, choices by letter, others letter
    by letter.
    """

    tagged: bool = False

    def __call__(self, rollout: Rollout) -> Tensor:
        """In [0, 1] ``[B]``."""
        return each_row(rollout, self._verdict)

    def _verdict(self, problem: Problem, text: str) -> float:
        compare = {"list": positions, "choice": choice}.get(problem.answer["kind"], exact)
        return compare(said(text, self.tagged) or "", problem.answer["text"])


def exact(said: str, true: str) -> float:
    """1 for the same text, letter by letter: "90 degrees" is not "90"."""
    return float(said == true)


def choice(said: str, true: str) -> float:
    """1 for the right letter: the one that an answer begins with ("B", "(b) red", "B. red"), or its only lone
    capital.
    """
    return _same(_letter(said), _letter(true))


def yes_no(said: str, true: str) -> float:
    """1 for the right one of yes and no; an answer with both says neither."""
    return _same(_only(_YES_NO.findall(said.lower())), _only(_YES_NO.findall(true.lower())))


@dataclass(frozen=True)
class Numeric:
    """1 for a number within ``absolute`` or ``relative`` times the true one of it; a text with two numbers says
    none.
    """

    absolute: float = 1e-9
    relative: float = 0.0

    def __call__(self, said: str, true: str) -> float:
        number, wanted = _number(said), _number(true)
        if wanted is None:
            return math.nan
        return float(number is not None and abs(number - wanted) <= max(self.absolute, self.relative * abs(wanted)))


def similar(said: str, true: str) -> float:
    """1 - edit distance / letters of the longer text."""
    return 1 - edit_distance(said, true) / max(len(said), len(true), 1)


def positions(said: str, true: str) -> float:
    """Share of places of a comma-separated list that hold the right number; places too many count as wrong ones."""
    wanted = _indices(true)
    if None in wanted:
        return math.nan
    written = _indices(said)
    return sum(a == b for a, b in zip(written, wanted)) / max(len(written), len(wanted))


def think_answer(rollout: Rollout) -> Tensor:
    """1 where a text is thoughts between their tags, then an answer between its own, and nothing else; else 0:
    ``[B]``.
    """
    return each_row(rollout, lambda problem, text: float(in_form(text)))


def _same(read: str | None, true: str | None) -> float:
    return math.nan if true is None else float(read == true)


def _letter(text: str) -> str | None:
    leading = _LEADING.match(text)
    return leading.group(1).upper() if leading else _only(_ALONE.findall(text))


def _number(text: str) -> float | None:
    number = _only([float(word.replace(",", "")) for word in _NUMBER.findall(text)])
    return number if number is not None and math.isfinite(number) else None


def _only(values: list) -> Any:
    """What all of them are; None if they differ or there is none."""
    return values[0] if len(set(values)) == 1 else None


def _indices(text: str) -> list[int | None]:
    """The numbers of a comma-separated list; None for what is none."""
    return [int(found.group(1)) if (found := _INDEX.fullmatch(part)) else None for part in text.split(",")]
