"""The base policy of ResFiT: a network that plans chunks of actions, cloned from demonstrations."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from saccade.algorithms.bc import bc_dataset
from saccade.algorithms.off_policy import observations
from saccade.config import Count
from saccade.core import Loss, ProblemScores, Rollout, Run, mean_scores
from saccade.envs.recordings import RecordedEpisode
from saccade.envs.rescale import ActionRange
from saccade.models.snapshot import Snapshot
from saccade.recipes.visual_control.resfit.networks import ChunkMLP, ChunkTransformer
from saccade.training.feeds import DatasetFeed
from saccade.training.learner import Update, Updates
from saccade.training.loop import fit
from saccade.training.settings import AdamW, Schedule, StageSteps

Plan = Callable[[Mapping[str, Tensor]], Tensor]
"""Observations -> chunks of actions ``[B, length, A]``."""


class Proposer(Protocol):
    """A frozen policy that proposes one action at each step of each row's episode."""

    def begin(self, rows: Sequence[int]) -> None:
        """Begin new episodes in these rows."""
        ...

    def propose(self, observation: Mapping[str, Tensor], rows: Sequence[int] | None = None) -> Tensor:
        """Proposals ``[n, A]`` for the next observation of these rows, or of all; each call is one step."""
        ...

    def state_dict(self) -> dict[str, Tensor]: ...

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None: ...


class ChunkProposer:
    """Proposals of a policy that plans chunks of ``length`` actions, in ``count`` rows.

    The actions of a row's chunk are proposed one after another; then the next chunk is planned.
    """

    def __init__(self, plan: Plan, length: int, actions: int, count: int):
        self.plan, self.length, self.count = plan, length, count
        self.chunk_BLA, self.used_B = torch.zeros(count, length, actions), torch.full((count,), length)

    def begin(self, rows: Sequence[int]) -> None:
        self.chunk_BLA[list(rows)], self.used_B[list(rows)] = 0.0, self.length

    @torch.no_grad()
    def propose(self, observation: Mapping[str, Tensor], rows: Sequence[int] | None = None) -> Tensor:
        row_n = torch.arange(self.count) if rows is None else torch.tensor(list(rows), dtype=torch.int64)
        empty = torch.nonzero(self.used_B[row_n] == self.length).flatten()
        if len(empty):
            self.chunk_BLA[row_n[empty]] = self.plan({name: value[empty] for name, value in observation.items()})
            self.used_B[row_n[empty]] = 0
        proposal = self.chunk_BLA[row_n, self.used_B[row_n]]
        self.used_B[row_n] += 1
        return proposal

    def state_dict(self) -> dict[str, Tensor]:
        return {"chunk_BLA": self.chunk_BLA.clone(), "used_B": self.used_B.clone()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self.chunk_BLA, self.used_B = state["chunk_BLA"].clone(), state["used_B"].clone()


@dataclass
class ZeroProposer:
    """The base policy of learning from scratch: it proposes zeros."""

    actions: int

    def begin(self, rows: Sequence[int]) -> None: ...

    def propose(self, observation: Mapping[str, Tensor], rows: Sequence[int] | None = None) -> Tensor:
        return torch.zeros(len(next(iter(observation.values()))), self.actions)

    def state_dict(self) -> dict[str, Tensor]:
        return {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None: ...


def propose_all(proposer: Proposer, episode: RecordedEpisode) -> np.ndarray:
    """Proposals of a proposer of one row at each of the T + 1 observations of an episode: ``[T + 1, A]``."""
    proposer.begin([0])
    prefix = "observation."
    named = {k.removeprefix(prefix): torch.from_numpy(v) for k, v in episode.items() if k.startswith(prefix)}
    length = len(next(iter(named.values())))
    return torch.cat([proposer.propose({k: v[t : t + 1] for k, v in named.items()}) for t in range(length)]).numpy()


class BCPolicy(nn.Module):
    """A cloned policy: ``net`` plans chunks ``[B, length, A]`` in [-1, 1], which stands for the range low to high."""

    net: ChunkMLP | ChunkTransformer
    low: Tensor
    high: Tensor

    def __init__(self, net: ChunkMLP | ChunkTransformer, length: int, actions: int):
        super().__init__()
        self.net, self.length, self.actions = net, length, actions
        self.register_buffer("low", -torch.ones(actions, dtype=torch.float64))
        self.register_buffer("high", torch.ones(actions, dtype=torch.float64))

    @property
    def action_range(self) -> ActionRange:
        """The range of demonstrated actions, which is mapped to [-1, 1]."""
        return ActionRange(tuple(self.low.tolist()), tuple(self.high.tolist()))

    def proposer(self, count: int) -> ChunkProposer:
        """Proposals of this policy, with its present weights at each step, in ``count`` rows."""
        return ChunkProposer(lambda observation: self.net(observation).clamp(-1, 1), self.length, self.actions, count)

    def loss(self, rollout: Rollout) -> Loss:
        """Mean absolute error of planned actions over dimensions and decisions of mask 1; rows as in `bc_dataset`."""
        error_BT = (self.net(observations(rollout)) - rollout.decisions["action_BT"]).abs().mean(-1)
        return Loss((error_BT * rollout.mask_BT).sum(), rollout.mask_BT.sum())

    def fit_action_range(
        self, episodes: Sequence[RecordedEpisode], margin: float, least_width: float
    ) -> list[RecordedEpisode]:
        """Set the range to that of the episodes' actions (`ActionRange.of`); the episodes with actions in [-1, 1]."""
        actions = np.concatenate([episode["action"] for episode in episodes])
        action_range = ActionRange.of(actions, margin, least_width)
        self.low.copy_(torch.tensor(action_range.low))
        self.high.copy_(torch.tensor(action_range.high))
        return [episode | {"action": action_range.scale_action(episode["action"])} for episode in episodes]

    def export(self, folder: str | Path) -> None:
        """Write the weights and the range of actions to base.safetensors."""
        from safetensors.torch import save_file

        weights = {name: value.contiguous() for name, value in self.state_dict().items()}
        save_file(weights, Path(folder) / "base.safetensors")


@dataclass(frozen=True)
class Cloning:
    """The base policy, and how it is cloned from demonstrations."""

    net: Literal["perceptron", "transformer"] = "perceptron"
    """Network that plans; the perceptron observes vectors alone."""
    chunk: Count = 4
    """Number of actions that are planned at once."""
    width: Count = 128
    """Width of the network's layers."""
    steps: StageSteps = 2500
    """Number of gradient steps of cloning."""
    batch_size: Count = 128
    """Number of steps of demonstrations in a batch of cloning."""
    evaluate_every: Count = 500
    """Gradient steps between evaluations in cloning; the weights of the best evaluation are used."""
    optim: AdamW = AdamW(lr=1e-3, weight_decay=1e-4, max_grad_norm=10.0, fused=True)

    def build(self, space: spaces.Dict, actions: int) -> BCPolicy:
        """An untrained policy for observations of ``space``. ValueError for a perceptron with pictures."""
        net = {"perceptron": ChunkMLP, "transformer": ChunkTransformer}[self.net]
        return BCPolicy(net(space, actions, self.chunk, self.width), self.chunk, actions)

    def update(self, base: BCPolicy) -> Update:
        """The update that makes the policy plan demonstrated actions."""
        return self.optim.update("bc", base.loss, list(base.net.parameters()))

    def fit(
        self,
        base: BCPolicy,
        episodes: Sequence[RecordedEpisode],
        run: Run,
        seed: int,
        score: Callable[[], ProblemScores],
    ) -> None:
        """Train the policy on episodes; it ends with the weights of the best score ("success", else "return")."""
        rows, best = bc_dataset(episodes, self.chunk), BestWeights(base.net)
        base.net.standardize.fit(observations(rows))

        def evaluate(step: int) -> ProblemScores:
            scores = score()
            means = mean_scores(scores)
            best.offer(means.get("success", means["return"]))
            return scores

        fit(
            DatasetFeed(rows, min(self.batch_size, len(rows)), seed),
            Updates([self.update(base)]),
            run,
            Schedule(self.steps, self.evaluate_every, self.evaluate_every, log_every=100),
            state={"base": base, "best": best},
            evaluate=evaluate,
        )
        best.snapshot.copy_to_parameters()


class BestWeights:
    """The weights with the best score so far, the first of equals."""

    def __init__(self, net: nn.Module):
        self.snapshot, self.score = Snapshot(net.parameters()), float("-inf")

    def offer(self, score: float) -> None:
        """Store the present weights if their score is better than all before."""
        if score > self.score:
            self.score = score
            self.snapshot.update(0.0)

    def state_dict(self) -> dict[str, Any]:
        return {"score": self.score, "snapshot": self.snapshot.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.score = state["score"]
        self.snapshot.load_state_dict(state["snapshot"])
