"""How a tower of patches learns to see: every merged token says what lies in its cell, before any word is learnt.

Targets of a cell of 8 x 8 pixels: shape and color of the object whose box covers its centre, the letter there, and how
far the four edges of that box are from the centre. A transformer of patches that has only answers to learn from stays
at chance for hundreds of steps; told about every cell it learns at once.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from saccade.builders.parts.stages import LearningRates, Progress, Step, muon_and_adamw, run_steps
from saccade.builders.qwen25_vl_shapes.scenery import scenery
from saccade.builders.qwen25_vl_shapes.shown import patches
from saccade.builders.qwen25_vl_shapes.views import FAR, GLYPHS, PAINTS, THINGS

NOTHING = 0.3
"""Weight of cells with nothing in them, which are most."""


class Heads(nn.Module):
    """Reads a cell's contents off its token; thrown away after training."""

    def __init__(self, width: int):
        super().__init__()
        sizes = {"shape": 1 + len(THINGS), "color": 1 + len(PAINTS), "letter": 1 + len(GLYPHS)}
        self.classes = nn.ModuleDict({name: nn.Linear(width, size) for name, size in sizes.items()})
        self.edges = nn.Linear(width, 4)

    def loss(self, tokens: Tensor, cells: dict[str, Tensor]) -> tuple[Tensor, dict[str, float]]:
        """Cross-entropies plus the distance of the edges, for tokens [N, cells, width]; and hit rates on seen cells."""
        total, scores, seen = torch.zeros(()), {}, cells["seen"]
        for name, head in self.classes.items():
            logits = head(tokens).float()
            weight = torch.ones(logits.shape[-1]).index_fill_(0, torch.tensor(0), NOTHING)
            total = total + F.cross_entropy(logits.flatten(0, 1), cells[name].flatten(), weight)
            told = cells[name] > 0
            if told.any():
                scores[name] = (logits.argmax(-1) == cells[name])[told].float().mean().item()
        if seen.any():
            error = (self.edges(tokens).float() - cells["edges"])[seen].abs()
            total = total + error.mean()
            scores["edges px"] = error.mean().item() * FAR
        return total, scores


def see(visual: nn.Module, pictures: np.ndarray) -> Tensor:
    """Tokens [N, cells, width] of pictures of one size."""
    return visual(*patches(pictures)).pooler_output.unflatten(0, (len(pictures), -1))


NEIGHBORS = (
    ((-1, 0), (1, 0), (0, -1), (0, 1)),
    ((-1, -1), (1, 1), (-1, 1), (1, -1)),
    ((-2, 0), (2, 0), (0, -2), (0, 2)),
)
"""Rows and columns from a patch to the one that each head of the first layers begins by looking at."""


@torch.no_grad()
def look_around(visual: nn.Module, loud: float = 4.0) -> None:
    """Let heads begin by looking at neighbours, as a convolution would; what they look for they learn.

    Rotary positions turn a bias of a key by its place and that of a query by its own: with the query's turned by d
    more, their product is greatest at distance d. The two fastest frequencies of each axis say where.
    """
    fastest = visual.rotary_pos_emb.inv_freq[:2]
    for block, neighbors in zip(visual.blocks, NEIGHBORS):
        attention = block.attn
        half = attention.head_dim // 2
        query, key, _ = attention.qkv.bias.view(3, attention.num_heads, 2 * half)
        for head, places in enumerate(neighbors):
            for axis, distance in enumerate(places):
                start = axis * half // 2
                key[head, start : start + 2] = loud
                query[head, start : start + 2] = loud * torch.cos(fastest * distance)
                query[head, half + start : half + start + 2] = loud * torch.sin(fastest * distance)


def train_sight(
    visual: nn.Module,
    heads: Heads,
    steps: int,
    batch: int,
    rates: LearningRates,
    rng: np.random.Generator,
    progress: Progress,
) -> dict[str, float]:
    """Teach the tower its cells. Returns running means of the loss and of the scores."""
    descent = muon_and_adamw(visual, [heads], rates, steps, warmup=40)
    seen = run_steps(lessons(visual.train(), heads, steps, batch, rng), descent, progress)
    visual.eval()
    return {"loss": seen.pop("sight"), **seen}


def lessons(visual: nn.Module, heads: Heads, steps: int, batch: int, rng: np.random.Generator) -> Iterator[Step]:
    """Cells of scenery; small pictures first, which cost a quarter."""
    for step in range(steps):
        late = step / steps
        size = int(rng.choice([32, 40, 48, 64], p=[0.6 - 0.4 * late, 0.15, 0.15 + 0.2 * late, 0.1 + 0.2 * late]))
        views = scenery(batch, size, rng)
        with torch.autocast("cpu", torch.bfloat16):
            loss, scores = heads.loss(see(visual, views.pictures), views.cells())
        yield Step("sight", loss, scores=scores)
