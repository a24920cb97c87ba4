"""Stages beside a run's own steps: a short run shortens them as much, and says what comes and how long it may take."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any

from saccade import catalog
from saccade.config import changed, flat, groups, matching_names, names, option, stages
from saccade.training.meter import duration

_WORTH_TELLING = 60.0
"""Seconds from which a recorded check's time is told."""
_FEW_STEPS = 2
_FEW_PROBLEMS = 8
_EVALUATION_SIZES = ("held_out_size", "larger_size", "test_episodes", "test_pictures", "candidates_size")
"""Settings that say how many problems or episodes an evaluation has."""


def smoke_settings(settings: Any) -> Any:
    """The settings of a smoke test: two steps of every stage, and evaluations of eight problems of embedded worlds.

    Batches and models stay as they are, so that what fails or runs out of memory does so at once. Environment steps
    before learning starts are taken all the same.
    """
    values, last = flat(settings), lambda name: name.rpartition(".")[2]
    few = {name: min(values[name], _FEW_STEPS) for name in stages(type(settings))}
    few |= {name: min(value, _FEW_PROBLEMS) for name, value in values.items() if last(name) in _EVALUATION_SIZES}
    counts_episodes = any(hasattr(group, "evaluate_every") and hasattr(group, "n_envs") for group in groups(settings))
    steps = _FEW_STEPS * (values["n_envs"] if counts_episodes else 1)
    steps += sum(value for name, value in values.items() if last(name) == "learning_starts")
    few |= {name: steps for name in ("steps", "evaluate_every", "save_every") if name in values}
    return changed(settings, few)


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
