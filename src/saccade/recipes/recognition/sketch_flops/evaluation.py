"""How a choice of canvases is scored and shown: what was found, what it cost, and what would have been without it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from saccade.core import Problem, Rollout, seeds
from saccade.recipes.recognition.sketch_flops.compute import RetrievalGallery
from saccade.recipes.recognition.sketch_flops.embedder import Embedder, Meter
from saccade.recipes.recognition.sketch_flops.retrieval import distances
from saccade.recipes.recognition.sketch_flops.selector import CategoricalPolicy
from saccade.recipes.recognition.sketch_flops.task import RetrievalTask, choosing, found
from saccade.training.run import Run
from saccade.worlds.sketches import Pairs, read_sketch


def blank(canvas: int) -> Tensor:
    """An empty canvas as a network takes it ``[1, 3, canvas, canvas]``."""
    return torch.ones(1, 3, canvas, canvas)


def fixed(search: RetrievalGallery) -> dict[str, float]:
    """acc@1 on every canvas, and all scores on the last."""
    rank_NK = search.ranks()
    each = {f"acc@1, {c} px": found(rank_NK[:, k])["acc@1"] for k, c in enumerate(search.options)}
    return each | found(rank_NK[:, -1])


class Costs:
    """Millions of operations a query on every canvas and for reading strokes; photos are embedded beforehand, for
    everyone.
    """

    def __init__(self, canvases: Sequence[int], policy: CategoricalPolicy, student: Embedder):
        self.canvases, self.canvas = canvases, Meter(student, blank)
        read = lambda sequence: policy.reader(sequence, torch.tensor([sequence.shape[1]]))
        self.read = Meter(read, lambda points: torch.zeros(1, points, 5))

    def __call__(self, rollout: Rollout) -> dict[str, float]:
        """The means of a rollout's choices: all of it, and reading alone; then that of each canvas."""
        read = [self.read(points) / 1e6 for points in rollout.decisions["points_B"].tolist()]
        drawn = [self.canvas(canvas) / 1e6 for canvas in rollout.outputs]
        mean = lambda values: sum(values) / len(values)
        each = {f"MFLOPs, {canvas} px": self.canvas(canvas) / 1e6 for canvas in self.canvases}
        return {"MFLOPs": mean(read) + mean(drawn), "MFLOPs, reading": mean(read), **each}


class Choosing:
    """Scores of a selector on pairs kept back, which are embedded once, since the student is frozen."""

    def __init__(self, task: RetrievalTask, policy: CategoricalPolicy, student: Embedder, pairs: Pairs):
        self.task, self.policy, self.pairs = task, policy, pairs
        self.costs = Costs(task.canvases, policy, student)
        self.search = task.search(student, pairs)
        self.rank_NK = self.search.ranks()

    def scores(self, run: Run | None = None, step: int = 0) -> dict[str, float]:
        """Scores of the likeliest choices; a run is given some of the sketches and a table of the canvases."""
        problems = self.pairs.problems()
        rollout = self.policy.greedy().rollout(problems, seeds(0, len(problems)))
        scores = choosing(self.rank_NK, rollout.decisions["choice_BT"][:, 0], self.task.canvases) | self.costs(rollout)
        if run:
            run.samples(step, "sketches", logged_samples(self.task, rollout, self.search, self.pairs))
            columns = ("pixels", "MFLOPs of the student", "acc@1 with it alone", "share of the choices")
            run.table("Canvases", columns, by_canvas(scores, self.task.canvases))
        return scores


def beside_teacher(
    task: RetrievalTask, policy: CategoricalPolicy, student: Embedder, teacher: Embedder, run: Run
) -> Callable[[int], dict[str, float]] | None:
    """An evaluation of the choices, with the teacher's score and cost beside them; None where nothing is kept back."""
    pairs, full = task.held_out_problems(), task.full
    if pairs is None:
        return None
    choices, whole = Choosing(task, policy, student, pairs), fixed(task.search(teacher, pairs, (full,)))
    taught = {"acc@1, teacher": whole["acc@1"], "MFLOPs, teacher": Meter(teacher, blank)(full) / 1e6}
    return lambda step: choices.scores(run, step) | taught


def photos_for(
    task: RetrievalTask, policy: CategoricalPolicy, student: Embedder, sketches: Sequence[str], seeds_B: Tensor
) -> list[dict[str, Any]]:
    """For each sketch's file the canvas picked and the nearest photo of those kept back, as `saccade sample` shows
    them.

    ValueError where nothing is kept back.
    """
    pairs = task.held_out_problems()
    if pairs is None:
        raise ValueError("there are no photos to look through: set held_out to a file of pairs")
    problems = [Problem(i, read_sketch(Path(sketch)), source=sketch) for i, sketch in enumerate(sketches)]
    rollout = policy.greedy().rollout(problems, seeds_B)
    gallery_MD, items = task.gallery(student, pairs), []
    for problem, canvas in zip(problems, rollout.outputs):
        with torch.no_grad():
            nearest = distances(student(task.draw([problem], canvas)).cpu(), gallery_MD).argmin(1)
        items.append(beside(task, problem, canvas, pairs.pixels(nearest)[0]) | {"prompt": problem.source})
    return items


def by_canvas(scores: Mapping[str, float], canvases: Sequence[int]) -> list[list[float]]:
    """A row for each canvas: its pixels, its cost, what it finds alone, how often it was chosen."""
    return [[c, *(round(scores[f"{name}, {c} px"], 4) for name in ("MFLOPs", "acc@1", "share"))] for c in canvases]


def logged_samples(
    task: RetrievalTask, rollout: Rollout, search: RetrievalGallery, pairs: Pairs, count: int = 16
) -> list[dict[str, Any]]:
    """Some sketches as they were drawn, with the photo found beside them; the right one is the target."""
    items = []
    for row in range(0, len(rollout), max(len(rollout) // count, 1)):
        one = rollout.rows(torch.tensor([row]))
        query_1D = search.query_NKD[one.problems[0].id, one.decisions["choice_BT"][0]]
        nearest = distances(query_1D, search.gallery_MD).argmin(1)
        item = beside(task, one.problems[0], one.outputs[0], pairs.pixels(nearest)[0])
        truth = torch.tensor([one.problems[0].answer])
        items.append(item | {"target": pairs.pixels(truth)[0], "score": float(search.reciprocal_rank(one))})
    return items[:count]


def beside(task: RetrievalTask, problem: Problem, canvas: int, photo: Tensor) -> dict[str, Any]:
    """A sketch on its canvas, shown in the photo's size, to the left of a photo."""
    drawn = F.interpolate(task.draw([problem], canvas), photo.shape[1:], mode="nearest")[0]
    name = f"{problem.source}, sketch {problem.id}"
    return {"prompt": name, "text": f"{canvas} x {canvas} pixels", "image": torch.cat([drawn, photo], 2)}
