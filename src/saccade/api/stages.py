"""Stages beside a run's own steps: a short run shortens them as much, and says what comes and how long it may take."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any

from saccade import catalog
from saccade.config import changed, flat, matching_names, names, option, stages
from saccade.training.meter import duration

_WORTH_TELLING = 60.0
"""Seconds from which a recorded check's time is told."""


def shortened(preset: Any, settings: Any, given: Collection[str]) -> Any:
    """``settings`` whose stages are as much shorter than the preset's as its steps are, none shorter than one step.

    A stage whose steps were ``given``, by a whole or a short name, stays as it is, and so does every stage of a run of
    no steps, which is its stages alone.
    """
    wanted, usual = flat(settings), flat(preset)
    share = wanted.get("steps", 0) / max(usual.get("steps", 0), 1)
    if not 0 < share < 1:
        return settings
    known = names(type(settings))
    named = {name for each in given for name in (matching_names(each, known) or [each.replace("-", "_")])}
    whole = lambda name: {name, name.partition(".")[0]} & named or wanted[name] != usual[name]
    free = [name for name in stages(type(settings)) if not whole(name)]
    return changed(settings, {name: math.ceil(wanted[name] * share) for name in free})


def announcement(recipe: str, preset: Any, settings: Any) -> str:
    """One line of the settings for other stages, and of the time that the recorded check took; "" if there are none."""
    values, usual = flat(settings), flat(preset)
    others = [option(name, values[name]) for name in stages(type(settings)) if values[name]]
    if not others:
        return ""
    shorter = ", shortened like --steps" if values.get("steps", 0) < usual.get("steps", 0) else ""
    return f"other stages, where they are used{shorter}: {', '.join(others)}{_estimate(recipe, settings)}"


def _estimate(recipe: str, settings: Any) -> str:
    """The time of the recorded check's first arm, scaled by the steps, where settings are like its own."""
    try:
        found = catalog.result(recipe) or {}
        arm = next(iter(found["arms"]))
        seconds = [score["seconds"] for score in found["scores"][arm].values()]
        kept = found["arms"][arm]
        steps = kept["schedule"]["steps"] if "schedule" in kept else kept["steps"]
        cores = found["machine"]["cores"]
        expected = sum(seconds) / len(seconds) * min(flat(settings)["steps"] / steps, 1.0)
    except (KeyError, TypeError, StopIteration, ZeroDivisionError, ValueError):
        return ""
    if expected < _WORTH_TELLING:
        return ""
    return f"; about {duration(expected)} in all, by the check that was recorded on {cores} cores"
