"""`qwen2.5-vl-shapes`: a miniature Qwen2_5_VLForConditionalGeneration for the worlds of shapes, plates and puzzles.

The classes are the real ones (Qwen2_5_VLForConditionalGeneration, Qwen2Tokenizer with a chat template,
Qwen2VLImageProcessor with dynamic resolution, Qwen2_5_VLProcessor); only their sizes are small. Pictures are shown with
32 x 32 to 64 x 64 pixels, one token for 8 x 8 of them, several pictures in a conversation. First the vision tower alone
is trained to predict the contents of every cell, then the complete model to answer questions. Boxes are imprecise and
some answers wrong on purpose, as room for reinforcement learning.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from saccade.builders.parts.stages import (
    LearningRates,
    Progress,
    Step,
    muon_and_adamw,
    parameter_count,
    run_steps,
    seed_stage,
)
from saccade.builders.qwen25_vl_shapes import packing
from saccade.builders.qwen25_vl_shapes.curriculum import SVG, corpus, curriculum
from saccade.builders.qwen25_vl_shapes.evaluation import held_out_scores
from saccade.builders.qwen25_vl_shapes.localizer import Localizer
from saccade.builders.qwen25_vl_shapes.model import build_model, learn_tokenizer, load_and_deepen, save_miniature
from saccade.builders.qwen25_vl_shapes.vision import CellHeads, init_neighbor_attention, pretrain_vision


@dataclass(frozen=True)
class Settings:
    """Training of the miniature from scratch; its card says how the shipped one was made."""

    seed: int = 0
    """Seed of the initial weights and of all training data."""
    width: int = 128
    """Width of the decoder."""
    layers: int = 6
    """Number of layers of the decoder."""
    heads: int = 4
    """Number of attention heads of the decoder."""
    vision_width: int = 96
    """Width of the vision tower."""
    vision_layers: int = 4
    """Number of layers of the vision tower."""
    start: str = ""
    """Folder of an earlier build to continue from, or empty; layers that it lacks are inserted in its middle."""
    vision_steps: int = 1_600
    """Number of pretraining steps of the vision tower."""
    vision_lr: float = 2e-3
    """Peak learning rate of the vision tower in pretraining, of all but the matrices in its blocks."""
    vision_matrix_lr: float = 1e-2
    """Peak learning rate of the matrices in the blocks of the vision tower in pretraining."""
    steps: int = 3_600
    """Number of training steps of the complete model."""
    batch: int = 32
    """Number of pictures in a step."""
    questions_per_picture: int = 8
    """Number of questions about each picture of a scene."""
    lr: float = 1.5e-3
    """Peak learning rate of the model, of all but the matrices in its blocks."""
    matrix_lr: float = 5e-3
    """Peak learning rate of the matrices in the model's blocks."""
    curriculum_share: float = 0.5
    """Share of the steps over which the number of objects and of wordings grows to its maximum."""
    noisy_share: float = 0.15
    """Share of the steps, the last ones, in which answers are noisy: wrong, with boxes too large or without tags."""
    wrong_rate: float = 0.15
    """Share of answers that are wrong."""
    max_offset: int = 5
    """Most pixels by which an edge of a box lies too far out."""
    missing_tag_rate: float = 0.1
    """Share of tagged answers that lack a tag."""
    sufficient_rate: float = 0.35
    """Share of boxes in full views of canvases that contain the digit."""


def build(cfg: Settings, out: Path, progress: Progress) -> dict[str, Any]:
    """Train the miniature and save it to ``out``. Returns facts for its card."""
    tokenizer, model = load_and_deepen(cfg) if cfg.start else untrained(cfg)
    heads, tower = CellHeads(cfg.width), model.model.visual
    tower.config._attn_implementation = "eager"  # for tiny pictures in bfloat16 faster than the fused kernel
    if not cfg.start:
        init_neighbor_attention(tower)
    rates = LearningRates(cfg.vision_matrix_lr, cfg.vision_lr)
    metrics = pretrain_vision(tower, heads, cfg.vision_steps, 64, rates, seed_stage(cfg.seed, "tower"), progress)
    loss = train(cfg, model, heads, tokenizer, seed_stage(cfg.seed, "language model"), progress)
    save_miniature(model, tokenizer, out)
    return {
        "parameters": parameter_count(model),
        "parameters that see": parameter_count(tower),
        **{f"tower, {name}": value for name, value in metrics.items()},
        "loss per token": loss,
    }


def untrained(cfg: Settings) -> tuple[Any, nn.Module]:
    """A tokenizer trained on the worlds' texts, and the untrained model."""
    tokenizer = learn_tokenizer(corpus(seed_stage(cfg.seed, "texts")), SVG)
    return tokenizer, build_model(cfg, tokenizer)


def train(
    cfg: Settings, model: nn.Module, heads: CellHeads, tokenizer: Any, rng: np.random.Generator, progress: Progress
) -> float:
    """Train the complete model, with auxiliary losses on cells and boxes. Returns the running mean loss of a token."""
    localizer = Localizer(model, tokenizer)
    descent = muon_and_adamw(model, [heads, localizer], LearningRates(cfg.matrix_lr, cfg.lr), cfg.steps, warmup=100)
    means = run_steps(training_steps(cfg, model.train(), heads, localizer, tokenizer, rng), descent, progress)
    localizer.close()
    model.eval()
    return means["answers"]


def training_steps(
    cfg: Settings, model: nn.Module, heads: CellHeads, localizer: Localizer, tokenizer: Any, rng: np.random.Generator
) -> Iterator[Step]:
    """Cross-entropy of the answers' tokens, and the auxiliary losses where all rows have one picture."""
    for batch in curriculum(cfg, rng):
        packed = packing.pack(tokenizer, batch.rows)
        with torch.autocast("cpu", torch.bfloat16):
            tokens = packing.features(model.model.visual, packed.pictures)
            hidden = packing.states(model, packed, tokens)
            weight = packed.weight_BL[:, 1:]
            logits = model.lm_head(hidden[:, :-1][weight > 0]).float()
            each = F.cross_entropy(logits, packed.ids_BL[:, 1:][weight > 0], reduction="none")
            loss = answered = (each * weight[weight > 0]).sum() / weight.sum()
            if batch.pictures is not None:
                cells = batch.pictures.cells()
                at_cells, at_names = localizer.loss(packed, batch.pictures, cells)
                loss = loss + 0.2 * heads.loss(torch.stack(tokens), cells)[0] + 0.1 * at_cells + 0.3 * at_names
        yield Step("answers", loss, answered)


def evaluate(folder: Path) -> dict[str, float]:
    """Held-out scores by skill, for the card."""
    return held_out_scores(folder)
