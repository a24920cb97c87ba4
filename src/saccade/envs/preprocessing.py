"""Preprocessing of Gymnasium environments: named observations, pictures, action repeat, stacked frames."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.wrappers import FrameStackObservation, TransformObservation
from PIL import Image

from saccade.envs.checks import InvalidStep, checked_observation, is_finite_vector

Render = Callable[[gymnasium.Env], np.ndarray]
"""Renders a picture uint8 [H, W, 3] of an environment as it stands."""


@dataclass(frozen=True)
class Preprocessing:
    """What is observed of an environment.

    ``pixels`` > 0 adds a rendered picture of that size as "image", with ``state`` besides the environment's own
    observations, without it in their place. Pictures are made grey (``grey``, one channel), resized to ``size`` (0: not
    resized), and the last ``stack`` ones are stacked as channels, oldest first. An action is taken ``repeat`` times and
    rewards are added; of the last two pictures the brighter pixels are kept, since old consoles draw an object in every
    other frame. ``leave_out`` names observations that are dropped.
    """

    pixels: int = 0
    state: bool = False
    size: int = 0
    grey: bool = False
    stack: int = 1
    repeat: int = 1
    leave_out: Sequence[str] = ()

    def __post_init__(self) -> None:
        if min(self.pixels, self.size) < 0 or min(self.stack, self.repeat) < 1:
            wrong = f"pixels {self.pixels}, size {self.size}, stack {self.stack}, repeat {self.repeat}"
            raise ValueError(f"{wrong}: pixels and size are 0 or more, stack and repeat 1 or more")


def preprocessed(env: gymnasium.Env, cfg: Preprocessing, render: Render) -> gymnasium.Env:
    """``env`` with a Dict of float32, uint8 and integer observations. ValueError for a space without a network."""
    raw = _named(env.observation_space)
    kept = {k: v for k, v in raw.spaces.items() if k not in cfg.leave_out} if cfg.state or not cfg.pixels else {}
    plain = not isinstance(env.observation_space, (spaces.Dict, spaces.Tuple))
    if cfg.repeat > 1:
        env = _ActionRepeat(env, cfg.repeat, brighter=plain and not cfg.pixels and _is_picture(raw["state"]))
    out = {name: _outgoing(name, space, cfg) for name, space in kept.items()}
    if cfg.pixels:
        out["image"] = _outgoing("image", spaces.Box(0, 255, (cfg.pixels, cfg.pixels, 3), np.uint8), cfg)
    starts = {k: v.start for k, v in kept.items() if isinstance(v, (spaces.Discrete, spaces.MultiDiscrete))}
    inner, kept_space, whole = env, spaces.Dict(kept), env.observation_space
    vector = _vector(whole) if list(out) == ["state"] and plain else None

    def observe(observation: Any) -> dict[str, np.ndarray]:
        if vector is not None and is_finite_vector(observation, vector):
            return {"state": observation.astype(np.float32)}
        parts = {"state": observation} if plain else dict(_parts("", whole, observation)) if kept else {}
        values = checked_observation(parts, kept_space)
        if cfg.pixels:
            values["image"] = resized(render(inner), cfg.pixels)
        for name, start in starts.items():
            values[name] = values[name] - start
        return {name: _converted(value, out[name], cfg) for name, value in values.items()}

    env = TransformObservation(env, observe, spaces.Dict(out))
    return _stacked(env, cfg.stack) if cfg.stack > 1 else env


def _vector(space: spaces.Space) -> np.ndarray | None:
    """Ones of a space of plain vectors of floats, whose usual observations need no more than a look."""
    is_vector = isinstance(space, spaces.Box) and len(space.shape) == 1 and space.dtype.kind == "f"
    return np.ones(space.shape, space.dtype) if is_vector else None


def resized(picture: np.ndarray, size: int = 0, grey: bool = False) -> np.ndarray:
    """A picture uint8 [H, W] or [H, W, 3] with ``size`` pixels a side, each the mean of the area it covers; 0 does not
    resize.
    """
    fits = not size or picture.shape[:2] == (size, size)
    if fits and not grey:
        return picture
    image = Image.fromarray(picture)
    image = image.convert("L") if grey else image
    return np.asarray(image if fits else image.resize((size, size), Image.Resampling.BOX))


def _named(space: spaces.Space) -> spaces.Dict:
    """Parts of a space by name; those of nested ones by the names on the way to them, as "robot_0"."""
    return spaces.Dict(dict(_leaves("", space)))


def _leaves(name: str, space: spaces.Space) -> Iterator[tuple[str, spaces.Space]]:
    match space:
        case spaces.Dict():
            inner = list(space.spaces.items())
        case spaces.Tuple():
            inner = list(enumerate(space.spaces))
        case _:
            yield name or "state", space
            return
    for key, part in inner:
        yield from _leaves(f"{name}_{key}" if name else str(key), part)


def _parts(name: str, space: spaces.Space, observation: Any) -> Iterator[tuple[str, Any]]:
    """An observation's parts by the names of `_named`. InvalidStep where it is not built as its space."""
    match space:
        case spaces.Dict():
            keys: list[Any] = list(space.spaces)
            built = isinstance(observation, Mapping)
        case spaces.Tuple():
            keys = list(range(len(space.spaces)))
            built = isinstance(observation, (tuple, list)) and len(observation) == len(keys)
        case _:
            yield name or "state", observation
            return
    if not built:
        kind = type(space).__name__.lower()
        raise InvalidStep(f"returns a {type(observation).__name__} as observation where a {kind} was declared")
    for key in keys:
        if isinstance(observation, Mapping) and key not in observation:
            raise InvalidStep(f"observation {key!r} is missing")
        yield from _parts(f"{name}_{key}" if name else str(key), space[key], observation[key])


def _is_picture(space: spaces.Space) -> bool:
    return isinstance(space, spaces.Box) and space.dtype == np.uint8 and len(space.shape) in (2, 3)


def _outgoing(name: str, space: spaces.Space, cfg: Preprocessing) -> spaces.Space:
    match space:
        case spaces.Box() if _is_picture(space):
            high, wide = (cfg.size, cfg.size) if cfg.size else space.shape[:2]
            channels = 1 if cfg.grey or len(space.shape) == 2 else space.shape[2]
            return spaces.Box(0, 255, (high, wide, channels), np.uint8)
        case spaces.Box():
            return spaces.Box(np.float32(space.low), np.float32(space.high), space.shape, np.float32)
        case spaces.Discrete():
            return spaces.Discrete(int(space.n))
        case spaces.MultiDiscrete():
            return spaces.Box(0, np.float32(space.nvec - 1), space.shape, np.float32)
        case spaces.MultiBinary():
            return spaces.Box(0, 1, space.shape, np.float32)
    kind = type(space).__name__
    raise ValueError(
        f"observation {name!r} is a {kind}, which no network here supports; leave_out=({name!r},) leaves it out"
    )


def _converted(value: np.ndarray, out: spaces.Space, cfg: Preprocessing) -> np.ndarray:
    if not _is_picture(out):
        return value.astype(out.dtype)
    flat = value[..., 0] if value.shape[2:] == (1,) else value
    return resized(flat, cfg.size, grey=cfg.grey and flat.ndim == 3).reshape(out.shape)


def _stacked(env: gymnasium.Env, frames: int) -> gymnasium.Env:
    """The last ``frames`` pictures as channels of one; of all else the last value."""
    before = env.observation_space

    def stack(observation: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {k: _as_channels(v) if _is_picture(before[k]) else v[-1] for k, v in observation.items()}

    channels = lambda s: spaces.Box(0, 255, (*s.shape[:2], frames * s.shape[2]), np.uint8)
    after = {k: channels(s) if _is_picture(s) else s for k, s in before.spaces.items()}
    return TransformObservation(FrameStackObservation(env, frames), stack, spaces.Dict(after))


def _as_channels(frames: np.ndarray) -> np.ndarray:
    return np.concatenate(list(frames), axis=-1)


class _ActionRepeat(gymnasium.Wrapper):
    """Takes each action several times.

    Gymnasium's wrapper returns frames of an earlier action where an episode ends early, which are not the last ones.
    """

    def __init__(self, env: gymnasium.Env, repeat: int, brighter: bool):
        super().__init__(env)
        self.repeat, self.brighter = repeat, brighter

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        before, total = None, reward
        for _ in range(self.repeat - 1):
            if terminated or truncated:
                break
            before = observation
            observation, reward, terminated, truncated, info = self.env.step(action)
            total += reward
        if self.brighter and before is not None:
            observation = np.maximum(before, observation)
        return observation, total, terminated, truncated, info
