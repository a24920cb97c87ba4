"""Where models come from: a folder, an embedded miniature or a hub, with one line for whatever is missing."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from saccade.naming import nearest

MINIATURES = Path(__file__).parent.parent / "miniatures"

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


def locate(name: str | Path) -> str:
    """The path of the miniature called ``name``, else ``name`` itself if it is a folder or can be a hub id.

    ValueError with one line for anything else (an empty name, a file, a path that does not exist).
    """
    text = str(name)
    if text in miniatures():
        return str(MINIATURES / text)
    path = Path(os.path.expanduser(text))
    if text and path.is_dir():
        return str(path)
    if path.is_file():
        raise ValueError(f"model {text!r}: is a file; a model is a folder, a hub id or one of {_known()}")
    if not _HUB_ID.fullmatch(text) or ".." in text or "--" in text:
        raise ValueError(f"model {text!r}: no such folder, and not a hub id (owner/name); {_nearest(text)}")
    return text


def miniatures() -> list[str]:
    """Names of the embedded checkpoints, sorted."""
    folders = MINIATURES.iterdir() if MINIATURES.is_dir() else ()
    return sorted(f.name for f in folders if (f / "config.json").is_file() or (f / "model_index.json").is_file())


def description(name: str, place: str, file: str) -> dict[str, Any]:
    """The JSON file (config.json, model_index.json) that says what the model at ``place`` is.

    From the hub it comes once and is then cached. ValueError with one line if it is absent, unreachable or broken.
    """
    path = Path(place) / file if Path(place).is_dir() else _download(name, place, file)
    if not path.is_file():
        raise ValueError(f"model '{name}': no {file} in {place}")
    try:
        content = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"model '{name}': {path} is broken ({first_line(error)})") from error
    if not isinstance(content, dict):
        raise ValueError(f"model '{name}': {path} is broken (not a JSON object)")
    return content


@contextlib.contextmanager
def reading(name: str, place: str) -> Iterator[None]:
    """Turns what a model library throws while it reads ``place`` into a ValueError with one line."""
    from safetensors import SafetensorError

    try:
        yield
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        RuntimeError,
        ImportError,
        AttributeError,
        SafetensorError,
    ) as error:
        raise ValueError(
            f"model '{name}': could not be loaded from {place} ({type(error).__name__}: {first_line(error)})"
        ) from error


def quiet(*libraries: ModuleType) -> None:
    """No progress bars and no chatter of the model libraries; ours are the only ones on the screen."""
    for library in libraries:
        library.utils.logging.set_verbosity_error()
        library.utils.logging.disable_progress_bar()


def first_line(error: BaseException, most: int = 200) -> str:
    """The first line of an error's text, at most ``most`` letters."""
    lines = str(error).strip().splitlines()
    return lines[0].strip()[:most] if lines else type(error).__name__


def _download(name: str, place: str, file: str) -> Path:
    import huggingface_hub as hub

    try:
        cached = hub.try_to_load_from_cache(place, file)
        if isinstance(cached, str):
            return Path(cached)
        hub.get_hf_file_metadata(hub.hf_hub_url(place, file))  # asks once, where the download would retry for long
        return Path(hub.hf_hub_download(place, file))
    except Exception as error:  # every kind of network, login and cache failure ends in the same advice
        raise ValueError(
            f"model '{name}': no such folder or miniature, and the Hugging Face hub did not give {file}"
            f" ({type(error).__name__}: {first_line(error)}); {_nearest(name)}"
        ) from error


def _nearest(name: str) -> str:
    return f"nearest miniature: {nearest(name, miniatures())} (of {_known()})"


def _known() -> str:
    return ", ".join(miniatures()) or "none"


EDITORS = ("FluxKontextPipeline",)


def source_latents(pipe: Any, pictures: Sequence[np.ndarray], size: int, rows: int = 64) -> Tensor:
    """Latents ``[B, C, h, w]`` of pictures uint8 [H, W, 3], each brought to ``size`` x ``size`` pixels.

    They are the modes of the encoder's distributions, so the same picture is always the same latents. ValueError for a
    pipeline that takes no picture, and for other arrays.
    """
    from PIL import Image

    if type(pipe).__name__ not in EDITORS:
        raise ValueError(
            f"a {type(pipe).__name__} draws from words alone; a picture can be given to {', '.join(EDITORS)}"
        )
    for picture in pictures:
        if not (
            isinstance(picture, np.ndarray)
            and picture.dtype == np.uint8
            and picture.ndim == 3
            and picture.shape[2] == 3
        ):
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


@cache
def encoder(place: str, device: str, texts: bool = False) -> tuple[Any, Any]:
    """The processor and the frozen model that embed pictures and, with ``texts``, texts too, loaded once a process.

    ValueError for a model of another kind.
    """
    from transformers import AutoImageProcessor, AutoModel, AutoProcessor

    kind = "does not read texts and pictures" if texts else "is no image model"
    try:
        processor = (AutoProcessor if texts else AutoImageProcessor).from_pretrained(place)
        model = AutoModel.from_pretrained(place)
    except (OSError, ValueError) as error:
        raise ValueError(f"model '{place}': {kind} ({first_line(error)})") from None
    if texts and not (hasattr(model, "get_text_features") and hasattr(model, "get_image_features")):
        raise ValueError(
            f"model '{place}': {type(model).__name__} gives no features of texts and pictures; CLIP and SigLIP do"
        )
    return processor, model.to(device).eval().requires_grad_(False)
