"""`sd3-shapes`: a StableDiffusion3Pipeline in miniature that draws the world of shapes.

The classes are the real ones (SD3Transformer2DModel, AutoencoderKL, two CLIP text encoders with their tokenizers,
FlowMatchEulerDiscreteScheduler); only their sizes are small. Captions are made wrong on purpose while it learns, terse
wordings far more often than descriptive ones. So the base knows the right pictures and mixes them up, as large models
do with counts and bindings, and how a wish is worded matters: room for reinforcement learning of both.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from math import nan
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from saccade.builders.parts.pictures import encode, flow_loss, pixel_loss, pixels
from saccade.builders.parts.stages import Descent, Progress, Step, averaged, descend, size_of, stage
from saccade.builders.parts.texts import alike, clip_config, clip_tokenizer, spread
from saccade.worlds import shapes

LATENT_SCALE = 4  # pixels per latent, so that a 32 px picture is 8 x 8 latents and 16 tokens

TEXT_LENGTH = 22


@dataclass(frozen=True)
class Settings:
    """How the miniature is trained; the defaults made the one that is shipped."""

    seed: int = 0
    size: int = 32
    """Edge of a picture in pixels."""
    scenes: int = 80_000
    """Scenes that are rendered and encoded once; their captions are drawn anew each time."""
    autoencoder: str = ""
    """Folder of an autoencoder from an earlier build (its ``vae``), to spare its training."""
    vae_steps: int = 1_500
    vae_batch: int = 64
    vae_lr: float = 2e-3
    flow_steps: int = 5_600
    flow_batch: int = 64
    flow_lr: float = 1.2e-3
    wrong_terse: float = 0.35
    """Share of captions in a terse wording that describe another scene of the same kind."""
    wrong_descriptive: float = 0.05
    dropout: float = 0.1
    """Share of captions that are dropped, for classifier-free guidance."""
    ema: float = 0.998
    tags: tuple[str, ...] = tuple(tag for tag in shapes.TAGS if tag != "text")
    """Kinds of scenes, drawn evenly; words are left out, since the model is too small for letters."""
    text_length: int = 1
    """Tokens that stand in for the absent T5 encoder (zeros, as in diffusers)."""
    plain_share: float = 0.03
    """Share of steps with 256 such tokens, diffusers' default, on a quarter of the batch."""


def build(cfg: Settings, out: Path, progress: Progress) -> dict[str, Any]:
    """Train the miniature and write it to ``out``. Returns facts for its card."""
    pipe = assemble(cfg, corpus(stage(cfg.seed, 0)))
    pixel_error = train_autoencoder(cfg, pipe.vae, stage(cfg.seed, 1), progress)
    set_scale(cfg, pipe.vae, stage(cfg.seed, 2))
    velocity_error = train_flow(cfg, pipe, stage(cfg.seed, 3), progress)
    pipe.transformer.half()
    pipe.save_pretrained(out)
    return {
        "transformer parameters": size_of(pipe.transformer),
        "pixel loss of the autoencoder": pixel_error,
        "velocity loss": velocity_error,
    }


def corpus(rng: np.random.Generator) -> list[str]:
    """Captions in all wordings; quoted words are left out of them, so that they stay letter by letter."""
    _, meanings = shapes.sample(4_000, rng)
    return [re.sub('"[A-Z]*"', "", shapes.caption(m, w)) for m in meanings for w in shapes.WORDINGS]


def assemble(cfg: Settings, texts: list[str]) -> Any:
    """The untrained pipeline, whose tokenizer knows ``texts``."""
    from diffusers import (
        AutoencoderKL,
        FlowMatchEulerDiscreteScheduler,
        SD3Transformer2DModel,
        StableDiffusion3Pipeline,
    )
    from transformers import CLIPTextModelWithProjection

    tokenizer = clip_tokenizer(texts, TEXT_LENGTH)
    first, second = (CLIPTextModelWithProjection(clip_config(tokenizer, width)) for width in (96, 32))
    spread(first, second)
    transformer = SD3Transformer2DModel(
        sample_size=cfg.size // LATENT_SCALE, patch_size=2, in_channels=8, out_channels=8, num_layers=5,
        attention_head_dim=32, num_attention_heads=4, joint_attention_dim=128, caption_projection_dim=128,
        pooled_projection_dim=128, qk_norm="rms_norm",
        # Exactly the grid: with room to spare, the positions of neighbouring tokens would be nearly alike.
        pos_embed_max_size=cfg.size // LATENT_SCALE // 2,
    )  # fmt: skip
    vae = AutoencoderKL(
        block_out_channels=(16, 32, 64), down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3, latent_channels=8, layers_per_block=1, norm_num_groups=8,
        sample_size=cfg.size, mid_block_add_attention=False, use_quant_conv=False, use_post_quant_conv=False,
        scaling_factor=1.0, shift_factor=0.0,
    )  # fmt: skip
    return StableDiffusion3Pipeline(
        transformer=transformer, scheduler=FlowMatchEulerDiscreteScheduler(shift=1.0), vae=vae,
        text_encoder=first, tokenizer=tokenizer, text_encoder_2=second, tokenizer_2=tokenizer,
        text_encoder_3=None, tokenizer_3=None,
    )  # fmt: skip


def train_autoencoder(cfg: Settings, vae: nn.Module, rng: np.random.Generator, progress: Progress) -> float:
    """Train it, or take the weights of an earlier build's. Returns the running loss."""
    if cfg.autoencoder:
        vae.load_state_dict(type(vae).from_pretrained(cfg.autoencoder).state_dict())
        return nan
    optimizer = torch.optim.AdamW(vae.parameters(), lr=cfg.vae_lr, weight_decay=1e-4)
    vae.train().to(memory_format=torch.channels_last)
    return descend(pictures(cfg, vae, rng), Descent([optimizer], cfg.vae_steps, rise=100), progress)["autoencoder"]


def pictures(cfg: Settings, vae: nn.Module, rng: np.random.Generator) -> Iterator[Step]:
    """Reconstruction with a slight pull of the latents to a unit Gaussian."""
    shown = shapes.render(shapes.sample(20_000, rng)[0], cfg.size)
    for _ in range(cfg.vae_steps):
        x = pixels(shown[rng.integers(len(shown), size=cfg.vae_batch)])
        posterior = vae.encode(x).latent_dist
        error = vae.decode(posterior.sample()).sample - x
        yield Step("autoencoder", pixel_loss(error) + 1e-4 * posterior.kl().mean() / x[0].numel())


def set_scale(cfg: Settings, vae: nn.Module, rng: np.random.Generator) -> None:
    """Write the shift and scale that give latents mean 0 and spread 1 into the autoencoder's configuration."""
    sample = encode(vae.eval(), shapes.render(shapes.sample(2_000, rng, cfg.tags)[0], cfg.size))
    vae.register_to_config(scaling_factor=float(1 / sample.std()), shift_factor=float(sample.mean()))


def train_flow(cfg: Settings, pipe: Any, rng: np.random.Generator, progress: Progress) -> float:
    """Flow matching; the averaged weights are kept. Returns the running loss."""
    scenes, meanings = shapes.sample(cfg.scenes, rng, cfg.tags)
    lessons = captions(cfg, pipe, encode(pipe.vae, shapes.render(scenes, cfg.size)), meanings, rng)
    trained = nn.ModuleList([pipe.transformer, pipe.text_encoder, pipe.text_encoder_2]).train()
    optimizer = torch.optim.AdamW(trained.parameters(), lr=cfg.flow_lr, weight_decay=1e-2)
    means = descend(averaged(lessons, trained, cfg.ema), Descent([optimizer], cfg.flow_steps, rise=100), progress)
    trained.eval()
    return means["flow"]


def captions(
    cfg: Settings, pipe: Any, latents: Tensor, meanings: list[shapes.Meaning], rng: np.random.Generator
) -> Iterator[Step]:
    """Latents given captions, some of them wrong (of another scene of the same kind), some empty."""
    kinds = alike(meaning["tag"] for meaning in meanings)
    wrong = {"terse": cfg.wrong_terse, "descriptive": cfg.wrong_descriptive}

    def told(i: int) -> str:
        wording = int(rng.choice(shapes.TRAIN_WORDINGS))
        meant = rng.choice(kinds[meanings[i]["tag"]]) if rng.random() < wrong[shapes.style(wording)] else i
        return "" if rng.random() < cfg.dropout else shapes.caption(meanings[meant], wording)

    for _ in range(cfg.flow_steps):
        index = rng.integers(len(meanings), size=cfg.flow_batch)
        texts, length = [told(i) for i in index], cfg.text_length
        if rng.random() < cfg.plain_share:
            index, texts, length = index[::4], texts[::4], 256
        lengths = {"do_classifier_free_guidance": False, "max_sequence_length": length}
        said, _, pooled, _ = pipe.encode_prompt(texts, None, None, **lengths)
        velocity = lambda x, t_B: pipe.transformer(x, said, pooled, 1000 * t_B, return_dict=False)[0]
        yield Step("flow", flow_loss(latents[index], velocity))
