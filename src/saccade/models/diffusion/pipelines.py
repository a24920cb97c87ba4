"""Diffusers pipelines as velocity networks: prompts to conditioning, latents to velocities.

A backbone keeps the diffusers pipeline and calls its parts. Latents are ``[B, C, h, w]``, also where the transformer
packs them. The time grid is that of the checkpoint's scheduler, so that samples equal those of the plain pipeline.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from saccade.core import Question
from saccade.math.pixels import picture_digest
from saccade.models.diffusion.attention import JointAttention
from saccade.models.diffusion.generic import FAMILIES, GenericPipeline, pipeline_defaults
from saccade.models.diffusion.lru import LRUCache
from saccade.models.diffusion.schedulers import first_order
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

    def to(self, dtype: torch.dtype) -> Conditioning:
        """The same in another precision."""
        return Conditioning(*(part.to(dtype) for part in self.parts))

    def split(self, rows: int) -> list[Conditioning]:
        """The same in parts of so many rows."""
        return [Conditioning(*parts) for parts in zip(*(part.split(rows) for part in self.parts))]


class Backbone(Protocol):
    """What a flow policy needs of a model."""

    pipe: Any
    negative: str
    """The text that guidance leads away from."""

    @property
    def text_length(self) -> int | None:
        """Number of tokens of a text; None leaves it to the pipeline."""
        ...

    @property
    def transformer(self) -> Any:
        """The velocity network, a diffusers transformer."""
        ...

    @property
    def edits(self) -> bool:
        """Whether a prompt has a picture, which is edited."""
        ...

    @property
    def embedded_guidance(self) -> bool:
        """Whether the network was distilled with guidance and takes its scale as an input."""
        ...

    @property
    def guides_itself(self) -> bool:
        """Whether `velocity` has guidance in it, so that no unconditional velocity is asked for."""
        ...

    def conditioner(self) -> Any:
        """A function from prompts and the size of pictures to their conditioning, which it may remember."""
        ...

    def velocity(self, x: Tensor, t_B: Tensor, cond: Any, guidance: float) -> Tensor:
        """Velocity of the shape of latents ``x`` at times in [0, 1]; ``guidance`` counts if `guides_itself`."""
        ...

    def times(self, steps: int, size: int) -> Tensor:
        """The scheduler's time grid ``[steps + 1]``, 1 down to 0, for pictures of ``size`` pixels."""
        ...

    def start(self, noise: Tensor, steps: int, size: int) -> Tensor:
        """Standard normal noise as latents at the first of ``steps`` times."""
        ...

    def latent_shape(self, size: int) -> tuple[int, ...]:
        """The shape of a row of latents."""
        ...

    def decode(self, x0: Tensor, size: int, rows: int) -> Tensor:
        """Pictures ``[B, 3, H, W]`` in [0, 1] of latents, ``rows`` at a time; gradients flow."""
        ...

    def check_size(self, size: int) -> None:
        """ValueError, one line, for an edge in pixels of which no pictures are made."""
        ...

    def own_size(self) -> int:
        """Edge in pixels of the pictures that the pipeline makes where it is not told."""
        ...

    def guidance_of(self, arguments: dict[str, Any]) -> float:
        """The scale of guidance that arguments of the pipeline stand for."""
        ...

    def pipeline_arguments(self, steps: int, guidance: float, size: int) -> dict[str, Any]:
        """Arguments with which the plain pipeline samples as the policy does."""
        ...


@dataclass
class SD3:
    """StableDiffusion3Pipeline; ``text_length`` is the number of T5 tokens (zeros where the pipeline has no T5)."""

    pipe: Any
    text_length: int
    negative: str = ""
    edits: bool = False
    embedded_guidance: bool = False
    guides_itself: bool = False

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

    def conditioner(self) -> PromptCache:
        return PromptCache(self)

    def times(self, steps: int, size: int) -> Tensor:
        scheduler, patch = self.pipe.scheduler, self.transformer.config.patch_size
        dynamic = scheduler.config.get("use_dynamic_shifting")
        tokens = (size // self.pipe.vae_scale_factor // patch) ** 2
        scheduler.set_timesteps(steps, **{"mu": _shift(scheduler, tokens, SD3_MAX_SHIFT)} if dynamic else {})
        return scheduler.sigmas.float().cpu()

    def start(self, noise: Tensor, steps: int, size: int) -> Tensor:
        return noise

    def latent_shape(self, size: int) -> tuple[int, ...]:
        return _latent_shape(self, size)

    def decode(self, x0: Tensor, size: int, rows: int) -> Tensor:
        return _decoded(self.pipe.vae, x0, rows)

    def check_size(self, size: int) -> None:
        _check_size(self, size)

    def own_size(self) -> int:
        return self.pipe.default_sample_size * self.pipe.vae_scale_factor

    def guidance_of(self, arguments: dict[str, Any]) -> float:
        return arguments["guidance_scale"]

    def pipeline_arguments(self, steps: int, guidance: float, size: int) -> dict[str, Any]:
        negative = {"negative_prompt": self.negative} if self.negative else {}
        return _shared_arguments(self, steps, size) | {"guidance_scale": guidance} | negative


@dataclass
class Flux:
    """FluxPipeline and FluxKontextPipeline: latents packed 2 x 2, guidance an input of guidance-distilled networks.

    The packed latents of a source picture follow those of the generated one, with equal positions on another plane.
    """

    pipe: Any
    text_length: int
    negative: str = ""

    @property
    def transformer(self) -> Any:
        return self.pipe.transformer

    @property
    def edits(self) -> bool:
        return type(self.pipe).__name__ in EDITING_PIPELINES

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

    @property
    def guides_itself(self) -> bool:
        return self.embedded_guidance

    def conditioner(self) -> PromptCache:
        return PromptCache(self)

    def times(self, steps: int, size: int) -> Tensor:
        import numpy as np

        scheduler, tokens = self.pipe.scheduler, (size // self.pipe.vae_scale_factor // 2) ** 2
        mu = _shift(scheduler, tokens, FLUX_MAX_SHIFT)
        scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps), mu=mu)
        return scheduler.sigmas.float().cpu()

    def start(self, noise: Tensor, steps: int, size: int) -> Tensor:
        return noise

    def latent_shape(self, size: int) -> tuple[int, ...]:
        return _latent_shape(self, size)

    def decode(self, x0: Tensor, size: int, rows: int) -> Tensor:
        return _decoded(self.pipe.vae, x0, rows)

    def check_size(self, size: int) -> None:
        _check_size(self, size)

    def own_size(self) -> int:
        return self.pipe.default_sample_size * self.pipe.vae_scale_factor

    def guidance_of(self, arguments: dict[str, Any]) -> float:
        return arguments["guidance_scale" if self.embedded_guidance else "true_cfg_scale"]

    def pipeline_arguments(self, steps: int, guidance: float, size: int) -> dict[str, Any]:
        true_guidance = {} if self.embedded_guidance else {"true_cfg_scale": guidance, "negative_prompt": self.negative}
        # By default Kontext resizes the source and the result to a megapixel.
        sized = {"max_area": size**2, "_auto_resize": False} if type(self.pipe).__name__ in EDITING_PIPELINES else {}
        return _shared_arguments(self, steps, size) | {"guidance_scale": guidance} | true_guidance | sized


SD3_MAX_SHIFT, FLUX_MAX_SHIFT = 1.16, 1.15
"""Shifts of the times of the largest pictures where the scheduler's settings name none, as in the pipelines."""

BACKBONES = {"StableDiffusion3Pipeline": (SD3, 256), "FluxPipeline": (Flux, 512), "FluxKontextPipeline": (Flux, 512)}
"""Backbone and default number of T5 tokens of the pipeline classes that have one of their own."""


def load_backbone(
    name: str,
    *,
    text_length: int | None = None,
    negative: str = "",
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    share_with: Backbone | None = None,
) -> Backbone:
    """Load a pipeline by hub id, folder or miniature's name.

    ``text_length`` is the number of T5 tokens; None takes that of the folder's ``sampling.json`` or the pipeline's.
    ``negative`` is what guidance leads away from. All parts but the networks and the scheduler are those of the
    backbone ``share_with``, which must be of the same class, instead of being loaded again. ValueError with one line if
    the pipeline cannot be loaded, and for a class or a scheduler that is not proven.
    """
    place = locate(name)
    index = read_config(name, place, "model_index.json")
    found = str(index.get("_class_name"))
    if found not in BACKBONES and found not in FAMILIES:
        proven = ", ".join([*BACKBONES, *FAMILIES])
        raise ValueError(f"model '{name}': its class {found} is not proven; proven: {proven}")
    if share_with is not None and type(share_with.pipe).__name__ != found:
        raise ValueError(f"model '{name}': a {found} cannot share the encoders of a {type(share_with.pipe).__name__}")
    import diffusers
    import transformers

    silence(diffusers, transformers)
    with imported_when_used("scipy.stats"):  # by schedulers for spacings of times that no checkpoint here has
        kind = getattr(diffusers, found)
    shared = {} if share_with is None else dict(share_with.pipe.components)
    shared = {part: module for part, module in shared.items() if part not in NOT_SHARED}
    with loading_errors(name, place):
        # A part that the pipeline was saved without (SD3 without its T5) must be passed as None.
        absent = {part: None for part, at in index.items() if isinstance(at, list) and at[0] is None}
        pipe = kind.from_pretrained(place, dtype=dtype, **absent | shared)
    pipe.set_progress_bar_config(disable=True)
    for part in pipe.components.values():
        if isinstance(part, nn.Module):
            part.to(device=device).eval().requires_grad_(False)
    own_length = _sampling(name, place).get("max_sequence_length")
    length = own_length if text_length is None else text_length
    try:
        if found in FAMILIES:
            encodings = {"encodings": share_with.encodings} if isinstance(share_with, GenericPipeline) else {}
            return GenericPipeline(pipe, length, negative, **encodings)
        pipe.scheduler = first_order(pipe.scheduler)
    except ValueError as error:
        raise ValueError(f"model '{name}': {error}") from None
    if type(pipe.scheduler).__name__ != "FlowMatchEulerDiscreteScheduler":
        raise ValueError(f"model '{name}': a {found} with a {type(pipe.scheduler).__name__} is not proven")
    backbone, default_length = BACKBONES[found]
    return backbone(pipe, default_length if length is None else length, negative)


NOT_SHARED = ("transformer", "transformer_2", "unet", "scheduler")
"""Parts that every policy has of its own."""


@dataclass(frozen=True)
class OwnSettings:
    """How a checkpoint is sampled where nobody says otherwise: as its ``sampling.json`` says, or its pipeline."""

    size: Callable[[], int]
    """Edge in pixels; a pipeline may have none."""
    steps: int
    guidance: float


def own_settings(backbone: Backbone, name: str) -> OwnSettings:
    """The own size, steps and guidance of a checkpoint."""
    said = _sampling(name, locate(name))
    arguments = pipeline_defaults(backbone.pipe) | said
    size = (lambda: int(said["height"])) if "height" in said else backbone.own_size
    return OwnSettings(size, int(arguments["num_inference_steps"]), float(backbone.guidance_of(arguments)))


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

    def __init__(self, backbone: SD3 | Flux, capacity: int = 1 << 30):
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


def _tell_cut(backbone: SD3 | Flux, text: str) -> None:
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


def with_text(prompt: Prompt, text: str) -> Prompt:
    """The prompt with another text; a picture stays."""
    return Question(text, prompt.pictures) if isinstance(prompt, Question) else text


def _device(backbone: SD3 | Flux) -> torch.device:
    """The device of the text encoders; the pipeline would walk over all modules to find it, for each call anew."""
    return next(backbone.transformer.parameters()).device


def _check_size(backbone: SD3 | Flux, size: int) -> None:
    token = 2 * backbone.pipe.vae_scale_factor  # a token covers 2 x 2 latents
    if size < token or size % token:
        raise ValueError(f"size {size} is not a multiple of {token}, the edge of a token in pixels")


def _latent_shape(backbone: SD3 | Flux, size: int) -> tuple[int, ...]:
    edge = size // backbone.pipe.vae_scale_factor
    return backbone.pipe.vae.config.latent_channels, edge, edge


def _decoded(vae: Any, x0: Tensor, rows: int) -> Tensor:
    z = x0 / vae.config.scaling_factor + (vae.config.shift_factor or 0.0)
    parts = [vae.decode(part.to(vae.dtype), return_dict=False)[0] for part in z.split(rows)]
    return (torch.cat(parts).float() / 2 + 0.5).clamp(0, 1)


def _shift(scheduler: Any, tokens: int, max_shift: float) -> float:
    """The shift mu of times, linear in the number of picture tokens, as FLUX.1 and SD3 have it."""
    config = scheduler.config
    low, high = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
    first, last = config.get("base_shift", 0.5), config.get("max_shift", max_shift)
    return first + (last - first) * (tokens - low) / (high - low)


def _shared_arguments(backbone: SD3 | Flux, steps: int, size: int) -> dict[str, Any]:
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
