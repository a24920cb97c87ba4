"""Diffusers pipelines as velocity networks: text to conditioning, state to velocity, latent to picture.

A backbone keeps the real pipeline and calls its parts. Latents stay ``[B, C, h, w]`` whatever the transformer packs.
The grid of times comes from the checkpoint's own scheduler, so that our samples are the plain pipeline's samples.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from saccade.models.attention import JointAttention
from saccade.models.locate import description, locate, quiet, reading


@dataclass(frozen=True)
class Conditioning:
    """What a prompt says to the network: token embeddings ``[B, L, D]`` and a pooled vector ``[B, D']``."""

    tokens: Tensor
    pooled: Tensor

    def rows(self, index: Tensor) -> Conditioning:
        return Conditioning(self.tokens[index], self.pooled[index])

    def __add__(self, other: Conditioning) -> Conditioning:
        return Conditioning(torch.cat([self.tokens, other.tokens]), torch.cat([self.pooled, other.pooled]))


class Backbone(Protocol):
    """What a flow policy needs of a model."""

    pipe: Any
    transformer: nn.Module
    embedded_guidance: bool

    def encode(self, prompts: list[str]) -> Conditioning: ...

    def velocity(self, x: Tensor, t_B: Tensor, said: Conditioning, guidance: float) -> Tensor: ...

    def times(self, steps: int, size: int) -> Tensor: ...


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


@dataclass
class Flux:
    """FluxPipeline: latents packed in 2 x 2, guidance fed to the network where it was distilled."""

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
        batch, channels, height, width = x.shape
        packed = x.reshape(batch, channels, height // 2, 2, width // 2, 2).permute(0, 2, 4, 1, 3, 5).flatten(3)
        v = self.transformer(
            hidden_states=packed.flatten(1, 2),
            encoder_hidden_states=said.tokens,
            pooled_projections=said.pooled,
            timestep=t_B,
            guidance=torch.full_like(t_B, guidance) if self.embedded_guidance else None,
            img_ids=_grid_ids(height // 2, width // 2, x),
            txt_ids=torch.zeros(said.tokens.shape[1], 3, device=x.device, dtype=x.dtype),
            return_dict=False,
        )[0]
        v = v.reshape(batch, height // 2, width // 2, channels, 2, 2).permute(0, 3, 1, 4, 2, 5)
        return v.reshape(batch, channels, height, width)

    def times(self, steps: int, size: int) -> Tensor:
        import numpy as np
        from diffusers.pipelines.flux.pipeline_flux import calculate_shift

        scheduler, tokens = self.pipe.scheduler, (size // self.pipe.vae_scale_factor // 2) ** 2
        at = [scheduler.config.get(k, d) for k, d in FLUX_SHIFT.items()]
        scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps), mu=calculate_shift(tokens, *at))
        return scheduler.sigmas.float().cpu()


FLUX_SHIFT = {"base_image_seq_len": 256, "max_image_seq_len": 4096, "base_shift": 0.5, "max_shift": 1.15}
KINDS = {"StableDiffusion3Pipeline": (SD3, 256), "FluxPipeline": (Flux, 512)}


def load(
    name: str, *, text_length: int | None = None, dtype: torch.dtype = torch.float32, device: str = "cpu"
) -> Backbone:
    """A pipeline by hub id, folder or miniature's name. ValueError with one line if it cannot be had.

    ``text_length`` is the number of T5 tokens; None takes the pipeline's own default.
    """
    place = locate(name)
    index = description(name, place, "model_index.json")
    found = str(index.get("_class_name"))
    if found not in KINDS:
        raise ValueError(f"model '{name}': its class {found} is not supported; supported: {', '.join(KINDS)}")
    import diffusers
    import transformers

    quiet(diffusers, transformers)
    with reading(name, place):
        # A part that a pipeline was saved without (SD3 without its T5) must be named as absent.
        absent = {part: None for part, at in index.items() if isinstance(at, list) and at[0] is None}
        pipe = getattr(diffusers, found).from_pretrained(place, dtype=dtype, **absent)
    pipe.set_progress_bar_config(disable=True)
    for part in pipe.components.values():
        if isinstance(part, nn.Module):
            part.to(device=device).eval().requires_grad_(False)
    kind, default_length = KINDS[found]
    return kind(pipe, default_length if text_length is None else text_length)


class PromptCache:
    """Conditioning of prompts, computed once a prompt and kept until ``capacity`` bytes are in use."""

    def __init__(self, backbone: Backbone, capacity: int = 1 << 30):
        self.backbone, self.capacity, self.used = backbone, capacity, 0
        self.kept: OrderedDict[str, Conditioning] = OrderedDict()

    @torch.no_grad()
    def __call__(self, prompts: Sequence[str]) -> Conditioning:
        """Conditioning of every prompt, in order; unknown ones are encoded in one call."""
        unique = list(dict.fromkeys(prompts))
        unknown = [p for p in unique if p not in self.kept]
        if unknown:
            fresh = self.backbone.encode(unknown)
            for i, prompt in enumerate(unknown):
                self.kept[prompt] = Conditioning(fresh.tokens[i].clone(), fresh.pooled[i].clone())
                self.used += _bytes(self.kept[prompt])
        place = {p: i for i, p in enumerate(unique)}
        index = torch.tensor([place[p] for p in prompts])
        rows = [self.kept[p] for p in unique]
        self._forget(len(unique))
        stacked = Conditioning(torch.stack([r.tokens for r in rows]), torch.stack([r.pooled for r in rows]))
        return stacked.rows(index.to(stacked.tokens.device))

    def _forget(self, least: int) -> None:
        while self.used > self.capacity and len(self.kept) > least:
            _, oldest = self.kept.popitem(last=False)
            self.used -= _bytes(oldest)


def _bytes(said: Conditioning) -> int:
    return sum(x.numel() * x.element_size() for x in (said.tokens, said.pooled))


def _grid_ids(rows: int, columns: int, like: Tensor) -> Tensor:
    ids = torch.zeros(rows, columns, 3, device=like.device, dtype=like.dtype)
    ids[..., 1] += torch.arange(rows, device=like.device, dtype=like.dtype)[:, None]
    ids[..., 2] += torch.arange(columns, device=like.device, dtype=like.dtype)[None]
    return ids.flatten(0, 1)
