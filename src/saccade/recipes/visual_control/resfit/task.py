"""Learning beside demonstrations: these told what a base policy would have done, experience for memory, own
successes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from saccade.algorithms.bc import bc_dataset
from saccade.algorithms.replay import CollectionSchedule
from saccade.core import LogSamples, Rollout
from saccade.envs.recordings import Recorded, into
from saccade.envs.rescale import RescaleAction
from saccade.envs.task import ControlTask, episode_scores, record_video
from saccade.recipes.visual_control.resfit.cloning import BCPolicy, Proposer, nothing, proposals, range_of
from saccade.recipes.visual_control.resfit.residual import BASE_ACTION, BaseActionWrapper
from saccade.training.buffers import Buffer
from saccade.training.feeds import DatasetFeed


def relabelled(episodes: Sequence[Recorded], base: Proposer, seed: int) -> Buffer:
    """A buffer of the demonstrations, beside each moment what ``base`` (of one row) would have done there, and at
    the next.
    """
    buffer = Buffer(sum(len(episode["action"]) for episode in episodes), seed)
    into(buffer, ({**episode, f"seen.{BASE_ACTION}": proposals(base, episode)} for episode in episodes))
    return buffer


@dataclass(frozen=True)
class ResidualTask:
    """A task whose episodes also show what ``base`` proposes, with actions in units of those that were demonstrated.

    With ``scratch`` nothing is proposed: the same task without a base policy.
    """

    task: ControlTask
    base: BCPolicy
    scratch: bool = False

    def proposer(self, count: int) -> Proposer:
        """What proposes in ``count`` rows."""
        return nothing(self.base.actions, count) if self.scratch else self.base.proposer(count)

    def make(self, count: int) -> BaseActionWrapper:
        """``count`` episodes side by side."""
        return BaseActionWrapper(RescaleAction(self.task.make(count), range_of(self.base)), self.proposer(count))

    def score(self, actor: Any, show: LogSamples | None = None) -> dict[str, float]:
        """How test episodes went, acted without noise: "success", "return", "length"."""
        return episode_scores(
            self.task.run_episodes(self.make(min(self.task.test_rows, self.task.test_episodes)), actor, show)
        )

    def record_video(self, actor: Any, seeds_B: Tensor) -> list[dict[str, Any]]:
        """One filmed episode for each seed."""
        return record_video(self.make(len(seeds_B)), actor, seeds_B, self.task.position)


class FilteredBCFeed:
    """A feed of demonstrations and own successes, for cloning again.

    After every ``refresh`` transitions all successes until then are taken in, and ``acting`` gets the weights of
    ``base``.
    """

    def __init__(
        self,
        gathering: CollectionSchedule,
        base: BCPolicy,
        acting: BCPolicy,
        episodes: Sequence[Recorded],
        refresh: int,
        rows: int,
        seed: int,
    ):
        self.gathering, self.base, self.acting, self.episodes = gathering, base, acting, list(episodes)
        self.refresh, self.rows, self.seed = refresh, rows, seed
        self._take(0)

    def __call__(self, step: int) -> Rollout:
        self.gathering(step)
        reached = self.gathering.experience.buffer.added // self.refresh * self.refresh
        if reached > self.taken:
            self.acting.load_state_dict(self.base.state_dict())
            self._take(reached)
        return self.stored(step)

    def _take(self, until: int) -> None:
        own = successes(self.gathering.experience.buffer, until) if until else []
        data = bc_dataset([*self.episodes, *own], self.base.length)
        self.stored, self.taken = DatasetFeed(data, min(self.rows, len(data)), self.seed), until

    def state_dict(self) -> dict[str, Any]:
        return {**self.gathering.state_dict(), "taken": self.taken}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.gathering.load_state_dict(state)
        self._take(state["taken"])


def successes(buffer: Buffer, until: int) -> list[Recorded]:
    """Episodes with a reward above 0 among the first ``until`` transitions, of which none may have been overwritten."""
    if buffer.added > buffer.capacity:
        raise ValueError(
            f"the buffer of {buffer.capacity} transitions has forgotten {buffer.added - buffer.capacity} of them"
        )
    columns = {name: column[:until] for name, column in buffer.columns.items()}
    shown = {
        name: column for name, column in columns.items() if name.startswith("seen.") and name != f"seen.{BASE_ACTION}"
    }
    shown |= {f"seen.{name}": still.ring[:until] for name, still in buffer.frames.items()} | {
        "action": columns["action"]
    }
    won = np.unique(columns["episode"][columns["reward"] > 0])
    return [{name: column[columns["episode"] == number] for name, column in shown.items()} for number in won]
