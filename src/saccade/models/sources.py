"""Pictures that are to be edited, as an editor's network is shown them: brought to size and encoded as its pipeline does it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

EDITORS = ("FluxKontextPipeline",)


def source_latents(pipe: Any, pictures: Sequence[np.ndarray], size: int, rows: int = 64) -> Tensor:
    """Latents ``[B, C, h, w]`` of pictures uint8 [H, W, 3], each brought to ``size`` x ``size`` pixels.

    They are the modes of the encoder's distributions, so the same picture is always the same latents. ValueError for a
    pipeline that takes no picture, and for other arrays.
    """
    from PIL import Image

    if type(pipe).__name__ not in EDITORS:
        raise ValueError(f"a {type(pipe).__name__} draws from words alone; a picture can be given to {', '.join(EDITORS)}")
    for picture in pictures:
        if not (isinstance(picture, np.ndarray) and picture.dtype == np.uint8 and picture.ndim == 3 and picture.shape[2] == 3):
            raise ValueError(f"a picture to be edited is an array uint8 [H, W, 3], not {_told(picture)}")
    vae, images = pipe.vae, pipe.image_processor
    # Resized before they are stacked, with Pillow's filter, as the pipeline resizes a picture that it is given.
    sized = [images.resize(Image.fromarray(picture), size, size) for picture in pictures]
    pixels = images.preprocess(sized, size, size).to(vae.device, vae.dtype)
    z = torch.cat([vae.encode(part).latent_dist.mode() for part in pixels.split(rows)])
    return (z - (vae.config.shift_factor or 0.0)) * vae.config.scaling_factor


def digest(picture: np.ndarray) -> bytes:
    """What tells a picture from all others."""
    pixels = np.ascontiguousarray(picture)
    return hashlib.blake2b(pixels.tobytes(), digest_size=16, key=repr(pixels.shape).encode()[:64]).digest()


def _told(value: Any) -> str:
    return f"{value.dtype} {list(value.shape)}" if isinstance(value, np.ndarray) else type(value).__name__
