"""Sets of boxes against sets of boxes: overlap, one-to-one matching, average precision.

Boxes are ``[..., 4]``: x1, y1, x2, y2 in one frame (`saccade.math.frames`), x2 and y2 exclusive; a box whose corners
are in the wrong order is empty. Average precision as COCO defines it (Lin et al. 1405.0312): precision, made falling,
at 101 recalls, averaged over overlap thresholds and over the labels that are to be found.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

COCO_THRESHOLDS = tuple(round(0.5 + 0.05 * k, 2) for k in range(10))
"""The overlaps .5, .55 … .95 of AP@[.5:.95]."""


def area(boxes: Tensor) -> Tensor:
    """Width times height, 0 for an empty box: ``[..., 4]`` -> ``[...]``."""
    return (boxes[..., 2:] - boxes[..., :2]).clamp(min=0).prod(-1)


def iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union, ``[..., N, 4]`` and ``[..., M, 4]`` -> ``[..., N, M]``; 0 where both are empty."""
    a, b = a[..., :, None, :], b[..., None, :, :]
    corners = torch.cat([torch.maximum(a[..., :2], b[..., :2]), torch.minimum(a[..., 2:], b[..., 2:])], -1)
    # An empty box may have a corner inside the other; then their intersection is empty too.
    intersection = area(corners)
    union = area(a) + area(b) - intersection
    return torch.where(union > 0, intersection / union.clamp(min=torch.finfo(union.dtype).tiny), 0.0)


def match(overlap: Tensor, threshold: float = 0.5) -> Tensor:
    """Greedy one-to-one matching, the largest overlap first, of pairs that overlap by ``threshold`` or more.

    ``overlap [..., N, M]`` -> ``[..., N]``: the column that each row is matched with, -1 for none. Of equal overlaps
    the first row, then the first column, is matched. Rows of zeros (padding) stay unmatched.
    """
    *batch_shape, rows, columns = overlap.shape
    remaining = overlap.reshape(math.prod(batch_shape), rows, columns).clone()
    matched = torch.full((len(remaining), rows), -1, device=overlap.device)
    batch = torch.arange(len(remaining), device=overlap.device)
    for _ in range(min(rows, columns)):
        best, index = remaining.flatten(1).max(1)
        row, column = index // columns, index % columns
        good = (best >= threshold) & (best > 0)
        matched[batch[good], row[good]] = column[good]
        remaining[batch, row], remaining[batch, :, column] = -1.0, -1.0
    return matched.reshape(*batch_shape, rows)


def average_precision(
    overlap_NM: Tensor,
    label_N: Tensor,
    label_M: Tensor,
    thresholds: Sequence[float] = COCO_THRESHOLDS,
) -> Tensor:
    """Mean average precision of one picture: N predictions of equal confidence against M targets.

    Predictions count in the order given. Those whose label no target has are ignored, as in COCO. Labels are integers.
    One number in [0, 1]; NaN without targets.
    """
    threshold_K = torch.tensor(thresholds, dtype=overlap_NM.dtype, device=overlap_NM.device)
    hit_NK = _hits(overlap_NM.masked_fill(label_N[:, None] != label_M, -1.0), threshold_K)
    each = [_precision(hit_NK[label_N == label], int((label_M == label).sum())) for label in label_M.unique()]
    return torch.stack(each).mean() if each else torch.full((), torch.nan)


def _hits(overlap_NM: Tensor, threshold_K: Tensor) -> Tensor:
    """Whether each prediction in turn finds a target that none before it took, by threshold: bool ``[N, K]``."""
    count, targets = overlap_NM.shape
    hit_NK = torch.zeros(count, len(threshold_K), dtype=torch.bool, device=overlap_NM.device)
    free_KM = torch.ones(len(threshold_K), targets, dtype=torch.bool, device=overlap_NM.device)
    every = torch.arange(len(threshold_K), device=overlap_NM.device)
    for n in range(count if targets else 0):
        # Of equal overlaps COCO takes the last target.
        best, back = torch.where(free_KM, overlap_NM[n], -1.0).flip(1).max(1)
        hit_NK[n] = best >= threshold_K
        free_KM[every, targets - 1 - back] &= ~hit_NK[n]
    return hit_NK


def _precision(hit_NK: Tensor, targets: int) -> Tensor:
    """Average precision over 101 recalls of one label's predictions in order: the mean over thresholds."""
    true_KN = hit_NK.T.long().cumsum(1)
    precision_KN = true_KN.double() / torch.arange(1, len(hit_NK) + 1, device=hit_NK.device)
    falling_KN = precision_KN.flip(1).cummax(1).values.flip(1) if len(hit_NK) else precision_KN
    # In integers, so that a recall of 7 / 20 reaches .35 however either is rounded; never reached counts as 0.
    wanted = targets * torch.arange(101, device=hit_NK.device).expand(len(true_KN), -1).contiguous()
    at = torch.searchsorted(100 * true_KN, wanted)
    return torch.nn.functional.pad(falling_KN, (0, 1)).gather(1, at).mean()
