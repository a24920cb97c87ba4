"""One recorded episode as arrays by name: validated, and split into the transitions of a replay buffer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from saccade.training.buffers import Buffer

RecordedEpisode = dict[str, np.ndarray]
"""An episode of T steps.

"observation.<name>" ``[T + 1, ...]`` are observations (the last one follows the last action), "action" ``[T, ...]``,
"reward" ``[T]`` float32, "terminated" and "truncated" ``[T]`` bool, of which exactly one is true at the last step and
none before. Further arrays of T rows belong to the steps ("info.<name>" are facts that no policy observes), arrays
without axes to the episode ("seed", "task").
"""

REQUIRED = ("action", "reward", "terminated", "truncated")


def to_transitions(episode: RecordedEpisode, number: int) -> dict[str, np.ndarray]:
    """The T transitions of an episode as the fields of `training.buffers.Buffer`; "episode" is ``number``.

    Arrays of the episode and "info.<name>" are left out.
    """
    length = len(episode["reward"])
    fields = {"episode": np.full(length, number, np.int64)}
    for name, value in episode.items():
        if name.startswith("observation."):
            fields |= {name: value[:-1], f"next_observation.{name.removeprefix('observation.')}": value[1:]}
        elif value.ndim and not name.startswith("info."):
            fields[name] = value
    return fields


def add_episodes(buffer: Buffer, episodes: Iterable[RecordedEpisode], first: int = 0) -> int:
    """Add all transitions of ``episodes``, numbered from ``first``, to a buffer; the number of transitions."""
    count = 0
    for number, episode in enumerate(episodes, first):
        buffer.add(to_transitions(episode, number))
        count += len(episode["reward"])
    return count


def validated(arrays: Mapping[str, Any], where: str) -> RecordedEpisode:
    """The arrays as an episode with the types above. ValueError "WHERE: reason", in one line, for other arrays."""
    episode = {name: _converted(name, value, where) for name, value in arrays.items()}
    observed = any(name.startswith("observation.") and value.ndim for name, value in episode.items())
    missing = [name for name in REQUIRED if name not in episode] or ([] if observed else ["observation.<name>"])
    if missing:
        raise ValueError(f"{where}: an episode without {', '.join(missing)}")
    episode["reward"] = episode["reward"].astype(np.float32).reshape(-1)
    for name in ("terminated", "truncated"):
        episode[name] = episode[name].astype(bool).reshape(-1)
    length = len(episode["reward"])
    if not length:
        raise ValueError(f"{where}: an episode without steps")
    for name, value in episode.items():
        rows = length + name.startswith("observation.")
        if value.ndim and len(value) != rows:
            raise ValueError(f"{where}: {name} has {len(value)} rows, but {length} rewards need {rows}")
        if value.dtype == np.float32 and not np.isfinite(value).all():
            raise ValueError(f"{where}: {name} contains NaN or infinity")
    ends = episode["terminated"] | episode["truncated"]
    if ends[:-1].any() or not ends[-1]:
        raise ValueError(f"{where}: an episode must end at its last step and at no other")
    return episode


def _converted(name: str, value: Any, where: str) -> np.ndarray:
    """Floats as float32, uint8 and bool unchanged, other integers as int64; texts may belong to the episode alone."""
    array = np.asarray(value)
    if array.dtype.kind == "f":
        return array.astype(np.float32)
    if array.dtype.kind in "iu":
        return array if array.dtype == np.uint8 else array.astype(np.int64)
    if array.dtype.kind == "b" or (array.dtype.kind == "U" and not array.ndim):
        return array
    raise ValueError(f"{where}: {name} is neither numbers nor a text but {array.dtype}")
