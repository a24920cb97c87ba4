"""What a Qwen2-VL kind of processor makes of pictures, as operations that gradients pass: resize, normalise, cut into
patches.

The official processor goes through whole grey levels and NumPy. This one stays in floats and keeps its rules: sides are
multiples of a token's, the number of pixels lies between its bounds, so small pictures are enlarged to the least that
the model is ever shown. Where a picture is resized the two differ by about one grey level at most, elsewhere by
nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from saccade.models.language import processor as processors
from saccade.models.language.model import LanguageModel

_FILTERS = {2: "bilinear", 3: "bicubic"}
"""Pillow's numbers of the filters that exist with antialiasing in both."""


@dataclass(frozen=True)
class Preparation:
    """How pictures become patches: ``patch`` pixels a side, ``merge`` patches a side in a token, ``frames`` in time."""

    patch: int
    merge: int
    frames: int
    least: int
    most: int
    mode: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    @classmethod
    def of(cls, language: LanguageModel) -> Preparation:
        """The rules of a model's own processor. ValueError if it is of another kind."""
        images, name = getattr(language.processor, "image_processor", None), language.model.name_or_path
        if not processors.has_pixel_bounds(language.processor) or not hasattr(images, "merge_size"):
            raise ValueError(
                f"model '{name}': {type(images).__name__} is not of the Qwen2-VL kind, gradients do not pass it"
            )
        if images.resample not in _FILTERS or not (images.do_resize and images.do_rescale and images.do_normalize):
            raise ValueError(
                f"model '{name}': its pictures are not resized (bicubic or bilinear), rescaled and normalised"
            )
        size = images.size
        sizes = (
            images.patch_size,
            images.merge_size,
            images.temporal_patch_size,
            size["shortest_edge"],
            size["longest_edge"],
        )
        return cls(*sizes, _FILTERS[images.resample], tuple(images.image_mean), tuple(images.image_std))

    def side(self, height: int, width: int) -> tuple[int, int]:
        """Height and width in pixels at which a picture is shown."""
        from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

        return smart_resize(height, width, self.patch * self.merge, self.least, self.most)

    def patches(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """Pictures ``[N, 3, H, W]`` in [0, 1] -> patches ``[N, h w, D]`` in the vision part's order, grids ``[N,
        3]`` (1, h, w).
        """
        height, width = self.side(*pictures.shape[2:])
        for size in ((pictures.shape[2], width), (height, width)):  # one axis, then the other, as Pillow does
            if pictures.shape[2:] != size:
                pictures = F.interpolate(pictures, size, mode=self.mode, antialias=True).clamp(0, 1)
        channels = lambda numbers: torch.tensor(numbers, device=pictures.device)[:, None, None]
        normal = (pictures - channels(self.mean)) / channels(self.std)
        h, w, m, p = height // self.patch, width // self.patch, self.merge, self.patch
        cut = normal.reshape(-1, 3, h // m, m, p, w // m, m, p).permute(0, 2, 5, 3, 6, 1, 4, 7)
        still = cut[:, :, :, :, :, :, None].expand(*cut.shape[:6], self.frames, p, p)
        grid = torch.tensor([[1, h, w]], device=pictures.device).expand(len(pictures), 3)
        return still.reshape(len(pictures), h * w, -1), grid
