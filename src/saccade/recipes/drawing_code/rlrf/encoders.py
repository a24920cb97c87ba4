"""Rewards that need an encoder or the policy's tokenizer: feature similarity, text alignment, lengths in tokens."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from saccade.algorithms.sft import tokenize
from saccade.core import Reward, Rollout
from saccade.models.loading import load_image_encoder, locate
from saccade.policies.tokens import TokenPolicy
from saccade.rewards.registry import PROGRAMS
from saccade.rewards.render.rendering import compare_renders, render_rollout
from saccade.rewards.text.reference import LengthRatio, RelativeLength, TokenOverlap


@dataclass(frozen=True)
class TextAlignment:
    """Cosine similarity of the rendered picture and ``problem.answer["caption"]``, in [-1, 1] ``[B]``.

    -1 for a program that does not render, NaN where there is no caption. ``model`` is a folder or a hub id, ``rows``
    the number of pictures that go through it at once. ValueError if the model does not encode texts and pictures.
    """

    model: str
    device: str = "cpu"
    rows: int = 64

    def __call__(self, rollout: Rollout) -> Tensor:
        captions = [p.answer.get("caption") if isinstance(p.answer, dict) else None for p in rollout.problems]
        pictures = [render.picture for render in render_rollout(rollout)]
        score_B = torch.tensor([float("nan") if caption is None else -1.0 for caption in captions])
        rows = enumerate(zip(captions, pictures))
        pairs = [(i, text, picture) for i, (text, picture) in rows if text is not None and picture is not None]
        for start in range(0, len(pairs), self.rows):
            index, texts, images = zip(*pairs[start : start + self.rows])
            score_B[list(index)] = self.cosines(list(texts), list(images))
        return score_B

    @torch.no_grad()
    def cosines(self, captions: list[str], pictures: list[np.ndarray]) -> Tensor:
        """Cosine similarity of each pair ``[B]``; pictures are uint8 ``[H, W, 3]``."""
        processor, model = load_image_encoder(locate(self.model), self.device, texts=True)
        inputs = processor(text=captions, images=pictures, padding=True, truncation=True, return_tensors="pt")
        out = model(**inputs.to(self.device))
        return torch.cosine_similarity(out.text_embeds, out.image_embeds, dim=1).float().cpu()


@dataclass(frozen=True)
class FeatureSimilarity:
    """Cosine similarity of the encoder features of the rendered picture and the reference, in [-1, 1] ``[B]``.

    -1 for a program that does not render. ``model`` is a folder or a hub id, ``rows`` the number of pictures that go
    through it at once. ValueError if it is not an image encoder.
    """

    model: str
    device: str = "cpu"
    rows: int = 64

    def __call__(self, rollout: Rollout) -> Tensor:
        return compare_renders(rollout, self.similarity, -1.0)

    def similarity(self, a: Tensor, b: Tensor) -> Tensor:
        """Cosine similarity ``[B]`` of the features of two batches of pictures ``[B, 3, H, W]`` in [0, 1]."""
        return torch.cosine_similarity(self.features(a), self.features(b), dim=1)

    @torch.no_grad()
    def features(self, pictures: Tensor) -> Tensor:
        """Pooled features ``[B, D]``; equal pictures are encoded once."""
        unique, index_B = torch.unique((pictures * 255).round().byte(), dim=0, return_inverse=True)
        processor, model = load_image_encoder(locate(self.model), self.device)
        parts = []
        for part in unique.permute(0, 2, 3, 1).split(self.rows):
            pixels = processor(images=list(part.numpy()), return_tensors="pt")["pixel_values"].to(self.device)
            parts.append(_pooled(model, pixels).float().cpu())
        return torch.cat(parts)[index_B]


def _pooled(model: Any, pixels: Tensor) -> Tensor:
    """The feature vector of each picture: its image embedding, its pooled output, or its first token ``[B, D]``."""
    out = model.get_image_features(pixels) if hasattr(model, "get_image_features") else model(pixel_values=pixels)
    if isinstance(out, Tensor):
        return out
    pooled = getattr(out, "pooler_output", None)
    return out.last_hidden_state[:, 0] if pooled is None else pooled


def program_rewards(policy: TokenPolicy, encoder: str = "") -> dict[str, Reward]:
    """All rewards on programs by name, with lengths in the policy's tokens.

    With an ``encoder`` (a folder or a hub id) `features` and `alignment` are among them.
    """
    tokens = lru_cache(maxsize=4096)(partial(tokenize, policy))
    lengths = {"length": RelativeLength(tokens), "length_ratio": LengthRatio(tokens), "overlap": TokenOverlap(tokens)}
    if not encoder:
        return PROGRAMS | lengths
    device = str(policy.language.model.device)
    encoded = {"features": FeatureSimilarity(encoder, device), "alignment": TextAlignment(encoder, device)}
    return PROGRAMS | lengths | encoded
