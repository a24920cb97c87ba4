"""How embedding networks are trained: a triplet loss, and distances matched to the teacher's over several canvases."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from saccade.config import Count, Fraction
from saccade.core import Loss, Problem, Rollout, Run
from saccade.recipes.recognition.sketch_flops.networks import Embedder, build_embedder
from saccade.recipes.recognition.sketch_flops.retrieval import distances
from saccade.recipes.recognition.sketch_flops.task import Embed, RetrievalTask, canvas_metrics
from saccade.training.feeds import OnPolicy
from saccade.training.learner import Updates, linear_decay
from saccade.training.loop import fit
from saccade.training.settings import AdamW, Schedule, StageSteps
from saccade.worlds.sketches import SketchPairs

Draw = Callable[[Sequence[Problem], int], Tensor]
"""Problems and a canvas size -> their sketches as pictures ``[B, 3, canvas, canvas]``."""


@dataclass(frozen=True)
class EmbedderTraining:
    """An embedding network and how it is trained; the learning rate rises over the warmup and falls linearly."""

    network: str = "large"
    """Network: large, small, torchvision:NAME or timm:NAME."""
    steps: StageSteps = 300
    """Number of training steps."""
    batch_size: Count = 48
    """Sketches in a batch, each with its photo; the photos of the other sketches are the negatives."""
    optim: AdamW = AdamW(lr=1e-3, weight_decay=0.01, warmup=15)
    final_lr: Fraction = 0.05
    """Learning rate at the last step as a fraction of the peak learning rate."""

    def build(self, size: int, seed: int, device: str) -> Embedder:
        """The network with embeddings of ``size`` numbers."""
        return build_embedder(self.network, size, seed, device)

    def fit(
        self, network: Embedder, loss: DistillationLoss, task: RetrievalTask, pairs: SketchPairs, run: Run, seed: int
    ) -> None:
        """Train the network on the pairs; its retrieval on the loss's canvases is evaluated before and after."""
        held_out = task.held_out_problems()
        decay = linear_decay(self.steps, self.final_lr)
        update = self.optim.update("embedding", loss, list(network.parameters()), decay=decay)
        fit(
            OnPolicy(
                pairs.problems(), lambda problems, seeds_P, step: supervised_batch(problems), self.batch_size, seed
            ),
            Updates([update]),
            run,
            Schedule(self.steps, evaluate_every=self.steps, save_every=max(self.steps // 4, 1), log_every=10),
            state={"network": network},
            evaluate=lambda step: canvas_metrics(task.search(network, held_out, loss.canvases)) if held_out else {},
        )


@dataclass(frozen=True)
class Distillation:
    """Weights of the loss from which embedding networks learn."""

    margin: float = 0.3
    """Margin by which a sketch must be nearer to its photo than to other photos."""
    triplet_weight: float = 0.5
    """Weight of the student's triplet loss, from 0 to 1; matching the teacher's distances has the rest."""

    def triplets(
        self, network: Embedder, task: RetrievalTask, pairs: SketchPairs, canvases: tuple[int, ...]
    ) -> DistillationLoss:
        """The triplet loss alone, averaged over canvases."""
        return DistillationLoss(network, task.draw, pairs.pixels, canvases, self.margin)

    def loss(self, student: Embedder, teacher: Embedder, task: RetrievalTask, pairs: SketchPairs) -> DistillationLoss:
        """Both losses averaged over all canvases; the teacher embeds the sketches on the full canvas."""
        targets = task.queries(teacher, pairs, task.full), task.gallery(teacher, pairs)
        alone = self.triplets(student, task, pairs, task.canvases)
        return replace(alone, triplet_weight=self.triplet_weight, teacher=targets)


def supervised_batch(problems: Sequence[Problem]) -> Rollout:
    """Problems as a batch for supervised learning: a rollout without decisions."""
    empty_BT = torch.zeros(len(problems), 0)
    return Rollout(list(problems), {}, None, empty_BT, empty_BT, torch.arange(len(problems)))


@dataclass(frozen=True)
class DistillationLoss:
    """``triplet_weight`` L_triplet + (1 - ``triplet_weight``) L_distances, averaged over canvases.

    The answer of a problem is the index of its photo. The triplet loss is the mean over the triplets that violate the
    margin, since the others have no gradient. The negatives are the photos of a micro-batch, so a batch should not be
    split. ValueError for a weight outside [0, 1], and for one below 1 without a teacher.
    """

    embed: Embed
    draw: Draw
    photos: Callable[[Tensor], Tensor]
    """Indices of photos -> pictures."""
    canvases: tuple[int, ...]
    margin: float = 0.3
    triplet_weight: float = 1.0
    teacher: tuple[Tensor, Tensor] | None = None
    """Frozen embeddings of the sketches by problem id and of the photos by index."""

    def __post_init__(self) -> None:
        if not 0 <= self.triplet_weight <= 1:
            raise ValueError(f"triplet_weight {self.triplet_weight} is outside [0, 1]; 1 learns from triplets alone")
        if self.triplet_weight < 1 and self.teacher is None:
            raise ValueError(f"triplet_weight {self.triplet_weight} needs a teacher to learn distances from")

    def __call__(self, rollout: Rollout) -> Loss:
        photo_B = torch.tensor([problem.answer for problem in rollout.problems])
        photo_BD = self.embed(self.photos(photo_B))
        negative_BB = (photo_B[:, None] != photo_B).to(photo_BD.device)
        sums: dict[str, Tensor] = {}
        for canvas in self.canvases:
            sketch_BD = self.embed(self.draw(rollout.problems, canvas))
            for name, value in self.terms(sketch_BD, photo_BD, rollout.problems, photo_B, negative_BB).items():
                sums[name] = sums.get(name, 0) + value / len(self.canvases)
        count = torch.tensor(float(len(rollout)))
        total = self.triplet_weight * sums["triplet"] + (1 - self.triplet_weight) * sums.get("distances", 0.0)
        return Loss(total * count, count, {name: value.detach() * count for name, value in sums.items()})

    def terms(
        self, sketch_BD: Tensor, photo_BD: Tensor, problems: Sequence[Problem], photo_B: Tensor, negative_BB: Tensor
    ) -> dict[str, Tensor]:
        """The mean triplet loss and, with a teacher, the mean distance loss."""
        cross_BB, photos_BB = distances(sketch_BD, photo_BD), distances(photo_BD, photo_BD)
        terms = {"triplet": triplet_loss(cross_BB, negative_BB, self.margin)}
        if self.teacher is not None:
            sketch_B = torch.tensor([problem.id for problem in problems])
            sketches, photos = (frozen[i].to(photo_BD) for frozen, i in zip(self.teacher, (sketch_B, photo_B)))
            target = distances(sketches, photos), distances(photos, photos)
            terms["distances"] = distance_loss((cross_BB, photos_BB), target, negative_BB)
        return terms


def triplet_loss(cross_BB: Tensor, negative_BB: Tensor, margin: float) -> Tensor:
    """Mean of max(0, margin + d_sp - d_sn) over the triplets above 0; ``cross_BB`` is from sketches to photos."""
    hinge_BB = (margin + cross_BB.diagonal()[:, None] - cross_BB).clamp(min=0) * negative_BB
    return hinge_BB.sum() / (hinge_BB > 0).sum().clamp(min=1)


def distance_loss(student: tuple[Tensor, Tensor], teacher: tuple[Tensor, Tensor], negative_BB: Tensor) -> Tensor:
    """Sum of the mean Huber losses of d_sp, d_sn and d_pn.

    ``student`` and ``teacher`` are distances from sketches to photos and between photos, each ``[B, B]``.
    """
    huber_sp, huber_pn = (F.huber_loss(mine, target, reduction="none") for mine, target in zip(student, teacher))
    pairs = negative_BB.sum().clamp(min=1)
    return huber_sp.diagonal().mean() + (huber_sp * negative_BB).sum() / pairs + (huber_pn * negative_BB).sum() / pairs
