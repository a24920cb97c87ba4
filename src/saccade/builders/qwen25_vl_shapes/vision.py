"""Pretraining of the vision tower: every merged token predicts the contents of its cell, before any text is trained.

Targets of a cell of 8 x 8 pixels: shape and color of the object whose box covers its center, the letter there, and the
distances of the four edges of that box from the center. A vision transformer trained on answers alone stays at chance
for hundreds of steps; with targets for every cell it learns at once.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from saccade.builders.parts.stages import LearningRates, Progress, Step, muon_and_adamw, run_steps
from saccade.builders.qwen25_vl_shapes.annotations import COLOR_CLASSES, EDGE_UNIT, LETTER_CLASSES, SHAPE_CLASSES
from saccade.builders.qwen25_vl_shapes.preprocessing import patches
from saccade.builders.qwen25_vl_shapes.vision_data import sample_pictures

EMPTY_WEIGHT = 0.3
"""Weight in the loss of the class "none", which most cells have."""


class CellHeads(nn.Module):
    """Linear classifiers of a cell's contents from its token; discarded after training."""

    def __init__(self, width: int):
        super().__init__()
        sizes = {"shape": 1 + len(SHAPE_CLASSES), "color": 1 + len(COLOR_CLASSES), "letter": 1 + len(LETTER_CLASSES)}
        self.classes = nn.ModuleDict({name: nn.Linear(width, size) for name, size in sizes.items()})
        self.edges = nn.Linear(width, 4)

    def loss(self, tokens: Tensor, cells: dict[str, Tensor]) -> tuple[Tensor, dict[str, float]]:
        """Cross-entropies plus distance of the edges, of tokens ``[N, cells, width]``; and accuracies on objects."""
        total, scores, occupied = torch.zeros(()), {}, cells["occupied"]
        for name, head in self.classes.items():
            logits = head(tokens).float()
            weight = torch.ones(logits.shape[-1]).index_fill_(0, torch.tensor(0), EMPTY_WEIGHT)
            total = total + F.cross_entropy(logits.flatten(0, 1), cells[name].flatten(), weight)
            present = cells[name] > 0
            if present.any():
                scores[name] = (logits.argmax(-1) == cells[name])[present].float().mean().item()
        if occupied.any():
            error = (self.edges(tokens).float() - cells["edges"])[occupied].abs()
            total = total + error.mean()
            scores["edges px"] = error.mean().item() * EDGE_UNIT
        return total, scores


def vision_tokens(visual: nn.Module, pictures: np.ndarray) -> Tensor:
    """Vision tokens ``[N, cells, width]`` of pictures of one size."""
    return visual(*patches(pictures)).pooler_output.unflatten(0, (len(pictures), -1))


NEIGHBORS = (
    ((-1, 0), (1, 0), (0, -1), (0, 1)),
    ((-1, -1), (1, 1), (-1, 1), (1, -1)),
    ((-2, 0), (2, 0), (0, -2), (0, 2)),
)
"""Offsets (row, column) from a patch to the one that each head of the first layers attends to at first."""


@torch.no_grad()
def init_neighbor_attention(visual: nn.Module, scale: float = 4.0) -> None:
    """Initialize heads of the first layers to attend to neighboring patches, as a convolution would.

    Rotary positions rotate the bias of a key by its position and that of a query by its own: with the query rotated by
    d more, their product is greatest at distance d. The two fastest frequencies of each axis encode the offset.
    """
    fastest = visual.rotary_pos_emb.inv_freq[:2]
    for block, neighbors in zip(visual.blocks, NEIGHBORS):
        attention = block.attn
        half = attention.head_dim // 2
        query, key, _ = attention.qkv.bias.view(3, attention.num_heads, 2 * half)
        for head, places in enumerate(neighbors):
            for axis, distance in enumerate(places):
                start = axis * half // 2
                key[head, start : start + 2] = scale
                query[head, start : start + 2] = scale * torch.cos(fastest * distance)
                query[head, half + start : half + start + 2] = scale * torch.sin(fastest * distance)


def pretrain_vision(
    visual: nn.Module,
    heads: CellHeads,
    steps: int,
    batch: int,
    rates: LearningRates,
    rng: np.random.Generator,
    progress: Progress,
) -> dict[str, float]:
    """Train the tower to predict its cells. Returns running means of the loss and of the accuracies."""
    descent = muon_and_adamw(visual, [heads], rates, steps, warmup=40)
    occupied = run_steps(vision_steps(visual.train(), heads, steps, batch, rng), descent, progress)
    visual.eval()
    return {"loss": occupied.pop("sight"), **occupied}


def vision_steps(
    visual: nn.Module, heads: CellHeads, steps: int, batch: int, rng: np.random.Generator
) -> Iterator[Step]:
    """Steps on sampled pictures; small pictures first, which cost a quarter."""
    for step in range(steps):
        progress_share = step / steps
        size = int(
            rng.choice(
                [32, 40, 48, 64],
                p=[0.6 - 0.4 * progress_share, 0.15, 0.15 + 0.2 * progress_share, 0.1 + 0.2 * progress_share],
            )
        )
        annotated = sample_pictures(batch, size, rng)
        with torch.autocast("cpu", torch.bfloat16):
            loss, scores = heads.loss(vision_tokens(visual, annotated.pictures), annotated.cells())
        yield Step("sight", loss, scores=scores)
