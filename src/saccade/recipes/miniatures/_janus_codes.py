"""The part of `janus-shapes` that turns pictures into codes and back: a JanusVQVAE, its training and its words.

Codes lie on the unit sphere, as the real class reads them back: a picture's features take the code of the nearest direction.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from saccade.worlds import shapes

RESTART_EVERY = 20
"""Optimiser steps after which codes that nothing took are moved to where features are."""


def train_codes(
    vq: nn.Module, pictures: np.ndarray, steps: int, batch: int, lr: float, rng: np.random.Generator,
    progress: Callable[[str, int, int, float], None],
) -> float:  # fmt: skip
    """L1 + L2 reconstruction and the two halves of the quantisation error. Returns the running mean of the pixels' loss."""
    optimizer = torch.optim.AdamW(vq.parameters(), lr=lr, betas=(0.9, 0.99), weight_decay=1e-4)
    used, smooth = torch.zeros(vq.quantize.num_embeddings), 0.0
    vq.train().requires_grad_(True).to(memory_format=torch.channels_last)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = lr * min((step + 1) / 50, 1.0) * (1 - step / steps)
        x = pixels(pictures[rng.integers(len(pictures), size=batch)])
        with torch.autocast("cpu", torch.bfloat16):
            features = vq.quant_conv(vq.encoder(x))
            taken, quantised, error = nearest(vq, features.float())
            drawn = vq.decoder(vq.post_quant_conv(quantised))
        wrong = drawn.float() - x
        pixel_loss = wrong.abs().mean() + 2 * wrong.square().mean()
        optimizer.zero_grad(set_to_none=True)
        (pixel_loss + error).backward()
        nn.utils.clip_grad_norm_(vq.parameters(), 1.0)
        optimizer.step()
        used += torch.bincount(taken, minlength=len(used))
        if (step + 1) % RESTART_EVERY == 0:
            if step < 0.7 * steps:
                restart(vq, features.detach().float(), used, rng)
            used.zero_()
        smooth = pixel_loss.item() if step == 0 else 0.98 * smooth + 0.02 * pixel_loss.item()
        progress("codes", step + 1, steps, smooth)
    with torch.no_grad():
        vq.quantize.embedding.weight.copy_(F.normalize(vq.quantize.embedding.weight, dim=-1))
    vq.eval().requires_grad_(False)
    return smooth


def nearest(vq: nn.Module, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Codes ``[B h w]`` of features ``[B, D, h, w]``, their directions in place of the features, with the gradient of
    these, and the squared distance between the two."""
    z = F.normalize(features.movedim(1, -1), dim=-1)
    words = F.normalize(vq.quantize.embedding.weight, dim=-1)
    taken = (z.detach() @ words.detach().T).argmax(-1)
    chosen = words[taken]
    error = 0.25 * (z - chosen.detach()).square().sum(-1).mean() + (chosen - z.detach()).square().sum(-1).mean()
    return taken.flatten(), (z + (chosen - z).detach()).movedim(-1, 1), error


@torch.no_grad()
def restart(vq: nn.Module, features: Tensor, used: Tensor, rng: np.random.Generator) -> None:
    """Give codes that were not used the directions of features drawn at random."""
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
        drawn = vq.decode(codes_of(vq, pictures).long())
    return float(np.nanmean(shapes.verdicts((drawn.float() / 2 + 0.5).clamp(0, 1), meanings)["points"]))


def pixels(pictures: np.ndarray) -> Tensor:
    """uint8 ``[N, H, W, 3]`` -> ``[N, 3, H, W]`` in [-1, 1], as the vision tower takes them too."""
    x = torch.from_numpy(np.ascontiguousarray(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1
    return x.to(memory_format=torch.channels_last)
