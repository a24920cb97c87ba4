"""Cloning a policy from demonstrations: who demonstrates, in which units, how it is trained, which of its weights are kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from gymnasium import spaces
from torch import nn

from saccade.core import Environment, seeds
from saccade.models.chunks import ChunkMLP, ChunkTransformer
from saccade.models.snapshot import Snapshot
from saccade.policies.chunked import Cloned, lessons
from saccade.sampling.draws import Draws
from saccade.sampling.proposals import ActionRange
from saccade.training.feeds import Stored
from saccade.training.learner import Update, Updates
from saccade.training.loop import train as run_loop
from saccade.training.run import Run
from saccade.worlds.recordings import Recorded, record, source

_DEMONSTRATED = -4
"""Stream of the seeds of demonstrations."""


@dataclass(frozen=True)
class Demonstrations:
    """Who shows how it is done."""

    demonstrations: str = ""
    """A recording (ours, LeRobot's or Minari's); without one the environment's scripted expert demonstrates."""
    episodes: int = 30
    """Episodes that the expert demonstrates."""
    expert_noise: float = 0.3
    """Spread of the noise on its actions."""

    def recorded(self, environment: Environment, seed: int, folder: Path) -> list[Recorded]:
        """The episodes; those of the environment's noisy expert are recorded in ``folder``.

        ValueError where there is neither a recording nor an expert.
        """
        if self.demonstrations:
            return list(source(self.demonstrations))
        if not hasattr(environment, "expert"):
            raise ValueError(f"{environment.name} has no scripted expert: name a recording of demonstrations")
        record(environment, noisy(environment, self.expert_noise), seeds(seed, self.episodes, key=_DEMONSTRATED).tolist(), folder)
        return list(source(folder))


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


def planner(cfg: Cloning, seen: spaces.Dict, actions: int) -> Cloned:
    """An untrained policy for what an environment shows. ValueError for a perceptron that is to see pictures."""
    net = {"perceptron": ChunkMLP, "transformer": ChunkTransformer}[cfg.net]
    return Cloned(net(seen, actions, cfg.chunk, cfg.width), cfg.chunk, actions)


def noisy(environment: Any, noise: float) -> Callable[..., np.ndarray]:
    """The expert with Gaussian noise that follows from an episode's seed and the step in it."""
    draws = Draws.of(environment.action_space, [0] * environment.count)
    low, high = environment.action_space.low, environment.action_space.high

    def act(seen: Any, seed_B: np.ndarray, time_B: np.ndarray) -> np.ndarray:
        other = np.flatnonzero(seed_B != np.array(draws.seeds)).tolist()
        draws.begin(other, seed_B[other].tolist())
        return np.clip(environment.expert() + noise * draws.at(time_B).numpy(), low, high)

    return act


def in_units_of_their_range(base: Cloned, episodes: Sequence[Recorded], widen: float, least: float) -> list[Recorded]:
    """The episodes with their actions in units of the range of all of them, which ``base`` keeps with its weights."""
    range = ActionRange.of(np.concatenate([episode["action"] for episode in episodes]), widen, least)
    base.low.copy_(torch.tensor(range.low))
    base.high.copy_(torch.tensor(range.high))
    return [episode | {"action": range.to_unit(episode["action"])} for episode in episodes]


def range_of(base: Cloned) -> ActionRange:
    """The range in units of which a cloned policy acts."""
    return ActionRange(tuple(base.low.tolist()), tuple(base.high.tolist()))


def clone(
    cfg: Cloning, base: Cloned, episodes: Sequence[Recorded], stage: Run, seed: int, score: Callable[[], Mapping[str, float]]
) -> None:
    """Train ``base`` on the episodes and leave it with the weights that scored best ("success", else "return")."""
    rows, best = lessons(episodes, cfg.chunk), Best(base.net)
    base.net.standard.fit({name.removeprefix("seen.").removesuffix("_B"): x for name, x in rows.decisions.items()})

    def look(step: int) -> Mapping[str, float]:
        found = score()
        best.offer(found.get("success", found["return"]))
        return found

    run_loop(
        Stored(rows, min(cfg.clone_batch, len(rows)), seed),
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


def cloning(cfg: Cloning, base: Cloned) -> Update:
    """The update that makes ``base`` plan what was demonstrated."""
    weights = list(base.net.parameters())
    return Update("bc", base.error, weights, torch.optim.AdamW(weights, lr=cfg.clone_lr, weight_decay=1e-4, fused=True), max_norm=10.0)


class Best:
    """The weights of the evaluation that scored best so far, the first of equals."""

    def __init__(self, net: nn.Module):
        self.kept, self.score = Snapshot(list(net.parameters())), float("-inf")

    def offer(self, score: float) -> None:
        """Keep the present weights if they score better than all before."""
        if score > self.score:
            self.score = score
            self.kept.follow(0.0)

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
