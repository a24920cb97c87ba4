"""KL divergence of a policy from its reference.

Estimators k2 and k3 on log-probs (Schulman, "Approximating KL divergence"), and the closed form between two Gaussians
of equal variance, (m - m_ref)^2 / (2 var), whose denominator differs between codebases and is therefore an argument.
The estimator k1 = l - l_ref is no loss: the expectation of its gradient is zero on-policy.
"""

from __future__ import annotations

from torch import Tensor

from saccade.math.exponential import bounded_exp


def k2(logp: Tensor, ref: Tensor) -> Tensor:
    """(l - l_ref)^2 / 2: biased value, on-policy the gradient of KL(policy || reference)."""
    return 0.5 * (logp - ref) ** 2


def k3(logp: Tensor, ref: Tensor) -> Tensor:
    """exp(D) - D - 1 with D = l_ref - l: unbiased and never negative (GRPO), finite for any D.

    On-policy it has the value of KL(policy || reference) and the gradient of KL(reference || policy).
    """
    log_ratio = ref - logp
    return bounded_exp(log_ratio) - log_ratio - 1


def gaussian(mean: Tensor, ref: Tensor, variance: Tensor, dims: int) -> Tensor:
    """Mean over the last ``dims`` dimensions of (m - m_ref)^2 / (2 variance)."""
    return ((mean - ref) ** 2 / (2 * variance)).mean(tuple(range(-dims, 0)))
