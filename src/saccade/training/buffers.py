"""The replay buffer: transitions linked into episodes, pictures stored once, n-step transitions and sequences.

Samples follow from the buffer's seed and the training step.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch

from saccade.core import Problem, Rollout
from saccade.random import numpy_generator
from saccade.training.feeds import join
from saccade.training.frame_store import FrameStore

REQUIRED = ("action", "reward", "terminated", "truncated", "episode")
"""Fields of a transition beside its observations."""
_BOOKKEEPING = ("reward", "terminated", "truncated", "episode")
"""Fields that are no decisions of a sampled rollout."""
_OBSERVATIONS = ("observation", "next_observation")
"""First parts of the names of observations: at a transition, and after it."""
_NO_PROBLEM = Problem(0, None)


class Buffer:
    """The last ``capacity`` transitions; ValueError for a capacity of none.

    Fields of a transition: "observation.<name>", "next_observation.<name>" (the true observation after it, also at the
    end of an episode), "action", "reward", "terminated", "truncated", "episode" (an integer that all transitions of an
    episode have, and those of no other running episode), and any others. Fields whose names begin with "next_" belong
    to the time after the transition.
    """

    def __init__(self, capacity: int, seed: int = 0):
        if capacity < 1:
            raise ValueError(f"the capacity of a buffer must be 1 or more, not {capacity}")
        self.capacity, self.seed = capacity, seed
        self._clear()

    def _clear(self) -> None:
        self.columns: dict[str, np.ndarray] = {}
        self.frames: dict[str, FrameStore] = {}
        self.successor = np.full(self.capacity, -1)
        self.added = 0
        self.newest: dict[int, int] = {}

    def __len__(self) -> int:
        return min(self.added, self.capacity)

    def add(self, fields: Mapping[str, Any]) -> None:
        """Store ``n`` transitions, each field ``[n, ...]``; those of one episode in their order.

        ValueError for other fields, shapes or types than before, for numbers that are not finite, for more transitions
        than the capacity, and for an episode that continues after its end; nothing is stored then.
        """
        rows = checked(fields, self._examples(), self.capacity)
        links = link_transitions(rows["episode"], rows["terminated"] | rows["truncated"])
        if not self.columns:
            self._allocate(rows)
        number = self.added + np.arange(len(rows["reward"]))
        slots = number % self.capacity
        for name, column in self.columns.items():
            column[slots] = rows[name]
        for name, frames in self.frames.items():
            frames.put(slots, rows[f"observation.{name}"])
            frames.put_final(slots, rows[f"next_observation.{name}"])
        self.successor[slots] = -1
        self.added += len(number)
        self._link(rows["episode"], number, links)

    def sample(self, rows: int, step: int, n_step: int = 1, gamma: float = 0.99) -> Rollout:
        """``rows`` transitions drawn uniformly, each with the rewards of up to ``n_step`` steps of its episode.

        Decisions: "observation.<name>_B", "action_BT" and all other fields as ``_BT`` with T = 1;
        "next_observation.<name>_B" and "next_…_BT" are those of the last step. Reward: the discounted sum ``[B]``.
        Extras: ``discount_B``, which is gamma^n (1 - terminated), the factor of the next state's value (a truncated
        episode still has one); ``seed_B``, a seed for each row. ValueError for an empty buffer and for counts below 1.
        """
        self._require(rows=rows, n_step=n_step)
        rng = numpy_generator(self.seed, "transitions", step)
        first = rng.integers(len(self), size=rows)
        last, reward, discount = self._rewards(first, n_step, gamma)
        decisions = {f"observation.{name}_B": self._observation(name, first) for name in self._names()}
        decisions |= {f"next_observation.{name}_B": self._next_observation(name, last) for name in self._names()}
        for name in self._decisions():
            decisions[f"{name}_BT"] = self.columns[name][last if name.startswith("next_") else first, None]
        extras = {"discount_B": discount, "seed_B": _seeds(rng, rows), "length_B": np.ones(rows, np.float32)}
        return _rollout(decisions, reward, extras, np.ones((rows, 1), np.float32))

    def sequences(self, rows: int, length: int, step: int) -> Rollout:
        """``rows`` sequences of ``length`` time steps: observation, the action taken there, and its reward.

        Each begins at a transition drawn uniformly. An episode's true last observation is a time step of its own, with
        mask, action and reward 0; the row then continues at another random transition. Extras: ``first_BT`` is 1 where
        the time step before is unknown or of another episode; ``terminated_BT``, ``truncated_BT``, ``seed_B``.
        ValueError for an empty buffer and for counts below 1.
        """
        self._require(rows=rows, length=length)
        rng = numpy_generator(self.seed, "sequences", step)
        slots, final, first = _walk(self.successor, rng.integers(len(self), size=(rows, length)))
        decisions = {}
        for name in self._names():
            decisions[f"observation.{name}_BT"] = observation = self._observation(name, slots)
            observation[final] = self._next_observation(name, slots[final])
        values = {name: self.columns[name][slots] for name in (*self._decisions(), *_BOOKKEEPING)}
        for value in values.values():
            value[final] = 0
        decisions |= {f"{name}_BT": values[name] for name in self._decisions()}
        extras = {f"{name}_BT": values[name].astype(np.float32) for name in ("terminated", "truncated")}
        mask = (~final).astype(np.float32)
        extras |= {"first_BT": first.astype(np.float32), "seed_B": _seeds(rng, rows), "length_B": mask.sum(1)}
        return _rollout(decisions, values["reward"], extras, mask)

    def state_dict(self) -> dict[str, Any]:
        size = len(self)
        return {
            "capacity": self.capacity,
            "added": self.added,
            "newest": dict(self.newest),
            "successor": torch.from_numpy(self.successor[:size]),
            "columns": {name: torch.from_numpy(column[:size]) for name, column in self.columns.items()},
            "frames": {name: frames.state_dict(size) for name, frames in self.frames.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if state["capacity"] != self.capacity:
            raise ValueError(f"the saved buffer holds up to {state['capacity']} transitions, this one {self.capacity}")
        self._clear()
        self.added, self.newest = state["added"], dict(state["newest"])
        self.successor[: len(self)] = state["successor"].numpy()
        for name, saved in state["columns"].items():
            self.columns[name] = _ring(self.capacity, saved.numpy())
        for name, saved in state["frames"].items():
            self.frames[name] = FrameStore(self.capacity, saved["ring"].numpy())
            self.frames[name].load_state_dict(saved)

    def _examples(self) -> dict[str, np.ndarray]:
        """An array of the shape and type of each field that is stored so far."""
        pictures = {f"{key}.{name}": frames.ring for name, frames in self.frames.items() for key in _OBSERVATIONS}
        return self.columns | pictures

    def _allocate(self, rows: Mapping[str, np.ndarray]) -> None:
        """Make room for all transitions. ValueError where this machine has not as much memory."""
        stored = [v for name, v in rows.items() if not (name.startswith("next_observation.") and _is_picture(v))]
        needed = self.capacity * sum(value[:1].nbytes for value in stored)
        there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        if needed > there:
            raise ValueError(
                f"a buffer of {self.capacity} transitions takes {needed / 2**30:.1f} GiB, and this machine has"
                f" {there / 2**30:.1f} GiB: lower its capacity or the size of observations"
            )
        for name, value in rows.items():
            if name.split(".")[0] not in _OBSERVATIONS or not _is_picture(value):
                self.columns[name] = _ring(self.capacity, value[:0])
            elif name.startswith("observation."):
                self.frames[name.removeprefix("observation.")] = FrameStore(self.capacity, value)

    def _link(self, episode: np.ndarray, number: np.ndarray, links: Links) -> None:
        """Store the successor of each new transition, and of the newest one of each running episode."""
        before, after = list(number[links.before]), list(number[links.after])
        oldest = self.added - self.capacity
        for i in links.first:
            newest = self.newest.pop(int(episode[i]), -1)
            if newest >= max(oldest, 0):
                before.append(newest)
                after.append(number[i])
        for i in links.last:
            self.newest[int(episode[i])] = int(number[i])
        from_slots, to_slots = (np.array(numbers, np.int64) % self.capacity for numbers in (before, after))
        self.successor[from_slots] = to_slots
        for frames in self.frames.values():
            frames.share(from_slots, to_slots)

    def _rewards(self, first: np.ndarray, n_step: int, gamma: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The last transition of each return, the discounted sum of rewards, and the factor of the value after it."""
        rewards = self.columns["reward"]
        last, total, power = first, rewards[first], np.ones(len(first), np.float32)
        for _ in range(n_step - 1):
            successor = self.successor[last]
            continues = successor >= 0
            last = np.where(continues, successor, last)
            power = np.where(continues, power * np.float32(gamma), power)
            total = total + np.where(continues, power * rewards[last], np.float32(0))
        return last, total, power * np.float32(gamma) * ~self.columns["terminated"][last]

    def _names(self) -> list[str]:
        """Names of the observations."""
        return [k.removeprefix("observation.") for k in self.columns if k.startswith("observation.")] + list(
            self.frames
        )

    def _decisions(self) -> list[str]:
        """Names of all other fields that a sampled rollout has as decisions."""
        return [name for name in self.columns if name.split(".")[0] not in (*_OBSERVATIONS, *_BOOKKEEPING)]

    def _observation(self, name: str, slots: np.ndarray) -> np.ndarray:
        return self.frames[name].ring[slots] if name in self.frames else self.columns[f"observation.{name}"][slots]

    def _next_observation(self, name: str, slots: np.ndarray) -> np.ndarray:
        if name in self.frames:
            return self.frames[name].after(slots, self.successor[slots])
        return self.columns[f"next_observation.{name}"][slots]

    def _require(self, **counts: int) -> None:
        for name, count in counts.items():
            if count < 1:
                raise ValueError(f"{name} must be 1 or more, not {count}")
        if not len(self):
            raise ValueError("the buffer is empty: nothing can be sampled from it")


class Mixture:
    """Several buffers, each of which is sampled for its fraction of the rows.

    ValueError unless the fractions are positive and add up to 1, and the buffers have different seeds.
    """

    def __init__(self, parts: Sequence[tuple[Buffer, float]]):
        self.buffers, self.fractions = [buffer for buffer, _ in parts], [fraction for _, fraction in parts]
        if min(self.fractions) <= 0 or abs(sum(self.fractions) - 1) > 1e-6:
            raise ValueError(f"the fractions of a mixture must be positive and add up to 1, not {self.fractions}")
        if len({b.seed for b in self.buffers}) < len(self.buffers):
            raise ValueError(
                "the buffers of a mixture must have different seeds, or their rows would have the same noise"
            )

    def sample(self, rows: int, step: int, n_step: int = 1, gamma: float = 0.99) -> Rollout:
        """Transitions as `Buffer.sample` returns them; rows of the first buffer come first."""
        return join([b.sample(n, step, n_step, gamma) for b, n in self._parts(rows)])

    def sequences(self, rows: int, length: int, step: int) -> Rollout:
        """Sequences as `Buffer.sequences` returns them; rows of the first buffer come first."""
        return join([b.sequences(n, length, step) for b, n in self._parts(rows)])

    def _parts(self, rows: int) -> list[tuple[Buffer, int]]:
        edges = np.rint(np.cumsum([0, *self.fractions]) * rows).astype(int).tolist()
        return [(b, end - start) for b, (start, end) in zip(self.buffers, pairwise(edges)) if end > start]


def _walk(successor: np.ndarray, fresh: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The slot of each time step, whether it is the time after that slot, and whether it is a first one: ``[B, T]``.

    A row continues at slot ``fresh[:, t]`` where its episode has ended before t.
    """
    slots, final, first = fresh.copy(), np.zeros(fresh.shape, bool), np.zeros(fresh.shape, bool)
    first[:, 0] = True
    for t in range(1, fresh.shape[1]):
        before, over = slots[:, t - 1], final[:, t - 1]
        after = successor[before]
        final[:, t], first[:, t] = ~over & (after < 0), over
        slots[:, t] = np.where(over, fresh[:, t], np.where(after < 0, before, after))
    return slots, final, first


def _is_picture(value: np.ndarray) -> bool:
    return value.dtype == np.uint8 and value.ndim == 4


def _ring(capacity: int, rows: np.ndarray) -> np.ndarray:
    ring = np.zeros((capacity, *rows.shape[1:]), rows.dtype)
    ring[: len(rows)] = rows
    return ring


def _seeds(rng: np.random.Generator, rows: int) -> np.ndarray:
    return rng.integers(1 << 63, size=rows, dtype=np.int64)


def _rollout(
    decisions: Mapping[str, np.ndarray], reward: np.ndarray, extras: Mapping[str, np.ndarray], mask_BT: np.ndarray
) -> Rollout:
    tensors = lambda named: {name: torch.from_numpy(value) for name, value in named.items()}
    mask = torch.from_numpy(mask_BT)
    return Rollout(
        problems=[_NO_PROBLEM] * len(mask),
        decisions=tensors(decisions),
        outputs=[None] * len(mask),
        logp_BT=torch.zeros_like(mask),
        mask_BT=mask,
        group_B=torch.arange(len(mask)),
        rewards={"reward": torch.from_numpy(reward)},
        extras=tensors(extras),
    )


class Links(NamedTuple):
    """How the transitions of one call follow one another, by their indices: ``after[i]`` follows ``before[i]``.

    ``first`` are the first transitions of each episode in the call, ``last`` the last ones of episodes that continue.
    """

    before: np.ndarray
    after: np.ndarray
    first: list[int]
    last: list[int]


def link_transitions(episode: np.ndarray, ended: np.ndarray) -> Links:
    """How transitions ``[n]`` follow one another. ValueError for an episode that continues after its end."""
    order = np.argsort(episode, kind="stable")
    same = episode[order][1:] == episode[order][:-1]
    before, after = order[:-1][same], order[1:][same]
    if ended[before].any():
        number = episode[before[ended[before]][0]]
        raise ValueError(f"episode {number} continues after its end")
    first, last = order[np.append(True, ~same)], order[np.append(~same, True)]
    return Links(before, after, first.tolist(), last[~ended[last]].tolist())


def checked(fields: Mapping[str, Any], examples: Mapping[str, np.ndarray], most: int) -> dict[str, np.ndarray]:
    """The fields as arrays of one length: floats as float32, flags as bool, integers as they are.

    ``examples`` are arrays of the shapes and types expected, if any. ValueError in one line for fields that do not fit.
    """
    rows = {name: _array(name, value) for name, value in fields.items()}
    _require_complete(rows, most)
    if examples and rows.keys() != examples.keys():
        odd = sorted(rows.keys() ^ examples.keys())
        raise ValueError(f"transitions have other fields than before: {', '.join(odd)}")
    for name, value in rows.items():
        example = examples.get(name, value)
        if value.shape[1:] != example.shape[1:] or value.dtype != example.dtype:
            was = f"{example.dtype} {list(example.shape[1:])}"
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


def _require_complete(rows: Mapping[str, np.ndarray], most: int) -> None:
    """ValueError unless all fields are there and have one length, between 1 and ``most``."""
    observed = {name.removeprefix("observation.") for name in rows if name.startswith("observation.")}
    required = {*REQUIRED, *(f"next_observation.{name}" for name in observed)}
    missing = sorted(required - rows.keys()) or ([] if observed else ["observation.<name>"])
    if missing:
        raise ValueError(f"transitions lack {', '.join(missing)}")
    lengths = {name: len(value) if value.ndim else 0 for name, value in rows.items()}
    count = lengths["reward"]
    odd = [name for name, length in lengths.items() if length != count]
    if odd:
        raise ValueError(f"{odd[0]} has {lengths[odd[0]]} transitions, reward has {count}")
    if not 1 <= count <= most:
        raise ValueError(f"{count} transitions cannot be added at once, only 1 to {most}, the capacity")
    for name in ("reward", "terminated", "truncated", "episode"):
        if rows[name].ndim != 1:
            raise ValueError(f"{name} must be one number per transition, not {list(rows[name].shape[1:])}")
    if rows["episode"].dtype.kind not in "iu":
        raise ValueError("episode must be an integer")
