"""Rewards on short answers against ``problem.answer["text"]``: functions that compare two texts, and rewards by them.

A comparison takes the answer and the true answer and gives a number in [0, 1], NaN where the true answer has not the
form that it compares (a choice whose true answer is no letter): such a row has no score. Every text can be scored.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from saccade.core import Problem, Rollout
from saccade.rewards.text.parsing import (
    ascii_digits,
    edit_distance,
    follows_think_format,
    only,
    parse_answer,
    parse_letter,
    parse_number,
    score_rows,
)

Comparison = Callable[[str, str], float]
"""Answer and true answer -> how well they agree, in [0, 1]; NaN where the true answer has another form."""

_YES_NO = re.compile(r"\b(?:yes|no)\b", re.IGNORECASE)
_INDEX = re.compile(r"\s*([0-9]{1,9})\s*")


@dataclass(frozen=True)
class Answer:
    """How well the answer of a text compares with the true one; a text without an answer scores as an empty one.

    Where there are several true answers ("others" besides "text"), the one that agrees best counts. An answer stands
    between its tags, or is all that follows the thoughts; with ``require_tags`` it needs its tags.
    """

    compare: Comparison
    require_tags: bool = False

    def __call__(self, rollout: Rollout) -> Tensor:
        """In [0, 1] ``[B]``; NaN where the problem has no text to compare with, or one of another form."""
        return score_rows(rollout, self.score)

    def score(self, problem: Problem, text: str) -> float:
        """The comparison of one text."""
        true = problem.answer.get("text") if isinstance(problem.answer, dict) else None
        if not isinstance(true, str) or not true.strip():
            return math.nan
        answer = parse_answer(text, self.require_tags) or ""
        scores = [float(self.compare(answer, right.strip())) for right in (true, *problem.answer.get("others", ()))]
        return max((score for score in scores if not math.isnan(score)), default=math.nan)


@dataclass(frozen=True)
class DispatchByType:
    """Compares by type, ``problem.answer["kind"]``: lists place by place, choices by letter, other answers exactly."""

    require_tags: bool = False

    def __call__(self, rollout: Rollout) -> Tensor:
        """In [0, 1] ``[B]``."""
        return score_rows(rollout, self._score)

    def _score(self, problem: Problem, text: str) -> float:
        compare = {"list": positions, "choice": choice}.get(problem.answer["kind"], exact)
        return Answer(compare, self.require_tags).score(problem, text)


def exact(answer: str, true: str) -> float:
    """1 for the same text, character by character: "90 degrees" is not "90"."""
    return float(answer == true)


def choice(answer: str, true: str) -> float:
    """1 for the correct letter, as `parse_letter` finds it; an answer with several letters is wrong."""
    return _same(parse_letter(answer), parse_letter(true))


def yes_no(answer: str, true: str) -> float:
    """1 for the correct one of yes and no; an answer with both is wrong."""
    return _same(only(_YES_NO.findall(answer.lower())), only(_YES_NO.findall(true.lower())))


@dataclass(frozen=True)
class Numeric:
    """1 for a number within ``absolute``, or within ``relative`` times the true number, of it.

    Numbers are those of `parse_number`; an answer with two different ones is wrong.
    """

    absolute: float = 1e-9
    relative: float = 0.0

    def __call__(self, answer: str, true: str) -> float:
        number, target = parse_number(answer), parse_number(true)
        if target is None:
            return math.nan
        return float(number is not None and abs(number - target) <= max(self.absolute, self.relative * abs(target)))


def similar(answer: str, true: str) -> float:
    """1 - edit distance / characters of the longer text."""
    return 1 - edit_distance(answer, true) / max(len(answer), len(true), 1)


def positions(answer: str, true: str) -> float:
    """Share of places of a comma-separated list with the correct number; places beyond its end count as wrong."""
    target = _indices(true)
    if None in target:
        return math.nan
    numbers = _indices(answer)
    return sum(a == b for a, b in zip(numbers, target)) / max(len(numbers), len(target))


def think_answer(rollout: Rollout) -> Tensor:
    """1 where a text is thoughts in tags, then an answer in tags, and nothing else; else 0: ``[B]``."""
    return score_rows(rollout, lambda problem, text: float(follows_think_format(text)))


def _same(answer: str | None, true: str | None) -> float:
    return math.nan if true is None else float(answer == true)


def _indices(text: str) -> list[int | None]:
    """The numbers of a comma-separated list; None for an entry that is no number."""
    return [
        int(found.group(1)) if (found := _INDEX.fullmatch(part)) else None for part in ascii_digits(text).split(",")
    ]
