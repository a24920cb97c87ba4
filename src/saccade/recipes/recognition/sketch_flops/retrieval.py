"""Retrieval: distances, ranks of the correct item, the usual metrics, and a gallery searched with frozen embeddings.

Ranks count from 1. Items as near as the correct one rank before it, so a network that maps everything to one embedding
gains nothing. N queries, M items in the gallery, K options for each query.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from saccade.core import Rollout
from saccade.random import generator


def distances(query_ND: Tensor, gallery_MD: Tensor) -> Tensor:
    """Euclidean distances ``[N, M]``; in float32 accurate to 1e-3 near 0, and differentiable there."""
    squares = (query_ND**2).sum(-1)[:, None] + (gallery_MD**2).sum(-1) - 2 * query_ND @ gallery_MD.T
    return squares.clamp(min=1e-8).sqrt()


def rank(distance_NM: Tensor, correct_N: Tensor) -> Tensor:
    """Rank of each query's correct item ``[N]`` int64; NaN counts as the largest distance.

    ``correct_N`` are indices in the gallery; ValueError for an index outside.
    """
    if len(correct_N) and not 0 <= int(correct_N.min()) <= int(correct_N.max()) < distance_NM.shape[1]:
        raise ValueError(f"the correct item has index {int(correct_N.max())} in a gallery of {distance_NM.shape[1]}")
    finite = distance_NM.nan_to_num(nan=torch.inf)
    return (finite <= finite.gather(1, correct_N[:, None])).sum(1)


def rank_among(distance_NM: Tensor, correct_N: Tensor, distractors: int, generators: list[torch.Generator]) -> Tensor:
    """Rank in a random gallery of the correct item and ``distractors`` others, drawn by a generator per query ``[N]``.

    The size of the gallery sets how hard the search is; a gallery of fewer items is used completely.
    """
    if distractors >= distance_NM.shape[1] - 1:
        return rank(distance_NM, correct_N)
    draws_NM = torch.stack([torch.rand(distance_NM.shape[1], generator=g) for g in generators])
    draws_NM.scatter_(1, correct_N[:, None].cpu(), -1.0)
    chosen_NK = draws_NM.topk(distractors + 1, largest=False, sorted=True).indices.to(distance_NM.device)
    return rank(distance_NM.gather(1, chosen_NK), torch.zeros_like(correct_N))


def retrieval_metrics(rank_N: Tensor) -> dict[str, Tensor]:
    """acc@1, acc@5 and MRR of each query ``[N]``, whose mean is the metric."""
    return {**{f"acc@{k}": (rank_N <= k).double() for k in (1, 5)}, "MRR": 1 / rank_N.double()}


@dataclass(frozen=True, eq=False)
class RetrievalGallery:
    """A gallery and its queries, each embedded by a frozen network with every option."""

    options: Sequence[Any]
    query_NKD: Tensor
    """Embedding of query n, a problem's id, with option k of ``options``."""
    gallery_MD: Tensor
    correct_N: Tensor
    """Index of each query's correct item in the gallery."""
    distractors: int = 0
    """Items beside the correct one in the random gallery of a group of rollouts; 0 searches the complete gallery."""
    margin: float = 0.3
    """Margin of the triplet loss that is a reward here."""

    def reciprocal_rank(self, rollout: Rollout) -> Tensor:
        """1 / rank of the correct item ``[B]``, in (0, 1]; all rollouts of a group search the same gallery."""
        distance_BM, correct_B = self._search(rollout)
        if not self.distractors:
            return 1 / rank(distance_BM, correct_B).float()
        groups = rollout.group_B.tolist()
        first_B = torch.tensor([groups.index(group) for group in groups])
        generators = [generator(seed, "gallery") for seed in rollout.extras["seed_B"][first_B].tolist()]
        return 1 / rank_among(distance_BM, correct_B, self.distractors, generators).float()

    def margin_reward(self, rollout: Rollout) -> Tensor:
        """Minus the mean of max(0, margin + d_correct - d_other) over the gallery ``[B]``, at most 0."""
        distance_BM, correct_B = self._search(rollout)
        correct_B1 = distance_BM.gather(1, correct_B[:, None])
        hinge_BM = (self.margin + correct_B1 - distance_BM).clamp(min=0).scatter(1, correct_B[:, None], 0.0)
        return -hinge_BM.sum(1) / max(distance_BM.shape[1] - 1, 1)

    def ranks(self) -> Tensor:
        """Rank of the correct item of every query with every option, in the complete gallery ``[N, K]``."""
        each = [rank(distances(query_ND, self.gallery_MD), self.correct_N) for query_ND in self.query_NKD.unbind(1)]
        return torch.stack(each, 1)

    def nearest(self, rollout: Rollout) -> Tensor:
        """Index of the item nearest to each row's query ``[B]``."""
        return self._search(rollout)[0].argmin(1)

    def _search(self, rollout: Rollout) -> tuple[Tensor, Tensor]:
        """Distances of each row's query from the gallery ``[B, M]``, and the index of its correct item ``[B]``."""
        query_B = torch.tensor([problem.id for problem in rollout.problems])
        option_B = torch.tensor([self.options.index(option) for option in rollout.outputs])
        return distances(self.query_NKD[query_B, option_B], self.gallery_MD), self.correct_N[query_B]
