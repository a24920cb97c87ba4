"""`sd3-shapes`: a StableDiffusion3Pipeline in miniature that draws the world of shapes.

The classes are the real ones (SD3Transformer2DModel, AutoencoderKL, two CLIP text encoders with their tokenizers,
FlowMatchEulerDiscreteScheduler); only their sizes are small. Captions are made wrong on purpose while it learns, terse
wordings far more often than descriptive ones. So the base knows the right pictures and mixes them up, as large models
do with counts and bindings, and how a wish is worded matters: room for reinforcement learning of both.
"""

from __future__ import annotations

import copy
import json
import re
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from saccade.worlds import shapes

LATENT_SCALE = 4  # pixels per latent, so that a 32 px picture is 8 x 8 latents and 16 tokens


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


Progress = Callable[[str, int, int, float], None]


def build(cfg: Settings, out: Path, progress: Progress) -> dict[str, Any]:
    """Train the miniature and write it to ``out``. Returns facts for its card (parameters, seconds, losses)."""
    began = time.time()
    pipe = assemble(cfg, vocabulary(stage(cfg, 0)))
    if cfg.autoencoder:
        pipe.vae.load_state_dict(trained_autoencoder(cfg.autoencoder))
        vae_loss = float("nan")
    else:
        vae_loss = train_vae(cfg, pipe.vae, stage(cfg, 1), progress)
    set_scale(cfg, pipe.vae, stage(cfg, 2))
    rng = stage(cfg, 3)
    scenes, meanings = shapes.sample(cfg.scenes, rng, cfg.tags)
    latents = encode(pipe.vae, shapes.render(scenes, cfg.size))
    flow_loss = train_flow(cfg, pipe, latents, meanings, rng, progress)
    pipe.transformer.half()
    pipe.save_pretrained(out)
    return {
        "seconds": round(time.time() - began),
        "transformer parameters": sum(p.numel() for p in pipe.transformer.parameters()),
        "pixel loss of the autoencoder": vae_loss,
        "velocity loss": flow_loss,
    }


def stage(cfg: Settings, number: int) -> np.random.Generator:
    """A generator for one stage of the build, and torch's seeded alike, so that a stage can be repeated alone."""
    torch.manual_seed(1_000 * cfg.seed + number)
    return np.random.default_rng([cfg.seed, number])


def trained_autoencoder(folder: str) -> dict[str, Tensor]:
    """The weights of an autoencoder that an earlier build trained."""
    from diffusers import AutoencoderKL

    return AutoencoderKL.from_pretrained(folder).state_dict()


def vocabulary(rng: np.random.Generator) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Byte-pair vocabulary and merges in CLIP's manner, learned from captions; quoted words stay letter by letter."""
    _, meanings = shapes.sample(4_000, rng)
    return byte_pairs([re.sub('"[A-Z]*"', "", shapes.caption(m, w)) for m in meanings for w in shapes.WORDINGS])


def byte_pairs(texts: Iterable[str]) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Vocabulary and merges in CLIP's manner, learned from texts."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation(), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=1_000,
        end_of_word_suffix="</w>",
        special_tokens=["<|startoftext|>", "<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    vocab = dict(model["vocab"])
    for symbol in pre_tokenizers.ByteLevel.alphabet():
        vocab.setdefault(symbol + "</w>", len(vocab))  # every last letter of a word must have an id
    return vocab, [tuple(m) for m in model["merges"]]


def assemble(cfg: Settings, words: tuple[dict[str, int], list[tuple[str, str]]]) -> Any:
    """The untrained pipeline."""
    from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection, CLIPTokenizer

    vocab, merges = words
    tokenizer = CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=22)

    def clip(width: int, layers: int) -> CLIPTextModelWithProjection:
        return CLIPTextModelWithProjection(
            CLIPTextConfig(
                vocab_size=len(tokenizer),
                hidden_size=width,
                intermediate_size=3 * width,
                num_hidden_layers=layers,
                num_attention_heads=2,
                max_position_embeddings=tokenizer.model_max_length,
                projection_dim=width,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            )
        )

    first, second = clip(96, 2), clip(32, 2)
    for encoder in (first, second):  # words start far enough apart to be told from one another at once
        encoder.text_model.embeddings.token_embedding.weight.data.normal_(0, 0.3)
    return StableDiffusion3Pipeline(
        transformer=SD3Transformer2DModel(
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
            # Exactly the grid: with room to spare, the positions of neighbouring tokens would be nearly alike.
            pos_embed_max_size=cfg.size // LATENT_SCALE // 2,
            qk_norm="rms_norm",
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=1.0),
        vae=AutoencoderKL(
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
        ),
        text_encoder=first,
        tokenizer=tokenizer,
        text_encoder_2=second,
        tokenizer_2=tokenizer,
        text_encoder_3=None,
        tokenizer_3=None,
    )


def train_vae(cfg: Settings, vae: nn.Module, rng: np.random.Generator, progress: Progress) -> float:
    """L1 + L2 reconstruction with a slight pull of the latents to a unit Gaussian."""
    optimizer = torch.optim.AdamW(vae.parameters(), lr=cfg.vae_lr, weight_decay=1e-4)
    vae.train().to(memory_format=torch.channels_last)
    scenes, _ = shapes.sample(20_000, rng)
    pictures = shapes.render(scenes, cfg.size)
    smooth = 0.0
    for step in range(cfg.vae_steps):
        _set_lr(optimizer, cfg.vae_lr, step, cfg.vae_steps)
        x = _pixels(pictures[rng.integers(len(pictures), size=cfg.vae_batch)])
        posterior = vae.encode(x).latent_dist
        error = vae.decode(posterior.sample()).sample - x
        loss = error.abs().mean() + 2 * error.square().mean() + 1e-4 * posterior.kl().mean() / x[0].numel()
        _step(optimizer, loss, vae.parameters())
        smooth = loss.item() if step == 0 else 0.98 * smooth + 0.02 * loss.item()
        progress("autoencoder", step + 1, cfg.vae_steps, smooth)
    vae.eval()
    return smooth


def set_scale(cfg: Settings, vae: nn.Module, rng: np.random.Generator) -> None:
    """Write the shift and scale that give latents mean 0 and spread 1 into the autoencoder's configuration."""
    sample = encode(vae.eval(), shapes.render(shapes.sample(2_000, rng, cfg.tags)[0], cfg.size))
    vae.register_to_config(scaling_factor=float(1 / sample.std()), shift_factor=float(sample.mean()))


def train_flow(
    cfg: Settings, pipe: Any, latents: Tensor, meanings: list[dict], rng: np.random.Generator, progress: Progress
) -> float:
    """Flow matching, E |v(x_t, t, c) - (noise - x0)|^2 with t shifted towards noise; the averaged weights are kept."""
    modules = nn.ModuleList([pipe.transformer, pipe.text_encoder, pipe.text_encoder_2]).train()
    averaged = copy.deepcopy(modules).requires_grad_(False)
    optimizer = torch.optim.AdamW(modules.parameters(), lr=cfg.flow_lr, weight_decay=1e-2)
    x0_all = (latents - pipe.vae.config.shift_factor) * pipe.vae.config.scaling_factor
    smooth = 0.0
    for step, (index, texts) in enumerate(captioned(cfg, meanings, rng)):
        _set_lr(optimizer, cfg.flow_lr, step, cfg.flow_steps)
        plain = rng.random() < cfg.plain_share
        if plain:
            index, texts = index[::4], texts[::4]
        x0 = x0_all[index]
        u = torch.rand(len(x0))[:, None, None, None]
        t = 2 * u / (1 + u)  # more of the noisy end, where a caption decides what is drawn at all
        noise = torch.randn_like(x0)
        embeds, _, pooled, _ = pipe.encode_prompt(
            texts, None, None, do_classifier_free_guidance=False, max_sequence_length=256 if plain else cfg.text_length
        )
        v = pipe.transformer(torch.lerp(x0, noise, t), embeds, pooled, 1000 * t.flatten(), return_dict=False)[0]
        loss = F.mse_loss(v, noise - x0)
        _step(optimizer, loss, modules.parameters())
        decay = min(cfg.ema, (1 + step) / (10 + step))
        for slow, fast in zip(averaged.parameters(), modules.parameters()):
            slow.lerp_(fast.detach(), 1 - decay)
        smooth = loss.item() if step == 0 else 0.98 * smooth + 0.02 * loss.item()
        progress("flow", step + 1, cfg.flow_steps, smooth)
    modules.load_state_dict(averaged.state_dict())
    modules.eval()
    return smooth


def captioned(cfg: Settings, meanings: list[dict], rng: np.random.Generator) -> Iterator[tuple[np.ndarray, list[str]]]:
    """Row numbers and a caption for each, some of them wrong (of another scene of the same kind), some empty."""
    by_tag: dict[str, list[int]] = {}
    for i, meaning in enumerate(meanings):
        by_tag.setdefault(meaning["tag"], []).append(i)
    wrong = {"terse": cfg.wrong_terse, "descriptive": cfg.wrong_descriptive}
    for _ in range(cfg.flow_steps):
        index = rng.integers(len(meanings), size=cfg.flow_batch)
        texts = []
        for i in index:
            wording = int(rng.choice(shapes.TRAIN_WORDINGS))
            same_tag = by_tag[meanings[i]["tag"]]
            told = rng.choice(same_tag) if rng.random() < wrong[shapes.style(wording)] else i
            texts.append("" if rng.random() < cfg.dropout else shapes.caption(meanings[told], wording))
        yield index, texts


@torch.no_grad()
def encode(vae: nn.Module, pictures: np.ndarray, batch: int = 256) -> Tensor:
    """Pictures ``[N, H, W, 3]`` uint8 -> raw latent means ``[N, C, h, w]``."""
    parts = [vae.encode(_pixels(pictures[i : i + batch])).latent_dist.mean for i in range(0, len(pictures), batch)]
    return torch.cat(parts).contiguous()


def _pixels(pictures: np.ndarray) -> Tensor:
    x = torch.from_numpy(np.ascontiguousarray(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1
    return x.to(memory_format=torch.channels_last)


def _set_lr(optimizer: torch.optim.Optimizer, peak: float, step: int, steps: int, warmup: int = 100) -> None:
    for group in optimizer.param_groups:
        group["lr"] = peak * min((step + 1) / warmup, 1.0) * (1 - step / steps)


def _step(optimizer: torch.optim.Optimizer, loss: Tensor, parameters: Iterator[nn.Parameter]) -> None:
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(parameters, 1.0)
    optimizer.step()
