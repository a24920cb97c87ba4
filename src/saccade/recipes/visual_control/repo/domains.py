"""What an encoder is adapted from: sequences of its own domain, sequences of the other, and frames of both of the
same states.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from saccade.algorithms.dreamer import Memory, Sequences
from saccade.core import Rollout, seeds
from saccade.envs.collector import RANDOM_ACTION_REPEAT
from saccade.envs.task import ControlTask
from saccade.training.buffers import Buffer


class Domains:
    """A feed of {"source": …, "target": …, "pairs": …}, each ``[B, T]``: the target's is acted in as training goes
    on.
    """

    def __init__(self, cfg: Memory, source: Buffer, target: Sequences, pairs: Buffer):
        self.cfg, self.source, self.target, self.pairs = cfg, source, target, pairs

    def __call__(self, step: int) -> dict[str, Rollout]:
        held = {"source": self.source, "pairs": self.pairs}
        drawn = {name: memory.sequences(self.cfg.batch, self.cfg.length, step) for name, memory in held.items()}
        return drawn | {"target": self.target(step)}

    def state_dict(self) -> dict[str, Any]:
        return {"target": self.target.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.target.load_state_dict(state["target"])


def paired(source: ControlTask, target: ControlTask, count: int, seed: int) -> Buffer:
    """At least ``count`` pairs of pictures, "seen.source" and "seen.target", of the same states, from random walks.

    ValueError for an environment that cannot show one state in both ways.
    """
    other = target.make(1)
    if not hasattr(other, "paired") or source.env != target.env:
        both = f"{source.env} and {target.env}"
        raise ValueError(f"{both} cannot show the same state: paired frames need a world with palettes")
    world = replace(source, settings=(*source.settings, 'observe="both"')).make(1)
    rng, memory, episode = np.random.default_rng(seed), Buffer(count + 1000, seed), 0
    while len(memory) < count:
        states, fields = _walk(world, int(seeds(seed, 1, key=episode)), rng)
        shown = world.paired(states, int(rng.integers(2**31)))
        for name, palette in (("source", world.palette), ("target", other.palette)):
            fields |= {f"seen.{name}": shown[palette][:-1], f"next.{name}": shown[palette][1:]}
        memory.add(fields | {"episode": np.full(len(states) - 1, episode)})
        episode += 1
    return memory


def _walk(world: Any, seed: int, rng: np.random.Generator) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The states ``[T + 1, S]`` of an episode with random actions, and the fields of its T transitions but what is
    seen.
    """
    states, steps = [world.begin([0], [seed])["state"][0]], []
    while not steps or not (steps[-1]["terminated"] or steps[-1]["truncated"]):
        if len(steps) % RANDOM_ACTION_REPEAT == 0:
            action_B = rng.uniform(-1, 1, (1, *world.action_space.shape)).astype(np.float32)
        told = world.step(action_B)
        states.append(told.observation["state"][0])
        ends = {"terminated": told.terminated_B[0], "truncated": told.truncated_B[0]}
        steps.append({"action": action_B[0], "reward": told.reward_B[0], **ends})
    return np.stack(states), {name: np.stack([one[name] for one in steps]) for name in steps[0]}
