"""`kontext-shapes`: a small FluxKontextPipeline that generates scenes of shapes, and edits them in a few ways.

The classes are the real ones (FluxTransformer2DModel, AutoencoderKL, CLIPTextModel and T5EncoderModel with their
tokenizers, FlowMatchEulerDiscreteScheduler); only their sizes are small. It is trained on captioned pictures first,
then on edits as well: on pairs of pictures, of some kinds of edits only. Of the other kinds it is trained on scenes and
captions but on no pair, so that they can be learned without pairs. With an empty instruction the picture is unchanged.
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
from saccade.core import Problem, mean_scores
from saccade.evaluation.scoring import HELD_OUT_SEED
from saccade.models.diffusion.pipelines import Flux
from saccade.models.loading import locate
from saccade.policies.flow import FlowModel, FlowPolicy, build_flow_policy
from saccade.random import numpy_generator, seeds, stream
from saccade.worlds import edits, shapes
from saccade.worlds.edits.task import EditingTask

SAMPLING_STEPS, GUIDANCE = 8, 1.0
"""How the miniature is sampled unless other settings are given: in few steps, without guidance."""
TEXT_LENGTH = 20


@dataclass(frozen=True)
class Settings:
    """How the miniature is trained; the defaults made the one that is shipped."""

    seed: int = 0
    """Seed of edits, batches and initial weights."""
    size: int = 32
    """Edge of a picture in pixels."""
    autoencoder: str = "sd3-shapes"
    """Pipeline whose autoencoder is used."""
    width: int = 128
    """Width of the transformer and of the T5 encoder."""
    double_blocks: int = 2
    """Number of transformer blocks with separate weights for texts and pictures."""
    single_blocks: int = 3
    """Number of transformer blocks with shared weights for texts and pictures."""
    problems: int = 16_000
    """Number of edits whose pictures are rendered and encoded once."""
    kinds: tuple[str, ...] = ("recolor", "move", "add", "remove", "replace", "count")
    """Kinds of edits whose scenes are generated from captions; the model is too small for letters."""
    paired_kinds: tuple[str, ...] = ("move", "add", "remove", "count")
    """Kinds of edits that are trained on pairs of pictures."""
    steps: int = 2_400
    """Number of training steps."""
    batch: int = 64
    """Number of pictures in a batch."""
    caption_only: float = 0.4
    """Share of the steps, the first ones, that train on captions alone."""
    edit_share: float = 0.65
    """Share of the later steps that train on edits."""
    identity_share: float = 0.1
    """Share of edits with an empty instruction, whose result is the source."""
    dropout: float = 0.1
    """Share of captions that are dropped, for classifier-free guidance."""
    rates: LearningRates = LearningRates(4e-3, 2e-3)
    """Peak learning rates of transformer and text encoders."""
    ema: float = 0.998
    """Decay of the moving average of the weights, which is what is saved."""


@dataclass(frozen=True)
class EditDataset:
    """Edits as tensors: latents and captions before and after, instructions, and the rows trained on pairs."""

    latents: Tensor
    """``[2, N, C, h, w]``, normalized, before and after the edit."""
    captions: tuple[list[str], list[str]]
    """Captions before and after the edit."""
    instructions: list[str]
    paired: np.ndarray
    """Numbers of the edits that are trained on pairs."""


def build(cfg: Settings, out: Path, progress: Progress) -> dict[str, Any]:
    """Train the miniature and write it to ``out``. Returns facts for its card."""
    rng = seed_stage(cfg.seed, "editor")
    problems = edits.sample_problems(cfg.problems, cfg.seed, cfg.kinds, "train", cfg.size)
    pipe = assemble(corpus(cfg), cfg.autoencoder, cfg.width, cfg.double_blocks, cfg.single_blocks, TEXT_LENGTH)
    losses = train(cfg, pipe, encode_edits(cfg, pipe.vae, problems), rng, progress)
    pipe.save_pretrained(out)
    opened(out, cfg.size).export(out)
    pipe.transformer.half().save_pretrained(out / "transformer")
    return {
        "transformer parameters": parameter_count(pipe.transformer),
        "velocity loss from captions": losses.get("drawing", nan),
        "velocity loss of edits": losses.get("editing", nan),
    }


def opened(folder: Path, size: int | None = None) -> FlowPolicy:
    """The miniature as a policy that edits, or generates from prompts without a picture.

    ``size`` is the side of its pictures; None takes that of the folder's sampling.json.
    """
    model = FlowModel(str(folder), size, SAMPLING_STEPS, GUIDANCE, text_length=TEXT_LENGTH)
    return build_flow_policy(model, stochastic=())


def corpus(cfg: Settings) -> list[str]:
    """Texts with every word of captions and instructions, held-out ones too."""
    problems = edits.sample_problems(3_000, stream(cfg.seed, "texts"), split=None)
    captions = [problem.answer[name] for problem in problems for name in ("caption_before", "caption_after")]
    return captions + [problem.inputs.text for problem in problems]


def encode_edits(cfg: Settings, vae: nn.Module, problems: list[Problem]) -> EditDataset:
    """The training data, encoded."""
    pictures = [[p.inputs.pictures[0] for p in problems], [p.answer["picture"] for p in problems]]
    latents = torch.stack([encode(vae, np.stack(side)) for side in pictures])
    before, after = ([p.answer[name] for p in problems] for name in ("caption_before", "caption_after"))
    paired = np.flatnonzero([p.source in cfg.paired_kinds for p in problems])
    return EditDataset(latents, (before, after), [p.inputs.text for p in problems], paired)


def train(
    cfg: Settings, pipe: Any, data: EditDataset, rng: np.random.Generator, progress: Progress
) -> dict[str, float]:
    """Flow matching; the averaged weights are kept. Returns the running losses of generation and of editing."""
    encoders = [pipe.text_encoder.requires_grad_(True), pipe.text_encoder_2.requires_grad_(True)]
    trained = nn.ModuleList([pipe.transformer, *encoders]).train()
    descent = muon_and_adamw(pipe.transformer, encoders, cfg.rates, cfg.steps, warmup=100)
    losses = run_steps(with_ema(training_steps(cfg, pipe, data, rng), trained, cfg.ema), descent, progress)
    trained.eval()
    return losses


def training_steps(cfg: Settings, pipe: Any, data: EditDataset, rng: np.random.Generator) -> Iterator[Step]:
    """Losses of captioned pictures, and later of edits as well."""
    model = Flux(pipe, TEXT_LENGTH)
    for step in range(cfg.steps):
        edit = step >= cfg.caption_only * cfg.steps and rng.random() < cfg.edit_share
        texts, source, x0 = _edit_batch(cfg, data, rng) if edit else _caption_batch(cfg, data, rng)
        cond = replace(model.encode(texts), source=source)
        loss = flow_loss(x0, lambda x, t_B, cond=cond: model.velocity(x, t_B, cond, 1.0))
        yield Step("editing" if edit else "drawing", loss)


def _caption_batch(cfg: Settings, data: EditDataset, rng: np.random.Generator) -> tuple[list[str], None, Tensor]:
    """Captions, some of them dropped, and latents of their pictures."""
    side, row = rng.integers(2, size=cfg.batch), rng.integers(len(data.instructions), size=cfg.batch)
    dropped = rng.random(cfg.batch) < cfg.dropout
    texts = ["" if drop else data.captions[s][r] for s, r, drop in zip(side, row, dropped)]
    return texts, None, data.latents[side, row]


def _edit_batch(cfg: Settings, data: EditDataset, rng: np.random.Generator) -> tuple[list[str], Tensor, Tensor]:
    """Instructions, and latents of the pictures before and after."""
    row = rng.choice(data.paired, size=cfg.batch)
    identity = rng.random(cfg.batch) < cfg.identity_share
    texts = ["" if same else data.instructions[r] for r, same in zip(row, identity)]
    return texts, data.latents[0, row], data.latents[np.where(identity, 0, 1), row]


def evaluate(folder: Path) -> dict[str, float]:
    """Scores of held-out edits, by wording and by kind, and the points of pictures generated from captions."""
    policy, kinds = opened(folder), Settings().kinds
    scores = mean_scores(EditingTask(kinds=kinds, held_out_size=40 * len(kinds)).score(policy.greedy().rollout))
    meanings = shapes.meanings_of(
        240, numpy_generator(HELD_OUT_SEED, "captions"), ["colors", "color_attr", "counting", "position"]
    )
    wordings = [w for w in shapes.TRAIN_WORDINGS if shapes.style(w) == "descriptive"]
    problems = [Problem(i, shapes.caption(meaning, wordings[i % len(wordings)])) for i, meaning in enumerate(meanings)]
    pictures = policy.greedy().rollout(problems, seeds(HELD_OUT_SEED, len(problems), "evaluation")).outputs
    return scores | {
        "drawn from captions, points": float(np.nanmean(shapes.score_pictures(pictures, meanings)["points"]))
    }


def assemble(texts: Sequence[str], autoencoder: str, width: int, double: int, single: int, text_length: int) -> Any:
    """The untrained FluxKontextPipeline with tokenizers of ``texts`` and the autoencoder of a pipeline."""
    from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxKontextPipeline, FluxTransformer2DModel
    from transformers import CLIPTextModel, T5Config, T5EncoderModel, T5Tokenizer

    clip_words = clip_tokenizer(texts, text_length + 2)
    t5_pieces = T5Tokenizer(
        vocab=unigram_pieces(texts), extra_ids=0, additional_special_tokens=[], model_max_length=text_length
    )
    vae = AutoencoderKL.from_pretrained(Path(locate(autoencoder)) / "vae")
    t5 = T5Config(
        vocab_size=len(t5_pieces),
        d_model=width,
        d_kv=32,
        d_ff=2 * width,
        num_layers=2,
        num_heads=width // 32,
        dropout_rate=0.0,
    )
    pipe = FluxKontextPipeline(
        transformer=FluxTransformer2DModel(
            patch_size=1,
            in_channels=4 * vae.config.latent_channels,
            num_layers=double,
            num_single_layers=single,
            attention_head_dim=32,
            num_attention_heads=width // 32,
            joint_attention_dim=width,
            pooled_projection_dim=64,
            guidance_embeds=False,
            axes_dims_rope=(8, 12, 12),
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=1.0),
        vae=vae,
        text_encoder=CLIPTextModel(clip_config(clip_words, 64)),
        tokenizer=clip_words,
        text_encoder_2=T5EncoderModel(t5),
        tokenizer_2=t5_pieces,
    )
    init_embeddings(pipe.text_encoder)
    return pipe
