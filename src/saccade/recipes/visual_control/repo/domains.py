"""Data to adapt an encoder: sequences of the source and the target domain, and frames of the same states in both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Protocol, runtime_checkable

import numpy as np

from saccade.algorithms.dreamer import ReplayConfig, SequenceFeed
from saccade.core import Environment, Rollout
from saccade.envs.collector import RANDOM_ACTION_REPEAT
from saccade.envs.task import ControlTask
from saccade.random import numpy_generator, stream
from saccade.training.buffers import Buffer


class DomainFeed:
    """A feed of {"source": …, "target": …, "pairs": …}, each ``[B, T]``; the target domain is acted in during
    training.

    ``first`` is the number of steps in which ``source`` was sampled before.
    """

    def __init__(self, cfg: ReplayConfig, source: Buffer, target: SequenceFeed, pairs: Buffer, first: int = 0):
        self.cfg, self.source, self.target, self.pairs, self.first = cfg, source, target, pairs, first

    def __call__(self, step: int) -> dict[str, Rollout]:
        size, length = self.cfg.batch_size, self.cfg.sequence_length
        return {
            "source": self.source.sequences(size, length, self.first + step),
            "pairs": self.pairs.sequences(size, length, step),
            "target": self.target(step),
        }

    def state_dict(self) -> dict[str, Any]:
        return {"target": self.target.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.target.load_state_dict(state["target"])


@runtime_checkable
class PaletteWorld(Environment, Protocol):
    """An environment that can show the same states in several palettes."""

    palette: str

    def paired(self, state_N6: np.ndarray, seed: int = 0) -> dict[str, np.ndarray]: ...


def paired_frames(source: ControlTask, target: ControlTask, count: int, seed: int) -> Buffer:
    """At least ``count`` pairs "observation.source", "observation.target" of pictures of one state, from random walks.

    ValueError for an environment that cannot show one state in both domains.
    """
    if source.env != target.env:
        raise ValueError(f"{source.env} and {target.env} cannot show the same state: paired frames need one world")
    target_palette = _palette_world(target).palette
    environment = _palette_world(replace(source, settings=(*source.settings, 'observe="both"')))
    palettes = {"source": environment.palette, "target": target_palette}
    seed = stream(seed, "paired frames")
    rng, buffer, episode = numpy_generator(seed, "random walk"), Buffer(count + 1000, seed), 0
    while len(buffer) < count:
        states, fields = _random_walk(environment, stream(seed, "paired episode", episode), rng)
        pictures = environment.paired(states, int(rng.integers(2**31)))
        for name, palette in palettes.items():
            fields |= {f"observation.{name}": pictures[palette][:-1], f"next_observation.{name}": pictures[palette][1:]}
        buffer.add(fields | {"episode": np.full(len(states) - 1, episode)})
        episode += 1
    return buffer


def _palette_world(task: ControlTask) -> PaletteWorld:
    environment = task.make(1)
    if not isinstance(environment, PaletteWorld):
        raise ValueError(f"{task.env} cannot show a state in two ways: paired frames need a world with palettes")
    return environment


def _random_walk(
    environment: Environment, seed: int, rng: np.random.Generator
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The states ``[T + 1, S]`` of an episode with random actions, and the fields of its T transitions but the
    observations.
    """
    states: list[np.ndarray] = [environment.begin([0], [seed])["state"][0]]
    steps: list[dict[str, np.ndarray]] = []
    action_B = np.zeros((1, *environment.action_space.shape), np.float32)
    while not steps or not (steps[-1]["terminated"] or steps[-1]["truncated"]):
        if len(steps) % RANDOM_ACTION_REPEAT == 0:
            action_B = rng.uniform(-1, 1, action_B.shape).astype(np.float32)
        step = environment.step(action_B)
        states.append(step.observation["state"][0])
        ends = {"terminated": step.terminated_B[0], "truncated": step.truncated_B[0]}
        steps.append({"action": action_B[0], "reward": step.reward_B[0], **ends})
    return np.stack(states), {name: np.stack([step[name] for step in steps]) for name in steps[0]}
