"""The preprocessing of a Qwen2-VL processor as differentiable operations: resize, normalize, cut into patches.

The original processor rounds to uint8 and uses NumPy. This one stays in floats and follows its rules: sides are
multiples of a token's, and the number of pixels is between two bounds, so small pictures are enlarged to the lower one.
Where a picture is resized the two differ by about one grey level at most, elsewhere not at all.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from saccade.models.language.model import LanguageModel
from saccade.models.language.processor import has_pixel_bounds
from saccade.models.vision.resize import RESAMPLING, resize


@dataclass(frozen=True)
class ImagePreprocessor:
    """How pictures become patches: ``patch`` pixels a side, ``merge`` patches a side of a token, ``frames`` in time."""

    patch: int
    merge: int
    frames: int
    min_pixels: int
    max_pixels: int
    mode: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    @classmethod
    def from_model(cls, language: LanguageModel) -> ImagePreprocessor:
        """The preprocessing of a model's processor. ValueError if it is of another kind."""
        images, name = getattr(language.processor, "image_processor", None), language.model.name_or_path
        if images is None or not has_pixel_bounds(language.processor) or not hasattr(images, "merge_size"):
            raise ValueError(
                f"model '{name}': {type(images).__name__} is not of the Qwen2-VL kind, gradients do not pass it"
            )
        if images.resample not in RESAMPLING or not (images.do_resize and images.do_rescale and images.do_normalize):
            raise ValueError(
                f"model '{name}': its pictures are not resized (bicubic or bilinear), rescaled and normalised"
            )
        return cls(
            patch=images.patch_size,
            merge=images.merge_size,
            frames=images.temporal_patch_size,
            min_pixels=images.size["shortest_edge"],
            max_pixels=images.size["longest_edge"],
            mode=RESAMPLING[images.resample],
            mean=tuple(images.image_mean),
            std=tuple(images.image_std),
        )

    def resized(self, height: int, width: int) -> tuple[int, int]:
        """Height and width in pixels that a picture is resized to."""
        from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

        return smart_resize(height, width, self.patch * self.merge, self.min_pixels, self.max_pixels)

    def patches(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """Pictures ``[N, 3, H, W]`` in [0, 1] to patches ``[N, h w, D]`` and grids ``[N, 3]`` (1, h, w).

        Patches are in the order of the vision encoder.
        """
        height, width = self.resized(*pictures.shape[2:])
        pictures = resize(pictures, height, width, self.mode)
        channels = lambda values: torch.tensor(values, device=pictures.device)[:, None, None]
        normal = (pictures - channels(self.mean)) / channels(self.std)
        h, w, m, p = height // self.patch, width // self.patch, self.merge, self.patch
        cut = normal.reshape(-1, 3, h // m, m, p, w // m, m, p).permute(0, 2, 5, 3, 6, 1, 4, 7)
        repeated = cut[:, :, :, :, :, :, None].expand(*cut.shape[:6], self.frames, p, p)
        grid = torch.tensor([[1, h, w]], device=pictures.device).expand(len(pictures), 3)
        return repeated.reshape(len(pictures), h * w, -1), grid
