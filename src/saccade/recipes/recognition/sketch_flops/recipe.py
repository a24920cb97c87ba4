"""SketchyNet: a small network that finds a sketch's photo, and a policy that draws each sketch no larger than it must
be.

paper: Sketch Down the FLOPs: Towards Efficient Networks for Human Sketch, arXiv 2505.23763.
idea: A light student learns a teacher's distances between sketch and photos, averaged over canvases of several sizes.
    Then a GRU reads the strokes and picks the canvas that the sketch is drawn on: a bandit, rewarded for the rank of
    the right photo and charged for what the canvas costs the student.
claims: At most a tenth of the teacher's operations, the distilled student finds 2 points more than one taught by
    triplets alone; the selector halves the operations at a loss of at most 1.5 points; and its choice finds more than
    the same choices dealt out at random.
differs: A made world of objects and sketches; the embedders are learnt from scratch, the teacher is a plain
    convolutional network. Every other photo of a batch is a negative, the triplet term is the mean over those within
    the margin. Choosing is learnt from objects that the embedders never saw (those that they saw are found too easily),
    with the rank taken in random galleries as large as the test's. Eight choices for each sketch are compared with one
    another, where the paper has one and no baseline. Weights of the rewards are ours, the paper gives none; -log pi,
    lightly weighted, keeps the choice open; the margin reward is its mean over the gallery. A selector is trained on
    the student of triplets alone, too. In the check it settles on one canvas for every sketch, for every weight of
    compute from 0.06 to 0.2: all families of this world gain about alike from a larger canvas, so there is little to
    choose by.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from saccade.algorithms.grpo import PolicyGradient
from saccade.core import Collect, Problem, Rollout
from saccade.math.advantages import group_advantage
from saccade.recipes.recognition.sketch_flops.compute import Outlay, Search, surprise
from saccade.recipes.recognition.sketch_flops.distillation import Matching, embedding
from saccade.recipes.recognition.sketch_flops.embedder import Embedder, Meter, embedder
from saccade.recipes.recognition.sketch_flops.evaluation import Choosing, beside_teacher, blank, photos_for
from saccade.recipes.recognition.sketch_flops.selector import MenuPolicy, build
from saccade.recipes.recognition.sketch_flops.task import RetrievalTask
from saccade.rewards.rubric import judge, weighted
from saccade.training.claims import Claim, Following, Scores
from saccade.training.feeds import OnPolicy
from saccade.training.groups import in_groups
from saccade.training.learner import Update, Updates
from saccade.training.loop import train as run_loop
from saccade.training.run import Run


@dataclass(frozen=True)
class Settings:
    """SketchyNet; the defaults are the embedded world's."""

    task: RetrievalTask = RetrievalTask()
    teacher: str = "large"
    """The teacher's network: large, small, torchvision:NAME or timm:NAME."""
    student: str = "small"
    """The student's network."""
    dim: int = 64
    """Numbers in an embedding; 0 takes the network's own features."""
    method: Literal["distilled", "triplets"] = "distilled"
    """What the student learns from: triplets and the teacher's distances, or triplets alone (the control)."""
    device: str = "auto"
    """cpu, cuda or auto; where the embedders are."""
    seed: int = 0
    """Seed of everything: objects, sketches, first weights, choices."""
    teacher_steps: int = 300
    """Steps of the first stage."""
    teacher_lr: float = 1e-3
    """Highest learning rate of AdamW for the teacher; it falls to a twentieth."""
    student_steps: int = 800
    """Steps of the second stage."""
    student_lr: float = 2e-3
    """Highest learning rate of AdamW for the student; it falls to a twentieth."""
    batch: int = 48
    """Sketches, with their photos, in a batch of the first two stages."""
    margin: float = 0.3
    """How much nearer than other photos a sketch's own must be."""
    balance: float = 0.5
    """Weight of the triplets beside the teacher's distances, which have the rest."""
    steps: int = 400
    """Training steps of the selector."""
    sketches_per_step: int = 32
    """Sketches in a batch of the selector."""
    group: int = 8
    """Choices for each sketch in it; one in the paper."""
    width: int = 32
    """Numbers in the selector's memory."""
    lr: float = 3e-3
    """Learning rate of Adam for the selector."""
    credit: Literal["group", "batch", "greedy", "none"] = "group"
    """What a choice's reward is compared with: the mean of the sketch's choices or the batch's, the likeliest
    choice's reward, or nothing (the paper)."""
    compute_weight: float = 0.2
    """Weight of saved compute, from 0 to 1; what was found has the rest."""
    rank_weight: float = 1.0
    """Weight of 1 / rank in what was found."""
    margin_weight: float = 0.1
    """Weight of the margin in what was found."""
    surprise_weight: float = 0.01
    """Weight of -log pi, which keeps the choice open; 0 leaves it out."""
    others: int = 149
    """Other photos in the random gallery that a choice's rank is taken in; 0 takes all."""
    evaluate_every: int = 100
    save_every: int = 100


_TINY = Settings()

PRESETS = {
    "tiny": _TINY,
    "shoe-v2": replace(
        _TINY,
        task=RetrievalTask(
            "shoe_train.jsonl", "shoe_test.jsonl", size=256, canvases=(32, 64, 128, 256), stroke_width=0.01, selector_size=300,
        ),
        teacher="torchvision:vgg16", student="torchvision:mobilenet_v2", dim=0, batch=16,
        teacher_steps=60_000, teacher_lr=1e-4, student_steps=60_000, student_lr=1e-4,
        steps=5_000, sketches_per_step=16, lr=1e-4, width=128, others=200, evaluate_every=1_000, save_every=1_000,
    ),
}  # fmt: skip


def policies(cfg: Settings) -> dict[str, Any]:
    """The selector of canvases, and the student that embeds what is drawn on them."""
    selector = build(cfg.task.canvases, cfg.task.strokes, 5, cfg.width, cfg.seed)
    return {"policy": selector, "student": embedder(cfg.student, cfg.dim, cfg.seed, cfg.device)}


def train(cfg: Settings, run: Run) -> dict[str, dict[str, float]]:
    """Teacher, student, selector. Returns the scores of sketches kept back before and after the selector's training."""
    made = policies(cfg)
    policy, student = made["policy"], made["student"]
    learnt, choice = cfg.task.training(cfg.seed)
    teacher = embedder(cfg.teacher, cfg.dim, cfg.seed, cfg.device)
    alone = Matching(teacher, cfg.task.draw, learnt.pixels, (cfg.task.full,), cfg.margin)
    stage = run.stage("teacher")
    embedding(cfg.task, teacher, alone, learnt, stage, cfg.teacher_steps, cfg.teacher_lr, cfg.batch, cfg.seed)

    matched = replace(alone, embed=student, canvases=cfg.task.canvases)
    if cfg.method == "distilled":
        taught = cfg.task.queries(teacher, learnt, cfg.task.full), cfg.task.gallery(teacher, learnt)
        matched = replace(matched, balance=cfg.balance, teacher=taught)
    stage = run.stage(cfg.method)
    embedding(cfg.task, student, matched, learnt, stage, cfg.student_steps, cfg.student_lr, cfg.batch, cfg.seed)

    search = cfg.task.search(student, choice, others=cfg.others, margin=cfg.margin)
    look = beside_teacher(cfg.task, policy, student, teacher, run)
    update = Update(
        "choices", PolicyGradient(policy, clip=math.inf), policy.trained, torch.optim.Adam(policy.trained, lr=cfg.lr)
    )
    return run_loop(
        OnPolicy(choice.problems(), collector(cfg, policy, student, search), cfg.sketches_per_step, cfg.seed),
        Updates([update]),
        run,
        cfg.steps,
        state={"policy": policy, "student": student},
        evaluate=look,
        evaluate_every=cfg.evaluate_every,
        save_every=cfg.save_every,
        log_every=10,
    )


def collector(cfg: Settings, policy: MenuPolicy, student: Embedder, search: Search) -> Collect:
    """What a step of the bandit does: choose, judge against the frozen search, give credit."""
    cost, bring = Meter(student, blank), 1 - cfg.compute_weight
    outlay = Outlay({canvas: cost(canvas) for canvas in cfg.task.canvases})
    rewards = {"found": search.found, "clear": search.clear, "outlay": outlay, "surprise": surprise}
    weights = {
        "found": bring * cfg.rank_weight, "clear": bring * cfg.margin_weight, "outlay": cfg.compute_weight,
        "surprise": cfg.surprise_weight,
    }  # fmt: skip

    def judged(rollout: Rollout) -> Tensor:
        return weighted(judge(rollout, rewards).rewards, weights)

    def collect(problems: Sequence[Problem], seeds_P: Tensor, step: int) -> Rollout:
        rollout = in_groups(policy.rollout, problems, seeds_P, cfg.group)
        reward_B = rollout.rewards["total"] = judged(rollout)
        match cfg.credit:
            case "group":
                reward_B = group_advantage(reward_B, rollout.group_B, scale="none")
            case "batch":
                reward_B = group_advantage(reward_B, torch.zeros_like(rollout.group_B), scale="none")
            case "greedy":
                greedy = policy.greedy().rollout(rollout.problems, rollout.extras["seed_B"])
                greedy.group_B = rollout.group_B
                reward_B = reward_B - judged(greedy)
        rollout.advantage_BT = rollout.credit(reward_B)
        return rollout

    return collect


def evaluate(cfg: Settings, policies: Mapping[str, Any]) -> dict[str, float]:
    """Scores of the sketches kept back, each on the canvas that the selector picks."""
    pairs = cfg.task.kept_back()
    return Choosing(cfg.task, policies["policy"], policies["student"], pairs).scores() if pairs else {}


def sample(cfg: Settings, policies: Mapping[str, Any], prompts: Sequence[str], seeds_B: Tensor) -> list[dict]:
    """For each sketch file (.npy or .svg) the canvas picked, and the nearest photo of those kept back."""
    return photos_for(cfg.task, policies["policy"], policies["student"], prompts, seeds_B)


ARMS = {
    "SketchyNet": _TINY,
    "triplets alone": Following("SketchyNet", replace(_TINY, method="triplets")),
}


def at_full(scores: Scores) -> float:
    """acc@1 of the student on the full canvas."""
    return scores[f"acc@1, {_TINY.task.full} px"]


CLAIMS = (
    Claim(
        "the student needs at most a tenth of the teacher's operations",
        lambda arm: 0.1 - arm["SketchyNet"][f"MFLOPs, {_TINY.task.full} px"] / arm["SketchyNet"]["MFLOPs, teacher"],
    ),
    Claim(
        "and finds 2 points more at first than a student taught by triplets alone",
        lambda arm: at_full(arm["SketchyNet"]) - at_full(arm["triplets alone"]),
        least=0.02,
    ),
    Claim(
        "the selector needs at most half of the student's operations, its own included",
        lambda arm: 0.5 - arm["SketchyNet"]["MFLOPs"] / arm["SketchyNet"][f"MFLOPs, {_TINY.task.full} px"],
    ),
    Claim(
        "and loses at most 1.5 points",
        lambda arm: arm["SketchyNet"]["acc@1"] + 0.015 - at_full(arm["SketchyNet"]),
    ),
    Claim(
        "its choices find more than the same choices dealt out at random",
        lambda arm: arm["SketchyNet"]["acc@1"] - arm["SketchyNet"]["acc@1, shuffled choice"],
        least=1e-6,  # a choice that is always the same has exactly 0
    ),
)
