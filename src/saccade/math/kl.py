"""KL divergence of a policy from its reference.

Estimators k1, k2, k3 on log-probs (Schulman, "Approximating KL divergence"), and the closed form between two Gaussians
of equal variance, (m - m_ref)^2 / (2 var), whose denominator differs between codebases and is therefore an argument.
"""

from __future__ import annotations

from torch import Tensor


def k1(logp: Tensor, ref: Tensor) -> Tensor:
    """l - l_ref: unbiased, positive or negative."""
    return logp - ref


def k2(logp: Tensor, ref: Tensor) -> Tensor:
    """(l - l_ref)^2 / 2: biased value, on-policy gradient of the true KL."""
    return 0.5 * (logp - ref) ** 2


def k3(logp: Tensor, ref: Tensor) -> Tensor:
    """exp(D) - D - 1 with D = l_ref - l: unbiased and never negative (GRPO)."""
    log_ratio = ref - logp
    return log_ratio.exp() - log_ratio - 1


def gaussian(mean: Tensor, ref: Tensor, variance: Tensor, dims: int) -> Tensor:
    """Mean over the last ``dims`` dimensions of (m - m_ref)^2 / (2 variance)."""
    return ((mean - ref) ** 2 / (2 * variance)).mean(tuple(range(-dims, 0)))
