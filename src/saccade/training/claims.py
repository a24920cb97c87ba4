"""What a recipe claims of its arms, as something that can come out false.

Results of a check: arm -> seed -> score -> value. A margin above its threshold in the mean over seeds and in at least
two thirds of them makes a claim hold.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Scores = Mapping[str, float]

Arms = Mapping[str, Scores]
"""One seed's scores of all arms."""

Results = Mapping[str, Mapping[int, Scores]]


@dataclass(frozen=True)
class Claim:
    """``margin`` reads one seed's scores of all arms; the claim says that it is at least ``least``."""

    text: str
    margin: Callable[[Arms], float]
    least: float = 0.0
    every_seed: bool = False
    """The margin must reach ``least`` in every seed, not only in the mean and in two thirds."""


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


def level(own: Scores, other: Scores, score: str, within: float) -> float:
    """How far ``own`` score is above the other's less ``within`` of what that gained in training.

    For two that begin with random weights of their own: what each gained does not compare, where each ended does.
    """
    return own[score] - other[score] + within * (other[score] - other[f"{score}@0"])


def judge(claim: Claim, results: Results) -> dict:
    """Margins of every seed, their mean, and whether the claim holds (None if a margin is missing)."""
    seeds = sorted(set.intersection(*(set(per_seed) for per_seed in results.values())))
    margins = [claim.margin({arm: results[arm][seed] for arm in results}) for seed in seeds]
    return {
        "claim": claim.text,
        "least": claim.least,
        "margins": margins,
        "mean": sum(margins) / len(margins) if margins else math.nan,
        "holds": _holds(claim, margins),
    }


def _holds(claim: Claim, margins: list[float]) -> bool | None:
    if not margins or any(math.isnan(m) for m in margins):
        return None
    reached = sum(m >= claim.least for m in margins)
    if claim.every_seed:
        return reached == len(margins)
    return sum(margins) / len(margins) >= claim.least and 3 * reached >= 2 * len(margins)
