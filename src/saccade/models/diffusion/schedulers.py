"""Schedulers of diffusers as grids of one flow, x_t = (1 - t) x0 + t eps, and the times that their networks see.

A scheduler of flow matching has t as its sigma. One of noise prediction (DDIM 2010.02502) has samples sqrt(a) x0 +
sqrt(1 - a) eps, which divided by sqrt(a) + sqrt(1 - a) lie on the same path, at t = sqrt(1 - a) / (sqrt(a) + sqrt(1 -
a)); one that leaves x0 unscaled (Karras 2206.00364) has x0 + s eps, divided by 1 + s. On these, Euler's step of the
flow is their own step of order one. Schedulers of higher order are taken at order one, and all end at clean data.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

OTHER_GRIDS = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "use_lu_lambdas")
CHANGES = ("thresholding", "clip_sample", "rescale_sigmas", "invert_sigmas", "euler_at_final", "variance_type")
"""Settings of schedulers whose samples are no longer those of the flow, or were not compared."""


@dataclass(frozen=True)
class Path:
    """Where samples and outputs of one scheduler lie on the flow; times t are those of the flow, in [0, 1]."""

    kind: Literal["flow", "preserving", "exploding"]
    """Scale of the samples: that of the flow, of unit variance, or of x0 + s eps."""
    prediction: str
    training_steps: int
    whole: bool
    """Whether the network is given whole timesteps alone."""
    levels: np.ndarray
    """The flow's times of the training timesteps; empty for a flow."""

    def scale(self, t: float) -> float:
        """The scheduler's samples at t, divided by the flow's."""
        if self.kind == "flow":
            return 1.0
        return 1 / (1 - t) if self.kind == "exploding" else _preserving(t)

    def start(self, t: float, noise_scale: float) -> float:
        """What standard normal noise is multiplied by at the first time t of a grid."""
        if self.kind == "flow":
            return 1.0
        return (noise_scale if self.kind == "exploding" else 1.0) / self.scale(t)

    def timestep(self, t: float) -> float:
        """The network's timestep at t; between those of training it is interpolated."""
        if self.kind == "flow":
            exact = t * self.training_steps
            return float(int(exact + 1e-3)) if self.whole else exact
        # Schedulers of x0 + s eps interpolate s; the others have whole timesteps, where both agree.
        odds = (lambda x: x / (1 - x)) if self.kind == "exploding" else (lambda x: x)
        exact = float(np.interp(odds(t), odds(self.levels), np.arange(len(self.levels))))
        return float(round(exact)) if abs(exact - round(exact)) < 0.02 else exact

    def velocity(self, x: Tensor, output: Tensor, t: float) -> Tensor:
        """Velocity eps - x0 at the flow's latents ``x``, from the output of the pipeline."""
        if self.kind == "flow":
            return output
        signal, noise = (1 - t) * _preserving(t), t * _preserving(t)
        sample = x * _preserving(t)
        match self.prediction:
            case "epsilon":
                return output - (sample - noise * output) / signal
            case "v_prediction":
                return (signal + noise) * output - (signal - noise) * sample
        return (sample - signal * output) / noise - output

    def grid(self, scheduler: Any) -> Tensor:
        """Times ``[steps + 1]`` of a scheduler whose timesteps are set; ValueError where its steps do not join."""
        if not hasattr(scheduler, "sigmas") or scheduler.sigmas is None:
            timesteps = [int(t) for t in scheduler.timesteps]
            stride = self.training_steps // len(timesteps)
            if any(t - stride != following for t, following in pairwise(timesteps)):
                raise ValueError(f"{len(timesteps)} steps do not divide the {self.training_steps} of training")
            return torch.tensor([*(self.levels[t] for t in timesteps), 0.0], dtype=torch.float32)
        sigmas = scheduler.sigmas.double().cpu()
        return (sigmas if self.kind == "flow" else sigmas / (1 + sigmas)).float()


def path_of(scheduler: Any) -> Path:
    """The path of a scheduler that `first_order` returned."""
    config = scheduler.config
    flow = type(scheduler).__name__ == "FlowMatchEulerDiscreteScheduler" or config.get("use_flow_sigmas")
    steps = int(config.num_train_timesteps)
    whole = type(scheduler).__name__ not in ("FlowMatchEulerDiscreteScheduler", "EulerDiscreteScheduler")
    if flow:
        return Path("flow", "flow_prediction", steps, whole, np.zeros(0))
    a = scheduler.alphas_cumprod.double().clamp(min=0).cpu().numpy()
    levels = np.sqrt(1 - a) / (np.sqrt(a) + np.sqrt(1 - a))
    kind = "exploding" if type(scheduler).__name__ == "EulerDiscreteScheduler" else "preserving"
    return Path(kind, config.prediction_type, steps, whole, levels)


def first_order(scheduler: Any) -> Any:
    """The scheduler itself, or the one of order one with its grid. ValueError, one line, for one that is not proven."""
    name, config = type(scheduler).__name__, scheduler.config
    if name not in _FIRST_ORDER:
        raise ValueError(f"its scheduler {name} is not proven; proven: {', '.join(_FIRST_ORDER)}")
    flow = name == "FlowMatchEulerDiscreteScheduler" or config.get("use_flow_sigmas")
    changes = [key for key in CHANGES if config.get(key)] + [key for key in OTHER_GRIDS if config.get(key) and not flow]
    if changes:
        raise ValueError(f"its scheduler {name} with {changes[0]} is not proven")
    wanted = ("flow_prediction",) if flow else ("epsilon", "v_prediction", "sample")
    if config.get("prediction_type", wanted[0]) not in wanted:
        raise ValueError(f"its scheduler {name} predicts {config.prediction_type}, not {' or '.join(wanted)}")
    if str(config.get("algorithm_type", "")).startswith("sde"):
        raise ValueError(f"its scheduler {name} with algorithm_type {config.algorithm_type} is not proven")
    return _FIRST_ORDER[name](scheduler)


def holding(scheduler: Any, timesteps: Tensor, sigmas: Tensor | None, step: Callable[..., Any]) -> Any:
    """A copy of a scheduler with these timesteps, whatever it is told to set, and another ``step``."""
    held = copy.copy(scheduler)
    held.timesteps, held.num_inference_steps, held.step = timesteps, len(timesteps), _signed(step, scheduler.step)
    if sigmas is not None:
        held.sigmas = sigmas
    held.set_timesteps = _signed(lambda *_, **__: None, scheduler.set_timesteps)
    return held


def _preserving(t: float) -> float:
    return ((1 - t) ** 2 + t**2) ** -0.5


def _signed(stand_in: Callable[..., Any], method: Any) -> Callable[..., Any]:
    """A function with the signature of a method, which pipelines look at."""
    function = lambda *args, **kwargs: stand_in(*args, **kwargs)
    vars(function)["__wrapped__"] = method
    return function


def _ddim(scheduler: Any) -> Any:
    from diffusers import DDIMScheduler

    known = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas", "prediction_type")
    known = (*known, "steps_offset", "timestep_spacing", "rescale_betas_zero_snr")
    kept = {key: scheduler.config[key] for key in known if key in scheduler.config}
    return DDIMScheduler(**kept, clip_sample=False, set_alpha_to_one=True)


def _changed(**changes: Any) -> Callable[[Any], Any]:
    return lambda scheduler: type(scheduler).from_config(scheduler.config, **changes)


_FIRST_ORDER: dict[str, Callable[[Any], Any]] = {
    "FlowMatchEulerDiscreteScheduler": lambda scheduler: scheduler,
    "EulerDiscreteScheduler": _changed(final_sigmas_type="zero"),
    "DDIMScheduler": _ddim,
    "PNDMScheduler": _ddim,
    "DPMSolverMultistepScheduler": _changed(solver_order=1, final_sigmas_type="zero"),
    "UniPCMultistepScheduler": _changed(
        solver_order=1, final_sigmas_type="zero", disable_corrector=list(range(1000)), lower_order_final=True
    ),
    "CogVideoXDDIMScheduler": _changed(set_alpha_to_one=True),
}
"""For each class of scheduler that was compared with its plain pipeline, the scheduler of order one."""
