"""Where the next batch comes from: fresh attempts, a memory of past ones, a fixed set, or a mixture.

A feed is called with the training step and returns a batch. What it returns follows from its seed and the step (and,
for a memory, from what it was given), so a resumed run sees the same batches.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from saccade.core import Batch, Collect, Problem, Rollout, generator, seeds
from saccade.training import checkpoint, distributed

Feed = Callable[[int], Batch]


class OnPolicy:
    """Draws ``per_step`` problems a step, without repetition within a pass, and collects fresh attempts at them.

    ``problems`` may be a sequence that reads them from disk when they are drawn.
    """

    def __init__(self, problems: Sequence[Problem], collect: Collect, per_step: int, seed: int):
        if not len(problems):
            raise ValueError("there are no problems to train on")
        if per_step < 1:
            raise ValueError(f"a step takes 1 problem or more, not {per_step}")
        self.problems, self.collect, self.per_step, self.seed = problems, collect, per_step, seed

    def __call__(self, step: int) -> Batch:
        drawn = self.draw(step)
        own = seeds(self.seed, self.per_step, key=step)
        mine = distributed.shard(list(range(len(drawn))))
        return self.collect([drawn[i] for i in mine], own[list(mine)], step)

    def draw(self, step: int) -> list[Problem]:
        """The problems of a step, the same in every process: shuffled anew for each pass over the set."""
        size = len(self.problems)
        picks = []
        for place in range(step * self.per_step, (step + 1) * self.per_step):
            picks.append(self.problems[int(self._order(place // size)[place % size])])
        return picks

    def _order(self, epoch: int) -> torch.Tensor:
        if getattr(self, "_known", (None,))[0] != epoch:
            start = int(seeds(self.seed, 1, key=-1 - epoch))
            self._known = epoch, torch.randperm(len(self.problems), generator=generator(start))
        return self._known[1]


class Replay:
    """Keeps the last ``capacity`` attempts of another feed and hands out ``rows`` random ones of them."""

    def __init__(self, source: Feed, capacity: int, rows: int, seed: int):
        self.source, self.capacity, self.rows, self.seed = source, capacity, rows, seed
        self.memory: list[Rollout] = []

    def __call__(self, step: int) -> Rollout:
        fresh = self.source(step)
        self.memory += [fresh.rows(torch.tensor([i])) for i in range(len(fresh))]
        self.memory = self.memory[-self.capacity :]
        g = generator(int(seeds(self.seed, 1, key=step)))
        picks = torch.randint(len(self.memory), (self.rows,), generator=g).tolist()
        return join([self.memory[i] for i in picks])

    def state_dict(self) -> dict:
        return {"memory": to_state(join(self.memory))} if self.memory else {"memory": None}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        held = from_state(state["memory"]) if state["memory"] else None
        self.memory = [held.rows(torch.tensor([i])) for i in range(len(held))] if held else []


class DatasetFeed:
    """A fixed set of attempts (offline data), ``rows`` a step, shuffled anew for each pass.

    Every ``pair_size`` rows that follow one another stay side by side (2 for pairs).
    """

    def __init__(self, data: Rollout, rows: int, seed: int, pair_size: int = 1):
        if len(data) < rows:
            raise ValueError(f"{rows} rows a step are asked of a set that has {len(data)}")
        if rows % pair_size:
            raise ValueError(f"{rows} rows a step cannot hold whole units of {pair_size}")
        self.data, self.rows, self.seed, self.pair_size = data, rows, seed, pair_size

    def __call__(self, step: int) -> Rollout:
        units, wanted = len(self.data) // self.pair_size, self.rows // self.pair_size
        per_pass = units // wanted
        g = generator(int(seeds(self.seed, 1, key=step // per_pass)))
        order = torch.randperm(units, generator=g)
        place = step % per_pass * wanted
        first = order[place : place + wanted] * self.pair_size
        return self.data.rows((first[:, None] + torch.arange(self.pair_size)).flatten())


class RegeneratedFeed:
    """A set that is made anew every ``steps`` steps, ``make(round)``, and handed out as `DatasetFeed` until then.

    A set of fewer than ``rows`` rows is handed out whole each step.
    It is made again after a resume, so what ``make`` gives must follow from the round and from what a checkpoint holds
    and no step of the round changes (a reference, not the weights in training).
    """

    def __init__(self, make: Callable[[int], Rollout], steps: int, rows: int, seed: int, pair_size: int = 1):
        self.make, self.steps, self.rows, self.seed, self.pair_size = make, steps, rows, seed, pair_size
        self.round, self.stored = -1, None

    def __call__(self, step: int) -> Rollout:
        if self.round != step // self.steps:
            self.round = step // self.steps
            own = int(seeds(self.seed, 1, key=self.round))
            made = self.make(self.round)
            self.stored = DatasetFeed(made, min(self.rows, len(made)), own, self.pair_size)
        return self.stored(step % self.steps)


def cached_rollout(folder: Path, number: int, make: Callable[[], Rollout]) -> Rollout:
    """What ``make`` gives, written to ``folder`` under a number, or read from there if it was made before (offline
    data).

    The newest two are kept. ValueError where several processes made parts of it: a folder holds what one process made.
    """
    distributed.require_one(f"attempts kept in {folder} are made and read")
    place = checkpoint.path_of(folder, number)
    if not place.exists():
        checkpoint.write(folder, number, {"attempts": to_state(make())})
    return from_state(checkpoint.read(place)[1]["attempts"])


class Mixed:
    """Rollouts of several feeds side by side in one batch, their groups kept apart."""

    def __init__(self, feeds: Sequence[Feed]):
        self.feeds = list(feeds)

    def __call__(self, step: int) -> Rollout:
        return join([feed(step) for feed in self.feeds])

    def state_dict(self) -> dict:
        return {str(i): f.state_dict() for i, f in enumerate(self.feeds) if hasattr(f, "state_dict")}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for i, part in state.items():
            self.feeds[int(i)].load_state_dict(part)


def join(parts: Sequence[Rollout]) -> Rollout:
    """Rows of several rollouts of one policy; shorter rows are padded with masked decisions, groups renumbered."""
    offsets, start = [], 0
    for p in parts:
        offsets.append(start)
        start += int(p.group_B.max()) + 1 if len(p) else 0
    named = lambda read: {
        k: _stacked([read(p)[k] for p in parts]) for k in read(parts[0]) if all(k in read(p) for p in parts)
    }
    first = parts[0].outputs
    outputs = (
        torch.cat([p.outputs for p in parts])
        if isinstance(first, torch.Tensor)
        else [o for p in parts for o in p.outputs]
    )
    with_credit = all(p.advantage_BT is not None for p in parts)
    return Rollout(
        problems=[q for p in parts for q in p.problems],
        decisions=named(lambda p: p.decisions),
        outputs=outputs,
        logp_BT=_stacked([p.logp_BT for p in parts]),
        mask_BT=_stacked([p.mask_BT for p in parts]),
        group_B=torch.cat([p.group_B + o for p, o in zip(parts, offsets)]),
        rewards=named(lambda p: p.rewards),
        advantage_BT=_stacked([p.advantage_BT for p in parts]) if with_credit else None,
        extras=named(lambda p: p.extras),
    )


def to_state(rollout: Rollout) -> dict[str, Any]:
    """A rollout as nested tensors and plain values; problems must hold plain values."""
    state = {
        k: getattr(rollout, k) for k in ("decisions", "outputs", "logp_BT", "mask_BT", "group_B", "rewards", "extras")
    }
    problems = [{"id": p.id, "inputs": p.inputs, "answer": p.answer, "source": p.source} for p in rollout.problems]
    return state | {"problems": problems, "advantage_BT": rollout.advantage_BT}


def from_state(state: Mapping[str, Any]) -> Rollout:
    return Rollout(**{**state, "problems": [Problem(**p) for p in state["problems"]]})


def _stacked(parts: Sequence[Any]) -> Any:
    """Values of the rows of several rollouts, one below the other; shorter rows are filled up with zeros."""
    if not isinstance(parts[0], torch.Tensor):
        return type(parts[0]).join(parts)
    widest = [max(sizes) for sizes in zip(*(x.shape[1:] for x in parts))]
    return torch.cat([_filled(x, widest) for x in parts])


def _filled(x: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    if list(x.shape[1:]) == list(shape):
        return x
    whole = x.new_zeros(len(x), *shape)
    whole[tuple(slice(n) for n in x.shape)] = x
    return whole
