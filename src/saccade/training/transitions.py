"""What a buffer is given: transitions that are whole, of one kind, finite, and in the order of their episodes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

NEEDED = ("action", "reward", "terminated", "truncated", "episode")


class Links(NamedTuple):
    """Transitions of one call by their index: ``after[i]`` follows ``before[i]``; which begin what the call holds of their
    episode, and which are the last of an episode that goes on."""

    before: np.ndarray
    after: np.ndarray
    begins: list[int]
    goes_on: list[int]


def links(episode: np.ndarray, ended: np.ndarray) -> Links:
    """How transitions ``[n]`` follow one another. ValueError for an episode that goes on after its end."""
    order = np.argsort(episode, kind="stable")
    same = episode[order][1:] == episode[order][:-1]
    before, after = order[:-1][same], order[1:][same]
    if ended[before].any():
        number = episode[before[ended[before]][0]]
        raise ValueError(f"episode {number} goes on after its end")
    begins, lasts = order[np.append(True, ~same)], order[np.append(~same, True)]
    return Links(before, after, begins.tolist(), lasts[~ended[lasts]].tolist())


def checked(fields: Mapping[str, Any], known: Mapping[str, np.ndarray], most: int) -> dict[str, np.ndarray]:
    """The fields as arrays of one length: floats as float32, marks as bool, integers as they are.

    ``known`` are arrays of the same fields from before, if there are any. ValueError in one line for what does not fit.
    """
    rows = {name: _array(name, value) for name, value in fields.items()}
    _whole(rows, most)
    if known and rows.keys() != known.keys():
        odd = sorted(rows.keys() ^ known.keys())
        raise ValueError(f"transitions have other fields than before: {', '.join(odd)}")
    for name, value in rows.items():
        if name in known and (value.shape[1:] != known[name].shape[1:] or value.dtype != known[name].dtype):
            was = f"{known[name].dtype} {list(known[name].shape[1:])}"
            raise ValueError(f"{name} is {value.dtype} {list(value.shape[1:])}, but was {was} before")
    return rows


def _array(name: str, value: Any) -> np.ndarray:
    array = np.asarray(value)
    if name in ("terminated", "truncated"):
        return array.astype(bool, copy=False)
    if array.dtype.kind == "f":
        array = array.astype(np.float32, copy=False)
        if not np.isfinite(array).all():
            raise ValueError(f"{name} is not finite")
    elif array.dtype.kind not in "iub":
        raise ValueError(f"{name} holds {array.dtype}, not numbers")
    return array.astype(np.float32) if name == "reward" else array


def _whole(rows: Mapping[str, np.ndarray], most: int) -> None:
    """Nothing is missing and all have one length, between 1 and ``most``."""
    seen = {name.removeprefix("seen.") for name in rows if name.startswith("seen.")}
    needed = {*NEEDED, *(f"next.{name}" for name in seen)}
    missing = sorted(needed - rows.keys()) or ([] if seen else ["seen.<name>"])
    if missing:
        raise ValueError(f"transitions lack {', '.join(missing)}")
    lengths = {name: len(value) if value.ndim else 0 for name, value in rows.items()}
    count = lengths["reward"]
    odd = [name for name, length in lengths.items() if length != count]
    if odd:
        raise ValueError(f"{odd[0]} has {lengths[odd[0]]} transitions, reward has {count}")
    if not 1 <= count <= most:
        raise ValueError(f"{count} transitions were given; between 1 and the capacity {most} can be added at once")
    for name in ("reward", "terminated", "truncated", "episode"):
        if rows[name].ndim != 1:
            raise ValueError(f"{name} is one number a transition, not {list(rows[name].shape[1:])}")
    if rows["episode"].dtype.kind not in "iu":
        raise ValueError("episode is an integer")
