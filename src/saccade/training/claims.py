"""What a recipe claims of its arms, as something that can come out true, false, or undecided.

Results of a check: arm -> seed -> score -> value. `checks.verdicts` judges a claim by the interval of its margin.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal

Scores = Mapping[str, float]

Arms = Mapping[str, Scores]
"""One seed's scores of all arms."""

Margin = Callable[[Arms], float]
"""One number from one seed's scores of all arms."""


@dataclass(frozen=True)
class Precondition:
    """What must be true for a claim to be tested at all: ``margin`` is 0 or more in the mean over seeds."""

    text: str
    margin: Margin


@dataclass(frozen=True)
class Claim:
    """``margin`` reads one seed's scores of all arms; the claim says that its mean over seeds is above ``least``."""

    text: str
    margin: Margin
    least: float = 0.0
    origin: Literal["paper", "design", "sanity"] = "paper"
    """Where it comes from: the paper, our own design, or a test of the check itself (shuffled rewards, cost)."""
    tolerance: str = ""
    """Why the margin allows to be worse by what it does; such a claim, of not being worse, may be true untrained."""
    effect: float | None = None
    """Smallest true margin above ``least`` that a check must be able to see; None asks for no power."""
    requires: tuple[Precondition, ...] = ()
    nulls: Mapping[str, Margin] = field(default_factory=dict)
    """The same margin with a part that cannot have learned (an untrained rewriter, a constant answer), by its name."""


@dataclass(frozen=True)
class BaselineArm:
    """An arm that is another recipe's default with some settings changed: the baseline of a comparison."""

    recipe: str
    changes: Mapping[str, Any]


@dataclass(frozen=True)
class WarmStartedArm:
    """An arm that begins with the finished stages of another arm with the same seed, where both have equal stages."""

    arm: str
    settings: Any


def final(scores: Mapping[str, Any]) -> list[str]:
    """The names of scores after training, without those on the way ("acc@1@0"); "acc@1" is itself no step of an
    "acc".
    """
    return [name for name in scores if not re.search(r"@\d+$", name) or f"{name}@0" in scores]


def gain(scores: Scores, name: str) -> float:
    """By how much a score is above what it was before training."""
    return scores[name] - scores[f"{name}@0"]


def extra_gain(own: Scores, other: Scores, name: str) -> float:
    """How much more a score gained in training than another arm's: what differed before training is not counted."""
    return gain(own, name) - gain(other, name)


def level(own: Scores, other: Scores, score: str, within: float) -> float:
    """How far ``own`` score is above the other's less ``within`` of what that gained in training, if it gained at all.

    For two that begin with random weights of their own: what each gained does not compare, where each ended does.
    """
    return own[score] - other[score] + within * max(gain(other, score), 0.0)


def curve(scores: Scores, name: str) -> list[tuple[int, float]]:
    """Steps and values of a score in all evaluations, in order."""
    steps = (key.removeprefix(f"{name}@") for key in scores if key.startswith(f"{name}@"))
    return [(step, scores[f"{name}@{step}"]) for step in sorted(int(step) for step in steps if step.isdigit())]


def area(scores: Scores, name: str) -> float:
    """Mean of a score over training: the area under its curve of evaluations, divided by the steps they span.

    ValueError for a score that was evaluated only once.
    """
    points = curve(scores, name)
    if len(points) < 2:
        raise ValueError(f"the score '{name}' has no curve: it was evaluated {len(points)} times")
    trapezoids = ((x1 - x0) * (y0 + y1) / 2 for (x0, y0), (x1, y1) in pairwise(points))
    return sum(trapezoids) / (points[-1][0] - points[0][0])


def steps_to(scores: Scores, name: str, target: float) -> float:
    """Steps until a score first reaches ``target``, linear between evaluations; twice the last step if it never does.

    So two arms can be compared where one never arrives.
    """
    points = curve(scores, name)
    if points and points[0][1] >= target:
        return float(points[0][0])
    for (x0, y0), (x1, y1) in pairwise(points):
        if y1 >= target:
            return x0 + (target - y0) / (y1 - y0) * (x1 - x0)
    return 2.0 * points[-1][0] if points else float("nan")
