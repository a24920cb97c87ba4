"""The one loop: ask the feed for a batch, give it to the learner, tell the run."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from saccade.core import Batch, EnvironmentFailed, Learner, NothingJudged, Rollout, Stateful
from saccade.math.advantages import zero_variance_groups
from saccade.training import distributed
from saccade.training.run import Interrupted, Run, RunFailed
from saccade.training.settings import Schedule

Evaluate = Callable[[int], Mapping[str, float]]


def fit(
    feed: Callable[[int], Batch],
    learner: Learner,
    run: Run,
    schedule: Schedule | int,
    *,
    state: Mapping[str, Stateful],
    evaluate: Evaluate | None = None,
    evaluate_every: int = 20,
    save_every: int = 50,
    log_every: int = 1,
) -> dict[str, dict[str, float]]:
    """Train until ``schedule.steps`` batches were learned from, from the run's last checkpoint if it has one.

    ``state`` names everything else that a checkpoint must hold (policies, averages, rolling baselines). Returns the
    first and the last evaluation as {"before": …, "after": …}. Raises Interrupted after a first Ctrl-C, with a
    checkpoint saved, and RunFailed, with what to do, if a batch cannot be collected or learned from. It ends before its
    last step where the run says that no better score is to be waited for (`Run.keep_best`). Where steps are as small as
    one gradient, a line is logged for ``log_every`` of them: means, and sums of ``cost/…``.
    """
    if not isinstance(schedule, int):
        evaluate_every, save_every, log_every = schedule.evaluate_every, schedule.save_every, schedule.log_every
    steps = schedule if isinstance(schedule, int) else schedule.steps
    for name, every in {"evaluate_every": evaluate_every, "save_every": save_every, "log_every": log_every}.items():
        if every < 1:
            raise ValueError(f"{name} must be 1 or more, not {every}")
    kept = {**state, "learner": learner} | ({"feed": feed} if hasattr(feed, "state_dict") else {})
    scores = _Scores(evaluate, run)
    kept["scores"] = scores
    start = run.load(kept)
    due = lambda done: done % evaluate_every == 0 or done == steps
    if evaluate and due(start) and scores.step != start:
        _evaluate(scores, start, run, kept)
        if start:
            run.save(start, kept)  # with the scores that an evaluation which failed left out
    window = _Window()
    for step in range(start, steps):
        began = time.monotonic()
        done = step + 1
        with _advised(f"step {done}"):
            batch = _collect(feed, step, run, kept)
            metrics = _learn(learner, batch, step, run)
        window.add({**describe(batch), **metrics, "cost/training_seconds": time.monotonic() - began})
        stopping = distributed.any_true(run.stop)
        saving = done % save_every == 0 or done == steps or stopping
        if done % log_every == 0 or saving:
            run.log(done, window.take())
            run.progress(done, steps)
        enough = due(done) and _evaluate(scores, done, run, kept)
        if saving or enough:
            run.save(done, kept)
        if enough:
            break
        if stopping and done < steps:
            raise Interrupted(done)
    return {"before": scores.first, "after": scores.last}


class _Window:
    """Metrics of the steps since the last line."""

    def __init__(self) -> None:
        self.steps: dict[str, list[float]] = {}

    def add(self, metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            self.steps.setdefault(name, []).append(float(value))

    def take(self) -> dict[str, float]:
        """The sum of each cost, the mean of all else."""
        found = {k: sum(v) if k.startswith("cost/") else sum(v) / len(v) for k, v in self.steps.items()}
        self.steps.clear()
        return found


class _Scores:
    """The evaluations so far; the first one survives a resume, so that 'before' stays before."""

    def __init__(self, evaluate: Evaluate | None, run: Run):
        self.evaluate, self.run = evaluate, run
        self.first: dict[str, float] = {}
        self.last: dict[str, float] = {}
        self.step: int | None = None

    def take(self, step: int) -> None:
        if self.evaluate:
            self.last = {k: float(v) for k, v in self.evaluate(step).items()}
            self.first, self.step = self.first or self.last, step
            self.run.log(step, {f"eval/{k}": v for k, v in self.last.items()})

    def state_dict(self) -> dict:
        return {"first": self.first, "last": self.last, "step": self.step}

    def load_state_dict(self, state: Mapping) -> None:
        self.first, self.last, self.step = dict(state["first"]), dict(state["last"]), state["step"]


def _collect(feed: Callable[[int], Batch], step: int, run: Run, kept: Mapping[str, Any]) -> Batch:
    try:
        return feed(step)
    except (NothingJudged, EnvironmentFailed) as error:
        # Nothing was learned from this batch, so the weights are those of the last whole step.
        if step:
            run.save(step, kept)
        raise RunFailed(f"step {step + 1}: {error}") from error


def _evaluate(scores: _Scores, step: int, run: Run, kept: Mapping[str, Any]) -> bool:
    """Take the scores; whether nothing better is to be waited for."""
    try:
        with _advised(f"evaluation at step {step}"):
            scores.take(step)
            return run.keep_best(step, scores.last, kept)
    except (NothingJudged, EnvironmentFailed) as error:
        if step:
            run.save(step, kept)  # without these scores, which a resumed run makes up for
        raise RunFailed(f"evaluation at step {step}: {error}") from error


def _learn(learner: Learner, batch: Batch, step: int, run: Run) -> dict[str, float]:
    try:
        return learner.update(batch)
    except FloatingPointError as error:
        raise RunFailed(f"step {step + 1}: {error}; the last checkpoint is from before it") from error


@contextmanager
def _advised(place: str) -> Iterator[None]:
    """A GPU whose memory is full ends the run with what can be done."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        advice = "try fewer attempts at once, or the recipe's switches for checkpointing, sharding and precision"
        raise RunFailed(
            f"{place}: the GPU's memory is full: {advice}; the last checkpoint is from before it"
        ) from error


def describe(batch: Batch) -> dict[str, float]:
    """Mean rewards, health and cost of a batch, over all processes."""
    parts = {"": batch} if isinstance(batch, Rollout) else dict(batch)
    found: dict[str, float] = {}
    for part in parts.values():
        for name, reward in part.rewards.items():
            judged = reward.isfinite()
            count = distributed.all_sum(judged.double().sum())
            total = distributed.all_sum(torch.where(judged, reward, 0.0).double().sum())
            found[f"reward/{name}"] = float(total / count) if count else float("nan")
            failed = distributed.all_sum((~judged).double().sum())
            if failed:
                found[f"health/unjudged_{name}"] = float(failed)
    for name, part in parts.items():
        if "total" in part.rewards:
            key = "health/zero_variance_groups" + (f"_{name}" if name else "")
            share = zero_variance_groups(part.rewards["total"], part.group_B)
            found[key] = float(distributed.all_sum(share.double())) / distributed.world()
    pictures = sum(len(p) for p in parts.values() if isinstance(p.outputs, torch.Tensor) and p.outputs.dim() == 4)
    if pictures:
        found["cost/images"] = float(distributed.all_sum(torch.tensor(float(pictures))))
    return found
