"""Verdicts: what the scores of a check say of a claim, by the 95 % interval of its margin.

The interval covers seeds and held-out problems. Its standard error is that of the mean over seeds; where problems are
shared by seeds, whose difficulty then does not average out, a bootstrap over problems adds what the seeds cannot show:

    se^2 = s^2 / S + max(0, Var_r(mean_s m_sr) - mean_s Var_r(m_sr) / S),   and se^2 >= Var_r(mean_s m_sr)

with the margins m_sr of seed s when problems are drawn by the r-th weights, the same weights for all seeds and arms, so
that arms with the same problems are paired. Its ends are t quantiles of S - 1 degrees of freedom from the mean.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from statistics import fmean, stdev
from typing import Any, Literal

import numpy as np

from saccade.math.intervals import count_for, power, quantile, student
from saccade.random import numpy_generator
from saccade.training.claims import Arms, Claim, Margin, Precondition

Verdict = Literal["holds", "refuted", "undecided", "void"]

RESAMPLES = 1000
"""Bootstrap draws of the held-out problems."""

MOST_SEEDS = 100
"""Number of seeds above which a claim counts as out of reach."""

Results = Mapping[str, Mapping[int, Mapping[str, float]]]
"""Arm -> seed -> score -> value."""

Problems = Mapping[str, Mapping[int, Mapping[str, np.ndarray]]]
"""Arm -> seed -> score -> one value for each held-out problem ``[P]``."""


@dataclass(frozen=True)
class Estimate:
    """A margin in every seed, its mean, and the half width of the mean's 95 % interval."""

    margins: list[float]
    mean: float
    half: float
    student: float
    """Half width of Student's interval over the seeds, without what the problems add."""

    def verdict(self, least: float) -> Verdict:
        """holds from ``least`` on, refuted below it, undecided where the interval contains it or has no end."""
        if self.mean - self.half >= least:
            return "holds"
        return "refuted" if self.mean + self.half < least else "undecided"


@dataclass(frozen=True)
class Drawn(Mapping[str, float]):
    """Scores of one run with the held-out problems of one bootstrap draw."""

    scores: Mapping[str, float]
    means: Mapping[str, np.ndarray]
    """Mean of each score in all draws ``[R]``."""
    draw: int

    def __getitem__(self, name: str) -> float:
        return float(self.means[name][self.draw]) if name in self.means else self.scores[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.scores)

    def __len__(self) -> int:
        return len(self.scores)


@dataclass(frozen=True)
class Untrained(Mapping[str, float]):
    """Scores of one run as they were before training, where they were evaluated; ``read`` notes that one was read."""

    scores: Mapping[str, float]
    read: set[str] = field(default_factory=set)

    def __getitem__(self, name: str) -> float:
        first = f"{re.sub(r'@[0-9]+$', '', name)}@0"
        if first not in self.scores:
            return self.scores[name]
        self.read.add(first)
        return self.scores[first]

    def __iter__(self) -> Iterator[str]:
        return iter(self.scores)

    def __len__(self) -> int:
        return len(self.scores)


def judge(claim: Claim, results: Results, problems: Problems | None = None) -> dict[str, Any]:
    """The verdict on a claim with margins of all seeds, interval, preconditions, nulls and the seeds it would take.

    ValueError for a claim that reads an arm or a score that is missing.
    """
    seeds = common_seeds(results)
    found = estimate(claim.margin, results, seeds, problems or {}, claim.text)
    preconditions = [_asked(asked, results, seeds) for asked in claim.requires]
    unmet = [asked for asked in preconditions if not asked["holds"]]
    nulls = {name: estimate(margin, results, seeds, {}, claim.text) for name, margin in _nulls(claim, results).items()}
    vacuous = [name for name, null in nulls.items() if null.mean - null.half > claim.least]
    verdict, reason = _verdict(claim, found, unmet, vacuous)
    return {
        "claim": claim.text,
        "origin": claim.origin,
        "least": claim.least,
        "margins": found.margins,
        "mean": found.mean,
        "interval": _ends(found.mean, found.half),
        "t_interval": _ends(found.mean, found.student),
        "verdict": verdict,
        "reason": reason,
        "holds": {"holds": True, "refuted": False}.get(verdict),
        "seeds_needed": seeds_needed(found, claim.least) if verdict == "undecided" else None,
        "preconditions": preconditions,
        "nulls": {name: null.mean for name, null in nulls.items()},
        "tolerance": claim.tolerance,
    }


def overall(claims: Sequence[Mapping[str, Any]]) -> Verdict | None:
    """The verdict on a system: that of its paper claims together, or of all claims where none is the paper's.

    Refuted if one is; else undecided, else void, if one is; None without claims.
    """
    decisive = [claim["verdict"] for claim in claims if claim["origin"] == "paper"] or [c["verdict"] for c in claims]
    order: tuple[Verdict, ...] = ("refuted", "undecided", "void", "holds")
    return next((verdict for verdict in order if verdict in decisive), None)


def common_seeds(results: Results) -> list[int]:
    """The seeds that every arm has."""
    return sorted(set.intersection(*(set(of_arm) for of_arm in results.values()))) if results else []


def estimate(margin: Margin, results: Results, seeds: Sequence[int], problems: Problems, text: str = "") -> Estimate:
    """The margin in each seed and the interval of its mean, with the held-out problems where they are known."""
    try:
        margins = [float(margin({arm: results[arm][seed] for arm in results})) for seed in seeds]
        drawn_SR = np.array([_drawn(margin, results, problems, seed) for seed in seeds]) if problems else None
    except KeyError as missing:
        raise ValueError(f"the claim '{text}' reads {missing}, which no arm or no score is called") from missing
    except ZeroDivisionError:
        return Estimate([], math.nan, math.inf, math.inf)
    if not margins or not all(map(math.isfinite, margins)):
        return Estimate(margins, fmean(margins) if margins else math.nan, math.inf, math.inf)
    mean, half = student(margins)
    return Estimate(margins, mean, quantile(len(margins)) * standard_error(margins, drawn_SR), half)


def standard_error(margins: Sequence[float], drawn_SR: np.ndarray | None) -> float:
    """Standard error of the mean margin over seeds and problems; ``drawn_SR`` are margins of bootstrap draws."""
    count = len(margins)
    if count < 2:
        return math.inf
    of_seeds = stdev(margins) ** 2 / count
    if drawn_SR is None:
        return math.sqrt(of_seeds)
    of_problems = float(drawn_SR.mean(0).var())
    shared = max(0.0, of_problems - float(drawn_SR.var(1).mean()) / count)
    return math.sqrt(max(of_seeds + shared, of_problems))


def seeds_needed(found: Estimate, least: float) -> int | None:
    """Number of seeds at which the interval would no longer contain ``least``, if mean and deviation stay.

    None without an interval, or for more than ``MOST_SEEDS``.
    """
    count = len(found.margins)
    if not math.isfinite(found.half):
        return None
    error = found.half / quantile(count) * math.sqrt(count)
    away = abs(found.mean - least)
    wide = lambda number: quantile(number) * error / math.sqrt(number)
    return next((number for number in range(count + 1, MOST_SEEDS + 1) if wide(number) < away), None)


def weak(claim: Claim, pilot: Sequence[float], seeds: int) -> str | None:
    """Why a check with so many seeds could not see the effect that the claim asks for; None if it could.

    ``pilot`` are margins of other seeds, whose deviation is what counts. A test has power if it sees the effect with a
    probability of 0.8.
    """
    if claim.effect is None or len(pilot) < 2:
        return None
    deviation = stdev(pilot)
    chance, needed = power(claim.effect, deviation, seeds), count_for(claim.effect, deviation)
    if chance >= 0.8:
        return None
    enough = f"{needed} seeds would be enough" if needed else "no number of seeds up to 100 would be enough"
    return f"a margin of {claim.effect:g} would be seen with a probability of {chance:.2f} alone; {enough}"


def _verdict(
    claim: Claim, found: Estimate, unmet: Sequence[Mapping[str, Any]], vacuous: Sequence[str]
) -> tuple[Verdict, str]:
    """The verdict, and why where it is not the interval alone that says so."""
    if unmet:
        return "void", f"not tested: {unmet[0]['text']} (short by {-unmet[0]['mean']:.3g})"
    if vacuous:
        return "void", f"true of what learned nothing ({vacuous[0]}), so it says nothing"
    if not all(map(math.isfinite, found.margins)) or not found.margins:
        return "void", "the margin is not a number"
    if len(found.margins) < 2:
        return "undecided", "one seed gives no interval"
    return found.verdict(claim.least), ""


def _nulls(claim: Claim, results: Results) -> dict[str, Margin]:
    """The nulls of a claim of superiority: its own, and scores before training if it reads any that has them."""
    if claim.tolerance or claim.origin == "sanity":
        return dict(claim.nulls)
    read: set[str] = set()

    def untrained(arms: Arms) -> float:
        return claim.margin({arm: Untrained(scores, read) for arm, scores in arms.items()})

    for seed in common_seeds(results)[:1]:
        try:
            untrained({arm: results[arm][seed] for arm in results})
        except (ZeroDivisionError, ValueError):
            read.clear()
    return {**claim.nulls, **({"before training": untrained} if read else {})}


def _asked(asked: Precondition, results: Results, seeds: Sequence[int]) -> dict[str, Any]:
    """A precondition with its mean margin, and whether it is met."""
    mean = estimate(asked.margin, results, seeds, {}, asked.text).mean
    return {"text": asked.text, "mean": mean, "holds": mean >= 0}


def _drawn(margin: Margin, results: Results, problems: Problems, seed: int) -> list[float]:
    """The margin of one seed in every bootstrap draw of the held-out problems ``[R]``."""
    means = {arm: _means(problems.get(arm, {}).get(seed, {})) for arm in results}
    views = lambda draw: {arm: Drawn(results[arm][seed], means[arm], draw) for arm in results}
    return [float(margin(views(draw))) for draw in range(RESAMPLES)]


def _means(scores: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Mean of each score over problems in every draw ``[R]``, without problems that are NaN."""
    found = {}
    for name, values in scores.items():
        known, weights = np.isfinite(values), _weights(len(values), RESAMPLES)
        with np.errstate(invalid="ignore", divide="ignore"):
            found[name] = weights @ np.where(known, values, 0.0) / (weights @ known)
    return found


@cache
def _weights(count: int, draws: int) -> np.ndarray:
    """How often each of ``count`` problems is drawn ``[draws, count]``, the same for every score, arm and seed."""
    drawn = numpy_generator(count, "bootstrap").multinomial(count, np.full(count, 1 / count), draws)
    return drawn.astype(np.float64)


def _ends(mean: float, half: float) -> list[float] | None:
    return [mean - half, mean + half] if math.isfinite(half) else None
