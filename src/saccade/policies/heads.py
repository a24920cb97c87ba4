"""What a policy's outputs say of actions: draws, log-probs and entropies, categorical or Gaussian.

A draw follows from numbers that are handed in, uniform for a choice, standard normal for a vector; None stands for the likeliest
action. Acting is a matter of a few numbers, hence of numpy; replay has gradients, hence tensors.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn


class Categorical(nn.Module):
    """One of K actions, from logits ``[N, K]``; actions int64 ``[N]``."""

    def __init__(self, actions: int):
        super().__init__()
        self.outputs = actions

    def act(self, logits_NK: np.ndarray, uniform_N1: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """The action at whose place of the cumulated probabilities the uniform number lies, and its log-prob ``[N]``."""
        logits_NK = logits_NK - logits_NK.max(1, keepdims=True)
        below_NK = np.exp(logits_NK).cumsum(1)
        total_N1 = below_NK[:, -1:]
        action_N = logits_NK.argmax(1) if uniform_N1 is None else (below_NK[:, :-1] <= uniform_N1 * total_N1).sum(1)
        return action_N, logits_NK[np.arange(len(logits_NK)), action_N] - np.log(total_N1[:, 0])

    def logp(self, logits_NK: Tensor, action_N: Tensor) -> Tensor:
        return logits_NK.log_softmax(-1).gather(-1, action_N[:, None]).squeeze(-1)

    def entropy(self, logits_NK: Tensor) -> Tensor:
        logp_NK = logits_NK.log_softmax(-1)
        return -(logp_NK.exp() * logp_NK).sum(-1)


class Gaussian(nn.Module):
    """A vector of A numbers, not squashed, from means ``[N, A]``; the spread is the same in every state. Actions ``[N, A]``."""

    def __init__(self, actions: int, log_std: float = 0.0):
        super().__init__()
        self.outputs = actions
        self.log_std = nn.Parameter(torch.full((actions,), log_std))

    def act(self, mean_NA: np.ndarray, normal_NA: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """The mean and so many spreads beside it, and the log-density there ``[N]``."""
        normal_NA = np.zeros_like(mean_NA) if normal_NA is None else normal_NA
        log_std = self.log_std.detach().cpu().numpy()
        at_mean = np.float32(log_std.sum() + 0.5 * math.log(2 * math.pi) * self.outputs)
        return mean_NA + np.exp(log_std) * normal_NA, -0.5 * (normal_NA * normal_NA).sum(1) - at_mean

    def logp(self, mean_NA: Tensor, action_NA: Tensor) -> Tensor:
        far_NA = (action_NA - mean_NA) * (-self.log_std).exp()
        return (-0.5 * far_NA**2 - self.log_std - 0.5 * math.log(2 * math.pi)).sum(-1)

    def entropy(self, mean_NA: Tensor) -> Tensor:
        return (self.log_std + 0.5 * math.log(2 * math.pi * math.e)).sum().expand(len(mean_NA))


Head = Categorical | Gaussian
