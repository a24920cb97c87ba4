"""`qwen2.5-vl-shapes`: a Qwen2_5_VLForConditionalGeneration in miniature that sees the worlds of shapes, plates and
puzzles.

The classes are the real ones (Qwen2_5_VLForConditionalGeneration, Qwen2Tokenizer with a chat template,
Qwen2VLImageProcessor with dynamic resolution, Qwen2_5_VLProcessor); only their sizes are small. Pictures are shown with
32 x 32 to 64 x 64 pixels, one token for 8 x 8 of them, several pictures in a conversation. First the tower alone is
told what lies in every cell, then all of it answers questions. Boxes are loose and some answers wrong on purpose: room
for reinforcement learning.
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
from saccade.builders.qwen25_vl_shapes import rows
from saccade.builders.qwen25_vl_shapes.course import SVG, corpus, course
from saccade.builders.qwen25_vl_shapes.parts import assemble, begun, learn_tokenizer, write
from saccade.builders.qwen25_vl_shapes.scores import scores
from saccade.builders.qwen25_vl_shapes.sight import Heads, look_around, train_sight
from saccade.builders.qwen25_vl_shapes.where import Where


@dataclass(frozen=True)
class Settings:
    """How the miniature is trained from nothing; how the one that is shipped was made says its card."""

    seed: int = 0
    width: int = 128
    layers: int = 6
    heads: int = 4
    sight_width: int = 96
    sight_layers: int = 4
    start: str = ""
    """Folder of such a miniature to go on from, in place of an untrained one; layers that it lacks are put in its
    middle.
    """
    sight_steps: int = 1_600
    sight_lr: float = 2e-3
    """Learning rate for the tower alone, of all but the matrices in its blocks."""
    sight_matrix_lr: float = 1e-2
    """Learning rate of these."""
    steps: int = 3_600
    batch: int = 32
    """Pictures a step."""
    asked: int = 8
    """Questions about each of them."""
    lr: float = 1.5e-3
    """Learning rate for all of it, of all but the matrices in blocks."""
    matrix_lr: float = 5e-3
    """Learning rate of these."""
    growing: float = 0.5
    """Share of the steps until scenes are as crowded and as variously worded as they get."""
    spoilt: float = 0.15
    """Share of the steps, the last ones, whose answers have the faults that follow: habits come late, skills before."""
    wrong: float = 0.15
    """Share of answers that are wrong on purpose."""
    loose: int = 5
    """Most pixels by which each edge of a box lies too far out."""
    untagged: float = 0.1
    """Share of tagged answers that lack a tag."""
    sufficient: float = 0.35
    """Share of first glances at a canvas whose box holds the digit that is asked for."""


def build(cfg: Settings, out: Path, progress: Progress) -> dict[str, Any]:
    """Train the miniature and write it to ``out``. Returns facts for its card."""
    tokenizer, model = begun(cfg) if cfg.start else untrained(cfg)
    heads, eyes = Heads(cfg.width), model.model.visual
    eyes.config._attn_implementation = "eager"  # for tiny pictures in bfloat16 faster than the fused kernel
    if not cfg.start:
        look_around(eyes)
    rates = LearningRates(cfg.sight_matrix_lr, cfg.sight_lr)
    seen = train_sight(eyes, heads, cfg.sight_steps, 64, rates, seed_stage(cfg.seed, 1), progress)
    loss = train(cfg, model, heads, tokenizer, seed_stage(cfg.seed, 2), progress)
    write(model, tokenizer, out)
    return {
        "parameters": parameter_count(model),
        "parameters that see": parameter_count(eyes),
        **{f"tower, {name}": value for name, value in seen.items()},
        "loss per token": loss,
    }


def untrained(cfg: Settings) -> tuple[Any, nn.Module]:
    """A tokenizer learnt from the worlds' texts and a model that knows nothing."""
    tokenizer = learn_tokenizer(corpus(seed_stage(cfg.seed, 0)), SVG)
    return tokenizer, assemble(cfg, tokenizer)


def train(
    cfg: Settings, model: nn.Module, heads: Heads, tokenizer: Any, rng: np.random.Generator, progress: Progress
) -> float:
    """All of it, with the tower still told about cells and the writer about boxes. Returns the running loss of a
    token.
    """
    where = Where(model, tokenizer)
    descent = muon_and_adamw(model, [heads, where], LearningRates(cfg.matrix_lr, cfg.lr), cfg.steps, warmup=100)
    means = run_steps(lessons(cfg, model.train(), heads, where, tokenizer, rng), descent, progress)
    where.close()
    model.eval()
    return means["answers"]


def lessons(
    cfg: Settings, model: nn.Module, heads: Heads, where: Where, tokenizer: Any, rng: np.random.Generator
) -> Iterator[Step]:
    """Cross-entropy of the answers' tokens, and of what is told where all rows have one picture."""
    for lesson in course(cfg, rng):
        laid = rows.lay(tokenizer, lesson.rows)
        with torch.autocast("cpu", torch.bfloat16):
            tokens = rows.features(model.model.visual, laid.pictures)
            hidden = rows.states(model, laid, tokens)
            weight = laid.weight_BL[:, 1:]
            logits = model.lm_head(hidden[:, :-1][weight > 0]).float()
            each = F.cross_entropy(logits, laid.ids_BL[:, 1:][weight > 0], reduction="none")
            loss = answered = (each * weight[weight > 0]).sum() / weight.sum()
            if lesson.views is not None:
                cells = lesson.views.cells()
                at_cells, at_names = where.loss(laid, lesson.views, cells)
                loss = loss + 0.2 * heads.loss(torch.stack(tokens), cells)[0] + 0.1 * at_cells + 0.3 * at_names
        yield Step("answers", loss, answered)


def evaluate(folder: Path) -> dict[str, float]:
    """Held-out scores by skill, for the card."""
    return scores(folder)
