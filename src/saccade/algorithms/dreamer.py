"""An actor and a critic that learn in a world model's imagination, and the learner that shares one forward pass among
all.

From every state that the model took a sequence for, H decisions are imagined; gradients of what they are worth flow
through the dynamics into the actor. Dreamer 1912.01603.

    R_t = r_t + gamma ((1 - lam) v_{t+1} + lam R_{t+1})
    actor:  -mean R - entropy * H(pi)         critic:  -log Normal(sg(R); v, 1)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from saccade.algorithms.descent import ClippedAdam, freeze
from saccade.algorithms.world_model import Terms, View, constraints, dual_loss, model_loss, values_of
from saccade.core import Environment, Rollout, generator, seeded, seeds
from saccade.envs.collector import RANDOM_ACTION_REPEAT, Collector
from saccade.envs.task import ControlTask
from saccade.math.gaussians import squashed_log_prob
from saccade.math.values import lambda_return
from saccade.models.device import device_of
from saccade.models.world_model.rssm import RSSM, Sizes, State, mlp
from saccade.policies.dreamer import DreamerPolicy, RecurrentStateWrapper, SquashedGaussian
from saccade.training.buffers import Buffer


@dataclass(frozen=True)
class Learning:
    """How a Dreamer learns; the learning rates are Adam's."""

    horizon: int = 10
    """Imagined decisions."""
    gamma: float = 0.95
    """Discount."""
    lam: float = 0.95
    """Lambda of the returns."""
    entropy: float = 1e-2
    """Weight of the actor's entropy."""
    ends: bool = False
    """Whether futures end where the model expects the episode to; needs a term that teaches it to."""
    model_lr: float = 1e-3
    """Learning rate of the world model."""
    actor_lr: float = 1e-4
    """Learning rate of the actor."""
    critic_lr: float = 3e-4
    """Learning rate of the critic."""
    dual_lr: float = 1e-2
    """Learning rate of the logarithms of dual variables."""
    max_norm: float = 100.0
    """Each gradient is clipped to this norm."""


class Imagined(NamedTuple):
    """N imagined futures of H decisions: features ``[N, H + 1, F]``; of each decision ``[N, H]`` its return, the
    log-density of its action and the probability that it is met at all.
    """

    features_NHF: Tensor
    return_NH: Tensor
    logp_NH: Tensor
    alive_NH: Tensor


def imagine(
    model: RSSM,
    actor: SquashedGaussian,
    critic: nn.Module,
    start: State,
    noise_NHZ: Tensor,
    draw_NHA: Tensor,
    cfg: Learning,
) -> Imagined:
    """Futures from ``start`` ``[N, …]``; the returns' gradients reach the actor through every later state."""
    states = model.imagine(start, lambda x, t: torch.tanh(actor(x).sample(draw_NHA[:, t])), noise_NHZ)
    features = states.features
    gaussian = actor(features[:, :-1].detach().contiguous())
    after = features[:, 1:].contiguous()
    value_NH, reward_NH = critic(after).squeeze(-1), model.reward(after)
    end_NH = model.end(after).sigmoid() if cfg.ends else torch.zeros_like(reward_NH)
    return_NH = lambda_return(reward_NH, value_NH, end_NH, gamma=cfg.gamma, lam=cfg.lam)
    alive_NH = torch.cat([torch.ones_like(end_NH[:, :1]), 1 - end_NH[:, :-1].detach()], 1).cumprod(1)
    return Imagined(features, return_NH, squashed_log_prob(gaussian, gaussian.sample(draw_NHA)), alive_NH)


def actor_loss(imagined: Imagined, entropy: float) -> Tensor:
    """Minus the mean return and ``entropy`` times the actor's entropy, of which -log pi of a draw is an unbiased
    estimate.
    """
    return (imagined.alive_NH * (entropy * imagined.logp_NH - imagined.return_NH)).mean()


def critic_loss(critic: nn.Module, imagined: Imagined) -> Tensor:
    """Half the squared distance of the values of imagined states from their returns; gradients reach the critic
    alone.
    """
    value_NH = critic(imagined.features_NHF[:, :-1].detach().contiguous()).squeeze(-1)
    return (imagined.alive_NH * 0.5 * (value_NH - imagined.return_NH.detach()) ** 2).mean()


class Dreamer:
    """The learner: one pass over the sequences serves the model, its dual variables, the actor and the critic, in this
    order.

    A batch is a Rollout ``[B, T]`` of sequences from memory. The critic's first weights follow from ``seed``, and the
    noise of an update from ``seed`` and its number.
    """

    def __init__(self, policy: DreamerPolicy, terms: Terms, cfg: Learning, seed: int = 0):
        self.policy, self.terms, self.cfg, self.seed, self.updates = policy, terms, cfg, seed, 0
        self.critic = critic_of(policy, seed)
        duals = [p for one in constraints(terms).values() for p in one.multiplier.to(policy.device).parameters()]
        self.steps = {
            "model": ClippedAdam(policy.model.parameters(), cfg.model_lr, cfg.max_norm),
            "actor": ClippedAdam(policy.actor.parameters(), cfg.actor_lr, cfg.max_norm),
            "critic": ClippedAdam(self.critic.parameters(), cfg.critic_lr, cfg.max_norm),
        } | ({"dual": ClippedAdam(duals, cfg.dual_lr, cfg.max_norm)} if duals else {})

    def update(self, batch: Rollout) -> dict[str, float]:
        """One step of every network. FloatingPointError if a gradient is not finite."""
        noise = generator(int(seeds(self.seed, 1, key=self.updates)))
        view = look(self.policy, batch, noise)
        values = values_of(self.terms, view)
        losses = {"model": model_loss(self.terms, values)}
        norms = {"model": self._step("model", losses["model"])}
        if (dual := dual_loss(self.terms, values)) is not None:
            self._step("dual", dual)
        imagined = self._imagine(view.observed.state.flat(), noise)
        losses["actor"] = actor_loss(imagined, self.cfg.entropy)
        norms["actor"] = self._step("actor", losses["actor"])
        losses["critic"] = critic_loss(self.critic, imagined)
        norms["critic"] = self._step("critic", losses["critic"])
        self.updates += 1
        return self._metrics(losses, norms, values, imagined)

    def _imagine(self, start: State, noise: torch.Generator) -> Imagined:
        rows, horizon, device = len(start.belief), self.cfg.horizon, start.belief.device
        drawn = lambda width: torch.randn(rows, horizon, width, generator=noise).to(device)
        model = self.policy.model
        with freeze(model, self.critic):
            return imagine(
                model, self.policy.actor, self.critic, start, drawn(model.sizes.latent), drawn(model.actions), self.cfg
            )

    def _step(self, name: str, loss: Tensor) -> Tensor:
        norm = self.steps[name](loss)
        if not torch.isfinite(norm):
            raise FloatingPointError(f"the gradient of the {name} is {float(norm)}")
        return norm

    def _metrics(self, losses: Mapping, norms: Mapping, values: Mapping, imagined: Imagined) -> dict[str, float]:
        found = {f"loss/{k}": v for k, v in losses.items()} | {f"health/{k}": v for k, v in values.items()}
        found |= {f"health/{k}_gradient_norm": v for k, v in norms.items()}
        found |= {f"health/{k}_multiplier": one.multiplier.value for k, one in constraints(self.terms).items()}
        found |= {"health/imagined_return": imagined.return_NH.mean(), "health/entropy": -imagined.logp_NH.mean()}
        return {k: float(v.detach()) for k, v in found.items()}

    def state_dict(self) -> dict[str, Any]:
        duals = {k: one.multiplier.state_dict() for k, one in constraints(self.terms).items()}
        optimizers = {k: one.optimizer.state_dict() for k, one in self.steps.items()}
        return {"updates": self.updates, "critic": self.critic.state_dict(), "duals": duals, "optimizers": optimizers}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.updates = state["updates"]
        self.critic.load_state_dict(state["critic"])
        for name, one in constraints(self.terms).items():
            one.multiplier.load_state_dict(state["duals"][name])
        for name, one in self.steps.items():
            one.optimizer.load_state_dict(state["optimizers"][name])


def critic_of(policy: DreamerPolicy, seed: int) -> nn.Module:
    """A critic of the policy's states: features ``[..., F]`` -> values ``[..., 1]``."""
    sizes = policy.sizes
    with seeded(seed):
        critic = mlp([sizes.belief + sizes.latent, sizes.hidden, sizes.hidden, 1])
    return critic.to(policy.device)


def look(policy: DreamerPolicy, batch: Rollout, noise: torch.Generator) -> View:
    """The world model's forward pass over sequences ``[B, T]``."""
    model, device = policy.model, policy.device
    picture, action = (batch.decisions[k].to(device) for k in (f"seen.{policy.seen}_BT", "action_BT"))
    first, terminated = (batch.extras[k].to(device) for k in ("first_BT", "terminated_BT"))
    drawn = torch.randn(*first.shape, model.sizes.latent, generator=noise).to(device)
    observed = model.observe(model.encoder(picture), action, first, drawn)
    return View(model, picture, batch.rewards["reward"].to(device), terminated, first, observed)


@dataclass(frozen=True)
class Memory:
    """How experience is gathered and handed out; an update is a training step."""

    rows: int = 8
    """Episodes side by side."""
    warm_up: int = 250
    """Random steps of all rows before the first update."""
    hold: int = RANDOM_ACTION_REPEAT
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
        self.experience = Collector(
            RecurrentStateWrapper(environment, self.acting), self.acting, self.buffer, seed, cfg.warm_up, cfg.hold
        )

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


def build_dreamer(task: ControlTask, sizes: Sizes, std: float, seed: int, device: str = "cpu") -> DreamerPolicy:
    """A world model and an actor for an environment. ValueError if it shows no picture, or if actions are not in
    [-1, 1].
    """
    world = task.make(1)
    shape = (sizes.pixels, sizes.pixels, 3)
    pictures = [
        name
        for name, space in world.observation_space.spaces.items()
        if (space.dtype, space.shape) == (np.uint8, shape)
    ]
    if len(pictures) != 1:
        raise ValueError(
            f"{world.name} shows {world.observation_space}; a world model sees one picture uint8 {list(shape)}"
        )
    box = world.action_space
    if not hasattr(box, "low") or not (np.allclose(box.low, -1) and np.allclose(box.high, 1)) or len(box.shape) != 1:
        raise ValueError(f"{world.name}: actions are {box}; a world model takes numbers in [-1, 1]")
    return DreamerPolicy(sizes, box.shape[0], pictures[0], std, seed).to(device_of(device))
