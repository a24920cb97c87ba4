"""How an environment of Gymnasium is dressed: named observations, pictures, action repeat, stacked frames."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.wrappers import FrameStackObservation, TransformObservation
from PIL import Image

from saccade.envs.checks import shown

Paint = Callable[[gymnasium.Env], np.ndarray]
"""A picture uint8 [H, W, 3] of an environment as it stands."""


@dataclass(frozen=True)
class Dress:
    """What is shown of an environment.

    ``pixels`` > 0 shows a drawn picture of that size as "image", with ``state`` beside what it shows itself, without it
    alone. Pictures are then made gray (``grey``, one channel), resized to ``size`` (0: as they are) and the last
    ``stack`` ones put side by side as channels, oldest first. An action is taken ``repeat`` times, rewards added; of
    two last pictures the brighter pixels are kept, since old consoles draw a thing in every other frame. ``leave_out``
    names observations that are not wanted.
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


def dressed(env: gymnasium.Env, dress: Dress, paint: Paint) -> gymnasium.Env:
    """``env`` with a Dict of float32, uint8 and integer observations. ValueError for a space that no network here
    reads.
    """
    raw = _named(env.observation_space)
    kept = {k: v for k, v in raw.spaces.items() if k not in dress.leave_out} if dress.state or not dress.pixels else {}
    plain = not isinstance(env.observation_space, spaces.Dict)
    if dress.repeat > 1:
        env = _Repeated(env, dress.repeat, brighter=plain and not dress.pixels and _is_picture(raw["state"]))
    out = {name: _outgoing(name, space, dress) for name, space in kept.items()}
    if dress.pixels:
        out["image"] = _outgoing("image", spaces.Box(0, 255, (dress.pixels, dress.pixels, 3), np.uint8), dress)
    inner, kept_space = env, spaces.Dict(kept)

    def look(seen: Any) -> dict[str, np.ndarray]:
        values = shown({"state": seen} if plain else seen, kept_space)
        if dress.pixels:
            values["image"] = picture_of(paint(inner), dress.pixels)
        return {name: _converted(value, out[name], dress) for name, value in values.items()}

    env = TransformObservation(env, look, spaces.Dict(out))
    return _stacked(env, dress.stack) if dress.stack > 1 else env


def picture_of(picture: np.ndarray, size: int = 0, grey: bool = False) -> np.ndarray:
    """A picture uint8 [H, W] or [H, W, 3], grey if wanted, ``size`` pixels a side, each the mean of the area it
    covers.
    """
    fits = not size or picture.shape[:2] == (size, size)
    if fits and not grey:
        return picture
    image = Image.fromarray(picture)
    image = image.convert("L") if grey else image
    return np.asarray(image if fits else image.resize((size, size), Image.Resampling.BOX))


def _named(space: spaces.Space) -> spaces.Dict:
    return space if isinstance(space, spaces.Dict) else spaces.Dict({"state": space})


def _is_picture(space: spaces.Space) -> bool:
    return isinstance(space, spaces.Box) and space.dtype == np.uint8 and len(space.shape) in (2, 3)


def _outgoing(name: str, space: spaces.Space, dress: Dress) -> spaces.Space:
    match space:
        case spaces.Box() if _is_picture(space):
            high, wide = (dress.size, dress.size) if dress.size else space.shape[:2]
            channels = 1 if dress.grey or len(space.shape) == 2 else space.shape[2]
            return spaces.Box(0, 255, (high, wide, channels), np.uint8)
        case spaces.Box():
            return spaces.Box(np.float32(space.low), np.float32(space.high), space.shape, np.float32)
        case spaces.Discrete():
            return space
        case spaces.MultiBinary():
            return spaces.Box(0, 1, space.shape, np.float32)
    kind = type(space).__name__
    raise ValueError(
        f"observation {name!r} is a {kind}, which no network here reads; leave_out=({name!r},) leaves it out"
    )


def _converted(value: np.ndarray, out: spaces.Space, dress: Dress) -> np.ndarray:
    if not _is_picture(out):
        return value.astype(out.dtype)
    flat = value[..., 0] if value.shape[2:] == (1,) else value
    return picture_of(flat, dress.size, grey=dress.grey and flat.ndim == 3).reshape(out.shape)


def _stacked(env: gymnasium.Env, frames: int) -> gymnasium.Env:
    """The last ``frames`` pictures as channels of one; of all else the last is shown."""
    before = env.observation_space

    def merged(seen: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {k: _as_channels(v) if _is_picture(before[k]) else v[-1] for k, v in seen.items()}

    wide = lambda s: spaces.Box(0, 255, (*s.shape[:2], frames * s.shape[2]), np.uint8)
    after = {k: wide(s) if _is_picture(s) else s for k, s in before.spaces.items()}
    return TransformObservation(FrameStackObservation(env, frames), merged, spaces.Dict(after))


def _as_channels(frames: np.ndarray) -> np.ndarray:
    return np.concatenate(list(frames), axis=-1)


class _Repeated(gymnasium.Wrapper):
    """An action is taken several times.

    Gymnasium's own wrapper shows frames of an earlier action where an episode ends early, which are not the last ones.
    """

    def __init__(self, env: gymnasium.Env, repeat: int, brighter: bool):
        super().__init__(env)
        self.repeat, self.brighter = repeat, brighter

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        total, before, seen = 0.0, None, None
        for _ in range(self.repeat):
            before = seen
            seen, reward, terminated, truncated, info = self.env.step(action)
            total += reward
            if terminated or truncated:
                break
        if self.brighter and before is not None:
            seen = np.maximum(before, seen)
        return seen, total, terminated, truncated, info
