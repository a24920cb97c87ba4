"""The part of `janus-shapes` that turns pictures into codes and back: a JanusVQVAE, its training and its words.

Codes lie on the unit sphere, as the real class reads them back: a picture's features take the code of the nearest
direction.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from saccade.builders.parts.pictures import pixel_loss, pixels
from saccade.builders.parts.stages import Progress, ScheduledOptimizers, Step, run_steps
from saccade.worlds import shapes

RESTART_EVERY = 20
"""Optimiser steps after which codes that nothing took are moved to where features are."""


def train_codes(
    vq: Any, pictures: np.ndarray, steps: int, batch: int, lr: float, rng: np.random.Generator, progress: Progress
) -> float:
    """Returns the running loss of the pixels."""
    optimizer = torch.optim.AdamW(vq.parameters(), lr=lr, betas=(0.9, 0.99), weight_decay=1e-4)
    vq.train().requires_grad_(True).to(memory_format=torch.channels_last)
    means = run_steps(
        batches(vq, pictures, steps, batch, rng), ScheduledOptimizers([optimizer], steps, warmup=50), progress
    )
    words = vq.quantize.embedding.weight.data
    words.copy_(F.normalize(words, dim=-1))
    vq.eval().requires_grad_(False)
    return means["codes"]


def batches(vq: nn.Module, pictures: np.ndarray, steps: int, batch: int, rng: np.random.Generator) -> Iterator[Step]:
    """Reconstruction and the two halves of the quantisation error; codes that stay unused begin anew."""
    used = torch.zeros(vq.quantize.num_embeddings)
    for step in range(steps):
        x = pixels(pictures[rng.integers(len(pictures), size=batch)])
        with torch.autocast("cpu", torch.bfloat16):
            features = vq.quant_conv(vq.encoder(x))
            taken, quantised, error = nearest(vq, features.float())
            reconstructed = vq.decoder(vq.post_quant_conv(quantised))
        pixel_error = pixel_loss(reconstructed.float() - x)
        yield Step("codes", pixel_error + error, pixel_error)
        used += torch.bincount(taken, minlength=len(used))
        if (step + 1) % RESTART_EVERY == 0:
            if step < 0.7 * steps:
                restart(vq, features.detach().float(), used, rng)
            used.zero_()


def nearest(vq: nn.Module, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Codes ``[B h w]`` of features ``[B, D, h, w]``, their directions in place of the features, with the gradient of
    these, and the squared distance between the two.
    """
    z = F.normalize(features.movedim(1, -1), dim=-1)
    words = F.normalize(vq.quantize.embedding.weight, dim=-1)
    taken = (z.detach() @ words.detach().T).argmax(-1)
    chosen = words[taken]
    error = 0.25 * (z - chosen.detach()).square().sum(-1).mean() + (chosen - z.detach()).square().sum(-1).mean()
    return taken.flatten(), (z + (chosen - z).detach()).movedim(-1, 1), error


@torch.no_grad()
def restart(vq: nn.Module, features: Tensor, used: Tensor, rng: np.random.Generator) -> None:
    """Give unused codes the directions of random features."""
    idle = torch.nonzero(used == 0).flatten()
    z = F.normalize(features.movedim(1, -1), dim=-1).flatten(0, -2)
    vq.quantize.embedding.weight[idle] = z[torch.from_numpy(rng.integers(len(z), size=len(idle)))]


@torch.no_grad()
def codes_of(vq: nn.Module, pictures: np.ndarray, batch: int = 256) -> Tensor:
    """Pictures ``[N, H, W, 3]`` uint8 -> codes ``[N, M]`` (int16)."""
    parts = []
    for i in range(0, len(pictures), batch):
        some = pixels(pictures[i : i + batch])
        parts.append(vq.encode(some, return_dict=True).image_tokens.view(len(some), -1).to(torch.int16))
    return torch.cat(parts)


def fidelity(vq: nn.Module, pictures: np.ndarray, meanings: list[shapes.Meaning]) -> float:
    """The judge's mean points of pictures that went through the codes: no model that writes codes can do better."""
    with torch.no_grad():
        decoded = vq.decode(codes_of(vq, pictures).long())
    return float(np.nanmean(shapes.score_pictures((decoded.float() / 2 + 0.5).clamp(0, 1), meanings)["points"]))
