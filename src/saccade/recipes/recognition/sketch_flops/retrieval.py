"""Finding one among many: where the right one stands when all are ordered by distance, and what is said of that.

Ranks count from 1. What is exactly as near as the right one stands before it, so nothing is won by making all alike.
N queries, M things in the gallery.
"""

from __future__ import annotations

import torch
from torch import Tensor


def distances(query_ND: Tensor, gallery_MD: Tensor) -> Tensor:
    """Euclidean distances ``[N, M]``; in float32 good to 1e-3 near 0 and differentiable there."""
    squares = (query_ND**2).sum(-1)[:, None] + (gallery_MD**2).sum(-1) - 2 * query_ND @ gallery_MD.T
    return squares.clamp(min=1e-8).sqrt()


def rank(distance_NM: Tensor, truth_N: Tensor) -> Tensor:
    """The rank of each query's own one ``[N]`` int64; NaN is the farthest of all. ValueError where it is not in the
    gallery.
    """
    if len(truth_N) and not 0 <= int(truth_N.min()) <= int(truth_N.max()) < distance_NM.shape[1]:
        raise ValueError(f"a query's own one is number {int(truth_N.max())} of a gallery of {distance_NM.shape[1]}")
    far = distance_NM.nan_to_num(nan=torch.inf)
    return (far <= far.gather(1, truth_N[:, None])).sum(1)


def within(rank_N: Tensor, k: int) -> Tensor:
    """acc@k: the share of queries whose rank is at most ``k``, one number."""
    return (rank_N <= k).double().mean()


def mean_reciprocal_rank(rank_N: Tensor) -> Tensor:
    """MRR: the mean of 1 / rank, one number."""
    return (1 / rank_N.double()).mean()


def rank_among(distance_NM: Tensor, truth_N: Tensor, others: int, generators: list[torch.Generator]) -> Tensor:
    """The rank in a random gallery of a query's own one and ``others`` more, drawn by a generator a query ``[N]``.

    Where a whole gallery is nearly always searched rightly, a smaller one is too; where it never is, a smaller one
    tells better from worse. All of the gallery where it holds no more.
    """
    if others >= distance_NM.shape[1] - 1:
        return rank(distance_NM, truth_N)
    draws_NM = torch.stack([torch.rand(distance_NM.shape[1], generator=g) for g in generators])
    draws_NM.scatter_(1, truth_N[:, None].cpu(), -1.0)
    chosen_NK = draws_NM.topk(others + 1, largest=False, sorted=True).indices.to(distance_NM.device)
    return rank(distance_NM.gather(1, chosen_NK), torch.zeros_like(truth_N))
