"""Loading models from a folder, an embedded miniature or a hub; errors are one line that names what is missing."""

from __future__ import annotations

import contextlib
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

from saccade.naming import suggestion

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
        raise ValueError(f"model {text!r}: no such folder, and not a hub id (owner/name){_nearest(text)}")
    return text


def miniatures() -> list[str]:
    """Names of the embedded checkpoints, sorted."""
    folders = MINIATURES.iterdir() if MINIATURES.is_dir() else ()
    return sorted(f.name for f in folders if (f / "config.json").is_file() or (f / "model_index.json").is_file())


def read_config(name: str, place: str, file: str) -> dict[str, Any]:
    """The JSON file (config.json, model_index.json) that describes the model at ``place``.

    From the hub it is downloaded once and then cached. ValueError with one line if it is missing or broken.
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
def loading_errors(name: str, place: str) -> Iterator[None]:
    """Turns errors of a model library while it loads ``place`` into a ValueError with one line."""
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


def silence(*libraries: ModuleType) -> None:
    """Turn off progress bars and messages of the model libraries."""
    for library in libraries:
        library.utils.logging.set_verbosity_error()
        library.utils.logging.disable_progress_bar()


def first_line(error: BaseException, max_length: int = 200) -> str:
    """The first line of an error's text, cut to ``max_length`` characters."""
    lines = str(error).strip().splitlines()
    return lines[0].strip()[:max_length] if lines else type(error).__name__


def _download(name: str, place: str, file: str) -> Path:
    import huggingface_hub as hub

    try:
        cached = hub.try_to_load_from_cache(place, file)
        if isinstance(cached, str):
            return Path(cached)
        hub.get_hf_file_metadata(hub.hf_hub_url(place, file))  # one request; the download would retry for long
        return Path(hub.hf_hub_download(place, file))
    except Exception as error:  # failures of network, login and cache get the same advice
        raise ValueError(
            f"model '{name}': no such folder or miniature, and the Hugging Face hub did not give {file}"
            f" ({type(error).__name__}: {first_line(error)}){_nearest(name)}"
        ) from error


def _nearest(name: str) -> str:
    return f"{suggestion(name, miniatures())} (miniatures are {_known()})"


def _known() -> str:
    return ", ".join(miniatures()) or "none"


EDITING_PIPELINES = ("FluxKontextPipeline",)
"""Pipelines of diffusers that edit a source picture."""


def source_latents(pipe: Any, pictures: Sequence[np.ndarray], size: int, rows: int = 64) -> Tensor:
    """Latents ``[B, C, h, w]`` of pictures uint8 ``[H, W, 3]``, each resized to ``size`` x ``size`` pixels.

    They are the modes of the encoder's distributions, so equal pictures have equal latents. ValueError for a pipeline
    that takes no picture, and for other arrays.
    """
    from PIL import Image

    if type(pipe).__name__ not in EDITING_PIPELINES:
        raise ValueError(
            f"a {type(pipe).__name__} takes text alone; a picture can be given to {', '.join(EDITING_PIPELINES)}"
        )
    for picture in pictures:
        if not (
            isinstance(picture, np.ndarray)
            and picture.dtype == np.uint8
            and picture.ndim == 3
            and picture.shape[2] == 3
        ):
            raise ValueError(f"a picture to be edited is an array uint8 [H, W, 3], not {_type_of(picture)}")
    vae, images = pipe.vae, pipe.image_processor
    # Resized before they are stacked, with Pillow's filter, as in the pipeline itself.
    resized = [images.resize(Image.fromarray(picture), size, size) for picture in pictures]
    pixels = images.preprocess(resized, size, size).to(vae.device, vae.dtype)
    z = torch.cat([vae.encode(part).latent_dist.mode() for part in pixels.split(rows)])
    return (z - (vae.config.shift_factor or 0.0)) * vae.config.scaling_factor


def _type_of(value: Any) -> str:
    return f"{value.dtype} {list(value.shape)}" if isinstance(value, np.ndarray) else type(value).__name__


@cache
def load_image_encoder(place: str, device: str, texts: bool = False) -> tuple[Any, Any]:
    """The processor and the frozen model that embed pictures and, with ``texts``, also texts; loaded once a process.

    ValueError for a model of another kind.
    """
    from transformers import AutoImageProcessor, AutoModel, AutoProcessor

    kind = "does not encode texts and pictures" if texts else "is no image model"
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
