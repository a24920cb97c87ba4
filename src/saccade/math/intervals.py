"""Student's intervals and the power of a test of a mean: what a few independent values say about their mean."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, stdev

LEVEL = 0.95
"""Probability with which an interval covers the mean."""


def quantile(count: int) -> float:
    """Standard errors from a mean of ``count`` values to an end of its interval; infinite for fewer than two values."""
    from scipy.special import stdtrit

    return float(stdtrit(count - 1, (1 + LEVEL) / 2)) if count > 1 else math.inf


def student(values: Sequence[float]) -> tuple[float, float]:
    """Mean and half width of its interval; the half width is infinite for a single value."""
    if len(values) < 2:
        return fmean(values), math.inf
    return fmean(values), quantile(len(values)) * stdev(values) / math.sqrt(len(values))


def power(effect: float, deviation: float, count: int) -> float:
    """Probability that the interval of ``count`` values lies above 0, where their mean is ``effect``.

    The values are normal with this standard ``deviation``: the statistic has a noncentral t distribution.
    """
    from scipy.special import nctdtr

    if count < 2:
        return 0.0
    if deviation == 0:
        return float(effect > 0)
    return 1 - float(nctdtr(count - 1, effect / deviation * math.sqrt(count), quantile(count)))


def count_for(effect: float, deviation: float, wanted: float = 0.8, most: int = 100) -> int | None:
    """Smallest number of values at which `power` reaches ``wanted``; None if ``most`` are too few."""
    return next((count for count in range(2, most + 1) if power(effect, deviation, count) >= wanted), None)
