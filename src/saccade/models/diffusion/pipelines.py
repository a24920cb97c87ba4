"""Diffusers pipelines as velocity networks: text to conditioning, state to velocity, latent to picture.

A backbone keeps the real pipeline and calls its parts. Latents stay ``[B, C, h, w]`` whatever the transformer packs.
The grid of times comes from the checkpoint's own scheduler, so that our samples are the plain pipeline's samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from saccade.core import Question
from saccade.math.pixels import picture_digest
from saccade.models.diffusion.attention import JointAttention
from saccade.models.diffusion.lru import LRUCache
from saccade.models.loading import EDITING_PIPELINES, loading_errors, locate, read_config, silence, source_latents

Prompt = str | Question
"""What is asked of a model that draws: words, or words and the one picture that is to be edited."""


@dataclass(frozen=True)
class Conditioning:
    """What a prompt says to the network: token embeddings ``[B, L, D]`` and a pooled vector ``[B, D']``.

    ``source`` are the latents ``[B, C, h, w]`` of the pictures that are to be edited, if there are any.
    """

    tokens: Tensor
    pooled: Tensor
    source: Tensor | None = None

    @property
    def parts(self) -> tuple[Tensor, ...]:
        """All tensors, in the order of the fields."""
        said = (self.tokens, self.pooled)
        return said if self.source is None else (*said, self.source)

    def __add__(self, other: Conditioning) -> Conditioning:
        return Conditioning(*(torch.cat(both) for both in zip(self.parts, other.parts)))


class Backbone(Protocol):
    """What a flow policy needs of a model."""

    pipe: Any
    transformer: nn.Module
    embedded_guidance: bool

    def encode(self, prompts: list[str]) -> Conditioning: ...

    def velocity(self, x: Tensor, t_B: Tensor, said: Conditioning, guidance: float) -> Tensor: ...

    def times(self, steps: int, size: int) -> Tensor: ...

    def call(self, steps: int, guidance: float, size: int) -> dict[str, Any]: ...


@dataclass
class SD3:
    """StableDiffusion3Pipeline. ``text_length`` counts the T5 tokens (zeros where the pipeline has no T5)."""

    pipe: Any
    text_length: int
    embedded_guidance: bool = False

    def __post_init__(self) -> None:
        self.transformer.set_attn_processor(JointAttention())

    @property
    def transformer(self) -> nn.Module:
        return self.pipe.transformer

    def encode(self, prompts: list[str]) -> Conditioning:
        tokens, _, pooled, _ = self.pipe.encode_prompt(
            prompts, None, None, do_classifier_free_guidance=False, max_sequence_length=self.text_length
        )
        return Conditioning(tokens, pooled)

    def velocity(self, x: Tensor, t_B: Tensor, said: Conditioning, guidance: float) -> Tensor:
        return self.transformer(x, said.tokens, said.pooled, 1000 * t_B, return_dict=False)[0]

    def times(self, steps: int, size: int) -> Tensor:
        self.pipe.scheduler.set_timesteps(steps)
        return self.pipe.scheduler.sigmas.float().cpu()

    def call(self, steps: int, guidance: float, size: int) -> dict[str, Any]:
        return _plain_call(self, steps, size) | {"guidance_scale": guidance}


@dataclass
class Flux:
    """FluxPipeline and FluxKontextPipeline: latents packed in 2 x 2, guidance fed to the network where it was
    distilled.

    The packed latents of a source follow those of the picture that is drawn, at the same places but on another plane.
    """

    pipe: Any
    text_length: int

    @property
    def transformer(self) -> nn.Module:
        return self.pipe.transformer

    @property
    def embedded_guidance(self) -> bool:
        return bool(self.transformer.config.guidance_embeds)

    def encode(self, prompts: list[str]) -> Conditioning:
        tokens, pooled, _ = self.pipe.encode_prompt(prompts, None, max_sequence_length=self.text_length)
        return Conditioning(tokens, pooled)

    def velocity(self, x: Tensor, t_B: Tensor, said: Conditioning, guidance: float) -> Tensor:
        planes = [x] if said.source is None else [x, said.source]
        v = self.transformer(
            hidden_states=torch.cat([_packed(plane) for plane in planes], 1),
            encoder_hidden_states=said.tokens,
            pooled_projections=said.pooled,
            timestep=t_B,
            guidance=torch.full_like(t_B, guidance) if self.embedded_guidance else None,
            img_ids=torch.cat([_grid_ids(plane, number) for number, plane in enumerate(planes)]),
            txt_ids=torch.zeros(said.tokens.shape[1], 3, device=x.device, dtype=x.dtype),
            return_dict=False,
        )[0]
        return _unpacked(v, x)

    def times(self, steps: int, size: int) -> Tensor:
        import numpy as np
        from diffusers.pipelines.flux.pipeline_flux import calculate_shift

        scheduler, tokens = self.pipe.scheduler, (size // self.pipe.vae_scale_factor // 2) ** 2
        at = [scheduler.config.get(k, d) for k, d in FLUX_SHIFT.items()]
        scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps), mu=calculate_shift(tokens, *at))
        return scheduler.sigmas.float().cpu()

    def call(self, steps: int, guidance: float, size: int) -> dict[str, Any]:
        free = {} if self.embedded_guidance else {"true_cfg_scale": guidance, "negative_prompt": ""}
        # Without these, Kontext brings pictures to a megapixel, its own and the one it is given.
        sized = {"max_area": size**2, "_auto_resize": False} if type(self.pipe).__name__ in EDITING_PIPELINES else {}
        return _plain_call(self, steps, size) | {"guidance_scale": guidance} | free | sized


FLUX_SHIFT = {"base_image_seq_len": 256, "max_image_seq_len": 4096, "base_shift": 0.5, "max_shift": 1.15}

KINDS = {"StableDiffusion3Pipeline": (SD3, 256), "FluxPipeline": (Flux, 512), "FluxKontextPipeline": (Flux, 512)}


def load_backbone(
    name: str,
    *,
    text_length: int | None = None,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    beside: Backbone | None = None,
) -> Backbone:
    """A pipeline by hub id, folder or miniature's name. ValueError with one line if it cannot be had.

    ``text_length`` is the number of T5 tokens; None takes the pipeline's own default. A backbone ``beside``, of the
    same class, lends all its parts but the network and the scheduler.
    """
    place = locate(name)
    index = read_config(name, place, "model_index.json")
    found = str(index.get("_class_name"))
    if found not in KINDS:
        raise ValueError(f"model '{name}': its class {found} is not supported; supported: {', '.join(KINDS)}")
    if beside is not None and type(beside.pipe).__name__ != found:
        raise ValueError(f"model '{name}': a {found} cannot share the encoders of a {type(beside.pipe).__name__}")
    import diffusers
    import transformers

    silence(diffusers, transformers)
    lent = (
        {}
        if beside is None
        else {k: v for k, v in beside.pipe.components.items() if k not in ("transformer", "scheduler")}
    )
    with loading_errors(name, place):
        # A part that a pipeline was saved without (SD3 without its T5) must be named as absent.
        absent = {part: None for part, at in index.items() if isinstance(at, list) and at[0] is None}
        pipe = getattr(diffusers, found).from_pretrained(place, dtype=dtype, **absent | lent)
    pipe.set_progress_bar_config(disable=True)
    for part in pipe.components.values():
        if isinstance(part, nn.Module):
            part.to(device=device).eval().requires_grad_(False)
    kind, default_length = KINDS[found]
    return kind(pipe, default_length if text_length is None else text_length)


class PromptCache:
    """Conditioning of prompts, computed once a text and once a picture, each kept until ``capacity`` bytes are in use.

    Each is encoded alone: beside others it would be rounded otherwise, and a resumed run, which knows none, would
    differ.
    """

    def __init__(self, backbone: Backbone, capacity: int = 1 << 30):
        self.backbone, self.texts, self.pictures = backbone, LRUCache(capacity), LRUCache(capacity)

    @torch.no_grad()
    def __call__(self, prompts: Sequence[Prompt], size: int) -> Conditioning:
        """Conditioning of every prompt, in order, pictures at ``size`` pixels.

        ValueError unless each of them has one picture, or none has.
        """
        asked = [prompt if isinstance(prompt, Question) else Question(prompt) for prompt in prompts]
        alone = lambda one, items: [torch.cat(parts) for parts in zip(*map(one, items))]
        said = self.texts(
            [q.text for q in asked], lambda texts: alone(lambda text: self.backbone.encode([text]).parts, texts)
        )
        counts = sorted({len(question.pictures) for question in asked})
        if counts == [0]:
            return Conditioning(*said)
        if counts != [1]:
            raise ValueError(
                f"prompts with {' and '.join(map(str, counts))} pictures in one batch; each needs one, or none any"
            )
        shown = {id(question.pictures[0]): question.pictures[0] for question in asked}
        key = {place: (size, picture_digest(picture)) for place, picture in shown.items()}
        known = {key[place]: picture for place, picture in shown.items()}
        latents = lambda own: (source_latents(self.backbone.pipe, [known[own]], size),)
        seen = self.pictures([key[id(q.pictures[0])] for q in asked], lambda unknown: alone(latents, unknown))
        return Conditioning(*said, *seen)


def wordless(prompt: Prompt) -> Prompt:
    """The prompt that says nothing; a picture stays."""
    return Question("", prompt.pictures) if isinstance(prompt, Question) else ""


def _plain_call(backbone: Backbone, steps: int, size: int) -> dict[str, Any]:
    return {"num_inference_steps": steps, "height": size, "width": size, "max_sequence_length": backbone.text_length}


def _packed(x: Tensor) -> Tensor:
    """Latents ``[B, C, h, w]`` as tokens ``[B, h w / 4, 4 C]``."""
    batch, channels, height, width = x.shape
    cut = x.reshape(batch, channels, height // 2, 2, width // 2, 2).permute(0, 2, 4, 1, 3, 5)
    return cut.flatten(3).flatten(1, 2)


def _unpacked(tokens: Tensor, like: Tensor) -> Tensor:
    """The first tokens as latents of the shape of ``like``."""
    batch, channels, height, width = like.shape
    cut = tokens[:, : height * width // 4].reshape(batch, height // 2, width // 2, channels, 2, 2)
    return cut.permute(0, 3, 1, 4, 2, 5).reshape(like.shape)


def _grid_ids(x: Tensor, plane: int) -> Tensor:
    """Where the tokens of latents are, ``[h w / 4, 3]``: plane, row, column."""
    rows, columns = x.shape[2] // 2, x.shape[3] // 2
    ids = torch.zeros(rows, columns, 3, device=x.device, dtype=x.dtype)
    ids[..., 0] = plane
    ids[..., 1] += torch.arange(rows, device=x.device, dtype=x.dtype)[:, None]
    ids[..., 2] += torch.arange(columns, device=x.device, dtype=x.dtype)[None]
    return ids.flatten(0, 1)
