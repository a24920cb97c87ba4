"""Localization of objects from the decoder's hidden states, an auxiliary loss of training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from saccade.builders.qwen25_vl_shapes.annotations import EDGE_UNIT, AnnotatedPictures
from saccade.builders.qwen25_vl_shapes.packing import PackedRows
from saccade.worlds.shapes import COLORS, SHAPES

SIDES = 65
"""Number of integer coordinates that an edge may have."""


class Localizer(nn.Module):
    """Two linear predictors of boxes from hidden states; discarded after training.

    After the second layer every picture token is to predict the box of the object there, relative to the picture's
    corner; after the third layer every name in a question ("red ring") the box of the only object with that name. So
    relations have both boxes at hand: learned from answers alone they stay at chance for as long as was tried, with it
    two objects take about a hundred steps.
    """

    def __init__(self, model: nn.Module, tokenizer: Any):
        super().__init__()
        decoder, width = model.model.language_model, model.config.text_config.hidden_size
        self.at_cell, self.at_name = nn.Linear(width, 4 * SIDES), nn.Linear(width, 4 * SIDES)
        self.register_buffer("color", _words(tokenizer, tuple(COLORS)))
        self.register_buffer("shape", _words(tokenizer, SHAPES))
        self.hidden: dict[int, Tensor] = {}
        self.hooks = [decoder.layers[layer].register_forward_hook(self._keep(layer)) for layer in (1, 2)]

    def _keep(self, layer: int) -> Any:
        def keep(module: nn.Module, given: Any, out: Any) -> None:
            self.hidden[layer] = out[0] if isinstance(out, tuple) else out

        return keep

    def loss(self, packed: PackedRows, annotated: AnnotatedPictures, cells: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Cross-entropies of the four edges in integer pixels: over the cells of objects, and over names."""
        occupied = cells["occupied"]
        hidden = self.hidden[1][packed.is_image_BL].view(*occupied.shape, -1)[occupied]
        edges = (cells["edges"] * EDGE_UNIT + torch.from_numpy(annotated.centers()).float())[occupied]
        row, last, box = self.named_boxes(packed, annotated)
        return _edge_loss(self.at_cell(hidden), edges), _edge_loss(self.at_name(self.hidden[2][row, last]), box)

    def named_boxes(self, packed: PackedRows, annotated: AnnotatedPictures) -> tuple[Tensor, Tensor, Tensor]:
        """Rows and columns of the last words of names that one object of the picture has, and its boxes ``[N, 4]``."""
        color, shape = self.color[packed.ids_BL[:, :-1]], self.shape[packed.ids_BL[:, 1:]]
        row, first = torch.nonzero((color > 0) & (shape > 0) & (packed.weight_BL[:, 1:] == 0), as_tuple=True)
        of = lambda value: torch.from_numpy(value)[row]
        boxes = of(annotated.boxes)
        matches = (of(annotated.color) == color[row, first, None]) & (of(annotated.shape) == shape[row, first, None])
        matches &= boxes[..., 2] > boxes[..., 0]
        one = matches.sum(1) == 1
        return row[one], first[one] + 1, boxes[one][matches[one]]

    def close(self) -> None:
        """Remove the hooks from the model."""
        for hook in self.hooks:
            hook.remove()


def _words(tokenizer: Any, words: Sequence[str]) -> Tensor:
    """For each token the index of its word, counted from 1; 0 for none."""
    table = torch.zeros(len(tokenizer), dtype=torch.long)
    for number, word in enumerate(words, 1):
        ids = tokenizer(f" {word}", add_special_tokens=False)["input_ids"]
        if len(ids) == 1:
            table[ids[0]] = number
    return table


def _edge_loss(logits: Tensor, edges: Tensor) -> Tensor:
    """Cross-entropy of edges ``[N, 4]`` in pixels, 0 if there are none."""
    if not len(edges):
        return logits.new_zeros(())
    return F.cross_entropy(logits.float().view(-1, SIDES), edges.round().long().clamp(0, SIDES - 1).flatten())
