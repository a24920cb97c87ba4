"""`sd3-shapes`: a StableDiffusion3Pipeline in miniature that draws the world of shapes.

The classes are the real ones (SD3Transformer2DModel, AutoencoderKL, two CLIP text encoders with their tokenizers,
FlowMatchEulerDiscreteScheduler); only their sizes are small. In training some captions are wrong on purpose, terse
wordings far more often than descriptive ones. The base model can therefore draw the right pictures but confuses them,
as large models confuse counts and bindings, and the wording of a prompt matters: room for reinforcement learning of
both.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from math import nan
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from saccade.builders.parts.pictures import encode, flow_loss, pixel_loss, pixels
from saccade.builders.parts.stages import (
    Progress,
    ScheduledOptimizers,
    Step,
    parameter_count,
    run_steps,
    seed_stage,
    with_ema,
)
from saccade.builders.parts.texts import clip_config, clip_tokenizer, init_embeddings, rows_by_kind
from saccade.models.diffusion.pipelines import SD3
from saccade.worlds import shapes

SAMPLING_STEPS, GUIDANCE = 8, 1.0
"""How the miniature is sampled unless other settings are given: in few steps, without guidance."""
LATENT_SCALE = 4
"""Pixels per latent on each axis: a picture of 32 px has 8 x 8 latents and 16 tokens."""

TEXT_LENGTH = 22
"""Longest caption in tokens."""


@dataclass(frozen=True)
class Settings:
    """How the miniature is trained; the defaults made the one that is shipped."""

    seed: int = 0
    """Seed of weights, scenes, captions and noise."""
    size: int = 32
    """Edge of a picture in pixels."""
    scenes: int = 80_000
    """Number of scenes, which are rendered and encoded once; their captions are sampled anew in each step."""
    autoencoder: str = ""
    """Folder of the autoencoder (``vae``) of an earlier build, which is not trained again; empty trains one."""
    vae_steps: int = 1_500
    """Training steps of the autoencoder."""
    vae_batch: int = 64
    """Pictures in a batch of the autoencoder."""
    vae_lr: float = 2e-3
    """Peak learning rate of the autoencoder."""
    flow_steps: int = 5_600
    """Training steps of transformer and text encoders."""
    flow_batch: int = 64
    """Pictures in a batch of transformer and text encoders."""
    flow_lr: float = 1.2e-3
    """Peak learning rate of transformer and text encoders."""
    wrong_terse: float = 0.35
    """Share of captions in a terse wording that describe another scene of the same kind."""
    wrong_descriptive: float = 0.05
    """Share of captions in a descriptive wording that describe another scene of the same kind."""
    dropout: float = 0.1
    """Share of captions that are dropped, for classifier-free guidance."""
    ema: float = 0.998
    """Decay of the moving average of transformer and text encoders, whose weights are kept."""
    tags: tuple[str, ...] = tuple(tag for tag in shapes.TAGS if tag != "text")
    """Kinds of scenes, uniformly sampled; words are left out, since the model is too small for letters."""
    text_length: int = 1
    """Zero tokens in place of the absent T5 encoder, as in diffusers."""
    plain_share: float = 0.03
    """Share of steps with 256 zero tokens for the T5 encoder, diffusers' default, on a quarter of the batch."""


def build(cfg: Settings, out: Path, progress: Progress) -> dict[str, Any]:
    """Train the miniature and write it to ``out``. Returns facts for its card."""
    pipe = assemble(cfg, corpus(seed_stage(cfg.seed, "texts")))
    pixel_error = train_autoencoder(cfg, pipe.vae, seed_stage(cfg.seed, "autoencoder"), progress)
    set_scale(cfg, pipe.vae, seed_stage(cfg.seed, "scale"))
    velocity_error = train_flow(cfg, pipe, seed_stage(cfg.seed, "flow"), progress)
    pipe.transformer.half()
    pipe.save_pretrained(out)
    size = pipe.default_sample_size * pipe.vae_scale_factor
    arguments = SD3(pipe, cfg.text_length).pipeline_arguments(SAMPLING_STEPS, GUIDANCE, size)
    (out / "sampling.json").write_text(json.dumps(arguments, indent=2) + "\n")
    return {
        "transformer parameters": parameter_count(pipe.transformer),
        "pixel loss of the autoencoder": pixel_error,
        "velocity loss": velocity_error,
    }


def corpus(rng: np.random.Generator) -> list[str]:
    """Captions in all wordings, without quoted words, so that the tokenizer spells these letter by letter."""
    _, meanings = shapes.sample_scenes(4_000, rng)
    return [re.sub('"[A-Z]*"', "", shapes.caption(m, w)) for m in meanings for w in shapes.WORDINGS]


def assemble(cfg: Settings, texts: list[str]) -> Any:
    """The untrained pipeline, whose tokenizer is trained on ``texts``."""
    from diffusers import (
        AutoencoderKL,
        FlowMatchEulerDiscreteScheduler,
        SD3Transformer2DModel,
        StableDiffusion3Pipeline,
    )
    from transformers import CLIPTextModelWithProjection

    tokenizer = clip_tokenizer(texts, TEXT_LENGTH)
    first, second = (CLIPTextModelWithProjection(clip_config(tokenizer, width)) for width in (96, 32))
    init_embeddings(first, second)
    transformer = SD3Transformer2DModel(
        sample_size=cfg.size // LATENT_SCALE,
        patch_size=2,
        in_channels=8,
        out_channels=8,
        num_layers=5,
        attention_head_dim=32,
        num_attention_heads=4,
        joint_attention_dim=128,
        caption_projection_dim=128,
        pooled_projection_dim=128,
        qk_norm="rms_norm",
        # Exactly the grid: on a larger one the position embeddings of neighbouring tokens would be nearly equal.
        pos_embed_max_size=cfg.size // LATENT_SCALE // 2,
    )
    vae = AutoencoderKL(
        block_out_channels=(16, 32, 64),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        latent_channels=8,
        layers_per_block=1,
        norm_num_groups=8,
        sample_size=cfg.size,
        mid_block_add_attention=False,
        use_quant_conv=False,
        use_post_quant_conv=False,
        scaling_factor=1.0,
        shift_factor=0.0,
    )
    return StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=1.0),
        vae=vae,
        text_encoder=first,
        tokenizer=tokenizer,
        text_encoder_2=second,
        tokenizer_2=tokenizer,
        text_encoder_3=None,
        tokenizer_3=None,
    )


def train_autoencoder(cfg: Settings, vae: Any, rng: np.random.Generator, progress: Progress) -> float:
    """Train the autoencoder, or load the one of an earlier build. Returns the running mean of the loss."""
    if cfg.autoencoder:
        vae.load_state_dict(type(vae).from_pretrained(cfg.autoencoder).state_dict())
        return nan
    optimizer = torch.optim.AdamW(vae.parameters(), lr=cfg.vae_lr, weight_decay=1e-4)
    vae.train().to(memory_format=torch.channels_last)
    optimizers = ScheduledOptimizers([optimizer], cfg.vae_steps, warmup=100)
    return run_steps(autoencoder_steps(cfg, vae, rng), optimizers, progress)["autoencoder"]


def autoencoder_steps(cfg: Settings, vae: Any, rng: np.random.Generator) -> Iterator[Step]:
    """Reconstruction with a small KL divergence of the latents from a unit Gaussian."""
    pictures = shapes.render(shapes.sample_scenes(20_000, rng)[0], cfg.size)
    for _ in range(cfg.vae_steps):
        x = pixels(pictures[rng.integers(len(pictures), size=cfg.vae_batch)])
        posterior = vae.encode(x).latent_dist
        error = vae.decode(posterior.sample()).sample - x
        yield Step("autoencoder", pixel_loss(error) + 1e-4 * posterior.kl().mean() / x[0].numel())


def set_scale(cfg: Settings, vae: Any, rng: np.random.Generator) -> None:
    """Set shift and scale in the autoencoder's configuration so that latents have mean 0 and standard deviation 1."""
    sample = encode(vae.eval(), shapes.render(shapes.sample_scenes(2_000, rng, cfg.tags)[0], cfg.size))
    vae.register_to_config(scaling_factor=float(1 / sample.std()), shift_factor=float(sample.mean()))


def train_flow(cfg: Settings, pipe: Any, rng: np.random.Generator, progress: Progress) -> float:
    """Flow matching; the averaged weights are kept. Returns the running mean of the loss."""
    scenes, meanings = shapes.sample_scenes(cfg.scenes, rng, cfg.tags)
    steps = flow_steps(cfg, pipe, encode(pipe.vae, shapes.render(scenes, cfg.size)), meanings, rng)
    trained = nn.ModuleList([pipe.transformer, pipe.text_encoder, pipe.text_encoder_2]).train()
    optimizer = torch.optim.AdamW(trained.parameters(), lr=cfg.flow_lr, weight_decay=1e-2)
    optimizers = ScheduledOptimizers([optimizer], cfg.flow_steps, warmup=100)
    means = run_steps(with_ema(steps, trained, cfg.ema), optimizers, progress)
    trained.eval()
    return means["flow"]


def flow_steps(
    cfg: Settings, pipe: Any, latents: Tensor, meanings: list[shapes.Meaning], rng: np.random.Generator
) -> Iterator[Step]:
    """Flow matching of latents given captions; some captions are of another scene of the same kind, some empty."""
    kinds = rows_by_kind(meaning["tag"] for meaning in meanings)
    wrong = {"terse": cfg.wrong_terse, "descriptive": cfg.wrong_descriptive}

    def caption(i: int) -> str:
        wording = int(rng.choice(shapes.TRAIN_WORDINGS))
        described = rng.choice(kinds[meanings[i]["tag"]]) if rng.random() < wrong[shapes.style(wording)] else i
        return "" if rng.random() < cfg.dropout else shapes.caption(meanings[described], wording)

    for _ in range(cfg.flow_steps):
        index = rng.integers(len(meanings), size=cfg.flow_batch)
        texts, length = [caption(i) for i in index], cfg.text_length
        if rng.random() < cfg.plain_share:
            index, texts, length = index[::4], texts[::4], 256
        embeddings, _, pooled, _ = pipe.encode_prompt(
            texts, None, None, do_classifier_free_guidance=False, max_sequence_length=length
        )
        network = partial(pipe.transformer, encoder_hidden_states=embeddings, pooled_projections=pooled)
        velocity = lambda x, t_B, network=network: network(x, timestep=1000 * t_B, return_dict=False)[0]
        yield Step("flow", flow_loss(latents[index], velocity))
