"""A frozen pair of encoders as a reward that gradients pass: cos(E_text(prompt), E_image(picture)).

Any model of transformers that sees texts and pictures alike: CLIP, SigLIP, and the preference models that are such
pairs (PickScore 2305.01569, whose score is this cosine times a constant). The official processor goes through whole
grey levels; this one does the same to floats.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from saccade.core import Rollout
from saccade.models.loading import load_image_encoder, locate

_FILTERS = {2: "bilinear", 3: "bicubic"}
"""Pillow's numbers of the filters that torch has too, with antialiasing."""


@dataclass(frozen=True)
class TextImage:
    """Cosine of prompt and picture, in [-1, 1] ``[B]``; gradients flow into the pictures. ``model`` is a folder or a
    hub id.
    """

    model: str
    device: str = "cpu"

    def __call__(self, rollout: Rollout) -> Tensor:
        processor, model = load_image_encoder(locate(self.model), self.device, texts=True)
        pixels = prepared(rollout.outputs.to(self.device), processor.image_processor)
        seen = _vector(model.get_image_features(pixel_values=pixels))
        said = self._said([str(problem.inputs) for problem in rollout.problems])
        return torch.cosine_similarity(seen, said, dim=1).float().to(rollout.outputs.device)

    @torch.no_grad()
    def _said(self, prompts: Sequence[str]) -> Tensor:
        processor, model = load_image_encoder(locate(self.model), self.device, texts=True)
        unique = list(dict.fromkeys(prompts))
        # SigLIP was taught on prompts filled up to one length; CLIP does not mind.
        words = processor.tokenizer(unique, padding="max_length", truncation=True, return_tensors="pt").to(self.device)
        said = _vector(model.get_text_features(**words))
        return said[[unique.index(prompt) for prompt in prompts]]


def prepared(pictures: Tensor, images: Any) -> Tensor:
    """What an image processor makes of pictures ``[B, 3, H, W]`` in [0, 1]: resized, cut to the middle, normalised."""
    if images.do_resize:
        size = _size(images.size, pictures.shape[2:])
        mode = _FILTERS.get(int(images.resample))
        if mode is None:
            raise ValueError(
                f"{type(images).__name__} resizes by filter {images.resample}; bilinear and bicubic are known"
            )
        # One axis after the other, as Pillow does it: what a filter overshoots is cut off in between, too.
        for part in ((pictures.shape[2], size[1]), size):
            pictures = F.interpolate(pictures, part, mode=mode, antialias=True).clamp(0, 1)
    if getattr(images, "do_center_crop", False):
        height, width = images.crop_size["height"], images.crop_size["width"]
        top, left = (pictures.shape[2] - height) // 2, (pictures.shape[3] - width) // 2
        pictures = pictures[:, :, top : top + height, left : left + width]
    if not images.do_normalize:
        return pictures
    channels = lambda numbers: torch.tensor(numbers, device=pictures.device)[:, None, None]
    return (pictures - channels(images.image_mean)) / channels(images.image_std)


def _size(size: Any, have: Sequence[int]) -> tuple[int, int]:
    """Height and width to resize to: both given, or that of the shorter edge."""
    short = size.get("shortest_edge")
    if not short:
        return size["height"], size["width"]
    return tuple(short if edge == min(have) else int(short * edge / min(have)) for edge in have)


def _vector(features: Any) -> Tensor:
    return features if isinstance(features, Tensor) else features.pooler_output
