"""Distilling a diffusion into a generator: scores and what they follow from, divergences between two fields of scores.

The generator's sample x0 is noised to x_t = a x0 + b eps (on the flow path a = 1 - t, b = t). ``fake`` and ``reference`` are
the clean samples that two networks predict from x_t, one taught on the generator's own samples, the other a frozen
diffusion; scores are (a x0 - x_t) / b^2, so y = fake - reference is their difference up to a positive factor. For a
divergence E d(y), with the law of x_t held fixed, the gradient is that of

    L = -d'(y) . (fake - x0)          (score identity: E u(x_t) . (score(x_t) - grad log q(x_t | x0)) = 0 for any field u)

where the networks' weights are constants and x_t is not: gradients pass through both networks (SiD 2404.04057 with
d = |y|^2 / 2, SIM and Diff-Instruct* 2410.20898 with the pseudo-Huber norm). With d'(y) = y and the networks cut off the same
line is the gradient of the integral KL (Diff-Instruct 2305.18455, DMD 2311.18828, Diff-Instruct++). All products are means
over the latent, so no weight depends on its size.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import Tensor

Slope = Callable[[Tensor], Tensor]
"""d'(y), row by row: ``[B, ...]`` -> the same shape."""


def data_to_score(x_t: Tensor, x0: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """The score that a predicted clean sample stands for, (a x0 - x_t) / b^2; a and b broadcast from the left."""
    a, b = _left(a, x_t), _left(b, x_t)
    return (a * x0 - x_t) / b**2


def score_to_data(x_t: Tensor, score: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """The clean sample that a score points to, (x_t + b^2 score) / a."""
    a, b = _left(a, x_t), _left(b, x_t)
    return (x_t + b**2 * score) / a


def velocity_to_score(x_t: Tensor, v: Tensor, t: Tensor) -> Tensor:
    """On the flow path: score = -(x_t + (1 - t) v) / t."""
    t = _left(t, x_t)
    return -(x_t + (1 - t) * v) / t


def score_to_velocity(x_t: Tensor, score: Tensor, t: Tensor) -> Tensor:
    """On the flow path: v = -(x_t + t score) / (1 - t)."""
    t = _left(t, x_t)
    return -(x_t + t * score) / (1 - t)


def data_to_velocity(x_t: Tensor, x0: Tensor, t: Tensor) -> Tensor:
    """On the flow path: v = (x_t - x0) / t."""
    return (x_t - x0) / _left(t, x_t)


def linear(y: Tensor) -> Tensor:
    """d'(y) = y: half the squared norm and, with the networks cut off, the integral KL."""
    return y


def pseudo_huber(y: Tensor, kappa: float) -> Tensor:
    """d'(y) = y / sqrt(mean y^2 + kappa^2), of the pseudo-Huber norm; ``kappa`` in the units of one coordinate."""
    return y / (_mean(y * y) + kappa**2).sqrt().reshape(-1, *[1] * (y.dim() - 1))


def slope(name: str, kappa: float) -> Slope:
    """d' by the divergence's name: ``integral_kl``, ``squared``, ``pseudo_huber``."""
    known = {"integral_kl": linear, "squared": linear, "pseudo_huber": partial(pseudo_huber, kappa=kappa)}
    if name not in known:
        raise ValueError(f"unknown divergence '{name}': one of {', '.join(known)}")
    return known[name]


def score_divergence(fake: Tensor, reference: Tensor, x0: Tensor, slope: Slope) -> Tensor:
    """-d'(fake - reference) . (fake - x0) of each row, whose gradient is the divergence's: ``[B]``."""
    return -_mean(slope(fake - reference) * (fake - x0))


def normaliser(reference: Tensor, x0: Tensor) -> Tensor:
    """DMD's weight of a row, 1 / mean |x0 - reference|, which makes rows of all noise levels count alike: ``[B]``."""
    return 1 / (x0 - reference).detach().abs().flatten(1).mean(1).clamp(min=1e-5)


def guidance_pull(reference: Tensor, reference_free: Tensor, x0: Tensor) -> Tensor:
    """Guidance as a term of its own: (free - conditional) . x0, the difference a constant: ``[B]``."""
    return _mean((reference_free - reference).detach() * x0)


def _mean(x: Tensor) -> Tensor:
    return x.flatten(1).mean(1)


def _left(t: Tensor, x: Tensor) -> Tensor:
    return t.reshape(t.shape + (1,) * (x.dim() - t.dim()))
