"""Flow matching: the path between data and noise, steps of samplers on it, and classifier-free guidance."""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor

from saccade.core import Kernel

LOG_2PI = math.log(2 * math.pi)

NEAR_NOISE = 1e-4
"""Distance from t = 1 below which a time counts as pure noise: schedulers reach 1 within rounding."""


def ode(x: Tensor, v: Tensor, t: Tensor, t_next: Tensor) -> tuple[Tensor, Tensor]:
    """Euler step of the probability-flow ODE, x + v dt: deterministic, standard deviation 0."""
    t, t_next = _like_float(t, x), _like_float(t_next, x)
    return x + v * (t_next - t), torch.zeros_like(t)


def flow_sde(x: Tensor, v: Tensor, t: Tensor, t_next: Tensor, *, a: float, guard: float) -> tuple[Tensor, Tensor]:
    """Flow-GRPO 2505.05470: drift corrected for the noise g = a sqrt(t / (1 - t)), standard deviation g sqrt(-dt).

    ``guard`` replaces t in 1 - t where t is 1 or nearly so (most implementations take the second time of the grid).
    """
    t, t_next = _like_float(t, x), _like_float(t_next, x)
    dt = t_next - t
    one_minus_t = (1 - torch.where(t > 1 - NEAR_NOISE, torch.full_like(t, guard), t)).clamp(min=NEAR_NOISE)
    g2 = a * a * t / one_minus_t
    mean = x * (1 + g2 * dt / (2 * t)) + v * (1 + g2 * (1 - t) / (2 * t)) * dt
    return mean, (g2 * -dt).sqrt()


def dance_sde(x: Tensor, v: Tensor, t: Tensor, t_next: Tensor, *, eta: float) -> tuple[Tensor, Tensor]:
    """DanceGRPO 2505.07818: x + (v - eta^2 score / 2) dt with score = -(x - (1 - t) x0) / t^2, std eta sqrt(-dt)."""
    t, t_next = _like_float(t, x), _like_float(t_next, x)
    dt = t_next - t
    score = -(x - (1 - t) * (x - t * v)) / (t * t)
    return x + (v - 0.5 * eta * eta * score) * dt, eta * (-dt).sqrt()


def cps(x: Tensor, v: Tensor, t: Tensor, t_next: Tensor, *, a: float) -> tuple[Tensor, Tensor]:
    """Coefficients-preserving sampling 2509.05952: (1 - t') x0 + sqrt(t'^2 - S^2) eps, std S = t' sin(a pi / 2).

    With a = 1 the predicted eps has no weight: fresh noise is added to the predicted x0 up to t', as consistency models
    (2303.01469) and DMD2 (2405.14867) sample in a few steps.
    """
    t, t_next = _like_float(t, x), _like_float(t_next, x)
    std = t_next * math.sin(a * math.pi / 2)
    return (1 - t_next) * (x - t * v) + (t_next**2 - std**2).clamp(min=0).sqrt() * (x + (1 - t) * v), std


def flow_kernel(name: str, noise: float, times: Tensor) -> Kernel:
    """The kernel flow_sde, dance_sde, cps, renoise or ode for a grid of ``times``; ValueError for another name."""
    match name:
        case "flow_sde":
            return partial(flow_sde, a=noise, guard=float(times[1]))
        case "dance_sde":
            return partial(dance_sde, eta=noise)
        case "cps":
            return partial(cps, a=noise)
        case "renoise":
            return partial(cps, a=1.0)
        case "ode":
            return ode
    raise ValueError(f"unknown kernel '{name}': one of flow_sde, dance_sde, cps, renoise, ode")


def kernel_logp(
    name: str, x_next: Tensor, mean: Tensor, std: Tensor, dims: int, reduce: str = "mean"
) -> tuple[Tensor, Tensor]:
    """Log-probability of a sampled next state under the kernel ``name``, and the deviation that it has ``[...]``.

    That of a Gaussian, except for cps and renoise: the published log-probability of Flow-CPS is -(x' - m)^2, without
    the deviation of the step and without constants. It is finite also in the last step, whose deviation is 0, and is
    that of a Gaussian of variance 1/2 up to a constant, which is the deviation returned.
    """
    if name in ("cps", "renoise"):
        return _reduced(-((x_next - mean) ** 2), dims, reduce), torch.full_like(std, math.sqrt(0.5))
    return gaussian_logp(x_next, mean, std, dims, reduce), std


def gaussian_logp(x_next: Tensor, mean: Tensor, std: Tensor, dims: int, reduce: str = "mean") -> Tensor:
    """Log-density of a sampled next state under N(mean, std^2), over the last ``dims`` dimensions.

    ``reduce="mean"`` divides the log-density by the number of elements, as the Flow-GRPO family does (its small clip
    ranges follow from that); ``"sum"`` is the log-density itself.
    """
    return _reduced(-((x_next - mean) ** 2) / (2 * std**2) - std.log() - 0.5 * LOG_2PI, dims, reduce)


def flow_times(steps: int, shift: float = 1.0) -> Tensor:
    """Times ``[steps + 1]`` float32, 1 down to 0; ``shift`` s warps t to s t / (1 + (s - 1) t) (SD3, 2403.03206)."""
    if steps < 1:
        raise ValueError(f"steps must be at least 1, not {steps}")
    t = torch.linspace(1.0, 0.0, steps + 1, dtype=torch.float64)
    return (shift * t / (1 + (shift - 1) * t)).float()


def add_noise(x0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
    """The forward process x_t = (1 - t) x0 + t eps; ``t`` broadcasts from the left."""
    t = _like(t, x0)
    return (1 - t) * x0 + t * eps


def to_data(x: Tensor, v: Tensor, t: Tensor) -> Tensor:
    """The clean sample that a velocity predicts: x0 = x - t v."""
    return x - _like(t, x) * v


def to_noise(x: Tensor, v: Tensor, t: Tensor) -> Tensor:
    """The noise that a velocity predicts: eps = x + (1 - t) v."""
    return x + (1 - _like(t, x)) * v


def guided(cond: Tensor, uncond: Tensor | None, guidance: float) -> Tensor:
    """uncond + guidance (cond - uncond), for velocities or logits of one shape; ``cond`` where ``uncond`` is None."""
    return cond if uncond is None else uncond + guidance * (cond - uncond)


def _reduced(term: Tensor, dims: int, reduce: str) -> Tensor:
    over = tuple(range(-dims, 0))
    return term.mean(over) if reduce == "mean" else term.sum(over)


def _like(t: Tensor, x: Tensor) -> Tensor:
    """``t`` with dimensions appended, so that it broadcasts from the left against ``x``."""
    return t.reshape(t.shape + (1,) * (x.dim() - t.dim()))


def _like_float(t: Tensor, x: Tensor) -> Tensor:
    """`_like` in float32."""
    return _like(t.float(), x)
