"""One recorded episode as arrays by name, checked, and cut into the transitions that a replay buffer takes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import numpy as np

Recorded = dict[str, np.ndarray]
"""An episode of T decisions.

``"seen.<name>"`` ``[T + 1, ...]`` (the last is what was seen at the end), ``"action"`` ``[T, ...]``, ``"reward"``
``[T]`` float32, ``"terminated"`` and ``"truncated"`` ``[T]`` bool, of which one is true at the last decision and none
before it. Further arrays of T rows belong to the decisions (``"info.<name>"`` are facts that no policy sees); arrays
without axes to the episode ("seed", "task").
"""

NEEDED = ("action", "reward", "terminated", "truncated")


class Takes(Protocol):
    """A buffer: takes transitions by name, each array ``[n, ...]``."""

    def add(self, fields: Mapping[str, np.ndarray]) -> Any: ...


def transitions(episode: Recorded, number: int) -> Recorded:
    """The T transitions of an episode: "seen.<name>", "next.<name>", all that belongs to decisions, and "episode" =
    number.
    """
    length = len(episode["reward"])
    fields: Recorded = {"episode": np.full(length, number, np.int64)}
    for name, value in episode.items():
        if name.startswith("seen."):
            fields |= {name: value[:-1], f"next.{name.removeprefix('seen.')}": value[1:]}
        elif value.ndim and not name.startswith("info."):
            fields[name] = value
    return fields


def into(buffer: Takes, episodes: Iterable[Recorded], first: int = 0) -> int:
    """Add all transitions of ``episodes``, which are numbered from ``first`` on; how many transitions these were."""
    count = 0
    for number, episode in enumerate(episodes, first):
        buffer.add(transitions(episode, number))
        count += len(episode["reward"])
    return count


def checked(arrays: Mapping[str, Any], where: str) -> Recorded:
    """An episode with the types named above, or a ValueError "WHERE: why" in one line."""
    episode = {name: _plain(name, value, where) for name, value in arrays.items()}
    lacking = [name for name in NEEDED if name not in episode] or ["seen.<name>"] * (not _seen(episode))
    if lacking:
        raise ValueError(f"{where}: an episode without {', '.join(lacking)}")
    episode["reward"] = episode["reward"].astype(np.float32).reshape(-1)
    for name in ("terminated", "truncated"):
        episode[name] = episode[name].astype(bool).reshape(-1)
    length = len(episode["reward"])
    if not length:
        raise ValueError(f"{where}: an episode without decisions")
    for name, value in episode.items():
        wanted = length + name.startswith("seen.")
        if value.ndim and len(value) != wanted:
            raise ValueError(f"{where}: {name} has {len(value)} rows, {wanted} are wanted for {length} rewards")
        if value.dtype == np.float32 and not np.isfinite(value).all():
            raise ValueError(f"{where}: {name} holds NaN or infinity")
    ends = episode["terminated"] | episode["truncated"]
    if ends[:-1].any() or not ends[-1]:
        raise ValueError(f"{where}: an episode must end at its last decision and at no other")
    return episode


def _seen(episode: Recorded) -> list[str]:
    return [name for name in episode if name.startswith("seen.") and episode[name].ndim]


def _plain(name: str, value: Any, where: str) -> np.ndarray:
    """Floats as float32, uint8 and bool as they are, other integers as int64; texts may only belong to whole
    episodes.
    """
    array = np.asarray(value)
    if array.dtype.kind == "f":
        return array.astype(np.float32)
    if array.dtype.kind in "iu":
        return array if array.dtype == np.uint8 else array.astype(np.int64)
    if array.dtype.kind == "b" or (array.dtype.kind == "U" and not array.ndim):
        return array
    raise ValueError(f"{where}: {name} is neither numbers nor a text, but {array.dtype}")
