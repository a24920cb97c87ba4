"""The base policy of ResFiT: it plans chunks of actions and is cloned from demonstrations."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from saccade.algorithms.bc import bc_dataset
from saccade.core import Loss, Rollout
from saccade.envs.recordings import Recorded
from saccade.envs.rescale import ActionRange
from saccade.models.snapshot import Snapshot
from saccade.recipes.visual_control.resfit.planners import ChunkMLP, ChunkTransformer
from saccade.training.feeds import DatasetFeed
from saccade.training.learner import Update, Updates
from saccade.training.loop import fit as run_loop
from saccade.training.run import Run

Seen = Mapping[str, Tensor]

Hidden = dict[str, Tensor]

Advance = Callable[[Seen, Hidden], tuple[Tensor, Hidden]]
"""What some rows see and remember -> their actions [B, A], and what they remember next."""


@dataclass
class Proposer:
    """A base policy for ``count`` episodes side by side: a proposal for each moment, in the order of moments.

    ``start`` is what one episode remembers at its beginning, by name, without a row axis. Nothing here is ever trained.
    """

    advance: Advance
    start: Hidden
    count: int
    hidden: Hidden = field(init=False)

    def __post_init__(self) -> None:
        self.hidden = {name: value.expand(self.count, *value.shape).clone() for name, value in self.start.items()}

    def begin(self, rows: Sequence[int]) -> None:
        """Forget the episodes in these rows."""
        for name, value in self.start.items():
            self.hidden[name][list(rows)] = value

    @torch.no_grad()
    def propose(self, seen: Seen, rows: Sequence[int] | None = None) -> Tensor:
        """The next proposals ``[n, A]`` of these rows (None: all), which now have seen ``seen``; each call is one
        moment.
        """
        index = torch.arange(self.count) if rows is None else torch.tensor(list(rows), dtype=torch.int64)
        proposal, after = self.advance(seen, {name: value[index] for name, value in self.hidden.items()})
        for name, value in after.items():
            self.hidden[name][index] = value
        return proposal

    def state_dict(self) -> Hidden:
        return {name: value.clone() for name, value in self.hidden.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self.hidden = {name: state[name].clone() for name in self.start}


def in_chunks(plan: Callable[[Seen], Tensor], length: int, size: int, count: int) -> Proposer:
    """A policy that plans ``[B, length, size]`` actions at once and plans again when a row has carried them all out."""

    def advance(seen: Seen, hidden: Hidden) -> tuple[Tensor, Hidden]:
        chunk, place = hidden["chunk"], hidden["place"]
        empty = torch.nonzero(place == length).flatten()
        if len(empty):
            chunk[empty] = plan({name: value[empty] for name, value in seen.items()})
            place[empty] = 0
        return chunk[torch.arange(len(place)), place], {"chunk": chunk, "place": place + 1}

    return Proposer(advance, {"chunk": torch.zeros(length, size), "place": torch.tensor(length)}, count)


def memoryless(action: Callable[[Seen], Tensor], count: int) -> Proposer:
    """A policy that only looks at what is seen now."""
    return Proposer(lambda seen, hidden: (action(seen), hidden), {}, count)


def nothing(size: int, count: int) -> Proposer:
    """The base policy of learning from scratch: it always proposes zeros."""
    return memoryless(
        lambda seen: next(iter(seen.values())).new_zeros(len(next(iter(seen.values()))), size).float(), count
    )


class BCPolicy(nn.Module):
    """A policy cloned from demonstrations: ``net`` plans chunks ``[B, length, A]`` in units of the range ``low`` to
    ``high``.
    """

    def __init__(self, net: nn.Module, length: int, actions: int):
        super().__init__()
        self.net, self.length, self.actions = net, length, actions
        self.register_buffer("low", -torch.ones(actions, dtype=torch.float64))
        self.register_buffer("high", torch.ones(actions, dtype=torch.float64))

    def proposer(self, count: int) -> Proposer:
        """This policy, with its present weights at each moment, for ``count`` episodes side by side."""
        return in_chunks(lambda seen: self.net(seen).clamp(-1, 1), self.length, self.actions, count)

    def error(self, rollout: Rollout) -> Loss:
        """Mean absolute error of planned actions, over decisions of mask 1 and dimensions; rows as ``lessons`` makes
        them.
        """
        planned = self.net(
            {
                k.removeprefix("seen.").removesuffix("_B"): v
                for k, v in rollout.decisions.items()
                if k.startswith("seen.")
            }
        )
        error_BT = (planned - rollout.decisions["action_BT"]).abs().mean(-1)
        return Loss((error_BT * rollout.mask_BT).sum(), rollout.mask_BT.sum())

    def export(self, folder: str | Path) -> None:
        """Write the weights and the range of actions to base.safetensors."""
        from safetensors.torch import save_file

        save_file(
            {name: value.contiguous() for name, value in self.state_dict().items()}, Path(folder) / "base.safetensors"
        )


def proposals(proposer: Proposer, episode: Mapping[str, np.ndarray]) -> np.ndarray:
    """What a base policy of one row would have done at each of the T + 1 moments of a recorded episode: ``[T + 1,
    A]``.
    """
    proposer.begin([0])
    seen = {
        name.removeprefix("seen."): torch.from_numpy(value)
        for name, value in episode.items()
        if name.startswith("seen.")
    }
    moments = len(next(iter(seen.values())))
    return torch.cat([proposer.propose({n: v[t : t + 1] for n, v in seen.items()}) for t in range(moments)]).numpy()


@dataclass(frozen=True)
class Cloning:
    """How a policy plans, and how it is cloned from demonstrations."""

    net: Literal["perceptron", "transformer"] = "perceptron"
    """What plans; the perceptron sees vectors alone."""
    chunk: int = 4
    """Actions that are planned at once and carried out one by one."""
    width: int = 128
    """Width of its layers."""
    clone_steps: int = 2500
    """Gradient steps of cloning."""
    clone_batch: int = 128
    """Moments in a batch of cloning."""
    clone_lr: float = 1e-3
    """Learning rate of AdamW in cloning."""
    clone_evaluate_every: int = 500
    """Gradient steps between evaluations in cloning, of which the best is kept."""


def planner(cfg: Cloning, seen: spaces.Dict, actions: int) -> BCPolicy:
    """An untrained policy for what an environment shows. ValueError for a perceptron that is to see pictures."""
    net = {"perceptron": ChunkMLP, "transformer": ChunkTransformer}[cfg.net]
    return BCPolicy(net(seen, actions, cfg.chunk, cfg.width), cfg.chunk, actions)


def in_units_of_their_range(base: BCPolicy, episodes: Sequence[Recorded], widen: float, least: float) -> list[Recorded]:
    """The episodes with their actions in units of the range of all of them, which ``base`` keeps with its weights."""
    range = ActionRange.of(np.concatenate([episode["action"] for episode in episodes]), widen, least)
    base.low.copy_(torch.tensor(range.low))
    base.high.copy_(torch.tensor(range.high))
    return [episode | {"action": range.to_unit(episode["action"])} for episode in episodes]


def range_of(base: BCPolicy) -> ActionRange:
    """The range in units of which a cloned policy acts."""
    return ActionRange(tuple(base.low.tolist()), tuple(base.high.tolist()))


def clone(
    cfg: Cloning,
    base: BCPolicy,
    episodes: Sequence[Recorded],
    stage: Run,
    seed: int,
    score: Callable[[], Mapping[str, float]],
) -> None:
    """Train ``base`` on the episodes and leave it with the weights that scored best ("success", else "return")."""
    rows, best = bc_dataset(episodes, cfg.chunk), Best(base.net)
    base.net.standard.fit({name.removeprefix("seen.").removesuffix("_B"): x for name, x in rows.decisions.items()})

    def look(step: int) -> Mapping[str, float]:
        found = score()
        best.offer(found.get("success", found["return"]))
        return found

    run_loop(
        DatasetFeed(rows, min(cfg.clone_batch, len(rows)), seed),
        Updates([cloning(cfg, base)]),
        stage,
        cfg.clone_steps,
        state={"base": base, "best": best},
        evaluate=look,
        evaluate_every=cfg.clone_evaluate_every,
        save_every=cfg.clone_evaluate_every,
        log_every=100,
    )
    best.restore()


def cloning(cfg: Cloning, base: BCPolicy) -> Update:
    """The update that makes ``base`` plan what was demonstrated."""
    weights = list(base.net.parameters())
    return Update(
        "bc",
        base.error,
        weights,
        torch.optim.AdamW(weights, lr=cfg.clone_lr, weight_decay=1e-4, fused=True),
        max_grad_norm=10.0,
    )


class Best:
    """The weights of the evaluation that scored best so far, the first of equals."""

    def __init__(self, net: nn.Module):
        self.kept, self.score = Snapshot(list(net.parameters())), float("-inf")

    def offer(self, score: float) -> None:
        """Keep the present weights if they score better than all before."""
        if score > self.score:
            self.score = score
            self.kept.update(0.0)

    @torch.no_grad()
    def restore(self) -> None:
        """Put the best weights in place."""
        for parameter, value in zip(self.kept.parameters, self.kept.values):
            parameter.copy_(value)

    def state_dict(self) -> dict[str, Any]:
        return {"score": self.score, "kept": self.kept.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.score = state["score"]
        self.kept.load_state_dict(state["kept"])
