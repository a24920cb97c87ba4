"""Likeness of pictures in the eyes of a frozen vision model: 1 - d with d = 1 - cos of the pooled features, in [-1, 1].

The place of RLRF's and SGP-Gen's DINO and DreamSim terms: any image model of transformers (DINOv2, SigLIP, CLIP, ViT) in a
folder or on the hub.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from saccade.core import Rollout
from saccade.models.locate import locate
from saccade.rewards.rendering import compared


@dataclass(frozen=True)
class FeatureLikeness:
    """Cosine of what ``model`` sees in the drawn and the wanted picture ``[B]``; -1 for a program that does not draw.

    ``model`` is a folder or a hub id; ``rows`` pictures go through it at once. ValueError if it is no image model.
    """

    model: str
    device: str = "cpu"
    rows: int = 64

    def __call__(self, rollout: Rollout) -> Tensor:
        return compared(rollout, self.likeness, -1.0)

    def likeness(self, a: Tensor, b: Tensor) -> Tensor:
        """Cosines of the features of two batches of pictures ``[B, 3, H, W]`` in [0, 1] -> ``[B]``."""
        return torch.cosine_similarity(self.features(a), self.features(b), dim=1)

    @torch.no_grad()
    def features(self, pictures: Tensor) -> Tensor:
        """Pooled features ``[B, D]``; equal pictures are looked at once."""
        different, which = torch.unique((pictures * 255).round().byte(), dim=0, return_inverse=True)
        processor, model = _load(locate(self.model), self.device)
        parts = []
        for part in different.permute(0, 2, 3, 1).split(self.rows):
            pixels = processor(images=list(part.numpy()), return_tensors="pt")["pixel_values"].to(self.device)
            parts.append(_pooled(model, pixels).float().cpu())
        return torch.cat(parts)[which]


def _pooled(model: Any, pixels: Tensor) -> Tensor:
    """The one vector that a model gives a picture: its image embedding, its pooled output, or its first token."""
    seen = model.get_image_features(pixels) if hasattr(model, "get_image_features") else model(pixel_values=pixels)
    if isinstance(seen, Tensor):
        return seen
    pooled = getattr(seen, "pooler_output", None)
    return seen.last_hidden_state[:, 0] if pooled is None else pooled


@cache
def _load(place: str, device: str) -> tuple[Any, Any]:
    from transformers import AutoImageProcessor, AutoModel

    try:
        processor, model = AutoImageProcessor.from_pretrained(place), AutoModel.from_pretrained(place)
    except (OSError, ValueError) as error:
        raise ValueError(f"model '{place}': is no image model ({str(error).strip().splitlines()[0]})") from None
    return processor, model.to(device).eval().requires_grad_(False)
