"""Sources of training batches: freshly sampled rollouts, a fixed dataset, or data that is regenerated every few steps.

A feed is called with the training step and returns a batch that is determined by its seed and the step, so a resumed
run receives the same batches.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from saccade.core import BadProblem, Batch, Collect, Problem, Rollout
from saccade.random import generator, seeds, stream
from saccade.training import checkpoint, distributed

_TRIES = 100
"""Problems that are tried one after another where none can be loaded: more are no accident."""

Feed = Callable[[int], Batch]
"""Training step -> batch."""


class OnPolicy:
    """Draws ``per_step`` problems a step, each once per pass over the set, and collects fresh samples of them.

    ``problems`` may be a sequence that loads them from disk on access. One that cannot be loaded (ValueError, OSError)
    is skipped, and so is one that cannot be tried (`BadProblem`); one that comes later takes its place, ``skipped``
    counts them and a warning says why. ValueError without problems or for less than one a step, and where a hundred in
    a row, or all, are of that kind.
    """

    def __init__(self, problems: Sequence[Problem], collect: Collect, per_step: int, seed: int):
        if not len(problems):
            raise ValueError("there are no problems to train on")
        if per_step < 1:
            raise ValueError(f"a step takes 1 problem or more, not {per_step}")
        self.problems, self.collect, self.per_step, self.seed = problems, collect, per_step, seed
        self._permutation: tuple[int, Tensor] | None = None
        self.skipped = 0
        """Problems that had to be replaced in the last step."""

    def __call__(self, step: int) -> Batch:
        self.skipped = 0
        places = list(distributed.shard(range(self.per_step)))
        seeds_P, drawn = seeds(self.seed, self.per_step, "samples", step), self.draw(step)
        batch, following = [drawn[place] for place in places], (step + 1) * self.per_step
        while True:
            try:
                return self.collect(batch, seeds_P[places], step)
            except BadProblem as error:
                bad = [i for i, problem in enumerate(batch) if problem.id in error.ids]
                if not bad or self.skipped >= min(_TRIES, len(self.problems)):
                    raise
                self._skip(len(bad), error)
                for i in bad:
                    batch[i], following = self._load(following), following + 1

    def draw(self, step: int) -> list[Problem]:
        """The problems of a step, the same in every process; each pass over the set has its own random order."""
        first = step * self.per_step
        return [self._load(position) for position in range(first, first + self.per_step)]

    def _load(self, position: int) -> Problem:
        """The problem at a position of the passes, or the next one of that pass that can be loaded."""
        size = len(self.problems)
        order = self._order(position // size)
        for place in range(min(size, _TRIES) - 1):
            try:
                return self.problems[int(order[(position + place) % size])]
            except (ValueError, OSError) as error:
                self._skip(1, error)
        return self.problems[int(order[(position + min(size, _TRIES) - 1) % size])]

    def _skip(self, count: int, error: Exception) -> None:
        self.skipped += count
        warnings.warn(f"skipped: {error}", stacklevel=2)

    def _order(self, epoch: int) -> Tensor:
        if self._permutation is None or self._permutation[0] != epoch:
            order = torch.randperm(len(self.problems), generator=generator(self.seed, "order of problems", epoch))
            self._permutation = epoch, order
        return self._permutation[1]


class DatasetFeed:
    """``rows`` rows a step of a fixed dataset, in a new random order for each pass.

    Blocks of ``pair_size`` successive rows stay together (2 for preference pairs). ValueError for a dataset of fewer
    rows, or rows that are not a multiple of the pair size.
    """

    def __init__(self, data: Rollout, rows: int, seed: int, pair_size: int = 1):
        if len(data) < rows:
            raise ValueError(f"a batch of {rows} rows cannot be drawn from a dataset of {len(data)}")
        if rows % pair_size:
            raise ValueError(f"a batch of {rows} rows is not a multiple of the pair size {pair_size}")
        self.data, self.rows, self.seed, self.pair_size = data, rows, seed, pair_size

    def __call__(self, step: int) -> Rollout:
        blocks, per_step = len(self.data) // self.pair_size, self.rows // self.pair_size
        steps_per_pass = blocks // per_step
        order = torch.randperm(blocks, generator=generator(self.seed, "order of rows", step // steps_per_pass))
        start = step % steps_per_pass * per_step
        first = order[start : start + per_step] * self.pair_size
        return self.data.rows((first[:, None] + torch.arange(self.pair_size)).flatten())


class RegeneratedFeed:
    """A `DatasetFeed` whose data ``make(round)`` generates again every ``steps`` steps.

    A dataset of fewer than ``rows`` rows is returned complete at each step. A resumed run generates the data of its
    round again, so ``make`` may depend on the round and on saved state that does not change within a round (a reference
    model, not the weights in training).
    """

    def __init__(self, make: Callable[[int], Rollout], steps: int, rows: int, seed: int, pair_size: int = 1):
        self.make, self.steps, self.rows, self.seed, self.pair_size = make, steps, rows, seed, pair_size
        self._generated: tuple[int, DatasetFeed] | None = None

    def __call__(self, step: int) -> Rollout:
        number = step // self.steps
        if self._generated is None or self._generated[0] != number:
            data = self.make(number)
            seed = stream(self.seed, "dataset", number)
            self._generated = number, DatasetFeed(data, min(self.rows, len(data)), seed, self.pair_size)
        return self._generated[1](step % self.steps)


def cached_rollout(folder: Path, number: int, make: Callable[[], Rollout]) -> Rollout:
    """The rollout that ``make`` returns, saved in ``folder`` under a number; a later call with this number loads it.

    The newest two are kept. ValueError with several processes, since a folder holds the rollout of one process.
    """
    distributed.require_one(f"rollouts in {folder} are generated and loaded")
    path = checkpoint.path_of(folder, number)
    if not path.exists():
        checkpoint.write(folder, number, {"rollout": rollout_state(make())})
    return rollout_from_state(checkpoint.read(path)[1]["rollout"])


def join(parts: Sequence[Rollout]) -> Rollout:
    """Rows of several rollouts of one policy; shorter rows are padded with masked decisions, groups are renumbered."""
    offsets, start = [], 0
    for part in parts:
        offsets.append(start)
        start += int(part.group_B.max()) + 1 if len(part) else 0
    return Rollout(
        problems=[problem for part in parts for problem in part.problems],
        decisions=_join_named([part.decisions for part in parts]),
        outputs=_join_outputs([part.outputs for part in parts]),
        logp_BT=_stack([part.logp_BT for part in parts]),
        mask_BT=_stack([part.mask_BT for part in parts]),
        group_B=torch.cat([part.group_B + offset for part, offset in zip(parts, offsets)]),
        rewards=_join_named([part.rewards for part in parts]),
        advantage_BT=None if any(p.advantage_BT is None for p in parts) else _stack([p.advantage_BT for p in parts]),
        extras=_join_named([part.extras for part in parts]),
    )


def rollout_state(rollout: Rollout) -> dict[str, Any]:
    """A rollout as nested tensors and plain values; its problems must hold plain values."""
    problems = [{"id": p.id, "inputs": p.inputs, "answer": p.answer, "source": p.source} for p in rollout.problems]
    return {
        "problems": problems,
        "decisions": rollout.decisions,
        "outputs": rollout.outputs,
        "logp_BT": rollout.logp_BT,
        "mask_BT": rollout.mask_BT,
        "group_B": rollout.group_B,
        "rewards": rollout.rewards,
        "advantage_BT": rollout.advantage_BT,
        "extras": rollout.extras,
    }


def rollout_from_state(state: Mapping[str, Any]) -> Rollout:
    """The rollout of `rollout_state`."""
    tensors: dict[str, Any] = {name: value for name, value in state.items() if name != "problems"}
    return Rollout([Problem(**problem) for problem in state["problems"]], **tensors)


def _join_named(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    shared = [name for name in parts[0] if all(name in part for part in parts)]
    return {name: _stack([part[name] for part in parts]) for name in shared}


def _join_outputs(parts: Sequence[Any]) -> Any:
    if isinstance(parts[0], Tensor):
        return torch.cat(list(parts))
    return [output for part in parts for output in part]


def _stack(parts: Sequence[Any]) -> Any:
    """Rows of several rollouts below one another; shorter rows are padded with zeros."""
    if not isinstance(parts[0], Tensor):
        return type(parts[0]).join(parts)
    widest = [max(sizes) for sizes in zip(*(x.shape[1:] for x in parts))]
    return torch.cat([_pad(x, widest) for x in parts])


def _pad(x: Tensor, shape: Sequence[int]) -> Tensor:
    if list(x.shape[1:]) == list(shape):
        return x
    padded = x.new_zeros(len(x), *shape)
    padded[tuple(slice(n) for n in x.shape)] = x
    return padded
