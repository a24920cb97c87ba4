"""The usual loop of GRPO on a flow model, plainly written: what `saccade` is measured against.

Text is encoded for every picture. LoRA stays beside the weights while sampling. An update walks over micro-batches of
pictures and, within each, over time steps; at each one both halves of the guidance run with gradients (the
unconditional one is detached only afterwards), the reference runs both halves again, and one backward pass follows. All
in float32.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from saccade.policies.flow import FlowPolicy
from saccade.random import noise


@dataclass
class Drawn:
    """A micro-batch of pictures with all that the update needs."""

    latents: list[Tensor]
    logps: list[Tensor]
    tokens: Tensor
    pooled: Tensor
    pictures: Tensor


@dataclass
class PlainLoop:
    """``images`` go through the network at once; weights, shapes and noise are those of ``policy``, nothing else is."""

    policy: FlowPolicy
    images: int

    def __post_init__(self) -> None:
        self.pipe: Any = self.policy.backbone.pipe
        self.network: nn.Module = self.policy.backbone.transformer
        self.pipe.scheduler.set_timesteps(self.policy.steps)
        self.sigmas = self.pipe.scheduler.sigmas.tolist()

    @torch.no_grad()
    def sample(self, prompts: Sequence[str], seeds_B: Tensor) -> list[Drawn]:
        """One picture for each prompt, with the log-probs of all steps but the last."""
        parts = [slice(i, i + self.images) for i in range(0, len(prompts), self.images)]
        return [self._sample(list(prompts[part]), seeds_B[part]) for part in parts]

    def _sample(self, prompts: list[str], seeds_B: Tensor) -> Drawn:
        tokens, pooled = self._encode(prompts)
        x, logps = noise(seeds_B, self.policy.latent_shape, "start"), []
        latents = [x]
        for i in range(self.policy.steps):
            v = self._velocity(x, i, tokens, pooled)
            if i == self.policy.steps - 1:
                x = x + v * (self.sigmas[i + 1] - self.sigmas[i])
                break
            mean, std = self._step(x, v, i)
            x = mean + std * noise(seeds_B, x.shape[1:], "denoising", i)
            latents.append(x)
            logps.append(_logp(x, mean, std))
        vae = self.pipe.vae
        pictures = vae.decode(x / vae.config.scaling_factor + vae.config.shift_factor, return_dict=False)[0]
        return Drawn(latents, logps, tokens, pooled, (pictures / 2 + 0.5).clamp(0, 1))

    def update(
        self, drawn: Sequence[Drawn], advantage_B: Tensor, clip: float, beta: float, optimizer: torch.optim.Optimizer
    ) -> None:
        """One optimiser step on the clipped surrogate of all stored steps, with a pull to the reference if ``beta``
        is not 0.
        """
        terms = sum(len(batch.logps) for batch in drawn)
        for batch, advantage in zip(drawn, advantage_B.split(self.images)):
            for i, old in enumerate(batch.logps):
                x, x_next = batch.latents[i], batch.latents[i + 1]
                mean, std = self._step(x, self._velocity(x, i, batch.tokens, batch.pooled), i)
                ratio = (_logp(x_next, mean, std) - old).exp()
                loss = torch.maximum(-advantage * ratio, -advantage * ratio.clamp(1 - clip, 1 + clip)).mean()
                if beta:
                    with torch.no_grad(), adapters_off(self.network):
                        far, _ = self._step(x, self._velocity(x, i, batch.tokens, batch.pooled), i)
                    spread = std**2 / (self.sigmas[i] - self.sigmas[i + 1])
                    loss = loss + beta * ((mean - far) ** 2 / (2 * spread)).mean()
                (loss / terms).backward()
        nn.utils.clip_grad_norm_(self.policy.trained, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    def _encode(self, prompts: list[str]) -> tuple[Tensor, Tensor]:
        """Unconditional rows first."""
        said, unsaid = self.policy.backbone.encode(prompts), self.policy.backbone.encode([""])
        free, free_pooled = (x.expand(len(prompts), *x.shape[1:]) for x in (unsaid.tokens, unsaid.pooled))
        return torch.cat([free, said.tokens]), torch.cat([free_pooled, said.pooled])

    def _velocity(self, x: Tensor, i: int, tokens: Tensor, pooled: Tensor) -> Tensor:
        time = torch.full((2 * len(x),), 1000 * self.sigmas[i])
        v_free, v = self.network(torch.cat([x, x]), tokens, pooled, time, return_dict=False)[0].chunk(2)
        return v_free.detach() + self.policy.guidance * (v - v_free.detach())

    def _step(self, x: Tensor, v: Tensor, i: int) -> tuple[Tensor, float]:
        t, dt = self.sigmas[i], self.sigmas[i + 1] - self.sigmas[i]
        g2 = self.policy.noise**2 * t / (1 - (self.sigmas[1] if t == 1 else t))
        mean = x * (1 + g2 * dt / (2 * t)) + v * (1 + g2 * (1 - t) / (2 * t)) * dt
        return mean, math.sqrt(-g2 * dt)


def _logp(x_next: Tensor, mean: Tensor, std: float) -> Tensor:
    density = -((x_next - mean) ** 2) / (2 * std**2) - math.log(std) - 0.5 * math.log(2 * math.pi)
    return density.mean((1, 2, 3))


@contextmanager
def adapters_off(network: nn.Module) -> Iterator[None]:
    """Inside, LoRA is switched off: the reference."""
    from peft.tuners.lora import LoraLayer

    layers = [m for m in network.modules() if isinstance(m, LoraLayer)]
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)
