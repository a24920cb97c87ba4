"""Learning a world model while acting: the memory that it is fed from, the episodes it is tested on, and what its states hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from saccade.core import Environment, Rollout, seeds
from saccade.math.regression import explained
from saccade.models.device import device_of
from saccade.models.rssm import Sizes, as_input, as_picture
from saccade.objectives.imagination import Learning
from saccade.policies.dreamer import DreamerPolicy, Remembered
from saccade.sampling.experience import Experience
from saccade.sampling.running import tensors
from saccade.tasks.control import ControlTask, films, scores
from saccade.tasks.scoring import Show
from saccade.training.buffers import Buffer

HELD = 5
"""Steps for which an action of a random walk is held."""
WALKS, STEPS = 192, 16
"""Random walks and their steps: what an episode draws once, such as a goal, needs many of them to be read off."""


@dataclass(frozen=True)
class Memory:
    """How experience is gathered and handed out; an update is a training step."""

    rows: int = 8
    """Episodes side by side."""
    warm_up: int = 250
    """Random steps of all rows before the first update."""
    hold: int = HELD
    """Steps for which a random action is held: what white noise does hardly shows in pictures."""
    every: int = 4
    """Updates between bursts of acting."""
    burst: int = 1
    """Steps of all rows in a burst."""
    capacity: int = 100_000
    """Transitions that are remembered."""
    batch: int = 8
    """Sequences in a batch."""
    length: int = 12
    """Moments of a sequence."""

REAL = {
    "task": ControlTask("backdrop", ('world="HalfCheetah-v5"', "repeat=2"), test_episodes=10, test_rows=10),
    "sizes": Sizes(pixels=64, depth=32, belief=200, latent=30, hidden=200),
    "learning": Learning(horizon=15, gamma=0.99, entropy=3e-4, model_lr=3e-4, actor_lr=8e-5, critic_lr=8e-5),
    "memory": Memory(rows=1, warm_up=2500, hold=1, every=100, burst=250, capacity=250_000, batch=50, length=50),
    "steps": 100_000, "std": 5.0, "device": "cuda", "evaluate_every": 2000, "save_every": 5000,
}  # fmt: skip
"""What recipes have in common at the papers' scale."""



class Sequences:
    """A feed: acts in the environment on schedule, then hands out sequences from memory."""

    def __init__(self, cfg: Memory, environment: Environment, policy: DreamerPolicy, seed: int):
        self.cfg, self.acting = cfg, policy.acting(environment.count)
        self.buffer = Buffer(cfg.capacity, seed)
        self.experience = Experience(Remembered(environment, self.acting), self.acting, self.buffer, seed, cfg.warm_up, cfg.hold)

    def __call__(self, step: int) -> Rollout:
        wanted = self.cfg.warm_up + (1 + step // self.cfg.every) * self.cfg.burst
        while self.experience.steps < wanted:
            self._act()
        return self.buffer.sequences(self.cfg.batch, self.cfg.length, step)

    def _act(self) -> None:
        before = self.acting.state_dict()
        try:
            self.experience()
        except BaseException:
            self.acting.load_state_dict(before)  # what it saw last, it will see again
            raise

    def state_dict(self) -> dict[str, Any]:
        return {"experience": self.experience.state_dict(), "buffer": self.buffer.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.experience.load_state_dict(state["experience"])
        self.buffer.load_state_dict(state["buffer"])


def build(task: ControlTask, sizes: Sizes, std: float, seed: int, device: str = "cpu") -> DreamerPolicy:
    """A world model and an actor for an environment. ValueError if it shows no picture, or if actions are not in [-1, 1]."""
    world = task.make(1)
    shape = (sizes.pixels, sizes.pixels, 3)
    pictures = [name for name, space in world.observation_space.spaces.items() if (space.dtype, space.shape) == (np.uint8, shape)]
    if len(pictures) != 1:
        raise ValueError(f"{world.name} shows {world.observation_space}; a world model sees one picture uint8 {list(shape)}")
    box = world.action_space
    if not hasattr(box, "low") or not (np.allclose(box.low, -1) and np.allclose(box.high, 1)) or len(box.shape) != 1:
        raise ValueError(f"{world.name}: actions are {box}; a world model takes numbers in [-1, 1]")
    return DreamerPolicy(sizes, box.shape[0], pictures[0], std, seed).to(device_of(device))


def score(task: ControlTask, policy: DreamerPolicy, show: Show | None = None) -> dict[str, float]:
    """Test episodes acted greedily, as `ControlTask.score`, and what can be read off the model's states, as `readings`."""
    world = task.make(min(task.test_rows, task.test_episodes))
    acting = policy.acting(world.count)
    episodes = task.played(Remembered(world, acting), acting, show)
    walk = wander(task, policy)
    if show:
        show("reconstructions", reconstructions(policy, walk, task.shown))
    return scores(episodes) | readings(walk)


def filmed(task: ControlTask, policy: DreamerPolicy, seeds_B: Tensor) -> list[dict[str, Any]]:
    """One filmed episode for each seed, acted greedily: its clip, and a few frames as "image"."""
    world, acting = task.make(len(seeds_B)), policy.acting(len(seeds_B))
    return films(Remembered(world, acting), acting, seeds_B, task.place)


class Walk(NamedTuple):
    """Episodes that a model followed: its features ``[B, T, F]``, pictures uint8 ``[B, T, H, W, 3]``, facts ``[B, T, ...]``."""

    features_BTF: Tensor
    seen_BT: Tensor
    facts: dict[str, Tensor]


@torch.no_grad()
def wander(task: ControlTask, policy: DreamerPolicy, rows: int = WALKS) -> Walk:
    """The model follows random walks, the same ones whatever the policy does, for STEPS or until the first ends."""
    world, acting = task.make(rows), policy.acting(rows)
    watched = Remembered(world, acting)
    own = seeds(task.test_seed, rows, key=1).tolist()
    rng = np.random.default_rng(task.test_seed)
    acting.look(tensors(watched.begin(range(rows), own)))
    features, seen, facts, ended = [], [], [], False
    while not ended and len(features) < STEPS:
        if len(features) % HELD == 0:
            action_B = rng.uniform(-1, 1, (rows, policy.actions)).astype(np.float32)
        told = watched.step(action_B)
        shown = tensors(told.seen)
        features.append(acting.look(shown).features.cpu())
        seen.append(shown[policy.seen])
        facts.append(tensors(told.info))
        ended = bool((told.terminated_B | told.truncated_B).any())
    together = {name: torch.stack([one[name] for one in facts], 1) for name in facts[0]}
    return Walk(torch.stack(features, 1), torch.stack(seen, 1), together)


def readings(walk: Walk) -> dict[str, float]:
    """R^2 with which each fact that is a vector, and the "backdrop", can be read off the features in a line.

    The backdrop is the picture in 2 x 2 patches of even colour, which hold little of what is small. The map is fitted to the
    first half of the episodes and judged on the others.
    """
    blurred = avg_pool2d(as_input(walk.seen_BT).flatten(0, 1), walk.seen_BT.shape[2] // 2)
    backdrop = blurred.unflatten(0, walk.seen_BT.shape[:2]).flatten(2)
    told = {name: value for name, value in walk.facts.items() if value.dim() == 3} | {"backdrop": backdrop}
    half = len(walk.features_BTF) // 2
    parts = lambda x: (x[:half].flatten(0, 1), x[half:].flatten(0, 1))
    x, test_x = parts(walk.features_BTF)
    found = {}
    for name, value in told.items():
        y, test_y = parts(value)
        found[f"R2 {name}"] = explained(x, y, test_x, test_y)
    return found


@torch.no_grad()
def reconstructions(policy: DreamerPolicy, walk: Walk, count: int, moments: int = 8) -> list[dict[str, Any]]:
    """Samples of random walks: above what was seen at some moments, below what the decoder makes of the states there."""
    picked = torch.linspace(0, walk.features_BTF.shape[1] - 1, moments).long()
    seen = as_picture(as_input(walk.seen_BT[:count, picked]))
    drawn = as_picture(policy.model.decoder(walk.features_BTF[:count, picked].to(policy.device))).cpu()
    strips = torch.cat([torch.cat(list(x.unbind(1)), -1) for x in (seen, drawn)], -2)
    return [{"prompt": f"random walk {i + 1}, above seen, below decoded", "image": strip} for i, strip in enumerate(strips)]
