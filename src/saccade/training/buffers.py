"""The replay buffer: episodes linked by number, pictures stored once, n-step transitions and sequences drawn from a
seed and a step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch

from saccade.core import Problem, Rollout
from saccade.training.feeds import join
from saccade.training.frame_store import FrameStore

_OWN = ("reward", "terminated", "truncated", "episode")

_NOTHING = Problem(0, None)


class Buffer:
    """The last ``capacity`` transitions, by name.

    Fields: "seen.<name>", "next.<name>" (the true observation after it, at an end too), "action", "reward",
    "terminated", "truncated", "episode" (an integer, the same for all transitions of one episode and of no other that
    is running), and any more; those that begin with "next_" are, like "next.<name>", of what follows.
    """

    def __init__(self, capacity: int, seed: int = 0):
        if capacity < 1:
            raise ValueError(f"a buffer holds at least one transition, not {capacity}")
        self.capacity, self.seed = capacity, seed
        self.columns: dict[str, np.ndarray] = {}
        self.stills: dict[str, FrameStore] = {}
        self.following = np.full(capacity, -1)
        self.added = 0
        self.running: dict[int, int] = {}

    def __len__(self) -> int:
        return min(self.added, self.capacity)

    def add(self, fields: Mapping[str, Any]) -> None:
        """Store ``n`` transitions, each field ``[n, ...]``; those of one episode in their order.

        ValueError for fields, shapes or kinds of numbers other than before, for numbers that are not finite, for more
        at once than fit, and for an episode that goes on after its end; nothing of the call is stored then.
        """
        rows = checked(fields, self._known(), self.capacity)
        found = links(rows["episode"], rows["terminated"] | rows["truncated"])
        if not self.columns:
            self._lay_out(rows)
        number = self.added + np.arange(len(rows["reward"]))
        places = number % self.capacity
        for name, column in self.columns.items():
            column[places] = rows[name]
        for name, still in self.stills.items():
            still.put(places, rows[f"seen.{name}"])
            still.keep(places, rows[f"next.{name}"])
        self.following[places] = -1
        self.added += len(number)
        self._link(rows["episode"], number, found)

    def sample(self, rows: int, step: int, n_step: int = 1, gamma: float = 0.99) -> Rollout:
        """``rows`` stored transitions drawn evenly, each with up to ``n_step`` rewards: fewer where its episode ends
        before.

        Decisions "seen.<name>_B", "action_BT" and all else as ``_BT`` with T = 1; "next.<name>_B" and "next_…_BT" are
        of the last transition that counted. Reward: the discounted sum ``[B]``. Extras: ``discount_B`` = gamma^n (1 -
        terminated), with which the value of what came next counts (truncation ends rewards, not value); ``seed_B``, a
        seed for each row.
        """
        self._ask(rows=rows, n_step=n_step)
        rng = self._rng(step, 0)
        first = rng.integers(len(self), size=rows)
        last, reward, discount = self._rewards(first, n_step, gamma)
        decisions = {f"seen.{name}_B": self._seen(name, first) for name in self._names()}
        decisions |= {f"next.{name}_B": self._after(name, last) for name in self._names()}
        for name in self._others():
            decisions[f"{name}_BT"] = self.columns[name][last if name.startswith("next_") else first, None]
        extras = {"discount_B": discount, "seed_B": _seeds(rng, rows), "length_B": np.ones(rows, np.float32)}
        return _rollout(decisions, reward, extras, np.ones((rows, 1), np.float32))

    def sequences(self, rows: int, length: int, step: int) -> Rollout:
        """``rows`` sequences of ``length`` moments: what was seen, the action taken there, the reward that it earned.

        Each begins at a stored transition drawn evenly. An episode's true last observation is a moment of its own, with
        mask, action and reward 0; after it the row goes on at another transition. Extras: ``first_BT`` 1 where what
        came before is unknown or another episode, ``terminated_BT``, ``truncated_BT``, ``seed_B``.
        """
        self._ask(rows=rows, length=length)
        rng = self._rng(step, 1)
        place, final, first = _walk(self.following, rng.integers(len(self), size=(rows, length)))
        decisions = {}
        for name in self._names():
            decisions[f"seen.{name}_BT"] = seen = self._seen(name, place)
            seen[final] = self._after(name, place[final])
        acted = {name: self.columns[name][place] for name in (*self._others(), *_OWN)}
        for value in acted.values():
            value[final] = 0
        decisions |= {f"{name}_BT": acted[name] for name in self._others()}
        extras = {f"{name}_BT": acted[name].astype(np.float32) for name in ("terminated", "truncated")}
        own = (~final).astype(np.float32)
        extras |= {"first_BT": first.astype(np.float32), "seed_B": _seeds(rng, rows), "length_B": own.sum(1)}
        return _rollout(decisions, acted["reward"], extras, own)

    def state_dict(self) -> dict[str, Any]:
        size = len(self)
        return {
            "capacity": self.capacity,
            "added": self.added,
            "running": dict(self.running),
            "following": torch.from_numpy(self.following[:size]),
            "columns": {name: torch.from_numpy(column[:size]) for name, column in self.columns.items()},
            "stills": {name: still.state_dict(size) for name, still in self.stills.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if state["capacity"] != self.capacity:
            raise ValueError(f"the saved buffer holds up to {state['capacity']} transitions, this one {self.capacity}")
        self.__init__(self.capacity, self.seed)
        self.added, self.running = state["added"], dict(state["running"])
        self.following[: len(self)] = state["following"].numpy()
        for name, saved in state["columns"].items():
            self.columns[name] = _ring(self.capacity, saved.numpy())
        for name, saved in state["stills"].items():
            self.stills[name] = FrameStore(self.capacity, saved["ring"].numpy())
            self.stills[name].load_state_dict(saved)

    def _known(self) -> dict[str, np.ndarray]:
        """What each field looked like so far."""
        pictures = {f"{when}.{name}": still.ring for name, still in self.stills.items() for when in ("seen", "next")}
        return self.columns | pictures

    def _lay_out(self, rows: Mapping[str, np.ndarray]) -> None:
        for name, value in rows.items():
            if name.split(".")[0] not in ("seen", "next") or not _is_picture(value):
                self.columns[name] = _ring(self.capacity, value[:0])
            elif name.startswith("seen."):
                self.stills[name.removeprefix("seen.")] = FrameStore(self.capacity, value)

    def _link(self, episode: np.ndarray, number: np.ndarray, found: Links) -> None:
        """Say of each stored transition which one follows it, of what is new and what was running."""
        earlier, later = [number[found.before]], [number[found.after]]
        oldest = self.added - self.capacity
        for i in found.begins:
            known = self.running.pop(int(episode[i]), -1)
            if known >= max(oldest, 0):
                earlier.append([known])
                later.append([number[i]])
        for i in found.goes_on:
            self.running[int(episode[i])] = int(number[i])
        before, after = (np.concatenate(x).astype(np.int64) % self.capacity for x in (earlier, later))
        self.following[before] = after
        for still in self.stills.values():
            still.share(before, after)

    def _rewards(self, first: np.ndarray, n_step: int, gamma: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The last transitions that count, the sums of rewards, and what the value after them counts."""
        rewards = self.columns["reward"]
        last, total, power = first, rewards[first], np.ones(len(first), np.float32)
        for _ in range(n_step - 1):
            following = self.following[last]
            goes = following >= 0
            last = np.where(goes, following, last)
            power = np.where(goes, power * np.float32(gamma), power)
            total = total + np.where(goes, power * rewards[last], np.float32(0))
        return last, total, power * np.float32(gamma) * ~self.columns["terminated"][last]

    def _names(self) -> list[str]:
        return [name[5:] for name in self.columns if name.startswith("seen.")] + list(self.stills)

    def _others(self) -> list[str]:
        return [name for name in self.columns if name.split(".")[0] not in ("seen", "next", *_OWN)]

    def _seen(self, name: str, places: np.ndarray) -> np.ndarray:
        return self.stills[name].ring[places] if name in self.stills else self.columns[f"seen.{name}"][places]

    def _after(self, name: str, places: np.ndarray) -> np.ndarray:
        if name in self.stills:
            return self.stills[name].after(places, self.following[places])
        return self.columns[f"next.{name}"][places]

    def _rng(self, step: int, use: int) -> np.random.Generator:
        key, counter = np.array([self.seed, use], np.uint64), np.array([0, 0, 0, step], np.uint64)
        return np.random.Generator(np.random.Philox(key=key, counter=counter))

    def _ask(self, **counts: int) -> None:
        for name, count in counts.items():
            if count < 1:
                raise ValueError(f"{name} is 1 or more, not {count}")
        if not len(self):
            raise ValueError("the buffer is empty: nothing can be sampled from it")


class Mixture:
    """Several buffers sampled side by side, each for its share of the rows."""

    def __init__(self, parts: Sequence[tuple[Buffer, float]]):
        self.buffers, self.shares = [b for b, _ in parts], [share for _, share in parts]
        if min(self.shares) <= 0 or abs(sum(self.shares) - 1) > 1e-6:
            raise ValueError(f"shares are above 0 and add up to 1, not {self.shares}")
        if len({b.seed for b in self.buffers}) < len(self.buffers):
            raise ValueError("buffers of a mixture have different seeds, or their rows would have the same noise")

    def sample(self, rows: int, step: int, n_step: int = 1, gamma: float = 0.99) -> Rollout:
        """As of one `Buffer`; rows of the first buffer come first."""
        return join([b.sample(n, step, n_step, gamma) for b, n in self._parts(rows)])

    def sequences(self, rows: int, length: int, step: int) -> Rollout:
        """As of one `Buffer`; rows of the first buffer come first."""
        return join([b.sequences(n, length, step) for b, n in self._parts(rows)])

    def _parts(self, rows: int) -> list[tuple[Buffer, int]]:
        edges = np.rint(np.cumsum([0, *self.shares]) * rows).astype(int).tolist()
        return [(b, end - start) for b, (start, end) in zip(self.buffers, pairwise(edges)) if end > start]


def _walk(following: np.ndarray, fresh: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Places, whether the moment is what came after its place, and whether it is the first of a piece: each ``[B, T]``.

    ``fresh[:, t]`` is where a row goes on at t if its piece is over.
    """
    place, final, first = fresh.copy(), np.zeros(fresh.shape, bool), np.zeros(fresh.shape, bool)
    first[:, 0] = True
    for t in range(1, fresh.shape[1]):
        before, over = place[:, t - 1], final[:, t - 1]
        after = following[before]
        final[:, t], first[:, t] = ~over & (after < 0), over
        place[:, t] = np.where(over, fresh[:, t], np.where(after < 0, before, after))
    return place, final, first


def _is_picture(value: np.ndarray) -> bool:
    return value.dtype == np.uint8 and value.ndim == 4


def _ring(capacity: int, rows: np.ndarray) -> np.ndarray:
    ring = np.zeros((capacity, *rows.shape[1:]), rows.dtype)
    ring[: len(rows)] = rows
    return ring


def _seeds(rng: np.random.Generator, rows: int) -> np.ndarray:
    return rng.integers(1 << 63, size=rows, dtype=np.int64)


def _rollout(decisions: Mapping, reward: np.ndarray, extras: Mapping, mask_BT: np.ndarray) -> Rollout:
    tensors = lambda named: {name: torch.from_numpy(value) for name, value in named.items()}
    mask = torch.from_numpy(mask_BT)
    return Rollout(
        problems=[_NOTHING] * len(mask),
        decisions=tensors(decisions),
        outputs=[None] * len(mask),
        logp_BT=torch.zeros_like(mask),
        mask_BT=mask,
        group_B=torch.arange(len(mask)),
        rewards={"reward": torch.from_numpy(reward)},
        extras=tensors(extras),
    )


NEEDED = ("action", "reward", "terminated", "truncated", "episode")


class Links(NamedTuple):
    """Transitions of one call by their index: ``after[i]`` follows ``before[i]``; which begin what the call holds of
    their episode, and which are the last of an episode that goes on.
    """

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
