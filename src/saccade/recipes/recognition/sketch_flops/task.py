"""The task of finding the photo that a sketch shows: training and held-out pairs, canvases, and scores."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from saccade.config import Count
from saccade.core import Problem, ProblemScores, Rollout, Run, mean_scores
from saccade.evaluation.scoring import HELD_OUT_SEED
from saccade.random import seeds
from saccade.recipes.recognition.sketch_flops.networks import Embedder, FlopMeter, blank
from saccade.recipes.recognition.sketch_flops.retrieval import RetrievalGallery, retrieval_metrics
from saccade.recipes.recognition.sketch_flops.selector import CategoricalPolicy
from saccade.worlds import sketches
from saccade.worlds.sketches import Sketch, SketchPairs

Embed = Callable[[Tensor], Tensor]
"""Pictures ``[B, 3, H, W]`` -> embeddings of length 1 ``[B, D]``."""

_ROWS = 50
"""Pictures that are embedded at once."""


@dataclass(frozen=True)
class RetrievalTask:
    """Which sketches and photos there are, and the canvases on which a sketch can be drawn."""

    pairs: str = "sketches"
    """Training pairs: the embedded world (sketches), or a file of JSON lines with "sketch" (.npy, .svg) and "photo"."""
    held_out: str = ""
    """File of held-out pairs in the same format; the embedded world has held-out objects."""
    size: Count = 64
    """Side of a photo in pixels."""
    canvases: tuple[int, ...] = (16, 24, 32, 48, 64)
    """Sides in pixels of the canvases that a sketch can be drawn on, in ascending order; the last is the full one."""
    stroke_width: float = sketches.LINE_WIDTH
    """Line width as a fraction of the canvas."""
    simplify: float = 0.01
    """Tolerance, as a fraction of the canvas, of the simplification of the strokes that the selector reads."""
    train_size: Count = 400
    """Number of objects of the embedded world from which the embedding networks learn."""
    selector_size: Count = 600
    """Number of other objects (of a file: its last photos) from which the selector learns."""
    held_out_size: Count = 150
    """Number of held-out objects of the embedded world."""
    held_out_seed: int = HELD_OUT_SEED
    """Seed of the held-out problems of the embedded world; a check draws others for every training seed."""
    sketches_each: Count = 6
    """Sketches of each training object of the embedded world; held-out objects have four."""

    def __post_init__(self) -> None:
        if len(self.canvases) < 2 or list(self.canvases) != sorted(set(self.canvases)):
            raise ValueError(f"canvases {self.canvases} must be two or more, from small to large")

    @property
    def full(self) -> int:
        """Side of the largest canvas in pixels."""
        return self.canvases[-1]

    def training(self, seed: int) -> tuple[SketchPairs, SketchPairs]:
        """Pairs for the embedding networks, and pairs of other objects for the selector."""
        if self.pairs != "sketches":
            return sketches.load_pairs(self.pairs, self.size).split(self.selector_size)
        count = self.train_size + self.selector_size
        return sketches.generate_pairs(count, self.sketches_each, seed, "train", self.size).split(self.selector_size)

    def held_out_problems(self) -> SketchPairs | None:
        """Pairs that are not trained on; None for a file without a held-out one."""
        if self.pairs != "sketches":
            return sketches.load_pairs(self.held_out, self.size) if self.held_out else None
        return sketches.generate_pairs(self.held_out_size, 4, self.held_out_seed, "held_out", self.size)

    def draw(self, problems: Sequence[Problem], canvas: int) -> Tensor:
        """The sketches of problems as pictures ``[B, 3, canvas, canvas]``."""
        return sketches.draw([problem.inputs for problem in problems], canvas, self.stroke_width)

    def strokes(self, sketch: Sketch) -> Tensor:
        """The simplified sketch as a sequence of pen states ``[L, 5]``."""
        return _strokes(sketch, self.simplify)

    @torch.no_grad()
    def gallery(self, embed: Embed, pairs: SketchPairs) -> Tensor:
        """Frozen embeddings of all photos ``[M, D]``, on the CPU."""
        indices = torch.arange(len(pairs.photos)).split(_ROWS)
        return torch.cat([embed(pairs.pixels(index)).cpu() for index in indices])

    def queries(self, embed: Embed, pairs: SketchPairs, canvas: int) -> Tensor:
        """Frozen embeddings of all sketches on a canvas ``[N, D]``, on the CPU."""
        return self.embed_sketches(embed, pairs.problems(), canvas)

    @torch.no_grad()
    def embed_sketches(self, embed: Embed, problems: Sequence[Problem], canvas: int) -> Tensor:
        """Frozen embeddings of the problems' sketches on a canvas ``[N, D]``, on the CPU."""
        parts = [problems[i : i + _ROWS] for i in range(0, len(problems), _ROWS)]
        return torch.cat([embed(self.draw(part, canvas)).cpu() for part in parts])

    def search(
        self,
        embed: Embed,
        pairs: SketchPairs,
        canvases: Sequence[int] = (),
        distractors: int = 0,
        margin: float = 0.3,
    ) -> RetrievalGallery:
        """All photos, and all sketches on every canvas (or on ``canvases``), embedded once."""
        canvases = tuple(canvases or self.canvases)
        query_NKD = torch.stack([self.queries(embed, pairs, canvas) for canvas in canvases], 1)
        correct_N = torch.tensor(list(pairs.photo_index))
        return RetrievalGallery(canvases, query_NKD, self.gallery(embed, pairs), correct_N, distractors, margin)


@lru_cache(maxsize=1 << 16)
def _strokes(sketch: Sketch, tolerance: float) -> Tensor:
    return torch.from_numpy(sketches.to_stroke5(sketches.simplify_sketches([sketch], tolerance)[0]))


class SelectorEvaluation:
    """Scores of a selector on held-out pairs; they are embedded once, since the student is frozen."""

    def __init__(self, task: RetrievalTask, policy: CategoricalPolicy, student: Embedder, pairs: SketchPairs):
        self.task, self.policy, self.pairs = task, policy, pairs
        self.search = task.search(student, pairs)
        self.rank_NK = self.search.ranks()
        self.canvas_flops = FlopMeter(student, blank)
        read = lambda sequence: policy.network(sequence, torch.tensor([sequence.shape[1]]))
        self.reading_flops = FlopMeter(read, lambda points: torch.zeros(1, points, 5))

    def scores(self, run: Run | None = None, step: int = 0) -> ProblemScores:
        """Scores of the greedy choices; to a run, some sketches and a table of the canvases are logged."""
        problems = self.pairs.problems()
        rollout = self.policy.greedy().rollout(problems, seeds(HELD_OUT_SEED, len(problems), "evaluation"))
        scores = choice_metrics(self.rank_NK, rollout.decisions["choice_BT"][:, 0], self.task.canvases)
        scores |= self._flops(rollout)
        if run:
            run.samples(step, "sketches", self._logged_samples(rollout))
            columns = ("pixels", "MFLOPs of the student", "acc@1 with it alone", "share of the choices")
            rows = [_canvas_row(mean_scores(scores), canvas) for canvas in self.task.canvases]
            run.table("Canvases", columns, rows)
        return scores

    def _flops(self, rollout: Rollout) -> dict[str, float]:
        """Mean MFLOPs of a query, in total and for reading its strokes, and MFLOPs of each canvas.

        Photos are embedded beforehand and not counted, for any network.
        """
        reading = [self.reading_flops(points) / 1e6 for points in rollout.decisions["points_B"].tolist()]
        student = [self.canvas_flops(canvas) / 1e6 for canvas in rollout.outputs]
        mean = lambda values: sum(values) / len(values)
        each = {f"MFLOPs, {canvas} px": self.canvas_flops(canvas) / 1e6 for canvas in self.task.canvases}
        return {"MFLOPs": mean(reading) + mean(student), "MFLOPs, reading": mean(reading), **each}

    def _logged_samples(self, rollout: Rollout, count: int = 16) -> list[dict[str, Any]]:
        """Some sketches on their canvases, each beside the photo found; the target is the correct photo."""
        items = []
        for row in range(0, len(rollout), max(len(rollout) // count, 1)):
            one = rollout.rows(torch.tensor([row]))
            photo = self.pairs.pixels(self.search.nearest(one))[0]
            item = beside_photo(self.task, one.problems[0], one.outputs[0], photo)
            target = self.pairs.pixels(torch.tensor([one.problems[0].answer]))[0]
            items.append(item | {"target": target, "score": float(self.search.reciprocal_rank(one))})
        return items[:count]


def _canvas_row(scores: Mapping[str, float], canvas: int) -> list[float]:
    return [canvas, *(round(scores[f"{name}, {canvas} px"], 4) for name in ("MFLOPs", "acc@1", "share"))]


def canvas_metrics(search: RetrievalGallery) -> ProblemScores:
    """acc@1 on every canvas, and all metrics on the last one."""
    rank_NK = search.ranks()
    each = {f"acc@1, {c} px": retrieval_metrics(rank_NK[:, k])["acc@1"] for k, c in enumerate(search.options)}
    return {**each, **retrieval_metrics(rank_NK[:, -1])}


def choice_metrics(rank_NK: Tensor, choice_N: Tensor, canvases: Sequence[int]) -> ProblemScores:
    """Metrics of a choice of canvas for each query, of choices that ignore the query, and the choices' histogram.

    "shuffled choice" is the expected acc@1 when the same choices are permuted at random over the queries: that of the
    fixed canvases weighted by the histogram. "random canvas" is the one of a uniform choice. Neither needs sampling.
    """
    right_NK = (rank_NK == 1).double()
    share_K = torch.bincount(choice_N, minlength=len(canvases)).double() / len(choice_N)
    scores: ProblemScores = {**retrieval_metrics(rank_NK.gather(1, choice_N[:, None])[:, 0])}
    scores |= {"acc@1, shuffled choice": right_NK @ share_K, "acc@1, random canvas": right_NK.mean(1)}
    scores["acc@1, if any canvas will do"] = right_NK.amax(1)
    for canvas, right_N, share in zip(canvases, right_NK.T, share_K.tolist()):
        scores |= {f"acc@1, {canvas} px": right_N, f"share, {canvas} px": share}
    return scores | {"entropy of choices": float(torch.special.entr(share_K).sum())}


def beside_photo(task: RetrievalTask, problem: Problem, canvas: int, photo: Tensor) -> dict[str, Any]:
    """A sample to log: the sketch on its canvas, scaled to the photo's size, to the left of the photo."""
    drawn = F.interpolate(task.draw([problem], canvas), photo.shape[1:], mode="nearest")[0]
    name = f"{problem.source}, sketch {problem.id}"
    return {"prompt": name, "text": f"{canvas} x {canvas} pixels", "image": torch.cat([drawn, photo], 2)}
