"""`kontext-shapes`: a FluxKontextPipeline in miniature that draws scenes of shapes, and edits them a little.

The classes are the real ones (FluxTransformer2DModel, AutoencoderKL, CLIPTextModel and T5EncoderModel with their
tokenizers, FlowMatchEulerDiscreteScheduler); only their sizes are small. First it learns to draw what captions tell,
then to edit besides: from pictures before and after, of some kinds of edits alone. Of the others it has seen scenes and
their captions but never a pair, so they can be learned without pairs. Where nothing is asked, the picture stays as it
is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import nan
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from saccade.builders.parts.pictures import encode, flow_loss
from saccade.builders.parts.stages import (
    LearningRates,
    Progress,
    Step,
    muon_and_adamw,
    parameter_count,
    run_steps,
    seed_stage,
    with_ema,
)
from saccade.builders.parts.texts import clip_config, clip_tokenizer, init_embeddings, unigram_pieces
from saccade.core import Problem, seeds
from saccade.models.diffusion.pipelines import Flux
from saccade.models.loading import locate
from saccade.policies.flow import FlowModel, FlowPolicy
from saccade.policies.flow import build_flow_policy as open_policy
from saccade.worlds import edits, shapes
from saccade.worlds.edits.task import EditingTask

TEXT_LENGTH = 20


@dataclass(frozen=True)
class Settings:
    """How the miniature is trained; the defaults made the one that is shipped."""

    seed: int = 0
    size: int = 32
    """Edge of a picture in pixels."""
    autoencoder: str = "sd3-shapes"
    """A pipeline whose autoencoder is taken."""
    width: int = 128
    double: int = 2
    """Blocks in which texts and pictures have weights of their own."""
    single: int = 3
    """Blocks in which they share them."""
    problems: int = 16_000
    """Edits whose pictures are rendered and encoded once."""
    kinds: tuple[str, ...] = ("recolor", "move", "add", "remove", "replace", "count")
    """Kinds of edits whose scenes are drawn; words are left out, since the model is too small for letters."""
    taught: tuple[str, ...] = ("move", "add", "remove", "count")
    """Kinds of edits that are shown before and after."""
    steps: int = 2_400
    batch: int = 64
    drawing: float = 0.4
    """Share of the steps, the first ones, in which nothing is edited."""
    editing: float = 0.65
    """Share of the later steps that edit."""
    still: float = 0.1
    """Share of edits in which nothing is asked and nothing changes."""
    dropout: float = 0.1
    """Share of captions that are dropped, for classifier-free guidance."""
    rates: LearningRates = LearningRates(4e-3, 2e-3)
    ema: float = 0.998


@dataclass(frozen=True)
class Lessons:
    """Edits as tensors: latents before and after, captions of both, what is asked, and which rows are taught."""

    latents: Tensor
    """``[2, N, C, h, w]``, normalised."""
    captions: tuple[list[str], list[str]]
    asked: list[str]
    taught: np.ndarray


def build(cfg: Settings, out: Path, progress: Progress) -> dict[str, Any]:
    """Train the miniature and write it to ``out``. Returns facts for its card."""
    rng = seed_stage(cfg.seed)
    problems = edits.problems(cfg.problems, cfg.seed, cfg.kinds, "train", cfg.size)
    pipe = assemble(corpus(cfg), cfg.autoencoder, cfg.width, cfg.double, cfg.single, TEXT_LENGTH)
    means = train(cfg, pipe, lessons(cfg, pipe.vae, problems), rng, progress)
    pipe.save_pretrained(out)
    opened(out).export(out)
    pipe.transformer.half().save_pretrained(out / "transformer")
    return {
        "transformer parameters": parameter_count(pipe.transformer),
        "velocity loss from captions": means.get("drawing", nan),
        "velocity loss of edits": means.get("editing", nan),
    }


def opened(folder: Path) -> FlowPolicy:
    """The miniature as a policy that edits, or draws where it is given no picture."""
    return open_policy(FlowModel(str(folder), text_length=TEXT_LENGTH), stochastic=())


def corpus(cfg: Settings) -> list[str]:
    """Texts with every word that captions and instructions use, those kept back too."""
    made = edits.problems(3_000, cfg.seed + 1, split=None)
    captions = [problem.answer[name] for problem in made for name in ("caption_before", "caption_after")]
    return captions + [problem.inputs.text for problem in made]


def lessons(cfg: Settings, vae: nn.Module, problems: list[Problem]) -> Lessons:
    """What is learned from, encoded."""
    pictures = [[p.inputs.pictures[0] for p in problems], [p.answer["picture"] for p in problems]]
    latents = torch.stack([encode(vae, np.stack(half)) for half in pictures])
    captions = tuple([p.answer[name] for p in problems] for name in ("caption_before", "caption_after"))
    taught = np.flatnonzero([p.source in cfg.taught for p in problems])
    return Lessons(latents, captions, [p.inputs.text for p in problems], taught)


def train(cfg: Settings, pipe: Any, data: Lessons, rng: np.random.Generator, progress: Progress) -> dict[str, float]:
    """Flow matching; the averaged weights are kept. Returns the running losses of drawing and of editing."""
    readers = [pipe.text_encoder.requires_grad_(True), pipe.text_encoder_2.requires_grad_(True)]
    trained = nn.ModuleList([pipe.transformer, *readers]).train()
    descent = muon_and_adamw(pipe.transformer, readers, cfg.rates, cfg.steps, warmup=100)
    means = run_steps(with_ema(course(cfg, pipe, data, rng), trained, cfg.ema), descent, progress)
    trained.eval()
    return means


def course(cfg: Settings, pipe: Any, data: Lessons, rng: np.random.Generator) -> Iterator[Step]:
    """Pictures from captions, later edits among them."""
    model = Flux(pipe, TEXT_LENGTH)
    for step in range(cfg.steps):
        edit = step >= cfg.drawing * cfg.steps and rng.random() < cfg.editing
        texts, source, x0 = _edits(cfg, data, rng) if edit else _drawings(cfg, data, rng)
        said = replace(model.encode(texts), source=source)
        loss = flow_loss(x0, lambda x, t_B: model.velocity(x, t_B, said, 1.0))
        yield Step("editing" if edit else "drawing", loss)


def _drawings(cfg: Settings, data: Lessons, rng: np.random.Generator) -> tuple[list[str], None, Tensor]:
    """Captions, some dropped, and what they tell."""
    half, row = rng.integers(2, size=cfg.batch), rng.integers(len(data.asked), size=cfg.batch)
    dropped = rng.random(cfg.batch) < cfg.dropout
    texts = ["" if drop else data.captions[h][r] for h, r, drop in zip(half, row, dropped)]
    return texts, None, data.latents[half, row]


def _edits(cfg: Settings, data: Lessons, rng: np.random.Generator) -> tuple[list[str], Tensor, Tensor]:
    """What is asked, the picture before and the picture after."""
    row = rng.choice(data.taught, size=cfg.batch)
    still = rng.random(cfg.batch) < cfg.still
    texts = ["" if stays else data.asked[r] for r, stays in zip(row, still)]
    return texts, data.latents[0, row], data.latents[np.where(still, 0, 1), row]


def evaluate(folder: Path) -> dict[str, float]:
    """Scores of edits kept back, by wording and by kind, and the points of pictures drawn from captions."""
    policy, kinds = opened(folder), Settings().kinds
    scores = EditingTask(kinds=kinds, held_out_size=40 * len(kinds)).score(policy.greedy().rollout)
    meanings = shapes.meanings_of(240, np.random.default_rng(1), ["colors", "color_attr", "counting", "position"])
    told = [w for w in shapes.TRAIN_WORDINGS if shapes.style(w) == "descriptive"]
    asked = [Problem(i, shapes.caption(meaning, told[i % len(told)])) for i, meaning in enumerate(meanings)]
    drawn = policy.greedy().rollout(asked, seeds(1, len(asked))).outputs
    return scores | {"drawn from captions, points": float(np.nanmean(shapes.score_pictures(drawn, meanings)["points"]))}


def assemble(texts: Sequence[str], autoencoder: str, width: int, double: int, single: int, text_length: int) -> Any:
    """The untrained FluxKontextPipeline, whose tokenizers know ``texts``; ``autoencoder`` names a pipeline that has
    one.
    """
    from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxKontextPipeline, FluxTransformer2DModel
    from transformers import CLIPTextModel, T5Config, T5EncoderModel, T5Tokenizer

    words = clip_tokenizer(texts, text_length + 2)
    pieces = T5Tokenizer(
        vocab=unigram_pieces(texts), extra_ids=0, additional_special_tokens=[], model_max_length=text_length
    )
    vae = AutoencoderKL.from_pretrained(Path(locate(autoencoder)) / "vae")
    t5 = T5Config(
        vocab_size=len(pieces),
        d_model=width,
        d_kv=32,
        d_ff=2 * width,
        num_layers=2,
        num_heads=width // 32,
        dropout_rate=0.0,
    )
    pipe = FluxKontextPipeline(
        transformer=FluxTransformer2DModel(
            patch_size=1, in_channels=4 * vae.config.latent_channels, num_layers=double, num_single_layers=single,
            attention_head_dim=32, num_attention_heads=width // 32, joint_attention_dim=width, pooled_projection_dim=64,
            guidance_embeds=False, axes_dims_rope=(8, 12, 12),
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=1.0),
        vae=vae,
        text_encoder=CLIPTextModel(clip_config(words, 64)),
        tokenizer=words,
        text_encoder_2=T5EncoderModel(t5),
        tokenizer_2=pieces,
    )  # fmt: skip
    init_embeddings(pipe.text_encoder)
    return pipe
