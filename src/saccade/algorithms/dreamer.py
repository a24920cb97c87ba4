"""An actor and a critic that learn in a world model's imagination, and the learner that shares one forward pass.

From every state that the model inferred from its sequences, H steps are imagined; gradients of their returns flow
through the dynamics into the actor. Dreamer 1912.01603.

    R_t = r_t + gamma ((1 - lambda) v_{t+1} + lambda R_{t+1})
    actor:  -mean R - entropy_coef * H(pi)         critic:  -log Normal(sg(R); v, 1)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from saccade.algorithms.descent import Descent, freeze
from saccade.algorithms.world_model import (
    ForwardPass,
    Terms,
    constraints,
    model_loss,
    multiplier_loss,
    term_values,
)
from saccade.config import Count, Fraction
from saccade.core import Environment, Rollout
from saccade.envs.collector import RANDOM_ACTION_REPEAT, Collector
from saccade.envs.recurrent import RecurrentStateWrapper
from saccade.envs.task import ControlTask
from saccade.math.gaussians import squashed_log_prob
from saccade.math.values import lambda_return
from saccade.models.device import device_of
from saccade.models.world_model.rssm import RSSM, RSSMConfig, State, mlp
from saccade.policies.dreamer import DreamerPolicy, SquashedGaussian
from saccade.random import generator, initialized
from saccade.training.buffers import Buffer
from saccade.training.settings import AdamW


@dataclass(frozen=True)
class DreamerConfig:
    """How a Dreamer's actor and critic learn in imagination."""

    horizon: Count = 10
    """Number of imagined steps."""
    gamma: Fraction = 0.95
    """Discount factor."""
    return_lambda: Fraction = 0.95
    """Lambda of imagined returns: 0 takes the critic's value of the next step, 1 the imagined rewards."""
    entropy_coef: float = 1e-2
    """Weight of the actor's entropy."""
    predict_ends: bool = False
    """End imagined futures where the model predicts the end of the episode; the model then learns to predict it."""


@dataclass(frozen=True)
class DreamerOptim:
    """The optimizers of a Dreamer, one for each of its networks."""

    model: AdamW = AdamW(lr=1e-3, max_grad_norm=100.0, fused=True)
    """Optimizer of the world model."""
    actor: AdamW = AdamW(lr=1e-4, max_grad_norm=100.0, fused=True)
    """Optimizer of the actor."""
    critic: AdamW = AdamW(lr=3e-4, max_grad_norm=100.0, fused=True)
    """Optimizer of the critic."""
    multiplier: AdamW = AdamW(lr=1e-2, max_grad_norm=100.0, fused=True)
    """Optimizer of the logarithms of Lagrange multipliers."""


@dataclass(frozen=True)
class ReplayConfig:
    """How experience is collected and replayed; an update is a training step."""

    n_envs: Count = 8
    """Number of episodes that run side by side."""
    random_steps: int = 250
    """Number of random steps of each row before the first update."""
    random_action_repeat: Count = RANDOM_ACTION_REPEAT
    """Number of steps for which a random action is repeated: white noise hardly changes pictures."""
    collect_every: Count = 4
    """Number of updates between collections of new experience."""
    collect_steps: Count = 1
    """Number of steps of each row in a collection."""
    buffer_size: Count = 100_000
    """Number of transitions in the replay buffer."""
    batch_size: Count = 8
    """Number of sequences in a batch."""
    sequence_length: Count = 12
    """Number of time steps of a sequence."""


class Imagined(NamedTuple):
    """N imagined futures of H steps: features ``[N, H + 1, F]``; of each step ``[N, H]`` its return, the log-density of
    its action and the probability that it is reached.
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
    latent_noise_NHZ: Tensor,
    action_noise_NHA: Tensor,
    cfg: DreamerConfig,
) -> Imagined:
    """Futures from ``start`` ``[N, …]``; the returns' gradients reach the actor through every later state."""
    states = model.imagine(start, lambda x, t: torch.tanh(actor(x).sample(action_noise_NHA[:, t])), latent_noise_NHZ)
    features = states.features
    gaussian = actor(features[:, :-1].detach().contiguous())
    after = features[:, 1:].contiguous()
    value_NH, reward_NH = critic(after).squeeze(-1), model.reward(after)
    end_NH = model.end(after).sigmoid() if cfg.predict_ends else torch.zeros_like(reward_NH)
    return_NH = lambda_return(reward_NH, value_NH, end_NH, gamma=cfg.gamma, lam=cfg.return_lambda)
    alive_NH = torch.cat([torch.ones_like(end_NH[:, :1]), 1 - end_NH[:, :-1].detach()], 1).cumprod(1)
    return Imagined(features, return_NH, squashed_log_prob(gaussian, gaussian.sample(action_noise_NHA)), alive_NH)


def actor_loss(imagined: Imagined, entropy_coef: float) -> Tensor:
    """Minus the mean return and ``entropy_coef`` times the actor's entropy, estimated as the mean of -log pi."""
    return (imagined.alive_NH * (entropy_coef * imagined.logp_NH - imagined.return_NH)).mean()


def critic_loss(critic: nn.Module, imagined: Imagined) -> Tensor:
    """Half the squared distance of imagined states' values from their returns; gradients reach the critic alone."""
    value_NH = critic(imagined.features_NHF[:, :-1].detach().contiguous()).squeeze(-1)
    return (imagined.alive_NH * 0.5 * (value_NH - imagined.return_NH.detach()) ** 2).mean()


class Dreamer:
    """The learner: one pass over the sequences serves the model, its multipliers, the actor and the critic, in this
    order.

    A batch is a Rollout ``[B, T]`` of sequences from the replay buffer. The critic's initial weights follow from
    ``seed``, and the noise of an update from ``seed`` and its number.
    """

    def __init__(self, policy: DreamerPolicy, terms: Terms, cfg: DreamerConfig, optim: DreamerOptim, seed: int = 0):
        self.policy, self.terms, self.cfg, self.seed, self.updates = policy, terms, cfg, seed, 0
        self.critic = build_critic(policy, seed)
        self.multipliers = {name: entry.multiplier.to(policy.device) for name, entry in constraints(terms).items()}
        self.model_step = Descent("model", policy.model.parameters(), optim.model)
        self.actor_step = Descent("actor", policy.actor.parameters(), optim.actor)
        self.critic_step = Descent("critic", self.critic.parameters(), optim.critic)
        weights = [p for multiplier in self.multipliers.values() for p in multiplier.parameters()]
        self.multiplier_step = Descent("multiplier", weights, optim.multiplier) if weights else None

    def update(self, batch: Rollout) -> dict[str, float]:
        """One step of every network. FloatingPointError if a gradient is not finite."""
        noise = generator(self.seed, "update", self.updates)
        forward = forward_pass(self.policy, batch, noise)
        values = term_values(self.terms, forward)
        losses = {"model": model_loss(self.terms, values)}
        norms = {"model": self.model_step(losses["model"])}
        excess_loss = multiplier_loss(self.terms, values)
        if excess_loss is not None and self.multiplier_step is not None:
            self.multiplier_step(excess_loss)
        imagined = self._imagine(forward.observed.state.flat(), noise)
        losses["actor"] = actor_loss(imagined, self.cfg.entropy_coef)
        norms["actor"] = self.actor_step(losses["actor"])
        losses["critic"] = critic_loss(self.critic, imagined)
        norms["critic"] = self.critic_step(losses["critic"])
        self.updates += 1
        return self._metrics(losses, norms, values, imagined)

    def _imagine(self, start: State, noise: torch.Generator) -> Imagined:
        rows, horizon, model = len(start.belief), self.cfg.horizon, self.policy.model
        normal = lambda width: torch.randn(rows, horizon, width, generator=noise).to(start.belief.device)
        with freeze(model, self.critic):
            return imagine(
                model,
                self.policy.actor,
                self.critic,
                start,
                normal(model.config.latent),
                normal(model.actions),
                self.cfg,
            )

    def _metrics(
        self,
        losses: Mapping[str, Tensor],
        norms: Mapping[str, Tensor],
        values: Mapping[str, Tensor],
        imagined: Imagined,
    ) -> dict[str, float]:
        metrics = {f"loss/{k}": v for k, v in losses.items()} | {f"health/{k}": v for k, v in values.items()}
        metrics |= {f"health/{k}_gradient_norm": v for k, v in norms.items()}
        metrics |= {f"health/{k}_multiplier": multiplier.value for k, multiplier in self.multipliers.items()}
        metrics |= {"health/imagined_return": imagined.return_NH.mean(), "health/entropy": -imagined.logp_NH.mean()}
        return {k: float(v.detach()) for k, v in metrics.items()}

    @property
    def _steps(self) -> dict[str, Descent]:
        steps = {"model": self.model_step, "actor": self.actor_step, "critic": self.critic_step}
        return steps | ({"multiplier": self.multiplier_step} if self.multiplier_step else {})

    def state_dict(self) -> dict[str, Any]:
        return {
            "updates": self.updates,
            "critic": self.critic.state_dict(),
            "multipliers": {name: multiplier.state_dict() for name, multiplier in self.multipliers.items()},
            "optimizers": {name: step.state_dict() for name, step in self._steps.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.updates = state["updates"]
        self.critic.load_state_dict(state["critic"])
        for name, multiplier in self.multipliers.items():
            multiplier.load_state_dict(state["multipliers"][name])
        for name, step in self._steps.items():
            step.load_state_dict(state["optimizers"][name])


def build_critic(policy: DreamerPolicy, seed: int) -> nn.Module:
    """A critic of the policy's states: features ``[..., F]`` -> values ``[..., 1]``."""
    config = policy.config
    with initialized(seed, "critic"):
        critic = mlp([config.features, config.hidden, config.hidden, 1])
    return critic.to(policy.device)


def forward_pass(policy: DreamerPolicy, batch: Rollout, noise: torch.Generator) -> ForwardPass:
    """The world model's forward pass over sequences ``[B, T]``."""
    model, device = policy.model, policy.device
    picture, action = (batch.decisions[k].to(device) for k in (f"observation.{policy.picture}_BT", "action_BT"))
    first, terminated = (batch.extras[k].to(device) for k in ("first_BT", "terminated_BT"))
    latent_noise = torch.randn(*first.shape, model.config.latent, generator=noise).to(device)
    observed = model.observe(model.encoder(picture), action, first, latent_noise)
    return ForwardPass(model, picture, batch.rewards["reward"].to(device), terminated, first, observed)


class SequenceFeed:
    """A feed that collects experience on schedule, then samples sequences from the replay buffer."""

    def __init__(self, cfg: ReplayConfig, environment: Environment, policy: DreamerPolicy, seed: int):
        self.cfg, self.actor = cfg, policy.recurrent(environment.count)
        self.buffer = Buffer(cfg.buffer_size, seed)
        wrapped = RecurrentStateWrapper(environment, self.actor)
        self.collector = Collector(wrapped, self.actor, self.buffer, seed, cfg.random_steps, cfg.random_action_repeat)

    def __call__(self, step: int) -> Rollout:
        due = self.cfg.random_steps + (1 + step // self.cfg.collect_every) * self.cfg.collect_steps
        while self.collector.steps < due:
            self._collect()
        return self.buffer.sequences(self.cfg.batch_size, self.cfg.sequence_length, step)

    def _collect(self) -> None:
        before = self.actor.state_dict()
        try:
            self.collector()
        except BaseException:
            self.actor.load_state_dict(before)  # the step will be repeated, and its observation with it
            raise

    def state_dict(self) -> dict[str, Any]:
        return {"collector": self.collector.state_dict(), "buffer": self.buffer.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.collector.load_state_dict(state["collector"])
        self.buffer.load_state_dict(state["buffer"])


def build_dreamer(
    task: ControlTask, config: RSSMConfig, init_std: float, seed: int, device: str = "cpu"
) -> DreamerPolicy:
    """A world model and an actor for an environment.

    ValueError if the environment does not show exactly one picture, or if its actions are not in [-1, 1].
    """
    env = task.make(1)
    shape = (config.pixels, config.pixels, 3)
    spaces = env.observation_space.spaces
    pictures = [name for name, space in spaces.items() if (space.dtype, space.shape) == (np.uint8, shape)]
    if len(pictures) != 1:
        raise ValueError(
            f"{env.name} shows {env.observation_space}; a world model observes one picture uint8 {list(shape)}"
        )
    box = env.action_space
    if not hasattr(box, "low") or not (np.allclose(box.low, -1) and np.allclose(box.high, 1)) or len(box.shape) != 1:
        raise ValueError(f"{env.name}: actions are {box}; a world model takes vectors of numbers in [-1, 1]")
    return DreamerPolicy(config, box.shape[0], pictures[0], init_std, seed).to(device_of(device))


BACKDROP_HALF_CHEETAH = ControlTask("backdrop", ('world="HalfCheetah-v5"', "repeat=2"), test_episodes=10, test_rows=10)
"""The task at the papers' scale, and the settings below that Dreamer and RePo share there."""
PAPER_RSSM = RSSMConfig(pixels=64, depth=32, belief=200, latent=30, hidden=200)
PAPER_DREAMER = DreamerConfig(horizon=15, gamma=0.99, entropy_coef=3e-4)
PAPER_OPTIM = DreamerOptim(
    model=AdamW(lr=3e-4, max_grad_norm=100.0, fused=True),
    actor=AdamW(lr=8e-5, max_grad_norm=100.0, fused=True),
    critic=AdamW(lr=8e-5, max_grad_norm=100.0, fused=True),
)
PAPER_REPLAY = ReplayConfig(
    n_envs=1,
    random_steps=2500,
    random_action_repeat=1,
    collect_every=100,
    collect_steps=250,
    buffer_size=250_000,
    batch_size=50,
    sequence_length=50,
)
