"""How embedders learn: triplets, and the teacher's distances averaged over canvases."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from saccade.core import Loss, Problem, Rollout
from saccade.recipes.recognition.sketch_flops.embedder import Embedder
from saccade.recipes.recognition.sketch_flops.evaluation import fixed
from saccade.recipes.recognition.sketch_flops.retrieval import distances
from saccade.recipes.recognition.sketch_flops.task import RetrievalTask
from saccade.training.feeds import OnPolicy
from saccade.training.learner import Update, Updates, rise_and_fall
from saccade.training.loop import fit as run_loop
from saccade.training.run import Run
from saccade.worlds.sketches import Pairs

Embed = Callable[[Tensor], Tensor]
"""Pictures ``[B, 3, H, W]`` -> embeddings of length 1 ``[B, D]``."""

Draw = Callable[[Sequence[Problem], int], Tensor]
"""Problems and a canvas -> the sketches as pictures ``[B, 3, canvas, canvas]``."""


def examples(problems: Sequence[Problem]) -> Rollout:
    """Problems to be learnt from as they are: a rollout in which nobody decided anything."""
    none_BT = torch.zeros(len(problems), 0)
    return Rollout(list(problems), {}, None, none_BT, none_BT, torch.arange(len(problems)))


@dataclass(frozen=True)
class Matching:
    """The loss above; ``answer`` of a problem is the number of its photo.

    ``photos`` gives pictures by their numbers, ``teacher`` the frozen embeddings of sketches (by problem id) and of
    photos (by number), None for triplets alone (``balance`` is 1 then). The triplet term is the mean over the triplets
    within the margin, since the others have no gradient. Negatives are the photos of a micro-batch, so batches had
    better not be cut.
    """

    embed: Embed
    draw: Draw
    photos: Callable[[Tensor], Tensor]
    canvases: tuple[int, ...]
    margin: float = 0.3
    balance: float = 1.0
    teacher: tuple[Tensor, Tensor] | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.balance <= 1:
            raise ValueError(f"balance {self.balance} is outside [0, 1]; 1 learns from triplets alone")
        if self.balance < 1 and self.teacher is None:
            raise ValueError(f"balance {self.balance} needs a teacher to learn distances from")

    def __call__(self, rollout: Rollout) -> Loss:
        photo_B = torch.tensor([problem.answer for problem in rollout.problems])
        other_BB = photo_B[:, None] != photo_B
        photo_BD = self.embed(self.photos(photo_B))
        other_BB = other_BB.to(photo_BD.device)
        sums: dict[str, Tensor] = {}
        for canvas in self.canvases:
            sketch_BD = self.embed(self.draw(rollout.problems, canvas))
            for name, value in self.terms(sketch_BD, photo_BD, rollout.problems, photo_B, other_BB).items():
                sums[name] = sums.get(name, 0) + value / len(self.canvases)
        count = torch.tensor(float(len(rollout)))
        total = self.balance * sums["triplet"] + (1 - self.balance) * sums.get("distances", 0.0)
        return Loss(total * count, count, {name: value.detach() * count for name, value in sums.items()})

    def terms(
        self, sketch_BD: Tensor, photo_BD: Tensor, problems: Sequence[Problem], photo_B: Tensor, other_BB: Tensor
    ) -> dict[str, Tensor]:
        """The means of the triplet term and, with a teacher, of the three distances' together."""
        near_BB, apart_BB = distances(sketch_BD, photo_BD), distances(photo_BD, photo_BD)
        found = {"triplet": triplet(near_BB, other_BB, self.margin)}
        if self.teacher is not None:
            row_B = torch.tensor([problem.id for problem in problems])
            taught_s, taught_p = (kept[at].to(photo_BD) for kept, at in zip(self.teacher, (row_B, photo_B)))
            taught = distances(taught_s, taught_p), distances(taught_p, taught_p)
            found["distances"] = relational((near_BB, apart_BB), taught, other_BB)
        return found


def triplet(near_BB: Tensor, other_BB: Tensor, margin: float) -> Tensor:
    """Mean of max(0, margin + d_sp - d_sn) over the triplets where it is above 0; ``near_BB`` is sketches to photos."""
    hinge_BB = (margin + near_BB.diagonal()[:, None] - near_BB).clamp(min=0) * other_BB
    return hinge_BB.sum() / (hinge_BB > 0).sum().clamp(min=1)


def relational(own: tuple[Tensor, Tensor], taught: tuple[Tensor, Tensor], other_BB: Tensor) -> Tensor:
    """Huber's function of the differences of d_sp, d_sn and d_pn, each averaged, added up.

    ``own`` and ``taught`` are distances of sketches to photos and of photos to photos, each ``[B, B]``.
    """
    huber_sp, huber_pn = (F.huber_loss(mine, theirs, reduction="none") for mine, theirs in zip(own, taught))
    pairs = other_BB.sum().clamp(min=1)
    return huber_sp.diagonal().mean() + (huber_sp * other_BB).sum() / pairs + (huber_pn * other_BB).sum() / pairs


def embedding(
    task: RetrievalTask,
    network: Embedder,
    loss: Matching,
    pairs: Pairs,
    stage: Run,
    steps: int,
    lr: float,
    batch: int,
    seed: int,
) -> None:
    """Train ``network`` by ``loss`` on ``batch`` pairs a step; it is scored at the end, on the canvases of the loss.

    The learning rate of AdamW is ``lr`` at most and falls to a twentieth.
    """
    weights, kept_back = list(network.parameters()), task.held_out_problems()
    optimizer = torch.optim.AdamW(weights, lr=lr, weight_decay=0.01)
    run_loop(
        OnPolicy(pairs.problems(), lambda problems, seeds_P, step: examples(problems), batch, seed),
        Updates([Update("embedding", loss, weights, optimizer, schedule=rise_and_fall(steps, steps // 20, 0.05))]),
        stage,
        steps,
        state={"network": network},
        evaluate=lambda step: fixed(task.search(network, kept_back, loss.canvases)) if kept_back else {},
        evaluate_every=steps,
        save_every=max(steps // 4, 1),
        log_every=10,
    )
