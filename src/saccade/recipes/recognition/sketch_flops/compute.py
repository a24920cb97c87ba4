"""What an option brings and what it costs: rewards of a choice between more and less compute.

Names as in 2505.23763, whose selector of canvases is judged so: R_comp is `ComputeCost`, 1 / r is `found`, -L_tri is
`clear`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from saccade.core import Rollout, generator, spawn
from saccade.recipes.recognition.sketch_flops.retrieval import distances, rank, rank_among

_OTHERS = 1 << 21
"""Key of the seeds of galleries."""


@dataclass(frozen=True)
class ComputeCost:
    """-q / (q_max - q_min), q what the chosen option costs; ``cost`` names every option of the menu.

    ValueError where all options cost the same: then nothing could be saved.
    """

    cost: Mapping[Any, float]

    def __post_init__(self) -> None:
        if max(self.cost.values()) <= min(self.cost.values()):
            raise ValueError(
                f"every option of {', '.join(map(str, self.cost))} costs the same, so there is nothing to choose"
            )

    def __call__(self, rollout: Rollout) -> Tensor:
        """Below 0 ``[B]``."""
        span = max(self.cost.values()) - min(self.cost.values())
        return torch.tensor([-self.cost[option] / span for option in rollout.outputs])


def entropy_bonus(rollout: Rollout) -> Tensor:
    """-log pi of the choice ``[B]``, whose mean is the policy's entropy: with a small weight it keeps a choice open."""
    return -rollout.logp_BT.sum(1)


@dataclass(frozen=True, eq=False)
class RetrievalGallery:
    """A gallery that is looked through with frozen embeddings, kept for every option of the menu.

    ``query_NKD`` embeds query n (a problem's id) with option k of ``options``, ``gallery_MD`` what is looked for,
    ``truth_N`` is the place of the right one. ``others`` bounds the gallery to the right one and so many random ones,
    the same for all attempts of a group, which are compared; 0 is all of it. ``margin`` is the triplet's.
    """

    options: Sequence[Any]
    query_NKD: Tensor
    gallery_MD: Tensor
    truth_N: Tensor
    others: int = 0
    margin: float = 0.3

    def reciprocal_rank(self, rollout: Rollout) -> Tensor:
        """1 / rank of the right one ``[B]``, in (0, 1]."""
        near_BM, truth_B = self._looked(rollout)
        if not self.others:
            return 1 / rank(near_BM, truth_B).float()
        numbers = rollout.group_B.tolist()
        first_B = torch.tensor([numbers.index(number) for number in numbers])
        own = [generator(seed) for seed in spawn(rollout.extras["seed_B"][first_B], _OTHERS).tolist()]
        return 1 / rank_among(near_BM, truth_B, self.others, own).float()

    def margin_reward(self, rollout: Rollout) -> Tensor:
        """Minus the mean of max(0, margin + d_right - d_wrong) over the gallery ``[B]``, at most 0."""
        near_BM, truth_B = self._looked(rollout)
        right_B1 = near_BM.gather(1, truth_B[:, None])
        hinge_BM = (self.margin + right_B1 - near_BM).clamp(min=0).scatter(1, truth_B[:, None], 0.0)
        return -hinge_BM.sum(1) / max(near_BM.shape[1] - 1, 1)

    def ranks(self) -> Tensor:
        """The rank of the right one of every query with every option, in the whole gallery ``[N, K]``."""
        each = [rank(distances(query_ND, self.gallery_MD), self.truth_N) for query_ND in self.query_NKD.unbind(1)]
        return torch.stack(each, 1)

    def _looked(self, rollout: Rollout) -> tuple[Tensor, Tensor]:
        """Distances of each row's query from the gallery ``[B, M]``, and the place of its right one ``[B]``."""
        query_B = torch.tensor([problem.id for problem in rollout.problems])
        option_B = torch.tensor([self.options.index(option) for option in rollout.outputs])
        return distances(self.query_NKD[query_B, option_B], self.gallery_MD), self.truth_N[query_B]
