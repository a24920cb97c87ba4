"""Diffusers pipelines as velocity networks: prompts to conditioning, latents to velocities.

A backbone keeps the diffusers pipeline and calls its parts. Latents are ``[B, C, h, w]``, also where the transformer
packs them. The time grid is that of the checkpoint's scheduler, so that samples equal those of the plain pipeline.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from saccade.core import Question
from saccade.math.pixels import picture_digest
from saccade.models.diffusion.attention import JointAttention
from saccade.models.diffusion.lru import LRUCache
from saccade.models.loading import EDITING_PIPELINES, loading_errors, locate, read_config, silence, source_latents

Prompt = str | Question
"""What a generator is given: a text, or a text and the one picture that is to be edited."""


@dataclass(frozen=True)
class Conditioning:
    """Encoded prompts: token embeddings ``[B, L, D]``, pooled vectors ``[B, D']`` and, for edits, source latents."""

    tokens: Tensor
    pooled: Tensor
    source: Tensor | None = None
    """Latents ``[B, C, h, w]`` of the pictures that are to be edited."""

    @property
    def parts(self) -> tuple[Tensor, ...]:
        """All tensors, in the order of the fields."""
        text = (self.tokens, self.pooled)
        return text if self.source is None else (*text, self.source)

    def __add__(self, other: Conditioning) -> Conditioning:
        """The rows of both."""
        return Conditioning(*(torch.cat(both) for both in zip(self.parts, other.parts)))


class Backbone(Protocol):
    """What a flow policy needs of a model."""

    pipe: Any
    text_length: int

    @property
    def transformer(self) -> Any:
        """The velocity network, a diffusers transformer."""
        ...

    @property
    def embedded_guidance(self) -> bool:
        """Whether the network was distilled with guidance and takes its scale as an input."""
        ...

    def encode(self, prompts: list[str]) -> Conditioning:
        """Conditioning of texts."""
        ...

    def velocity(self, x: Tensor, t_B: Tensor, cond: Conditioning, guidance: float) -> Tensor:
        """Velocity ``[B, C, h, w]`` at latents of that shape and times in [0, 1]; ``guidance`` is the embedded one."""
        ...

    def times(self, steps: int, size: int) -> Tensor:
        """The scheduler's time grid ``[steps + 1]``, 1 down to 0, for pictures of ``size`` pixels."""
        ...

    def pipeline_arguments(self, steps: int, guidance: float, size: int) -> dict[str, Any]:
        """Arguments with which the plain pipeline samples as the policy does."""
        ...


@dataclass
class SD3:
    """StableDiffusion3Pipeline; ``text_length`` is the number of T5 tokens (zeros where the pipeline has no T5)."""

    pipe: Any
    text_length: int
    embedded_guidance: bool = False

    def __post_init__(self) -> None:
        self.transformer.set_attn_processor(JointAttention())

    @property
    def transformer(self) -> Any:
        return self.pipe.transformer

    def encode(self, prompts: list[str]) -> Conditioning:
        tokens, _, pooled, _ = self.pipe.encode_prompt(
            prompts,
            None,
            None,
            device=_device(self),
            do_classifier_free_guidance=False,
            max_sequence_length=self.text_length,
        )
        return Conditioning(tokens, pooled)

    def velocity(self, x: Tensor, t_B: Tensor, cond: Conditioning, guidance: float) -> Tensor:
        return self.transformer(x, cond.tokens, cond.pooled, 1000 * t_B, return_dict=False)[0]

    def times(self, steps: int, size: int) -> Tensor:
        self.pipe.scheduler.set_timesteps(steps)
        return self.pipe.scheduler.sigmas.float().cpu()

    def pipeline_arguments(self, steps: int, guidance: float, size: int) -> dict[str, Any]:
        return _shared_arguments(self, steps, size) | {"guidance_scale": guidance}


@dataclass
class Flux:
    """FluxPipeline and FluxKontextPipeline: latents packed 2 x 2, guidance an input of guidance-distilled networks.

    The packed latents of a source picture follow those of the generated one, with equal positions on another plane.
    """

    pipe: Any
    text_length: int

    @property
    def transformer(self) -> Any:
        return self.pipe.transformer

    @property
    def embedded_guidance(self) -> bool:
        return bool(self.transformer.config.guidance_embeds)

    def encode(self, prompts: list[str]) -> Conditioning:
        tokens, pooled, _ = self.pipe.encode_prompt(
            prompts, None, device=_device(self), max_sequence_length=self.text_length
        )
        return Conditioning(tokens, pooled)

    def velocity(self, x: Tensor, t_B: Tensor, cond: Conditioning, guidance: float) -> Tensor:
        planes = [x] if cond.source is None else [x, cond.source]
        v = self.transformer(
            hidden_states=torch.cat([_packed(plane) for plane in planes], 1),
            encoder_hidden_states=cond.tokens,
            pooled_projections=cond.pooled,
            timestep=t_B,
            guidance=torch.full_like(t_B, guidance) if self.embedded_guidance else None,
            img_ids=torch.cat([_grid_ids(plane, number) for number, plane in enumerate(planes)]),
            txt_ids=torch.zeros(cond.tokens.shape[1], 3, device=x.device, dtype=x.dtype),
            return_dict=False,
        )[0]
        return _unpacked(v, x)

    def times(self, steps: int, size: int) -> Tensor:
        import numpy as np
        from diffusers.pipelines.flux.pipeline_flux import calculate_shift

        scheduler, tokens = self.pipe.scheduler, (size // self.pipe.vae_scale_factor // 2) ** 2
        shift = [scheduler.config.get(name, default) for name, default in FLUX_SHIFT.items()]
        scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps), mu=calculate_shift(tokens, *shift))
        return scheduler.sigmas.float().cpu()

    def pipeline_arguments(self, steps: int, guidance: float, size: int) -> dict[str, Any]:
        true_guidance = {} if self.embedded_guidance else {"true_cfg_scale": guidance, "negative_prompt": ""}
        # By default Kontext resizes the source and the result to a megapixel.
        sized = {"max_area": size**2, "_auto_resize": False} if type(self.pipe).__name__ in EDITING_PIPELINES else {}
        return _shared_arguments(self, steps, size) | {"guidance_scale": guidance} | true_guidance | sized


FLUX_SHIFT = {"base_image_seq_len": 256, "max_image_seq_len": 4096, "base_shift": 0.5, "max_shift": 1.15}
"""The scheduler's settings of the shift of times by picture size, with FLUX.1's values as defaults."""

BACKBONES = {"StableDiffusion3Pipeline": (SD3, 256), "FluxPipeline": (Flux, 512), "FluxKontextPipeline": (Flux, 512)}
"""Backbone and default number of T5 tokens of each pipeline class."""


def load_backbone(
    name: str,
    *,
    text_length: int | None = None,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    share_with: Backbone | None = None,
) -> Backbone:
    """Load a pipeline by hub id, folder or miniature's name.

    ``text_length`` is the number of T5 tokens; None takes that of the folder's ``sampling.json`` or the pipeline's. All
    parts but the transformer and the scheduler are those of the backbone ``share_with``, which must be of the same
    class, instead of being loaded again. ValueError with one line if the pipeline cannot be loaded.
    """
    place = locate(name)
    index = read_config(name, place, "model_index.json")
    found = str(index.get("_class_name"))
    if found not in BACKBONES:
        raise ValueError(f"model '{name}': its class {found} is not supported; supported: {', '.join(BACKBONES)}")
    if share_with is not None and type(share_with.pipe).__name__ != found:
        raise ValueError(f"model '{name}': a {found} cannot share the encoders of a {type(share_with.pipe).__name__}")
    import diffusers
    import transformers

    silence(diffusers, transformers)
    with imported_when_used("scipy.stats"):  # by schedulers for spacings of times that no checkpoint here has
        kind = getattr(diffusers, found)
    shared = {} if share_with is None else dict(share_with.pipe.components)
    shared = {part: module for part, module in shared.items() if part not in ("transformer", "scheduler")}
    with loading_errors(name, place):
        # A part that the pipeline was saved without (SD3 without its T5) must be passed as None.
        absent = {part: None for part, at in index.items() if isinstance(at, list) and at[0] is None}
        pipe = kind.from_pretrained(place, dtype=dtype, **absent | shared)
    pipe.set_progress_bar_config(disable=True)
    for part in pipe.components.values():
        if isinstance(part, nn.Module):
            part.to(device=device).eval().requires_grad_(False)
    backbone, default_length = BACKBONES[found]
    own_length = _sampling(name, place).get("max_sequence_length", default_length)
    return backbone(pipe, own_length if text_length is None else text_length)


def own_size(backbone: Backbone, name: str) -> int:
    """Edge in pixels of the pictures that a checkpoint makes: that of its ``sampling.json``, or of its pipeline."""
    default = backbone.pipe.default_sample_size * backbone.pipe.vae_scale_factor
    return int(_sampling(name, locate(name)).get("height", default))


def _sampling(name: str, place: str) -> dict[str, Any]:
    """The arguments that a folder's ``sampling.json`` has for its pipeline; none for a hub id or without the file."""
    return read_config(name, place, "sampling.json") if (Path(place) / "sampling.json").is_file() else {}


TEXTS_AT_ONCE = 16
"""Texts in every call of the text encoders: a call of fewer is filled up."""


@contextlib.contextmanager
def imported_when_used(name: str) -> Iterator[None]:
    """Within it, a module that is imported is loaded only when something of it is used, then or later."""

    def load(attribute: str) -> Any:
        if attribute.startswith("__") and attribute != "__path__":
            raise AttributeError(attribute)  # who looks through all modules does not use this one
        sys.modules.pop(name, None)
        return getattr(importlib.import_module(name), attribute)

    if name in sys.modules:
        yield
        return
    stand_in = ModuleType(name)
    vars(stand_in)["__getattr__"] = load
    sys.modules[name] = stand_in
    try:
        yield
    finally:
        if sys.modules.get(name) is stand_in:
            del sys.modules[name]


class PromptCache:
    """Conditioning of prompts, computed once a text and once a picture, each kept within ``capacity`` bytes.

    Texts are encoded in calls of one size and pictures one at a time: what is rounded depends on the size of a call,
    and a resumed run, whose cache is empty, would differ.
    """

    def __init__(self, backbone: Backbone, capacity: int = 1 << 30):
        self.backbone, self.texts, self.pictures = backbone, LRUCache(capacity), LRUCache(capacity)

    @torch.no_grad()
    def __call__(self, prompts: Sequence[Prompt], size: int) -> Conditioning:
        """Conditioning of each prompt, in order, with pictures at ``size`` pixels.

        ValueError unless all prompts have one picture, or none has any.
        """
        questions = [prompt if isinstance(prompt, Question) else Question(prompt) for prompt in prompts]
        one_by_one = lambda encode, items: [torch.cat(parts) for parts in zip(*map(encode, items))]
        text_parts = self.texts([q.text for q in questions], self._encode_texts)
        counts = sorted({len(question.pictures) for question in questions})
        if counts == [0]:
            return Conditioning(*text_parts)
        if counts != [1]:
            raise ValueError(
                f"prompts with {' and '.join(map(str, counts))} pictures in one batch; each needs one, or none any"
            )
        by_id = {id(question.pictures[0]): question.pictures[0] for question in questions}
        keys = {number: (size, picture_digest(picture)) for number, picture in by_id.items()}
        by_key = {keys[number]: picture for number, picture in by_id.items()}
        encode_picture = lambda key: (source_latents(self.backbone.pipe, [by_key[key]], size),)
        sources = self.pictures(
            [keys[id(question.pictures[0])] for question in questions],
            lambda missing: one_by_one(encode_picture, missing),
        )
        return Conditioning(*text_parts, *sources)

    def _encode_texts(self, texts: Sequence[str]) -> list[Tensor]:
        for text in texts:
            _tell_cut(self.backbone, text)
        chunks = [list(texts[i : i + TEXTS_AT_ONCE]) for i in range(0, len(texts), TEXTS_AT_ONCE)]
        filled = [[*chunk, *chunk[-1:] * (TEXTS_AT_ONCE - len(chunk))] for chunk in chunks]
        return [torch.cat(parts)[: len(texts)] for parts in zip(*(self.backbone.encode(each).parts for each in filled))]


def _tell_cut(backbone: Backbone, text: str) -> None:
    """Warn where a text is longer than every text encoder reads, so that its end is not drawn."""
    names = [name for name in ("tokenizer", "tokenizer_2", "tokenizer_3") if getattr(backbone.pipe, name, None)]
    room = 0
    for tokenizer in (getattr(backbone.pipe, name) for name in names):
        limit = backbone.text_length if "T5" in type(tokenizer).__name__ else tokenizer.model_max_length
        count = len(tokenizer(text, verbose=False).input_ids)
        if count <= limit:
            return
        room = max(room, limit)
    if names:
        warnings.warn(f"the prompt {text[:60]!r}… is cut: the text encoders read {room} tokens", stacklevel=2)


def without_text(prompt: Prompt) -> Prompt:
    """The prompt with an empty text; a picture stays."""
    return Question("", prompt.pictures) if isinstance(prompt, Question) else ""


def _device(backbone: Backbone) -> torch.device:
    """The device of the text encoders; the pipeline would walk over all modules to find it, for each call anew."""
    return next(backbone.transformer.parameters()).device


def _shared_arguments(backbone: Backbone, steps: int, size: int) -> dict[str, Any]:
    return {"num_inference_steps": steps, "height": size, "width": size, "max_sequence_length": backbone.text_length}


def _packed(x: Tensor) -> Tensor:
    """Latents ``[B, C, h, w]`` as tokens ``[B, h w / 4, 4 C]``."""
    batch, channels, height, width = x.shape
    blocks = x.reshape(batch, channels, height // 2, 2, width // 2, 2).permute(0, 2, 4, 1, 3, 5)
    return blocks.flatten(3).flatten(1, 2)


def _unpacked(tokens: Tensor, like: Tensor) -> Tensor:
    """The first tokens as latents of the shape of ``like``."""
    batch, channels, height, width = like.shape
    blocks = tokens[:, : height * width // 4].reshape(batch, height // 2, width // 2, channels, 2, 2)
    return blocks.permute(0, 3, 1, 4, 2, 5).reshape(like.shape)


def _grid_ids(x: Tensor, plane: int) -> Tensor:
    """Positions of the tokens of latents, ``[h w / 4, 3]``: plane, row, column."""
    rows, columns = x.shape[2] // 2, x.shape[3] // 2
    ids = torch.zeros(rows, columns, 3, device=x.device, dtype=x.dtype)
    ids[..., 0] = plane
    ids[..., 1] += torch.arange(rows, device=x.device, dtype=x.dtype)[:, None]
    ids[..., 2] += torch.arange(columns, device=x.device, dtype=x.dtype)[None]
    return ids.flatten(0, 1)
