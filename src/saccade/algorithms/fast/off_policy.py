"""The learner of SAC and its kin on vectors with hand-written gradients: the updates of `CriticLoss` and `ActorLoss`.

    u = m + s eps, a = tanh(u)
    d log pi / d u = 2 a        d log pi / d log s = 2 a s eps - 1        d a / d u = 1 - a^2

It makes the updates that `Updates` makes with these losses and torch's Adam, within rounding, in three quarters of the
time on a CPU.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from saccade.algorithms.fast.adam import FlatAdam
from saccade.algorithms.fast.batched_mlps import BatchedMLPs, fits
from saccade.algorithms.off_policy import Agent, OffPolicy, action, action_noise, observations, target_members
from saccade.core import Learner, Rollout
from saccade.math.gaussians import Gaussian, squashed_log_prob
from saccade.models.control.critics import Critics
from saccade.models.control.networks import MLP
from saccade.policies.actors import LOG_STD, SquashedGaussian
from saccade.training.settings import AdamW


class _Sample(NamedTuple):
    """Actions ``[N, A]``, their log-densities ``[N]``, and what their gradients need, each ``[N, A]``."""

    action: Tensor
    logp: Tensor
    std: Tensor
    inside: Tensor
    """1 where the standard deviation is within its bounds, so that it has a gradient."""


def analytic_learner(agent: Agent, algo: OffPolicy, optim: AdamW) -> Learner | None:
    """The learner with hand-written gradients; None where they are not written here."""
    if has_analytic_gradient(agent, algo, optim):
        return AnalyticOffPolicyLearner(agent, algo, optim)
    return None


def has_analytic_gradient(agent: Agent, algo: OffPolicy, optim: AdamW) -> bool:
    """Whether the gradients are written here.

    They are for squashed Gaussians on unchanged vectors, ReLU without LayerNorm, float32 on a CPU, and Adam with a
    constant learning rate and without clipping.
    """
    bare = not list(agent.critics.encoder.parameters()) and not list(agent.actor.encoder.parameters())
    covered = algo.actor_value in ("min", "mean") and not algo.target_policy_noise
    constant = not optim.weight_decay and optim.warmup <= 1 and math.isinf(optim.max_grad_norm)
    squashed = isinstance(agent.actor.head, SquashedGaussian) and agent.temperature is not None
    return squashed and bare and covered and constant and fits(agent.actor.trunk) and fits(agent.critics.ensemble)


class AnalyticOffPolicyLearner:
    """The critics' step, every ``algo.policy_delay`` batches that of actor and temperature, then the target networks'.

    The weights of the agent's actor, critics and target networks become views of vectors that are changed in place.
    ValueError for networks of another kind than `has_analytic_gradient` names.
    """

    def __init__(self, agent: Agent, algo: OffPolicy, optim: AdamW):
        temperature, trunk, copy = agent.temperature, agent.actor.trunk, agent.target.net
        if temperature is None or not isinstance(trunk, MLP) or not isinstance(copy, Critics):
            raise ValueError(
                "hand-written gradients need a stochastic actor, and target networks that copy the critics"
            )
        self.encoder, self.algo, self.ascent, self.batches = agent.critics.encoder, algo, temperature.ascent, 0
        nets, low = (trunk, agent.critics.ensemble, copy.ensemble), algo.precision == "bfloat16"
        self.actor, self.critics, self.target = (BatchedMLPs(net, low) for net in nets)
        # The outputs of one are used before the other is called: sharing buffers keeps half the memory in the cache.
        self.target.buffers = self.critics.buffers
        self.log, self.log_gradient = temperature.log.detach().view(1), torch.zeros(1)
        vectors = {
            "critic": (self.critics.weights_P, self.critics.gradient_P),
            "actor": (self.actor.weights_P, self.actor.gradient_P),
            "temperature": (self.log, self.log_gradient),
        }
        self.adams = {name: FlatAdam(*vector, optim.lr, optim.eps, optim.betas) for name, vector in vectors.items()}

    @torch.no_grad()
    def update(self, batch: Rollout) -> dict[str, float]:
        """One step of each on a batch of `Buffer.sample`; the metrics of `Updates`.

        FloatingPointError if a loss is not finite.
        """
        acts, alpha, rows = self.batches % self.algo.policy_delay == 0, math.exp(float(self.log)), len(batch)
        now, after = self.encoder(observations(batch)), self.encoder(observations(batch, "next_observation"))
        # The actor does not change before its own step, so one forward pass samples present and next actions.
        noise_NA = (action_noise(batch) if acts else action_noise(batch)[1:]).flatten(0, 1)
        sample = self._sample(torch.cat([now, after]) if acts else after, noise_NA)
        target_B = self._backup(batch, after, _Sample(*(x[-rows:] for x in sample)), alpha)
        metrics = self._critic_step(torch.cat([now, action(batch)], 1), target_B)
        if acts:
            metrics |= self._actor_step(now, _Sample(*(x[:rows] for x in sample)), noise_NA[:rows], alpha)
        self.batches += 1
        if self.batches % self.algo.target_update_interval == 0:
            self.target.weights_P.lerp_(self.critics.weights_P, self.algo.tau)
        return metrics

    def _sample(self, state_NF: Tensor, noise_NA: Tensor) -> _Sample:
        mean, log_std = self.actor.forward(state_NF)[0].chunk(2, -1)
        low, high = LOG_STD
        gaussian = Gaussian(mean, log_std.clamp(low, high).exp())
        u_NA = gaussian.sample(noise_NA)
        inside = (log_std >= low) & (log_std <= high)
        return _Sample(torch.tanh(u_NA), squashed_log_prob(gaussian, u_NA), gaussian.std, inside)

    def _backup(self, batch: Rollout, after: Tensor, sample: _Sample, alpha: float) -> Tensor:
        value_B = self.target.forward(torch.cat([after, sample.action], 1), target_members(batch, self.algo))[
            ..., 0
        ].amin(0)
        if self.algo.entropy_in_backup:
            value_B = value_B - alpha * sample.logp
        return batch.rewards["reward"] + batch.extras["discount_B"] * value_B

    def _critic_step(self, x_BF: Tensor, target_B: Tensor) -> dict[str, float]:
        value_NB1, rows = self.critics.forward(x_BF), len(x_BF)
        error_NB1 = value_NB1 - target_B[:, None]
        loss = float(0.5 * error_NB1.square().sum() / rows)
        _require_finite("critic", loss)
        self.critics.backward(x_BF, error_NB1.div_(rows))
        self.adams["critic"].step()
        return {
            "loss/critic": loss,
            "health/critic_value": float(value_NB1.mean()),
            "health/critic_target": float(target_B.mean()),
        }

    def _actor_step(self, now: Tensor, sample: _Sample, noise_BA: Tensor, alpha: float) -> dict[str, float]:
        rows, width = sample.action.shape
        value_B, value_gradient_NB1 = self._actor_value(self.critics.forward(torch.cat([now, sample.action], 1)))
        rise_BA = self.critics.input_gradient(value_gradient_NB1, width)
        mean_BA = (2 * alpha * sample.action).addcmul_(1 - sample.action.square(), rise_BA, value=-1).div_(rows)
        log_std_BA = (mean_BA * sample.std * noise_BA).sub_(alpha / rows) * sample.inside
        logp, value = float(sample.logp.mean()), float(value_B.mean())
        loss = alpha * logp - value + self._temperature_step(logp + self.algo.target_entropy * width, alpha)
        _require_finite("actor", loss)
        self.actor.backward(now, torch.cat([mean_BA, log_std_BA], 1)[None])
        self.adams["actor"].step()
        return {"loss/actor": loss, "health/actor_entropy": -logp, "health/actor_temperature": alpha}

    def _actor_value(self, value_NB1: Tensor) -> tuple[Tensor, Tensor]:
        """The value that the actor maximizes ``[B]``, and its gradient in the members' values."""
        if self.algo.actor_value == "mean":
            return value_NB1.mean(0)[:, 0], torch.full_like(value_NB1, 1 / len(value_NB1))
        value_B1, least = value_NB1.min(0, keepdim=True)
        return value_B1.view(-1), torch.zeros_like(value_NB1).scatter_(0, least, 1.0)

    def _temperature_step(self, excess: float, alpha: float) -> float:
        """One step of log alpha; its loss."""
        self.log_gradient.fill_(-excess * (1.0 if self.ascent == "log" else alpha))
        loss = -excess * (float(self.log) if self.ascent == "log" else alpha)
        self.adams["temperature"].step()
        return loss

    def state_dict(self) -> dict[str, Any]:
        return {"batches": self.batches, "adams": {name: adam.state_dict() for name, adam in self.adams.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.batches = state["batches"]
        for name, adam in self.adams.items():
            adam.load_state_dict(state["adams"][name])


def _require_finite(name: str, loss: float) -> None:
    if not math.isfinite(loss):
        raise FloatingPointError(f"the loss of update '{name}' is {loss}")
