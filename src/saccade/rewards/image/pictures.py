"""Monitors of pictures that are not trained on, so that they show reward hacking."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor

from saccade.core import Rollout


def sharpness(rollout: Rollout) -> Tensor:
    """Mean absolute Laplacian of the grey picture, in units of the pixel range ``[B]``; low for blurred pictures."""
    grey = rollout.outputs.mean(1, keepdim=True)
    kernel = torch.tensor([[0.0, 1, 0], [1, -4, 1], [0, 1, 0]]).reshape(1, 1, 3, 3)
    return F.conv2d(grey, kernel).abs().flatten(1).mean(1)


@final
@dataclass(frozen=True)
class Diversity:
    """Mean absolute pixel difference of a picture from the others of its group ``[B]``; NaN in a group of one."""

    compares: bool = True
    """Its groups must be complete (`api.scoring`)."""

    def __call__(self, rollout: Rollout) -> Tensor:
        flat = rollout.outputs.flatten(1)
        out = torch.full((len(flat),), float("nan"))
        for group in rollout.group_B.unique():
            rows = torch.nonzero(rollout.group_B == group).flatten()
            if len(rows) > 1:
                distance = torch.cdist(flat[rows], flat[rows], p=1) / flat.shape[1]
                out[rows] = distance.sum(1) / (len(rows) - 1)
        return out


diversity = Diversity()
