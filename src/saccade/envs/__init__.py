"""Environments: the worlds of this package by their short names, all others as Gymnasium makes them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

from saccade.core import Environment
from saccade.envs import gym
from saccade.envs.backdrop import backdrop
from saccade.envs.lane import Lane
from saccade.envs.push import Push
from saccade.envs.reach import Reach
from saccade.naming import suggestion

WORLDS: dict[str, Callable[..., Environment]] = {
    "backdrop": backdrop,
    "lane": Lane,
    "push": Push,
    "reach": Reach,
}
"""The worlds of this package by name: each is called with ``count`` and its settings."""


def environment(name: str, count: int, **settings: Any) -> Environment:
    """``count`` episodes of an environment side by side: one of WORLDS, or any that ``gymnasium.make`` knows.

    ``settings`` are the arguments of the world in WORLDS, or of ``gym.Gym.of``. ValueError, with the nearest name, for
    an unknown environment or setting, for a word in place of a number, and for an environment whose package is not
    installed.
    """
    if count < 1:
        raise ValueError(f"{name}: count {count} is less than 1")
    make = WORLDS.get(name) or _by_gymnasium(name)
    parameters = inspect.signature(make).parameters
    known = list(parameters)[1:]
    for setting, value in settings.items():
        if setting not in known:
            raise ValueError(f"{name} has no setting '{setting}'{suggestion(setting, known)}")
        if isinstance(parameters[setting].default, int | float) and not isinstance(value, int | float):
            raise ValueError(f"{name}: {setting} is a number such as {parameters[setting].default}, not {value!r}")
    return make(count, **settings)


def _by_gymnasium(name: str) -> Callable[..., Environment]:
    gym.find(name, WORLDS)
    return partial(gym.Gym.of, name)
