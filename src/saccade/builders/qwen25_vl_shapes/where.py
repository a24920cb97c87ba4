"""Where things are, read off the writer while it learns: an answer needs more than what lies in every cell."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from saccade.builders.qwen25_vl_shapes.rows import Rows
from saccade.builders.qwen25_vl_shapes.views import FAR, Views
from saccade.worlds.shapes import COLORS, SHAPES

SIDES = 65
"""Whole pixels at which an edge may lie."""


class Where(nn.Module):
    """Two readers of boxes; thrown away after training.

    After the second layer every picture token is to tell the box of what lies there, counted from the picture's corner;
    after the third every name in a question ("red ring") the box of the one thing that has it. So relations find both
    of their places ready: learnt from answers alone they stay at chance for as long as we waited, with it two things
    take about a hundred steps.
    """

    def __init__(self, model: nn.Module, tokenizer: Any):
        super().__init__()
        writer, width = model.model.language_model, model.config.text_config.hidden_size
        self.at_cell, self.at_name = nn.Linear(width, 4 * SIDES), nn.Linear(width, 4 * SIDES)
        self.register_buffer("color", _words(tokenizer, tuple(COLORS)))
        self.register_buffer("shape", _words(tokenizer, SHAPES))
        self.hidden: dict[int, Tensor] = {}
        self.hooks = [writer.layers[layer].register_forward_hook(self._keep(layer)) for layer in (1, 2)]

    def _keep(self, layer: int) -> Any:
        def keep(module: nn.Module, given: Any, out: Any) -> None:
            self.hidden[layer] = out[0] if isinstance(out, tuple) else out

        return keep

    def loss(self, laid: Rows, views: Views, cells: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Cross-entropies of the four edges in whole pixels: over the cells of objects, over names."""
        seen = cells["seen"]
        shown = self.hidden[1][laid.seen_BL].view(*seen.shape, -1)[seen]
        edges = (cells["edges"] * FAR + torch.from_numpy(views.middles()).float())[seen]
        row, last, box = self.named(laid, views)
        return _missed(self.at_cell(shown), edges), _missed(self.at_name(self.hidden[2][row, last]), box)

    def named(self, laid: Rows, views: Views) -> tuple[Tensor, Tensor, Tensor]:
        """Rows and places of the last words of names that one thing in the row's picture has, and its box [N, 4]."""
        color, shape = self.color[laid.ids_BL[:, :-1]], self.shape[laid.ids_BL[:, 1:]]
        row, first = torch.nonzero((color > 0) & (shape > 0) & (laid.weight_BL[:, 1:] == 0), as_tuple=True)
        of = lambda value: torch.from_numpy(value)[row]
        boxes = of(views.boxes)
        fits = (of(views.color) == color[row, first, None]) & (of(views.shape) == shape[row, first, None])
        fits &= boxes[..., 2] > boxes[..., 0]
        one = fits.sum(1) == 1
        return row[one], first[one] + 1, boxes[one][fits[one]]

    def close(self) -> None:
        """Leave the model as it was."""
        for hook in self.hooks:
            hook.remove()


def _words(tokenizer: Any, words: Sequence[str]) -> Tensor:
    """For each token which of the words it is, counted from 1; 0 for none."""
    table = torch.zeros(len(tokenizer), dtype=torch.long)
    for number, word in enumerate(words, 1):
        ids = tokenizer(f" {word}", add_special_tokens=False)["input_ids"]
        if len(ids) == 1:
            table[ids[0]] = number
    return table


def _missed(read: Tensor, edges: Tensor) -> Tensor:
    """Cross-entropy of edges [N, 4] in pixels, 0 where there are none."""
    if not len(edges):
        return read.new_zeros(())
    return F.cross_entropy(read.float().view(-1, SIDES), edges.round().long().clamp(0, SIDES - 1).flatten())
