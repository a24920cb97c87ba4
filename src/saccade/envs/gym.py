"""Environments of Gymnasium, ``count`` of them stepped one after another in this process."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.envs.registration import load_env_creator

from saccade.core import Observation, Step
from saccade.envs import mujoco_fast
from saccade.envs.checks import Flaw, guarded, verdict
from saccade.envs.preprocessing import Dress, Paint, dressed
from saccade.models.loading import first_line
from saccade.naming import nearest

PACKAGES = {
    "ALE/": ("ale_py", "atari"),
    "MiniGrid-": ("minigrid", "minigrid"),
    "BabyAI-": ("minigrid", "minigrid"),
    "dm_control/": ("shimmy", "dm-control"),
    "gym_pusht/": ("gym_pusht", "pusht"),
}
"""Beginnings of names, the package that registers them, and the extra of this one that installs it."""

_FILM = 128
"""Size of a MuJoCo picture where the policy sees none."""


def find(name: str, others: Iterable[str] = ()) -> None:
    """ValueError, with the nearest name of Gymnasium's and ``others``, where ``gymnasium.make`` does not know
    ``name``.
    """
    mujoco_fast.headless()
    for start, (package, extra) in PACKAGES.items():
        if name.startswith(start):
            _import(name, package, extra)
    try:
        gymnasium.spec(name)
    except (gymnasium.error.Error, ImportError):
        near = nearest(name, [*others, *gymnasium.registry])
        raise ValueError(f"there is no environment '{name}'; nearest: {near}") from None


def _import(name: str, package: str, extra: str) -> None:
    try:
        importlib.import_module(package)
    except ImportError:
        raise ValueError(f"{name} needs the package {package}: pip install 'saccade[{extra}]'") from None


class Gym:
    """Episodes of environments that follow from the seed they are reset with and the actions taken.

    Observations are a dict (a plain one is called "state"): float64 becomes float32, pictures stay uint8. Box actions
    are clipped to their space. A state is the seeds and actions of the running episodes, which are played again.
    ``facts`` names what is kept of ``info``: float32, NaN where it is not told.
    """

    def __init__(self, name: str, envs: Sequence[gymnasium.Env], paint: Paint, facts: Sequence[str], patience: float):
        self.name, self.count, self.envs = name, len(envs), list(envs)
        self.paint, self.facts, self.patience = paint, tuple(facts), patience
        self.observation_space, self.action_space = envs[0].observation_space, envs[0].action_space
        self.seeds: list[int | None] = [None] * self.count
        self.actions: list[list[np.ndarray]] = [[] for _ in envs]
        self.row = 0

    @staticmethod
    def of(
        name: str,
        count: int,
        pixels: int = 0,
        state: bool = False,
        size: int = 0,
        grey: bool = False,
        stack: int = 1,
        repeat: int = 1,
        leave_out: Sequence[str] = (),
        facts: Sequence[str] = (),
        options: Mapping[str, Any] | None = None,
        patience: float = 60.0,
    ) -> Gym:
        """``count`` environments by a name that ``gymnasium.make`` knows, which is given ``options``.

        What is shown: see ``Dress``. One step of all of them, or their reset, may take ``patience`` seconds. ValueError
        if they cannot be made, or take or show what no policy here knows.
        """
        if not patience > 0:
            raise ValueError(f"{name}: patience {patience:g} is not above 0 seconds")
        dress = Dress(pixels, state, size, grey, stack, repeat, leave_out)
        bare = [_made(name, options or {}) for _ in range(count)]
        if not isinstance(bare[0].action_space, (spaces.Box, spaces.Discrete)):
            raise ValueError(f"{name}: actions are a {type(bare[0].action_space).__name__}, neither Box nor Discrete")
        paint = mujoco_fast.Camera(bare[0], pixels or _FILM) if mujoco_fast.is_mujoco(bare[0]) else _drawn
        try:
            envs = [dressed(env, dress, paint) for env in bare]
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
        return Gym(name, envs, paint, facts, patience)

    def begin(self, rows: Sequence[int], seeds: Sequence[int]) -> Observation:
        """New episodes in these rows, reset with the seeds modulo 2^31; what they show, in the order of ``rows``."""
        seen = []
        with guarded(self._where, self.patience):
            for self.row, seed in zip(map(int, rows), seeds):
                self.seeds[self.row], self.actions[self.row] = int(seed), []
                seen.append(self.envs[self.row].reset(seed=int(seed) % 2**31)[0])
        return _joined(seen)

    def step(self, action_B: np.ndarray) -> Step:
        """One action in every row: ``[count, …]`` of a Box, integers ``[count]`` of a Discrete."""
        told = []
        with guarded(self._where, self.patience):
            for self.row in range(self.count):
                told.append(self._advanced(action_B[self.row]))
            seen, reward, terminated, truncated, info = zip(*told)
            facts = {name: np.float32([i.get(name, np.nan) for i in info]) for name in self.facts}
        return Step(_joined(seen), np.float32(reward), np.array(terminated), np.array(truncated), facts)

    def render(self, rows: Sequence[int]) -> np.ndarray:
        """Pictures uint8 ``[len(rows), H, W, 3]``."""
        with guarded(self._where, self.patience):
            return np.stack([self.paint(self.envs[row]) for row in rows])

    def state_dict(self) -> dict[str, Any]:
        played = [torch.from_numpy(np.stack(actions)) if actions else None for actions in self.actions]
        return {"seeds": list(self.seeds), "actions": played}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Play the episodes again that were running. EnvironmentFailed where one cannot be."""
        for row, (seed, actions) in enumerate(zip(state["seeds"], state["actions"])):
            self.seeds[row], self.actions[row] = None, []
            if seed is not None:
                self.begin([row], [seed])
                for action in [] if actions is None else actions.numpy():
                    with guarded(self._where, self.patience):
                        self._advanced(action)

    def close(self) -> None:
        for env in self.envs:
            env.close()
        if isinstance(self.paint, mujoco_fast.Camera):
            self.paint.close()

    def _advanced(self, action: np.ndarray) -> tuple[dict[str, np.ndarray], float, bool, bool, dict]:
        action = self._playable(action)
        self.actions[self.row].append(np.array(action))
        seen, reward, terminated, truncated, info = self.envs[self.row].step(action)
        return seen, *verdict(reward, terminated, truncated), info

    def _playable(self, action: np.ndarray) -> Any:
        if isinstance(self.action_space, spaces.Discrete):
            return int(action)
        if not np.isfinite(action).all():
            raise Flaw("was given an action that is not finite")
        return np.clip(np.asarray(action, self.action_space.dtype), self.action_space.low, self.action_space.high)

    def _where(self) -> str:
        steps = len(self.actions[self.row])
        return f"environment {self.name!r} (row {self.row}, seed {self.seeds[self.row]}, step {steps})"


def _made(name: str, options: Mapping[str, Any]) -> gymnasium.Env:
    """One environment, told to draw pictures if it can; its own checks are off, since ours are stricter."""
    try:
        entry = gymnasium.spec(name).entry_point
        maker = load_env_creator(entry) if isinstance(entry, str) else entry
        mujoco_fast.quiet()
        draws = "rgb_array" in getattr(maker, "metadata", {}).get("render_modes", ())
        drawing = {"render_mode": "rgb_array"} if draws else {}
        return gymnasium.make(name, disable_env_checker=True, **(drawing | dict(options)))
    except Exception as error:
        raise ValueError(f"environment {name!r} cannot be made: {type(error).__name__}: {first_line(error)}") from error


def _drawn(env: gymnasium.Env) -> np.ndarray:
    picture = env.render()
    if not isinstance(picture, np.ndarray) or picture.dtype != np.uint8 or picture.ndim != 3:
        raise Flaw("draws no picture uint8 [H, W, 3]")
    return picture


def _joined(seen: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.array([one[name] for one in seen]) for name in seen[0]}  # half the time of np.stack
