"""SketchyNet: a small network that finds the photo of a sketch, and a policy that picks each sketch's canvas size.

paper: Sketch Down the FLOPs: Towards Efficient Networks for Human Sketch, arXiv 2505.23763.
idea: A light student learns a teacher's distances between sketches and photos, averaged over canvases of several sizes.
    Then a GRU reads the strokes and picks the canvas on which the sketch is drawn: a bandit, rewarded for the rank of
    the correct photo and charged for what the canvas costs the student.
claims: At no more than a tenth of the teacher's operations, the distilled student finds 2 points more than one trained
    with triplets alone; the selector halves the operations at a loss of at most 1.5 points; and its choices find more
    than the same choices permuted at random.
differs: An embedded world of objects and sketches; the embedding networks are trained from scratch, and the teacher is
    a plain convolutional network. Every other photo of a batch is a negative, and the triplet loss is the mean over the
    triplets that violate the margin. The selector learns from objects on which the networks were not trained (theirs
    are found too easily), with the rank taken in random galleries as large as the test's. Eight choices for each sketch
    are compared with one another, where the paper has one and no baseline. The weights of the rewards are ours, since
    the paper gives none; -log pi with a small weight keeps the policy stochastic; the margin reward is its mean over
    the gallery. A selector is also trained on the student of triplets alone. In the check it converges to one canvas
    for every sketch, for every weight of compute from 0.06 to 0.2: all families of this world gain about as much from a
    larger canvas, so there is little to choose by.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from saccade.algorithms.grpo import GRPO
from saccade.config import Count
from saccade.core import Collect, Problem, ProblemScores, Reward, Rollout, Run
from saccade.random import stream
from saccade.recipes.recognition.sketch_flops.distillation import Distillation, EmbedderTraining
from saccade.recipes.recognition.sketch_flops.networks import Embedder, FlopMeter, blank
from saccade.recipes.recognition.sketch_flops.retrieval import distances
from saccade.recipes.recognition.sketch_flops.selector import (
    CategoricalPolicy,
    ComputeCost,
    Selector,
    SelectorReward,
)
from saccade.recipes.recognition.sketch_flops.task import (
    RetrievalTask,
    SelectorEvaluation,
    beside_photo,
    canvas_metrics,
)
from saccade.training.claims import Claim, Scores, WarmStartedArm
from saccade.training.loop import fit
from saccade.training.settings import AdamW, Batch, Flat, Schedule
from saccade.worlds.sketches import SketchPairs, load_sketch


@dataclass(frozen=True)
class Settings:
    """SketchyNet; the defaults are the embedded world's. Schedule, batch and optimizer are the selector's."""

    schedule: Flat[Schedule] = Schedule(steps=400, evaluate_every=100, save_every=100, log_every=10)
    batch: Flat[Batch] = Batch(prompts_per_step=32, group_size=8, micro_rows=256)
    seed: int = 0
    """Seed of objects, sketches, initial weights and choices."""
    task: RetrievalTask = RetrievalTask()
    teacher: EmbedderTraining = EmbedderTraining("large", steps=300)
    student: EmbedderTraining = EmbedderTraining("small", 800, optim=AdamW(lr=2e-3, weight_decay=0.01, warmup=40))
    embedding_size: Count = 64
    """Numbers in an embedding; 0 takes the network's averaged features."""
    distillation: Distillation = Distillation()
    method: Literal["distilled", "triplets"] = "distilled"
    """What the student learns from: triplets and the teacher's distances, or triplets alone (control experiment)."""
    device: str = "auto"
    """Device of the embedding networks: cpu, cuda or auto."""
    selector: Selector = Selector()
    reward: SelectorReward = SelectorReward()
    advantage: Literal["group", "batch", "greedy", "none"] = "group"
    """Baseline of a choice's reward: mean of the sketch's group or of the batch, the greedy choice, or none (paper)."""
    grpo: GRPO = GRPO(std="none", clip=math.inf)
    optim: AdamW = AdamW(lr=3e-3)


_TINY = Settings()
_REAL_EMBEDDER = EmbedderTraining(
    "torchvision:vgg16", 60_000, batch_size=16, optim=AdamW(lr=1e-4, weight_decay=0.01, warmup=3000)
)
PRESETS = {
    "tiny": _TINY,
    "shoe-v2": replace(
        _TINY,
        schedule=Schedule(steps=5_000, evaluate_every=1_000, save_every=1_000, log_every=10),
        batch=replace(_TINY.batch, prompts_per_step=16),
        task=RetrievalTask(
            pairs="shoe_train.jsonl",
            held_out="shoe_test.jsonl",
            size=256,
            canvases=(32, 64, 128, 256),
            stroke_width=0.01,
            selector_size=300,
        ),
        teacher=_REAL_EMBEDDER,
        student=replace(_REAL_EMBEDDER, network="torchvision:mobilenet_v2"),
        embedding_size=0,
        selector=Selector(width=128),
        reward=replace(_TINY.reward, distractors=200),
        optim=AdamW(lr=1e-4),
    ),
}


def policies(cfg: Settings) -> dict[str, Any]:
    """The selector of canvases, and the student that embeds what is drawn on them."""
    policy = cfg.selector.build(cfg.task.canvases, cfg.task.strokes, 5, cfg.seed)
    return {"policy": policy, "student": cfg.student.build(cfg.embedding_size, stream(cfg.seed, "student"), cfg.device)}


def train(cfg: Settings, run: Run) -> dict[str, dict[str, float]]:
    """Train teacher, student and selector. Returns the scores of held-out sketches before and after the last stage."""
    built = policies(cfg)
    policy, student = built["policy"], built["student"]
    pairs, selector_pairs = cfg.task.training(cfg.seed)
    teacher_seed = stream(cfg.seed, "teacher")
    teacher = cfg.teacher.build(cfg.embedding_size, teacher_seed, cfg.device)
    loss = cfg.distillation.triplets(teacher, cfg.task, pairs, (cfg.task.full,))
    cfg.teacher.fit(teacher, loss, cfg.task, pairs, run.stage("teacher"), teacher_seed)

    if cfg.method == "distilled":
        loss = cfg.distillation.loss(student, teacher, cfg.task, pairs)
    else:
        loss = cfg.distillation.triplets(student, cfg.task, pairs, cfg.task.canvases)
    cfg.student.fit(student, loss, cfg.task, pairs, run.stage(cfg.method), stream(cfg.seed, "training the student"))

    collect = collector(cfg, policy, student, selector_pairs)
    update = cfg.optim.update("selector", cfg.grpo.loss(policy), policy.trained)
    return fit(
        cfg.batch.feed(selector_pairs.problems(), collect, cfg.seed),
        cfg.batch.learner(update),
        run,
        cfg.schedule,
        state={"policy": policy, "student": student},
        evaluate=evaluation_beside_teacher(cfg.task, policy, student, teacher, run),
    )


def collector(cfg: Settings, policy: CategoricalPolicy, student: Embedder, pairs: SketchPairs) -> Collect:
    """What the bandit does in a step: choose canvases, reward them in the frozen student's gallery, take advantages."""
    gallery = cfg.task.search(student, pairs, distractors=cfg.reward.distractors, margin=cfg.distillation.margin)
    flops = FlopMeter(student, blank)
    reward = cfg.reward.function(gallery, ComputeCost({canvas: flops(canvas) for canvas in cfg.task.canvases}))

    def collect(problems: Sequence[Problem], seeds_P: Tensor, step: int) -> Rollout:
        rollout = cfg.batch.groups(policy.rollout, problems, seeds_P)
        rollout.rewards["total"] = reward(rollout)
        rollout.advantage_BT = rollout.broadcast(advantage(cfg, policy, rollout, reward))
        return rollout

    return collect


def advantage(cfg: Settings, policy: CategoricalPolicy, rollout: Rollout, reward: Reward) -> Tensor:
    """Total reward of each choice minus the baseline ``[B]``."""
    total_B = rollout.rewards["total"]
    match cfg.advantage:
        case "group":
            return cfg.grpo.advantage(total_B, rollout.group_B)
        case "batch":
            return cfg.grpo.advantage(total_B, torch.zeros_like(rollout.group_B))
        case "greedy":
            greedy = policy.greedy().rollout(rollout.problems, rollout.extras["seed_B"])
            greedy.group_B = rollout.group_B
            return total_B - reward(greedy)
        case "none":
            return total_B


def evaluation_beside_teacher(
    task: RetrievalTask, policy: CategoricalPolicy, student: Embedder, teacher: Embedder, run: Run
) -> Callable[[int], ProblemScores] | None:
    """An evaluation of the selector with the teacher's score and cost; None without held-out pairs."""
    pairs = task.held_out_problems()
    if pairs is None:
        return None
    evaluation = SelectorEvaluation(task, policy, student, pairs)
    accuracy = canvas_metrics(task.search(teacher, pairs, (task.full,)))["acc@1"]
    of_teacher = {"acc@1, teacher": accuracy, "MFLOPs, teacher": FlopMeter(teacher, blank)(task.full) / 1e6}
    return lambda step: evaluation.scores(run, step) | of_teacher


def evaluate(cfg: Settings, policies: Mapping[str, Any]) -> ProblemScores:
    """Scores of the held-out sketches, each on the canvas that the selector picks."""
    pairs = cfg.task.held_out_problems()
    return SelectorEvaluation(cfg.task, policies["policy"], policies["student"], pairs).scores() if pairs else {}


def sample(cfg: Settings, policies: Mapping[str, Any], prompts: Sequence[str], seeds_B: Tensor) -> list[dict]:
    """For each sketch file (.npy or .svg) the canvas picked and the nearest held-out photo.

    ValueError without held-out photos.
    """
    pairs, student = cfg.task.held_out_problems(), policies["student"]
    if pairs is None:
        raise ValueError("there are no photos to search: set held_out to a file of pairs")
    problems = [Problem(i, load_sketch(Path(prompt)), source=prompt) for i, prompt in enumerate(prompts)]
    rollout = policies["policy"].greedy().rollout(problems, seeds_B)
    gallery_MD, items = cfg.task.gallery(student, pairs), []
    for problem, canvas in zip(problems, rollout.outputs):
        query_1D = cfg.task.embed_sketches(student, [problem], canvas)
        photo = pairs.pixels(distances(query_1D, gallery_MD).argmin(1))[0]
        items.append(beside_photo(cfg.task, problem, canvas, photo) | {"prompt": problem.source})
    return items


ARMS = {
    "SketchyNet": _TINY,
    "triplets alone": WarmStartedArm("SketchyNet", replace(_TINY, method="triplets")),
}


def at_full(scores: Scores) -> float:
    """acc@1 of the student on the full canvas."""
    return scores[f"acc@1, {_TINY.task.full} px"]


CLAIMS = (
    Claim(
        "the student needs at most a tenth of the teacher's operations",
        lambda arm: 0.1 - arm["SketchyNet"][f"MFLOPs, {_TINY.task.full} px"] / arm["SketchyNet"]["MFLOPs, teacher"],
        origin="sanity",
    ),
    Claim(
        "and its acc@1 is above that of a student trained with triplets alone",
        lambda arm: at_full(arm["SketchyNet"]) - at_full(arm["triplets alone"]),
    ),
    Claim(
        "the selector needs at most half of the student's operations, its own included",
        lambda arm: 0.5 - arm["SketchyNet"]["MFLOPs"] / arm["SketchyNet"][f"MFLOPs, {_TINY.task.full} px"],
    ),
    Claim(
        "and loses at most 1.5 points",
        lambda arm: arm["SketchyNet"]["acc@1"] + 0.015 - at_full(arm["SketchyNet"]),
        tolerance="the paper's loss of accuracy at half of the operations",
    ),
    Claim(
        "its choices find more than the same choices permuted at random",
        lambda arm: arm["SketchyNet"]["acc@1"] - arm["SketchyNet"]["acc@1, shuffled choice"],
        least=1e-6,  # a choice that is always the same has exactly 0
        origin="design",
    ),
)
