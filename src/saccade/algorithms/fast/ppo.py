"""The gradient of the PPO loss written out for twin networks: what `ActorCriticLoss` with `normalised` is worth,
without autograd.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from saccade.algorithms.ppo import ActorCriticLoss
from saccade.core import Rollout
from saccade.math.surrogates import clipped
from saccade.policies.actor_critic import ActorCritic, Categorical
from saccade.policies.fused_actor_critic import FusedActorCritic

Columns = Mapping[str, np.ndarray]
"""Decisions as arrays by name, each ``[N, ...]``."""


def has_analytic_gradient(loss: ActorCriticLoss) -> bool:
    """Whether the gradient of this loss is written out here."""
    twin = isinstance(loss.policy, ActorCritic) and loss.policy.twin is not None
    return twin and loss.surrogate is clipped and loss.clip_value is None


class AnalyticPPOGradient:
    """Writes the gradient of ``loss`` on some decisions into ``twin.slope``. ``normalise``: advantages are
    standardised first.
    """

    def __init__(self, loss: ActorCriticLoss, normalise: bool = True):
        self.loss, self.normalise, self.policy = loss, normalise, loss.policy
        self.twin: FusedActorCritic = loss.policy.twin
        self.choice = isinstance(loss.policy.head, Categorical)

    def columns(self, rollout: Rollout) -> dict[str, np.ndarray]:
        """All that the loss reads, each decision of the rollout a row."""
        parts = {
            "old": rollout.logp_BT,
            "mask": rollout.mask_BT,
            "advantage": rollout.advantage_BT,
            "return": rollout.extras["return_BT"],
        }
        action = rollout.decisions["action_BT"].flatten(0, 1)
        if self.choice:
            action = np.eye(self.twin.outputs, dtype=np.float32)[action.numpy()]
        found = {name: part.flatten().float().numpy() for name, part in parts.items()}
        found |= {"features": self.policy.features(rollout).numpy(), "action": np.asarray(action, np.float32)}
        masked = found["mask"] == 0
        return {name: _without(part, masked) for name, part in found.items()} if masked.any() else found

    def __call__(self, rows: Columns) -> dict[str, float]:
        """Write the gradient of the mean over these decisions; the loss and the metrics of `ActorCriticLoss`, as
        means.
        """
        x, weight = rows["features"], rows["mask"] / max(float(rows["mask"].sum()), 1e-12)
        out, value = self.twin.forward(x)
        parts = self._choice(out, rows["action"]) if self.choice else self._vector(out, rows["action"])
        logp, entropy = parts["logp"], parts["entropy"]
        gain, metrics = self._surrogate(logp, rows, weight)
        error = value - rows["return"]
        metrics |= {"entropy": float(weight @ entropy), "value_error": float(weight @ (error * error))}
        metrics["loss"] = (
            metrics.pop("surrogate") + self.loss.value * metrics["value_error"] - self.loss.entropy * metrics["entropy"]
        )
        slope = (self._choice_slope if self.choice else self._vector_slope)(gain, weight, parts)
        error *= weight
        error *= 2 * self.loss.value
        self.twin.backward(x, slope, error)
        return metrics

    def _surrogate(self, logp: np.ndarray, rows: Columns, weight: np.ndarray) -> tuple[np.ndarray, dict[str, float]]:
        """Slope of the weighted surrogate in each log-prob ``[N]``, and what is told of it."""
        advantage, gap = rows["advantage"], logp - rows["old"]
        if self.normalise:
            advantage = _standardised(advantage, rows["mask"])
        ratio = np.exp(gap)
        low, high = 1 - self.loss.clip, 1 + (self.loss.clip if self.loss.clip_high is None else self.loss.clip_high)
        out = np.where(advantage > 0, ratio > high, (ratio < low) & (advantage < 0))
        bounded = np.clip(ratio, low, high)
        told = {
            "surrogate": float(weight @ np.maximum(-advantage * ratio, -advantage * bounded)),
            "clipped": float(weight @ out),
            "kl": float(weight @ (ratio - 1 - gap)),
        }
        return -weight * advantage * ratio * ~out, told

    def _choice(self, logits: np.ndarray, chosen: np.ndarray) -> dict[str, np.ndarray]:
        logp = logits - logits.max(1, keepdims=True)
        logp -= np.log(np.exp(logp).sum(1, keepdims=True))
        p = np.exp(logp)
        return {"logp": (logp * chosen).sum(1), "entropy": -(p * logp).sum(1), "all": logp, "p": p, "chosen": chosen}

    def _choice_slope(self, gain: np.ndarray, weight: np.ndarray, parts: Columns) -> np.ndarray:
        """d log p_a / d logit_k = [k = a] - p_k, d H / d logit_k = -p_k (log p_k + H)."""
        slope = gain[:, None] * (parts["chosen"] - parts["p"])
        if self.loss.entropy:
            slope += (self.loss.entropy * weight)[:, None] * parts["p"] * (parts["all"] + parts["entropy"][:, None])
        return slope

    def _vector(self, mean: np.ndarray, action: np.ndarray) -> dict[str, np.ndarray]:
        (log_std,) = self.twin.weights.more
        narrow = np.exp(-log_std)
        far = (action - mean) * narrow
        logp = -0.5 * (far * far).sum(1) - log_std.sum() - 0.5 * math.log(2 * math.pi) * far.shape[1]
        entropy = log_std.sum() + 0.5 * math.log(2 * math.pi * math.e) * far.shape[1]
        return {"logp": logp, "entropy": np.full(len(far), entropy, np.float32), "far": far, "narrow": narrow}

    def _vector_slope(self, gain: np.ndarray, weight: np.ndarray, parts: Columns) -> np.ndarray:
        """d log N / d m = z / s, d log N / d log s = z^2 - 1, d H / d log s = 1."""
        far = parts["far"]
        np.matmul(gain, far * far - 1, out=self.twin.slopes.more[0])
        self.twin.slopes.more[0][:] -= self.loss.entropy * weight.sum()
        return gain[:, None] * far * parts["narrow"]


def _without(part: np.ndarray, masked: np.ndarray) -> np.ndarray:
    """Zeros in place of what is masked, which may hold anything."""
    part = part.copy()
    part[masked] = 0
    return part


def _standardised(advantage: np.ndarray, mask: np.ndarray) -> np.ndarray:
    count = float(mask.sum())
    centred = advantage - float(mask @ advantage) / count
    return centred / (math.sqrt(float(mask @ (centred * centred)) / max(count - 1, 1)) + 1e-8)
