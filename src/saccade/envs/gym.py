"""Environments of Gymnasium, ``count`` of them stepped one after another in this process."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import math
import sys
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.envs.registration import load_env_creator
from PIL import Image

from saccade.config import Foreign
from saccade.core import Observation, Step
from saccade.envs import mujoco_fast
from saccade.envs.checks import LONGEST, ActionNotFinite, InvalidStep, checked_outcome, guarded
from saccade.envs.preprocessing import Preprocessing, Render, preprocessed
from saccade.naming import suggestion
from saccade.tools.user_code import described, user_code

PACKAGES = {
    "ALE/": ("ale_py", "atari"),
    "MiniGrid-": ("minigrid", "minigrid"),
    "BabyAI-": ("minigrid", "minigrid"),
    "dm_control/": ("shimmy", "dm-control"),
    "gym_pusht/": ("gym_pusht", "pusht"),
}
"""Beginnings of names, the package that registers them, and the extra of this one that installs it."""

CHOICES = 4096
"""Largest number of combinations of a MultiDiscrete's choices."""

_RENDER_SIZE = 128
"""Side in pixels of a rendered MuJoCo frame where the policy observes no picture."""


def find(name: str, others: Iterable[str] = ()) -> None:
    """ValueError, with the nearest name of Gymnasium's and ``others``, where ``gymnasium.make`` does not know
    ``name``.
    """
    mujoco_fast.headless()
    for start, (package, extra) in PACKAGES.items():
        if name.startswith(start):
            _import(name, package, extra)
    given, (module, colon, name) = name, name.rpartition(":")
    if colon:
        _ask(given)
        _import_own(module)
    try:
        gymnasium.spec(name)
    except (gymnasium.error.Error, ImportError):
        near = suggestion(name, [*others, *gymnasium.registry])
        raise ValueError(f"there is no environment '{name}'{near}") from None


def _ask(name: str) -> None:
    if isinstance(name, Foreign):
        name.asked()


def _import_own(module: str) -> None:
    """Import the module of the user's that registers an environment, also from the current folder."""
    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
    try:
        with user_code():
            importlib.import_module(module)
    except Exception as error:
        raise ValueError(f"the module {module!r} cannot be imported: {described(error)}") from None


def _import(name: str, package: str, extra: str) -> None:
    try:
        importlib.import_module(package)
    except ImportError:
        raise ValueError(f"{name} needs the package {package}: pip install 'saccade[{extra}]'") from None


class Gym:
    """Episodes of environments that follow from the seed they are reset with and the actions taken.

    Observations are a dict (an unnamed one is called "state"): float64 becomes float32, pictures stay uint8. Box
    actions are clipped to their space. A state is the seeds and actions of the running episodes, which are replayed.
    ``facts`` names the entries of ``info`` that are kept: float32, NaN where one is missing.
    """

    def __init__(
        self,
        name: str,
        envs: Sequence[gymnasium.Env],
        render: Render,
        facts: Sequence[str],
        patience: float,
        longest: int,
    ):
        self.name, self.count, self.envs = name, len(envs), list(envs)
        self.render_one, self.facts, self.patience = render, tuple(facts), patience
        self.observation_space, self.own_actions = envs[0].observation_space, envs[0].action_space
        self.action_space = numbered(self.own_actions)
        self.longest, self._limit_told = longest, False
        self._shown: tuple[int, ...] | None = None
        self.seeds: list[int | None] = [None] * self.count
        self.actions: list[list[np.ndarray]] = [[] for _ in envs]
        self.seen: list[Mapping[str, np.ndarray] | None] = [None] * self.count
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
        longest: int = LONGEST,
    ) -> Gym:
        """``count`` environments by a name that ``gymnasium.make`` knows, which is given ``options``.

        Observations are those of `Preprocessing`. One step of all environments, or their reset, may take ``patience``
        seconds, and an episode is truncated after ``longest`` steps, with a warning. ValueError if they cannot be made,
        and for action and observation spaces that no policy here supports.
        """
        if not patience > 0:
            raise ValueError(f"{name}: patience {patience:g} is not above 0 seconds")
        if longest < 1:
            raise ValueError(f"{name}: longest {longest} is less than 1 step")
        preprocessing = Preprocessing(pixels, state, size, grey, stack, repeat, leave_out)
        bare = [_made(name, options or {}) for _ in range(count)]
        if not isinstance(bare[0].action_space, (spaces.Box, spaces.Discrete, spaces.MultiDiscrete)):
            kind = type(bare[0].action_space).__name__
            raise ValueError(f"{name}: actions are a {kind}, none of Box, Discrete and MultiDiscrete")
        mujoco = mujoco_fast.is_mujoco(bare[0])
        render = mujoco_fast.Camera(bare[0], pixels or _RENDER_SIZE) if mujoco else _rendered
        try:
            numbered(bare[0].action_space)
            envs = [preprocessed(env, preprocessing, render) for env in bare]
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
        return Gym(name, envs, render, facts, patience, longest)

    def begin(self, rows: Sequence[int], seeds: Sequence[int]) -> Observation:
        """Begin episodes in these rows, reset with the seeds modulo 2^31; observations in the order of ``rows``."""
        observations = []
        with guarded(self._where, self.patience):
            for self.row, seed in zip(map(int, rows), seeds):
                self.seeds[self.row], self.actions[self.row] = int(seed), []
                observation, _ = self.envs[self.row].reset(seed=int(seed) % 2**31)
                self.seen[self.row] = observation
                observations.append(observation)
        return _joined(observations)

    def step(self, action_B: np.ndarray) -> Step:
        """One action in every row: ``[count, …]`` of a Box, integers ``[count]`` of a Discrete."""
        steps = []
        with guarded(self._where, self.patience):
            for row in range(self.count):
                self.row = row
                steps.append(self._step_row(action_B[row]))
            observations, reward, terminated, truncated, info = zip(*steps)
            facts = {name: np.array([i.get(name, np.nan) for i in info], np.float32) for name in self.facts}
        ends = np.array(terminated), np.array(truncated)
        return Step(_joined(observations), np.array(reward, np.float32), *ends, facts)

    def render(self, rows: Sequence[int]) -> np.ndarray:
        """Pictures uint8 ``[len(rows), H, W, 3]``, all of the size of the first one that was rendered."""
        with guarded(self._where, self.patience):
            return np.stack([self._of_one_size(self.render_one(self.envs[row])) for row in rows])

    def _of_one_size(self, picture: np.ndarray) -> np.ndarray:
        self._shown = self._shown or picture.shape
        if picture.shape == self._shown:
            return picture
        high, wide = self._shown[:2]
        return np.asarray(Image.fromarray(picture).resize((wide, high), Image.Resampling.BOX))

    def state_dict(self) -> dict[str, Any]:
        actions = [torch.from_numpy(np.stack(taken)) if taken else None for taken in self.actions]
        return {
            "seeds": list(self.seeds),
            "actions": actions,
            "seen": list(map(_digest, self.seen)),
            "code": self._code(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Replay the episodes that were running. EnvironmentFailed where one cannot be replayed.

        A warning tells where the environment's file has changed, and where a replay does not end in the observation
        that was seen: what follows is then not what an uninterrupted run would have met.
        """
        if state.get("code", self._code()) != self._code():
            warnings.warn(f"environment {self.name!r} has changed since the run was saved", stacklevel=2)
        for row, (seed, actions) in enumerate(zip(state["seeds"], state["actions"])):
            self.seeds[row], self.actions[row] = None, []
            if seed is not None:
                self.begin([row], [seed])
                for action in [] if actions is None else actions.numpy():
                    with guarded(self._where, self.patience):
                        self._step_row(action)
        if list(map(_digest, self.seen)) != state.get("seen", list(map(_digest, self.seen))):
            warnings.warn(
                f"environment {self.name!r}: an episode played again from its seed and actions ends in another"
                " observation, so the resumed run is not the one that was interrupted",
                stacklevel=2,
            )

    def close(self) -> None:
        for env in self.envs:
            env.close()
        if isinstance(self.render_one, mujoco_fast.Camera):
            self.render_one.close()

    def _step_row(self, action: np.ndarray) -> tuple[dict[str, np.ndarray], float, bool, bool, dict]:
        taken, action = action, self._valid_action(action)
        self.actions[self.row].append(np.array(taken if isinstance(self.action_space, spaces.Discrete) else action))
        observation, reward, terminated, truncated, info = self.envs[self.row].step(action)
        self.seen[self.row] = observation
        reward, terminated, truncated = checked_outcome(reward, terminated, truncated)
        if len(self.actions[self.row]) >= self.longest and not (terminated or truncated):
            truncated = True
            self._tell_limit()
        return observation, reward, terminated, truncated, info

    def _tell_limit(self) -> None:
        if not self._limit_told:
            self._limit_told = True
            warnings.warn(f"{self._where()}: the episode does not end and is truncated (longest)", stacklevel=2)

    def _code(self) -> str | None:
        """A sum of the file in which the environment's class stands, None where there is none."""
        try:
            return hashlib.sha256(Path(inspect.getfile(type(self.envs[0].unwrapped))).read_bytes()).hexdigest()
        except (OSError, TypeError):
            return None

    def _valid_action(self, action: np.ndarray) -> Any:
        if isinstance(self.own_actions, spaces.Discrete):
            return int(action) + int(self.own_actions.start)
        if isinstance(self.own_actions, spaces.MultiDiscrete):
            choice = np.unravel_index(int(action), self.own_actions.nvec.ravel())
            return np.reshape(choice, self.own_actions.shape).astype(self.own_actions.dtype) + self.own_actions.start
        if not np.isfinite(action).all():
            raise ActionNotFinite(f"an action of the policy in {self._where()} is not finite")
        return np.clip(np.asarray(action, self.action_space.dtype), self.action_space.low, self.action_space.high)

    def _where(self) -> str:
        steps = len(self.actions[self.row])
        return f"environment {self.name!r} (row {self.row}, seed {self.seeds[self.row]}, step {steps})"


def numbered(space: spaces.Space) -> spaces.Space:
    """A space of actions as policies see it: choices are numbered from 0; several at once are one choice.

    ValueError for more than `CHOICES` of them.
    """
    match space:
        case spaces.Discrete():
            return spaces.Discrete(int(space.n))
        case spaces.MultiDiscrete():
            choices = math.prod(map(int, space.nvec.ravel()))
            if choices > CHOICES:
                raise ValueError(f"actions are {choices} combinations of choices, more than {CHOICES}")
            return spaces.Discrete(choices)
    return space


def _digest(observation: Mapping[str, np.ndarray] | None) -> str | None:
    """A sum of all numbers of an observation."""
    if observation is None:
        return None
    parts = [np.ascontiguousarray(observation[name]).tobytes() for name in sorted(observation)]
    return hashlib.sha256(b"".join(parts)).hexdigest()


def _made(name: str, options: Mapping[str, Any]) -> gymnasium.Env:
    """One environment, which renders pictures if it can; Gymnasium's checks are off, since ours are stricter."""
    _ask(name)
    try:
        with user_code():
            entry = gymnasium.spec(name.rpartition(":")[2]).entry_point
            maker = load_env_creator(entry) if isinstance(entry, str) else entry
            mujoco_fast.log_warnings()
            renders = "rgb_array" in getattr(maker, "metadata", {}).get("render_modes", ())
            rendering = {"render_mode": "rgb_array"} if renders else {}
            return gymnasium.make(name, disable_env_checker=True, **(rendering | dict(options)))
    except Exception as error:
        raise ValueError(f"environment {name!r} cannot be made: {described(error)}") from error


def _rendered(env: gymnasium.Env) -> np.ndarray:
    picture = env.render()
    if not isinstance(picture, np.ndarray) or picture.dtype != np.uint8 or picture.ndim != 3 or not picture.size:
        raise InvalidStep("renders no picture uint8 [H, W, 3]")
    return picture


def _joined(rows: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}  # half the time of np.stack
