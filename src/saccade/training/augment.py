"""Random shifts of sampled pictures: padded with their own border and cut out again, a little off. DrQ 2004.13649."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from saccade.core import Rollout
from saccade.math import draws

_KEYS = {"seen": 11, "next": 12}


def shifted(rollout: Rollout, pad: int = 4) -> Rollout:
    """The rollout with every picture ("seen.…" and "next.…", uint8 ``[B, H, W, C]`` or ``[B, T, H, W, C]``) moved by up to
    ``pad`` pixels; by how much follows from the row's ``seed_B``, apart for "seen" and "next", alike for all moments of a row.
    """
    seeds_B = rollout.extras["seed_B"]
    moved = {k: _shift(v, seeds_B, pad, k.split(".")[0]) for k, v in rollout.decisions.items() if _is_picture(k, v)}
    return replace(rollout, decisions=rollout.decisions | moved)


def _is_picture(name: str, value: Tensor) -> bool:
    return name.split(".")[0] in _KEYS and value.dtype == torch.uint8 and value.dim() >= 4


def _shift(pictures: Tensor, seeds_B: Tensor, pad: int, when: str) -> Tensor:
    rows, height, width, channels = len(pictures), *pictures.shape[-3:]
    by_B2 = (draws.uniform(seeds_B, (2,), _KEYS[when]) * (2 * pad + 1)).long() - pad
    y_BH = (torch.arange(height) + by_B2[:, :1]).clamp(0, height - 1)
    x_BW = (torch.arange(width) + by_B2[:, 1:]).clamp(0, width - 1)
    flat = pictures.reshape(rows, -1, height, width, channels)
    taken = flat[torch.arange(rows)[:, None, None], :, y_BH[:, :, None], x_BW[:, None, :]]
    return taken.movedim(3, 1).reshape(pictures.shape)
