"""The training loop: take a batch from the feed, update the learner, log, evaluate and save."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from saccade.core import (
    Batch,
    EnvironmentFailed,
    Interrupted,
    Learner,
    NothingJudged,
    Rollout,
    Run,
    RunFailed,
    Stateful,
)
from saccade.math.advantages import zero_variance_groups
from saccade.training import distributed
from saccade.training.feeds import Feed
from saccade.training.settings import Schedule

Evaluate = Callable[[int], Mapping[str, float]]
"""Number of steps done -> scores."""


def fit(
    feed: Feed,
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
    """Train on ``schedule.steps`` batches, starting from the run's last checkpoint if there is one.

    ``state`` names what a checkpoint holds beside learner and feed (policies, averages). Returns the
    first and the last evaluation as {"before": …, "after": …}. Training ends early when the run expects no better score
    (`Run.keep_best`). One line of metrics stands for ``log_every`` steps: means, and sums of ``cost/…``.

    Interrupted after a first Ctrl-C, with a checkpoint saved; RunFailed, with advice, if a batch cannot be collected or
    learned from; ValueError for an interval below 1.
    """
    if isinstance(schedule, int):
        schedule = Schedule(schedule, evaluate_every, save_every, log_every)
    steps, is_due = schedule.steps, _is_due(schedule)
    scores, window = _Scores(evaluate, run), _Window()
    saved: dict[str, Stateful] = {**state, "learner": learner} | ({"feed": feed} if isinstance(feed, Stateful) else {})
    saved["scores"] = scores
    start = run.load(saved)
    if evaluate and is_due(start, schedule.evaluate_every) and scores.step != start:
        _evaluate(scores, start, run, saved)
        if start:
            run.save(start, saved)  # now with the scores of an evaluation that failed before
    for step in range(start, steps):
        window.add(_train_step(feed, learner, step, run, saved))
        done = step + 1
        stopping = distributed.any_true(run.stop)
        saving = is_due(done, schedule.save_every) or stopping
        if saving or done % schedule.log_every == 0:
            run.log(done, window.take())
            run.progress(done, steps)
        converged = is_due(done, schedule.evaluate_every) and _evaluate(scores, done, run, saved)
        if saving or converged:
            run.save(done, saved)
        if converged:
            break
        if stopping and done < steps:
            raise Interrupted(done)
    return {"before": scores.first, "after": scores.last}


def _is_due(schedule: Schedule) -> Callable[[int, int], bool]:
    """Whether something is done after a number of steps: at every multiple of an interval and after the last step."""
    for name in ("evaluate_every", "save_every", "log_every"):
        if getattr(schedule, name) < 1:
            raise ValueError(f"{name} must be 1 or more, not {getattr(schedule, name)}")
    return lambda done, every: done % every == 0 or done == schedule.steps


def _train_step(feed: Feed, learner: Learner, step: int, run: Run, saved: Mapping[str, Stateful]) -> dict[str, float]:
    """Collect a batch and learn from it; its metrics."""
    began = time.monotonic()
    with _memory_advice(f"step {step + 1}"):
        batch = _collect(feed, step, run, saved)
        metrics = _learn(learner, batch, step)
    return {**describe(batch), **metrics, "cost/training_seconds": time.monotonic() - began}


class _Window:
    """Metrics of the steps since the last line."""

    def __init__(self) -> None:
        self.steps: dict[str, list[float]] = {}

    def add(self, metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            self.steps.setdefault(name, []).append(float(value))

    def take(self) -> dict[str, float]:
        """The sum of each cost and the mean of each other metric, which are then forgotten.

        Steps in which a metric is NaN (a reward that judged nothing) have no part in it; NaN where all are.
        """
        line = {k: sum(v) if k.startswith("cost/") else _mean(v) for k, v in self.steps.items()}
        self.steps.clear()
        return line


def _mean(values: list[float]) -> float:
    """The mean of the values that are not NaN; NaN without any."""
    known = [value for value in values if value == value]
    return sum(known) / len(known) if known else float("nan")


class _Scores:
    """The first and the last evaluation; the first one is saved, so that a resumed run still returns it."""

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

    def state_dict(self) -> dict[str, Any]:
        return {"first": self.first, "last": self.last, "step": self.step}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.first, self.last, self.step = dict(state["first"]), dict(state["last"]), state["step"]


def _collect(feed: Feed, step: int, run: Run, saved: Mapping[str, Stateful]) -> Batch:
    try:
        return feed(step)
    except (NothingJudged, EnvironmentFailed) as error:
        # Nothing was learned from this batch, so the weights are those of the last complete step.
        if step:
            run.save(step, saved)
        raise RunFailed(f"step {step + 1}: {error}") from error


def _evaluate(scores: _Scores, step: int, run: Run, saved: Mapping[str, Stateful]) -> bool:
    """Evaluate; whether no better score is expected."""
    try:
        with _memory_advice(f"evaluation at step {step}"):
            scores.take(step)
            return run.keep_best(step, scores.last, saved)
    except (NothingJudged, EnvironmentFailed) as error:
        if step:
            run.save(step, saved)  # without these scores; a resumed run evaluates again
        raise RunFailed(f"evaluation at step {step}: {error}") from error


def _learn(learner: Learner, batch: Batch, step: int) -> dict[str, float]:
    try:
        return learner.update(batch)
    except FloatingPointError as error:
        raise RunFailed(f"step {step + 1}: {error}; the last checkpoint is from before it") from error


@contextmanager
def _memory_advice(place: str) -> Iterator[None]:
    """Turn a full GPU into RunFailed with advice."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        advice = "try fewer samples at once, or the recipe's switches for checkpointing, sharding and precision"
        raise RunFailed(
            f"{place}: the GPU's memory is full: {advice}; the last checkpoint is from before it"
        ) from error


def describe(batch: Batch) -> dict[str, float]:
    """Mean rewards, unjudged rows, groups of equal rewards and numbers of images in a batch, over all processes."""
    parts = {"": batch} if isinstance(batch, Rollout) else dict(batch)
    metrics: dict[str, float] = {}
    for part in parts.values():
        for name, reward in part.rewards.items():
            judged = reward.isfinite()
            count = distributed.all_sum(judged.double().sum())
            total = distributed.all_sum(torch.where(judged, reward, 0.0).double().sum())
            metrics[f"reward/{name}"] = float(total / count) if count else float("nan")
            failed = distributed.all_sum((~judged).double().sum())
            if failed:
                metrics[f"health/unjudged_{name}"] = float(failed)
    for name, part in parts.items():
        if "total" in part.rewards:
            key = "health/zero_variance_groups" + (f"_{name}" if name else "")
            share = zero_variance_groups(part.rewards["total"], part.group_B)
            metrics[key] = float(distributed.all_sum(share.double())) / distributed.world()
    images = sum(len(p) for p in parts.values() if isinstance(p.outputs, torch.Tensor) and p.outputs.dim() == 4)
    if images:
        metrics["cost/images"] = float(distributed.all_sum(torch.tensor(float(images))))
    return metrics
