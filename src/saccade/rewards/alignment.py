"""Likeness of a drawing to the words that asked for it, in the eyes of a frozen pair of encoders (CLIP, SigLIP).

cos(E_text(caption), E_image(picture)): the semantic term of RLRF (2505.20793) and SGP-Gen (2509.05208) for text prompts.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from saccade.core import Rollout
from saccade.models.locate import first_line, locate
from saccade.rewards.rendering import drawn


@dataclass(frozen=True)
class Alignment:
    """Cosine of the drawing and of ``problem.answer["caption"]``, in [-1, 1] ``[B]``; -1 for a program that does not draw.

    ``model`` is a folder or a hub id; ``rows`` pictures go through it at once. NaN where there is no caption. ValueError if
    it is no model of both texts and pictures.
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
        processor, model = _load(locate(self.model), self.device)
        made = processor(text=captions, images=pictures, padding=True, truncation=True, return_tensors="pt").to(self.device)
        seen = model(**made)
        return torch.cosine_similarity(seen.text_embeds, seen.image_embeds, dim=1).float().cpu()


@cache
def _load(place: str, device: str) -> tuple[Any, Any]:
    from transformers import AutoModel, AutoProcessor

    try:
        processor, model = AutoProcessor.from_pretrained(place), AutoModel.from_pretrained(place)
    except (OSError, ValueError) as error:
        raise ValueError(f"model '{place}': does not read texts and pictures ({first_line(error)})") from None
    if not hasattr(model, "get_text_features"):
        raise ValueError(f"model '{place}': {type(model).__name__} gives no features of texts; CLIP and SigLIP do")
    return processor, model.to(device).eval().requires_grad_(False)
