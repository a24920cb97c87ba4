"""Checks of environments: an environment may not raise, hang, or return values that cannot be learned from."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from gymnasium import spaces

from saccade.core import EnvironmentFailed
from saccade.tools.timeout import TimedOut, time_limit
from saccade.tools.user_code import described

LONGEST = 30_000
"""Steps after which an episode is taken to be endless, above those of any usual one (Atari's have 27,000)."""


class InvalidStep(Exception):
    """An environment returned a value that cannot be learned from; the message names it."""


class ActionNotFinite(FloatingPointError):
    """The policy gave an action that is not finite: no environment is to blame for that."""


class guarded:
    """A context that turns any error but `ActionNotFinite`, sys.exit included, and more than ``patience`` seconds of
    work, into an EnvironmentFailed whose message begins with ``where()``.

    Where no alarm can interrupt (`tools.timeout`), slowness is found afterwards.
    """

    def __init__(self, where: Callable[[], str], patience: float):
        self.where, self.patience, self.limit = where, patience, time_limit(patience)

    def __enter__(self) -> None:
        self.began = time.monotonic()
        self.limit.__enter__()

    def __exit__(self, kind: type | None, error: BaseException | None, trace: Any) -> None:
        try:
            self.limit.__exit__(kind, error, trace)
        except TimedOut as late:
            error = late
        if error is None and time.monotonic() - self.began > self.patience:
            error = TimedOut(f"took longer than its patience of {self.patience:g} s")
        if isinstance(error, (InvalidStep, TimedOut)):
            raise EnvironmentFailed(f"{self.where()}: {error}") from error
        if error is not None and not isinstance(error, (KeyboardInterrupt, ActionNotFinite)):
            raise EnvironmentFailed(f"{self.where()}: {described(error)}") from error


def checked_observation(observation: Any, space: spaces.Dict) -> dict[str, np.ndarray]:
    """An observation by the names of ``space``, each an array of its shape. InvalidStep where it is not as declared."""
    if not isinstance(observation, Mapping):
        raise InvalidStep(f"returns a {type(observation).__name__} as observation where a dict was declared")
    return {name: _as_declared(name, observation, part) for name, part in space.spaces.items()}


def is_finite_vector(observation: Any, ones: np.ndarray) -> bool:
    """Whether an observation is an array like ``ones``, which has the declared shape and type, without NaN or infinity.

    It looks at the sum alone: False decides nothing, since a sum of finite numbers may be infinite.
    """
    declared = type(observation) is np.ndarray and observation.dtype == ones.dtype and observation.shape == ones.shape
    return declared and math.isfinite(observation.dot(ones))


def _as_declared(name: str, observation: Mapping[str, Any], space: spaces.Space) -> np.ndarray:
    if name not in observation:
        raise InvalidStep(f"observation {name!r} is missing")
    value = np.asarray(observation[name])
    if value.dtype == space.dtype and value.shape == space.shape:
        return _finite(name, value)
    if value.shape != space.shape:
        raise InvalidStep(f"observation {name!r} has shape {value.shape}, declared was {space.shape}")
    if not np.can_cast(value.dtype, space.dtype, "same_kind"):
        raise InvalidStep(f"observation {name!r} is {value.dtype}, declared was {space.dtype}")
    return _finite(name, value)


def _finite(name: str, value: np.ndarray) -> np.ndarray:
    if value.dtype.kind == "f" and not np.isfinite(value).all():
        raise InvalidStep(f"observation {name!r} is not finite")
    return value


def checked_outcome(reward: Any, terminated: Any, truncated: Any) -> tuple[float, bool, bool]:
    """Reward and ends as Python values. InvalidStep for a reward that is no finite number, or an end that is neither
    true nor false.
    """
    if type(reward) is float and type(terminated) is type(truncated) is bool and math.isfinite(reward):
        return reward, terminated, truncated
    if np.ndim(reward) or not isinstance(reward, (int, float, np.number, np.bool_, np.ndarray)):
        raise InvalidStep(f"the reward is {reward!r}, not a number")
    if not np.isfinite(reward):
        raise InvalidStep(f"the reward is {float(reward)}")
    for name, end in (("terminated", terminated), ("truncated", truncated)):
        if not isinstance(end, (bool, np.bool_)):
            raise InvalidStep(f"{name} is {end!r}, neither true nor false")
    return float(reward), bool(terminated), bool(truncated)
