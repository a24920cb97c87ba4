"""The hand-written gradient of the PPO loss for fused networks: that of `ActorCriticLoss` after `normalize_advantages`,
without autograd.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from saccade.algorithms.fast.analytic import AnalyticUpdates
from saccade.algorithms.fast.fused_actor_critic import FusedActorCritic
from saccade.algorithms.ppo import PPO, ActorCriticLoss, advantages_of
from saccade.core import Learner, Rollout
from saccade.math.exponential import LARGEST_EXPONENT
from saccade.math.surrogates import clipped
from saccade.policies.actor_critic import ActorCritic, Categorical
from saccade.training.settings import AdamW

Columns = Mapping[str, np.ndarray]
"""Decisions as arrays by name, each ``[N, ...]``."""


def analytic_learner(
    cfg: PPO, policy: ActorCritic, optim: AdamW, minibatches: int, optimizer_steps: int, seed: int
) -> Learner | None:
    """The learner of a fused policy; None for a loss or an optimizer whose gradient or step is not written here."""
    loss = cfg.loss(policy)
    if not has_analytic_gradient(loss, policy) or optim.weight_decay or optim.warmup:
        return None
    return AnalyticUpdates(
        "ppo",
        AnalyticPPOGradient(loss, policy),
        optim,
        shuffle=seed,
        epochs=cfg.n_epochs,
        minibatches=minibatches,
        schedule=cfg.lr_schedule(optimizer_steps),
    )


def has_analytic_gradient(loss: ActorCriticLoss, policy: ActorCritic) -> bool:
    """Whether the gradient of this loss of the policy is written here."""
    return isinstance(policy.fused, FusedActorCritic) and loss.surrogate is clipped and loss.clip_range_vf is None


class AnalyticPPOGradient:
    """Writes the gradient of ``loss`` on some decisions to ``networks.gradient_P``; advantages are normalized first."""

    def __init__(self, loss: ActorCriticLoss, policy: ActorCritic):
        if not isinstance(policy.fused, FusedActorCritic):
            raise ValueError("the gradient is written for fused networks, and this policy has none")
        self.loss, self.policy, self.networks = loss, policy, policy.fused
        self.discrete = isinstance(policy.head, Categorical)

    def columns(self, rollout: Rollout) -> dict[str, np.ndarray]:
        """The inputs of the loss, each decision of the rollout a row."""
        parts = {
            "old": rollout.logp_BT,
            "mask": rollout.mask_BT,
            "advantage": advantages_of(rollout),
            "return": rollout.extras["return_BT"],
        }
        action = rollout.decisions["action_BT"].flatten(0, 1).numpy()
        if self.discrete:
            action = np.eye(self.networks.outputs, dtype=np.float32)[action]
        columns = {name: part.flatten().float().numpy() for name, part in parts.items()}
        columns |= {"features": self.policy.features(rollout).numpy(), "action": np.asarray(action, np.float32)}
        masked = columns["mask"] == 0
        return {name: _zeroed(part, masked) for name, part in columns.items()} if masked.any() else columns

    def __call__(self, rows: Columns) -> dict[str, float]:
        """Write the gradient of the mean over these decisions; returns the loss and the metrics of `ActorCriticLoss`,
        as means.
        """
        x, weight = rows["features"], rows["mask"] / max(float(rows["mask"].sum()), 1e-12)
        output, value = self.networks.forward(x)
        head = self._categorical(output, rows["action"]) if self.discrete else self._gaussian(output, rows["action"])
        slope, metrics = self._surrogate(head["logp"], rows, weight)
        error = value - rows["return"]
        metrics |= {"entropy": float(weight @ head["entropy"]), "value_error": float(weight @ (error * error))}
        surrogate = metrics.pop("surrogate")
        metrics["loss"] = (
            surrogate + self.loss.value_coef * metrics["value_error"] - self.loss.entropy_coef * metrics["entropy"]
        )
        gradient = (self._categorical_gradient if self.discrete else self._gaussian_gradient)(slope, weight, head)
        error *= weight
        error *= 2 * self.loss.value_coef
        self.networks.backward(x, gradient, error)
        return metrics

    def _surrogate(self, logp: np.ndarray, rows: Columns, weight: np.ndarray) -> tuple[np.ndarray, dict[str, float]]:
        """Derivative of the weighted surrogate in each log-probability ``[N]``, and its metrics."""
        advantage, gap = _normalized(rows["advantage"], rows["mask"]), logp - rows["old"]
        slope = np.exp(np.minimum(gap, LARGEST_EXPONENT))  # of `bounded_exp`, written out
        ratio = np.where(gap > LARGEST_EXPONENT, slope * (1 + gap - LARGEST_EXPONENT), slope)
        high_range = self.loss.clip_range if self.loss.clip_range_high is None else self.loss.clip_range_high
        low, high = 1 - self.loss.clip_range, 1 + high_range
        outside = np.where(advantage > 0, ratio > high, (ratio < low) & (advantage < 0))
        bounded = np.clip(ratio, low, high)
        metrics = {
            "surrogate": float(weight @ np.maximum(-advantage * ratio, -advantage * bounded)),
            "clipped": float(weight @ outside),
            "kl": float(weight @ (ratio - 1 - gap)),
        }
        return -weight * advantage * slope * ~outside, metrics

    def _categorical(self, logits: np.ndarray, chosen: np.ndarray) -> dict[str, np.ndarray]:
        logp = logits - logits.max(1, keepdims=True)
        logp -= np.log(np.exp(logp).sum(1, keepdims=True))
        p = np.exp(logp)
        return {"logp": (logp * chosen).sum(1), "entropy": -(p * logp).sum(1), "all": logp, "p": p, "chosen": chosen}

    def _categorical_gradient(self, slope: np.ndarray, weight: np.ndarray, head: Columns) -> np.ndarray:
        """d log p_a / d logit_k = [k = a] - p_k, d H / d logit_k = -p_k (log p_k + H)."""
        gradient = slope[:, None] * (head["chosen"] - head["p"])
        if self.loss.entropy_coef:
            scale = (self.loss.entropy_coef * weight)[:, None]
            gradient += scale * head["p"] * (head["all"] + head["entropy"][:, None])
        return gradient

    def _gaussian(self, mean: np.ndarray, action: np.ndarray) -> dict[str, np.ndarray]:
        (log_std,) = self.networks.weights.others
        precision = np.exp(-log_std)
        z = (action - mean) * precision
        logp = -0.5 * (z * z).sum(1) - log_std.sum() - 0.5 * math.log(2 * math.pi) * z.shape[1]
        entropy = log_std.sum() + 0.5 * math.log(2 * math.pi * math.e) * z.shape[1]
        return {"logp": logp, "entropy": np.full(len(z), entropy, np.float32), "z": z, "precision": precision}

    def _gaussian_gradient(self, slope: np.ndarray, weight: np.ndarray, head: Columns) -> np.ndarray:
        """d log N / d m = z / s, d log N / d log s = z^2 - 1, d H / d log s = 1."""
        z, (log_std,) = head["z"], self.networks.gradients.others
        np.matmul(slope, z * z - 1, out=log_std)
        log_std[:] -= self.loss.entropy_coef * weight.sum()
        return slope[:, None] * z * head["precision"]


def _zeroed(part: np.ndarray, masked: np.ndarray) -> np.ndarray:
    """A copy with zeros at masked decisions, which may hold anything."""
    part = part.copy()
    part[masked] = 0
    return part


def _normalized(advantage: np.ndarray, mask: np.ndarray) -> np.ndarray:
    count = max(float(mask.sum()), 1.0)
    centred = advantage - float(mask @ advantage) / count
    return centred / (math.sqrt(float(mask @ (centred * centred)) / max(count - 1, 1)) + 1e-8)
