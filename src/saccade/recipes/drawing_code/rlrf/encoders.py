"""Rewards that need an encoder or the policy's own tokens: likeness of features, alignment of picture and text,
lengths in tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from saccade.algorithms.sft import tokenize
from saccade.core import Reward, Rollout
from saccade.models.loading import encoder, locate
from saccade.policies.tokens import TokenPolicy
from saccade.rewards.registry import PROGRAMS
from saccade.rewards.render.rendering import compared, drawn
from saccade.rewards.text.reference import LengthRatio, RelativeLength, TokenOverlap


@dataclass(frozen=True)
class Alignment:
    """Cosine of the drawing and of ``problem.answer["caption"]``, in [-1, 1] ``[B]``; -1 for a program that does not
    draw.

    ``model`` is a folder or a hub id; ``rows`` pictures go through it at once. NaN where there is no caption.
    ValueError if it is no model of both texts and pictures.
    """

    model: str
    device: str = "cpu"
    rows: int = 64

    def __call__(self, rollout: Rollout) -> Tensor:
        captions = [p.answer.get("caption") if isinstance(p.answer, dict) else None for p in rollout.problems]
        renders = drawn(rollout)
        score_B = torch.tensor([float("nan") if caption is None else -1.0 for caption in captions])
        able = [i for i, caption in enumerate(captions) if caption is not None and renders[i].picture is not None]
        for start in range(0, len(able), self.rows):
            part = able[start : start + self.rows]
            score_B[part] = self.cosines([captions[i] for i in part], [renders[i].picture for i in part])
        return score_B

    @torch.no_grad()
    def cosines(self, captions: list[str], pictures: list[np.ndarray]) -> Tensor:
        """The cosine of each pair ``[B]``; pictures are uint8 ``[H, W, 3]``."""
        processor, model = encoder(locate(self.model), self.device, texts=True)
        made = processor(text=captions, images=pictures, padding=True, truncation=True, return_tensors="pt").to(
            self.device
        )
        seen = model(**made)
        return torch.cosine_similarity(seen.text_embeds, seen.image_embeds, dim=1).float().cpu()


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
        processor, model = encoder(locate(self.model), self.device)
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


def in_tokens(policy: TokenPolicy, model: str = "") -> dict[str, Reward]:
    """All rewards by name, lengths in the policy's own tokens; with a ``model`` that encodes also `features` and
    `alignment`.
    """
    tokens = lru_cache(maxsize=4096)(partial(tokenize, policy))
    own = {"length": RelativeLength(tokens), "length_ratio": LengthRatio(tokens), "overlap": TokenOverlap(tokens)}
    device = str(policy.language.model.device)
    seen = {"features": FeatureLikeness(model, device), "alignment": Alignment(model, device)} if model else {}
    return PROGRAMS | own | seen
