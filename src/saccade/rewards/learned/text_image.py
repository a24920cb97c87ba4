"""Dual-encoder (CLIP) reward, differentiable in the picture: cos(E_text(prompt), E_image(picture)).

Any dual encoder of transformers serves: CLIP, SigLIP, and preference models that are dual encoders (PickScore
2305.01569, whose score is this cosine times a constant). The official processor rounds to integer grey levels; this one
does the same preprocessing on floats.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from saccade.core import Rollout
from saccade.models.loading import load_image_encoder, locate
from saccade.models.vision.resize import RESAMPLING, resize


@dataclass(frozen=True)
class TextImage:
    """Cosine of the embeddings of prompt and picture, in [-1, 1] ``[B]``; gradients flow into the pictures."""

    model: str
    """Folder or hub id of the encoders."""
    device: str = "cpu"
    """Device of the encoders."""

    def __call__(self, rollout: Rollout) -> Tensor:
        processor, model = load_image_encoder(locate(self.model), self.device, texts=True)
        pixels = preprocess(rollout.outputs.to(self.device), processor.image_processor)
        image_BD = _embedding(model.get_image_features(pixel_values=pixels))
        text_BD = self._text_embeddings([str(problem.inputs) for problem in rollout.problems])
        return torch.cosine_similarity(image_BD, text_BD, dim=1).float().to(rollout.outputs.device)

    @torch.no_grad()
    def _text_embeddings(self, prompts: Sequence[str]) -> Tensor:
        processor, model = load_image_encoder(locate(self.model), self.device, texts=True)
        unique = list(dict.fromkeys(prompts))
        # SigLIP was trained on prompts padded to one length; CLIP masks the padding.
        tokens = processor.tokenizer(unique, padding="max_length", truncation=True, return_tensors="pt").to(self.device)
        embeddings = _embedding(model.get_text_features(**tokens))
        return embeddings[[unique.index(prompt) for prompt in prompts]]


def preprocess(pictures: Tensor, images: Any) -> Tensor:
    """Pictures ``[B, 3, H, W]`` in [0, 1], resized, center-cropped and normalized as an image processor does it.

    ValueError for a resampling filter that torch does not have.
    """
    if images.do_resize:
        height, width = _target_size(images.size, pictures.shape[2], pictures.shape[3])
        mode = RESAMPLING.get(int(images.resample))
        if mode is None:
            raise ValueError(
                f"{type(images).__name__} resizes by filter {images.resample}; bilinear and bicubic are known"
            )
        pictures = resize(pictures, height, width, mode)
    if getattr(images, "do_center_crop", False):
        height, width = images.crop_size["height"], images.crop_size["width"]
        top, left = (pictures.shape[2] - height) // 2, (pictures.shape[3] - width) // 2
        pictures = pictures[:, :, top : top + height, left : left + width]
    if not images.do_normalize:
        return pictures
    channels = lambda numbers: torch.tensor(numbers, device=pictures.device)[:, None, None]
    return (pictures - channels(images.image_mean)) / channels(images.image_std)


def _target_size(size: Any, height: int, width: int) -> tuple[int, int]:
    """Height and width after resizing, from a processor's height and width, or its shortest edge."""
    short = size.get("shortest_edge")
    if not short:
        return size["height"], size["width"]
    scaled = lambda edge: short if edge == min(height, width) else int(short * edge / min(height, width))
    return scaled(height), scaled(width)


def _embedding(features: Any) -> Tensor:
    return features if isinstance(features, Tensor) else features.pooler_output
