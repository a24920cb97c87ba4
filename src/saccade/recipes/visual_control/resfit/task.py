"""The task with proposals of a base policy, and the data of learning beside demonstrations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from saccade.algorithms.bc import bc_dataset
from saccade.algorithms.replay import CollectionSchedule
from saccade.core import ActingPolicy, LogSamples, ProblemScores, Rollout
from saccade.envs.recordings import RecordedEpisode, add_episodes
from saccade.envs.rescale import RescaleAction
from saccade.envs.task import ControlTask, episode_scores, record_video
from saccade.random import stream
from saccade.recipes.visual_control.resfit.base_policy import BCPolicy, Proposer, ZeroProposer, propose_all
from saccade.recipes.visual_control.resfit.residual import BASE_ACTION, BaseActionWrapper
from saccade.training.buffers import Buffer
from saccade.training.feeds import DatasetFeed


@dataclass(frozen=True)
class ResidualTask:
    """A control task whose observations include the proposals of ``base``, with actions in its range.

    ``scratch`` proposes zeros: the same task without a base policy.
    """

    task: ControlTask
    base: BCPolicy
    scratch: bool = False

    def proposer(self, count: int) -> Proposer:
        """The base policy in ``count`` rows."""
        return ZeroProposer(self.base.actions) if self.scratch else self.base.proposer(count)

    def make(self, count: int) -> BaseActionWrapper:
        """``count`` episodes side by side."""
        rescaled = RescaleAction(self.task.make(count), self.base.action_range)
        return BaseActionWrapper(rescaled, self.proposer(count))

    def score(self, actor: ActingPolicy, show: LogSamples | None = None) -> ProblemScores:
        """Scores of the test episodes, acted greedily: "success", "return", "length"."""
        environment = self.make(min(self.task.test_rows, self.task.test_episodes))
        return episode_scores(self.task.run_episodes(environment, actor, show))

    def record_video(self, actor: ActingPolicy, seeds_B: Tensor) -> list[dict[str, Any]]:
        """A video of one episode for each seed."""
        return record_video(self.make(len(seeds_B)), actor, seeds_B, self.task.position)


def demonstrations_with_proposals(episodes: Sequence[RecordedEpisode], base: Proposer, seed: int) -> Buffer:
    """A buffer of demonstrations, whose observations include what ``base``, of one row, would have proposed."""
    buffer = Buffer(sum(len(episode["action"]) for episode in episodes), seed)
    add_episodes(
        buffer, ({**episode, f"observation.{BASE_ACTION}": propose_all(base, episode)} for episode in episodes)
    )
    return buffer


class FilteredBCFeed:
    """Batches of demonstrations and successes of the policy, for filtered behaviour cloning.

    After every ``refresh_every`` transitions all successes until then are added to the dataset, and the policy that
    acts, ``acting``, gets the weights of ``base``.
    """

    def __init__(
        self,
        collection: CollectionSchedule,
        base: BCPolicy,
        acting: BCPolicy,
        episodes: Sequence[RecordedEpisode],
        refresh_every: int,
        batch_size: int,
        seed: int,
    ):
        self.collection, self.base, self.acting, self.episodes = collection, base, acting, list(episodes)
        self.refresh_every, self.batch_size, self.seed = refresh_every, batch_size, seed
        self.until, self.dataset = 0, self._dataset(0)

    def __call__(self, step: int) -> Rollout:
        self.collection(step)
        until = self.collection.collector.buffer.added // self.refresh_every * self.refresh_every
        if until > self.until:
            self.acting.load_state_dict(self.base.state_dict())
            self.until, self.dataset = until, self._dataset(until)
        return self.dataset(step)

    def _dataset(self, until: int) -> DatasetFeed:
        """Demonstrations, and the successes among the first ``until`` transitions."""
        successes = successful_episodes(self.collection.collector.buffer, until) if until else []
        data = bc_dataset([*self.episodes, *successes], self.base.length)
        return DatasetFeed(data, min(self.batch_size, len(data)), stream(self.seed, "successes until", until))

    def state_dict(self) -> dict[str, Any]:
        return {**self.collection.state_dict(), "until": self.until}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.collection.load_state_dict(state)
        self.until, self.dataset = state["until"], self._dataset(state["until"])


def successful_episodes(buffer: Buffer, until: int) -> list[dict[str, np.ndarray]]:
    """Observations and actions of episodes with a positive reward among the first ``until`` transitions.

    ValueError if transitions were overwritten.
    """
    if buffer.added > buffer.capacity:
        lost = buffer.added - buffer.capacity
        raise ValueError(f"a buffer of {buffer.capacity} transitions is too small: {lost} were overwritten")
    columns = {name: column[:until] for name, column in buffer.columns.items()}
    proposal = f"observation.{BASE_ACTION}"
    names = [name for name in columns if name.startswith("observation.") and name != proposal]
    arrays = {name: columns[name] for name in names}
    arrays |= {f"observation.{name}": frames.ring[:until] for name, frames in buffer.frames.items()}
    arrays["action"] = columns["action"]
    numbers = np.unique(columns["episode"][columns["reward"] > 0])
    return [{name: array[columns["episode"] == number] for name, array in arrays.items()} for number in numbers]
