"""The learner of SAC and its kin on vectors, with their gradients written out: the steps of `CriticLoss` and
`ActorLoss`.

    u = m + s eps, a = tanh(u)        d log pi / d u = 2 a        d log pi / d log s = 2 a s eps - 1        d a / d u =
    1 - a^2

It takes the steps that `Updates` takes with these losses and torch's Adam, within rounding, in three quarters of the
time on a CPU.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from saccade.algorithms.fast.batched_mlps import BatchedMLPs, FlatAdam, fits
from saccade.algorithms.lagrange import LagrangeMultiplier
from saccade.algorithms.off_policy import OffPolicy, action, members, noise, seen
from saccade.core import Rollout
from saccade.math.gaussians import Gaussian, squashed_log_prob
from saccade.models.control.critics import Critics, Target
from saccade.policies.actors import LOG_STD, Actor, SquashedActor


class _Drawn(NamedTuple):
    """Actions ``[N, A]``, their log-densities ``[N]``, and what they came from, each ``[N, A]``."""

    action: Tensor
    logp: Tensor
    std: Tensor
    bounded: Tensor
    """1 where the spread is within its bounds, so that it has a gradient."""


def has_analytic_gradient(actor: Actor, critics: Critics, how: OffPolicy) -> bool:
    """Whether the gradients are written out here: squashed Gaussians on vectors as they are, ReLU, no norm, float32
    on a CPU.
    """
    bare = not list(critics.encoder.parameters()) and not list(actor.encoder.parameters())
    known = how.actor_value in ("min", "mean") and not how.smoothing
    return isinstance(actor, SquashedActor) and bare and known and fits(actor.trunk) and fits(critics.ensemble)


class AnalyticOffPolicyLearner:
    """The critics' step, every ``how.actor_every`` batches that of actor and temperature, the target's: unclipped, by
    Adam.

    The weights of ``actor``, ``critics`` and ``target`` become views of vectors that are changed in place. ``low``:
    products in bfloat16.
    """

    def __init__(
        self, actor: SquashedActor, critics: Critics, target: Target, how: OffPolicy, temperature: LagrangeMultiplier, lr: float,
        low: bool = False,
    ):  # fmt: skip
        self.encoder, self.how, self.ascent, self.batches = critics.encoder, how, temperature.ascent, 0
        self.actor, self.critics, self.target = (
            BatchedMLPs(net, low) for net in (actor.trunk, critics.ensemble, target.net.ensemble)
        )
        self.target.rooms = (
            self.critics.rooms
        )  # what one says is used before the other speaks: half the memory stays in cache
        self.log, self.log_slope = temperature.log.detach().view(1), torch.zeros(1)
        self.adams = {
            "critic": FlatAdam(self.critics.flat, self.critics.slope, lr),
            "actor": FlatAdam(self.actor.flat, self.actor.slope, lr),
            "temperature": FlatAdam(self.log, self.log_slope, lr),
        }

    @torch.no_grad()
    def update(self, batch: Rollout) -> dict[str, float]:
        """One step of each on a batch of `Buffer.sample`; the metrics of `Updates`. FloatingPointError if a loss is
        not finite.
        """
        acts, alpha, rows = self.batches % self.how.actor_every == 0, math.exp(float(self.log)), len(batch)
        now, after = self.encoder(seen(batch)), self.encoder(seen(batch, "next"))
        # The actor does not change before its own step, so one forward pass draws present and next actions.
        noise_NA = (noise(batch) if acts else noise(batch)[1:]).flatten(0, 1)
        drawn = self._draw(torch.cat([now, after]) if acts else after, noise_NA)
        target_B = self._backup(batch, after, _Drawn(*(x[-rows:] for x in drawn)), alpha)
        told = self._critic_step(torch.cat([now, action(batch)], 1), target_B)
        if acts:
            told |= self._actor_step(now, _Drawn(*(x[:rows] for x in drawn)), noise_NA[:rows], alpha)
        self.target.flat.lerp_(self.critics.flat, self.how.tau)
        self.batches += 1
        return told

    def _draw(self, state_NF: Tensor, noise_NA: Tensor) -> _Drawn:
        mean, log_std = self.actor.forward(state_NF)[0].chunk(2, -1)
        low, high = LOG_STD
        gaussian = Gaussian(mean, log_std.clamp(low, high).exp())
        before = gaussian.sample(noise_NA)
        return _Drawn(
            torch.tanh(before), squashed_log_prob(gaussian, before), gaussian.std, (log_std >= low) & (log_std <= high)
        )

    def _backup(self, batch: Rollout, after: Tensor, drawn: _Drawn, alpha: float) -> Tensor:
        value_B = self.target.forward(torch.cat([after, drawn.action], 1), members(batch, self.how))[..., 0].amin(0)
        if self.how.entropy_in_backup:
            value_B = value_B - alpha * drawn.logp
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

    def _actor_step(self, now: Tensor, drawn: _Drawn, noise_BA: Tensor, alpha: float) -> dict[str, float]:
        rows, width = drawn.action.shape
        value_B, slope_NB1 = self._raised(self.critics.forward(torch.cat([now, drawn.action], 1)))
        rise_BA = self.critics.to_input(slope_NB1, width)
        lift_BA = (2 * alpha * drawn.action).addcmul_(1 - drawn.action.square(), rise_BA, value=-1).div_(rows)
        spread_BA = (lift_BA * drawn.std * noise_BA).sub_(alpha / rows) * drawn.bounded
        logp, value = float(drawn.logp.mean()), float(value_B.mean())
        loss = alpha * logp - value + self._temperature_step(logp + self.how.target_entropy * width, alpha)
        _require_finite("actor", loss)
        self.actor.backward(now, torch.cat([lift_BA, spread_BA], 1)[None])
        self.adams["actor"].step()
        return {"loss/actor": loss, "health/actor_entropy": -logp, "health/actor_temperature": alpha}

    def _raised(self, value_NB1: Tensor) -> tuple[Tensor, Tensor]:
        """What the actor raises ``[B]``, and its gradient in the members' values."""
        if self.how.actor_value == "mean":
            return value_NB1.mean(0)[:, 0], torch.full_like(value_NB1, 1 / len(value_NB1))
        value_B1, least = value_NB1.min(0, keepdim=True)
        return value_B1.view(-1), torch.zeros_like(value_NB1).scatter_(0, least, 1.0)

    def _temperature_step(self, excess: float, alpha: float) -> float:
        """One step of log alpha; its loss."""
        self.log_slope.fill_(-excess * (1.0 if self.ascent == "log" else alpha))
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
