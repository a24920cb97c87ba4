"""The training loop: take a batch from the feed, update the learner, log, evaluate and save."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from saccade.core import (
    Batch,
    Diverged,
    EnvironmentFailed,
    Interrupted,
    Learner,
    NothingJudged,
    Rollout,
    Run,
    RunFailed,
    Stateful,
    mean_scores,
)
from saccade.math.advantages import zero_variance_groups
from saccade.training import checkpoint, distributed
from saccade.training.feeds import Feed, OnPolicy
from saccade.training.settings import Schedule
from saccade.training.state import all_finite

Evaluate = Callable[[int], Mapping[str, float | torch.Tensor]]
"""Number of steps done -> scores, as `saccade.core.ProblemScores`."""


def fit(
    feed: Feed,
    learner: Learner,
    run: Run,
    schedule: Schedule,
    *,
    state: Mapping[str, Stateful],
    evaluate: Evaluate | None = None,
) -> dict[str, dict[str, float]]:
    """Train on ``schedule.steps`` batches, starting from the run's last checkpoint if there is one.

    ``state`` names what a checkpoint holds beside learner and feed (policies, averages). Returns the
    first and the last evaluation as {"before": …, "after": …}. Training ends early when the run expects no better score
    (`Run.keep_best`). One line of metrics stands for ``schedule.log_every`` steps: means, and sums of ``cost/…``.

    Interrupted after a first Ctrl-C, with a checkpoint saved; RunFailed, with advice, if a batch cannot be collected or
    learned from; ValueError for an interval below 1. Whatever ends a step, the steps before it are saved first; weights
    that are not finite, or whose samples are not, are never the newest checkpoint.
    """
    steps, is_due = schedule.steps, _is_due(schedule)
    scores, window = _Scores(evaluate, run), _Window()
    saved: dict[str, Stateful] = {**state, "learner": learner} | ({"feed": feed} if isinstance(feed, Stateful) else {})
    saved["scores"] = scores
    run.keep_checkpoints(lambda done: is_due(done, schedule.save_every))
    start = run.load(saved)
    if evaluate and is_due(start, schedule.evaluate_every) and scores.step != start:
        _evaluate(scores, start, run, saved)
        if start:
            _save(run, start, saved)  # now with the scores of an evaluation that failed before
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
            _save(run, done, saved)
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
        metrics = _learn(learner, batch, step, run)
    skipped = {"health/skipped_problems": feed.skipped} if isinstance(feed, OnPolicy) and feed.skipped else {}
    return {**describe(batch), **metrics, **skipped, "cost/training_seconds": time.monotonic() - began}


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
            found = self.evaluate(step)
            self.last = mean_scores(found)
            self.first, self.step = self.first or self.last, step
            self.run.problem_scores(step, {k: v for k, v in found.items() if isinstance(v, torch.Tensor)})
            self.run.log(step, {f"eval/{k}": v for k, v in self.last.items()})

    def state_dict(self) -> dict[str, Any]:
        return {"first": self.first, "last": self.last, "step": self.step}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.first, self.last, self.step = dict(state["first"]), dict(state["last"]), state["step"]


def _collect(feed: Feed, step: int, run: Run, saved: Mapping[str, Stateful]) -> Batch:
    with _saving_first(f"step {step + 1}", step, run, saved), _modes_restored():
        batch = feed(step)
        for part in [batch] if isinstance(batch, Rollout) else batch.values():
            # Where nothing is weighed by an advantage, log-probabilities may be unknown.
            if part.advantage_BT is not None and not part.logp_BT[part.mask_BT > 0].isfinite().all():
                raise FloatingPointError("log-probabilities of samples are not finite")
        return batch


def _evaluate(scores: _Scores, step: int, run: Run, saved: Mapping[str, Stateful]) -> bool:
    """Evaluate; whether no better score is expected."""
    place = f"evaluation at step {step}"
    with _memory_advice(place):
        # What is saved lacks these scores; a resumed run evaluates again.
        with _saving_first(place, step, run, saved), _modes_restored():
            scores.take(step)
        return run.keep_best(step, scores.last, saved)


@contextmanager
def _saving_first(place: str, step: int, run: Run, saved: Mapping[str, Stateful]) -> Iterator[None]:
    """Whatever ends the code within, which does not learn, the weights after ``step`` steps are saved before it does.

    RunFailed with one line for errors that are not defects; before the first step bad input stays a ValueError. Where
    the weights or samples of them are not finite, a checkpoint of them is discarded instead.
    """
    try:
        yield
    except (Interrupted, RunFailed, distributed.PeerLost, KeyboardInterrupt):
        raise
    except FloatingPointError as error:
        raise _diverged(place, error, run, step) from error
    except BaseException as error:
        if flaw := _not_finite(saved):
            raise _diverged(place, flaw, run, step) from error
        if step:
            run.save(step, saved)
        if isinstance(error, Exception) and not isinstance(
            error, _TOLD if step else (NothingJudged, EnvironmentFailed)
        ):
            raise
        raise RunFailed(f"{place}: {_said(error)}") from error


_TOLD = (NothingJudged, EnvironmentFailed, ValueError, OSError)
"""Errors whose message is meant for the user."""


def _said(error: BaseException) -> str:
    """An error in one line; code that ends the process is an error of that code."""
    if isinstance(error, SystemExit):
        return f"code of this run called sys.exit({'' if error.code is None else repr(error.code)})"
    return str(error) if isinstance(error, _TOLD) else f"{type(error).__name__}: {error}"


def _save(run: Run, step: int, saved: Mapping[str, Stateful]) -> None:
    """Save weights that are finite. RunFailed for others."""
    flaw = _not_finite(saved)
    if distributed.any_true(flaw is not None):
        raise _diverged(f"step {step}", flaw or "weights of another process are not finite", run, step)
    run.save(step, saved)


def _learn(learner: Learner, batch: Batch, step: int, run: Run) -> dict[str, float]:
    try:
        with torch.enable_grad():
            return learner.update(batch)
    except FloatingPointError as error:
        raise _diverged(f"step {step + 1}", error, run, None) from error
    except SystemExit as error:
        raise RunFailed(f"step {step + 1}: {_said(error)}; the last checkpoint is from before it") from error


def _diverged(place: str, flaw: object, run: Run, step: int | None) -> Diverged:
    """The error of weights that ran away; a checkpoint after ``step`` steps holds such weights and is discarded."""
    checkpoints = run.folder / "checkpoints"
    if step is not None and distributed.rank() == 0:
        checkpoint.discard(checkpoints, step)
    good = checkpoint.latest(checkpoints)
    kept = f"the last good checkpoint is {good}" if good else "there is no checkpoint from before it"
    return Diverged(
        f"{place}: {flaw}: training has diverged; {kept}, but going on from it would repeat this: begin a new run with"
        " a smaller learning rate"
    )


def _not_finite(saved: Mapping[str, Stateful]) -> str | None:
    """Which trained weights or moments hold NaN or infinity; data and scores may."""
    for name, part in saved.items():
        if name not in ("feed", "scores") and not all_finite(part.state_dict()):
            return f"{name} holds numbers that are not finite"
    return None


@contextmanager
def _modes_restored() -> Iterator[None]:
    """Undo what code of a reward or an environment changes for all of torch, and tell it."""
    gradients, dtype = torch.is_grad_enabled(), torch.get_default_dtype()
    try:
        yield
    finally:
        left = [f"set_grad_enabled({not gradients})"] if torch.is_grad_enabled() != gradients else []
        left += [f"set_default_dtype({found})"] if (found := torch.get_default_dtype()) != dtype else []
        torch.set_grad_enabled(gradients)
        torch.set_default_dtype(dtype)
        for switch in left:
            warnings.warn(f"torch.{switch} was left behind by code of this run: it is undone", stacklevel=1)


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
