"""Saccade: reinforcement learning of models that see and draw.

    recipe = saccade.load("flow_grpo")
    run = recipe.train(steps=20, out="runs/first")
    run.sample(["a red cube"], seed=0)

What is named here is imported when it is first used, so that ``import saccade`` costs nothing.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from saccade.api.comparing import compare
    from saccade.api.models import Model, open_model
    from saccade.api.recipe import LoadedRecipe, load
    from saccade.api.run import TrainedRun, open_run
    from saccade.api.scoring import score
    from saccade.checks.runner import check
    from saccade.core import Interrupted, Problem, Question, RunFailed

# OpenMP's threads wait for work by spinning. With a busy neighbour that costs several times the time of the work, so
# here they sleep. OpenMP reads this once, when torch is imported; processes begun from this one inherit it.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

__version__ = "0.1.0"

__all__ = [
    "Interrupted",
    "LoadedRecipe",
    "Model",
    "Problem",
    "Question",
    "RunFailed",
    "TrainedRun",
    "check",
    "compare",
    "load",
    "open_model",
    "open_run",
    "score",
]

_PLACES = {
    "Interrupted": "core",
    "LoadedRecipe": "api.recipe",
    "Model": "api.models",
    "Problem": "core",
    "Question": "core",
    "RunFailed": "core",
    "TrainedRun": "api.run",
    "check": "checks.runner",
    "compare": "api.comparing",
    "load": "api.recipe",
    "open_model": "api.models",
    "open_run": "api.run",
    "score": "api.scoring",
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'saccade' has no attribute {name!r}")
    value = getattr(import_module(f"saccade.{_PLACES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
