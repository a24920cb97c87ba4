"""SSL4RL: GRPO on self-supervised puzzles about pictures, whose answers are known without a label.

paper: SSL4RL: Revisiting Self-supervised Learning as Intrinsic Reward for Visual-Language Reasoning, arXiv 2510.16416.
idea: A picture is turned, cut or changed and the model asked what was done, so the answer is known without a label:
    rotation, position of a part, jigsaw, same or another picture under strong changes. GRPO on the exact answer
    (jigsaw: share of correct places) is to improve perception, which is measured on questions that are never trained
    on.
claims: The best single task, chosen on validation questions, answers 2 points more of the test questions than the
    untrained model, and than GRPO on random rewards; all tasks mixed add no more than 1 point to it; a jigsaw of 2 x 2
    pieces helps at least as much as one of 3 x 3, which is too hard.
differs: Puzzles and test questions are about different pictures (the release trains on the benchmarks' own pictures).
    Pictures are squares, so a turn does not show in their shape. The jigsaw's question states the form of its answer. A
    minibatch holds some samples of every question, where the release's holds all samples of some. One arm of random
    rewards, on all tasks, is the control of every single one. The check has 5 samples of 24 puzzles a step, as the
    release has 5; its design has 8 of 16; it has 40 steps. The miniature was not pretrained on puzzles and begins at
    chance, where pilots of 80 steps stayed (learning rate 3e-4, one seed: rotation 0.25 before and after, contrast 0.48
    and 0.50). In the check only position rises above chance (0.17 before, 0.29 after), and no task raises the answers
    to test questions by 0.01.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from torch import Tensor

from saccade.algorithms.grpo import GRPO
from saccade.core import Problem, ProblemScores, Rollout, Run
from saccade.evaluation.templates import Template, has_answer_tags, prompt_template
from saccade.math.advantages import random_rewards
from saccade.models.snapshot import Snapshot
from saccade.policies.token_presets import QWEN25_VL_3B
from saccade.policies.tokens import TokenModel, TokenPolicy, build_token_policy
from saccade.recipes.visual_reasoning.ssl4rl.transfer import TransferTask, score
from saccade.rewards.rubric import judge
from saccade.rewards.text.answers import DispatchByType
from saccade.training.claims import Arms, Claim, Precondition, Scores, gain
from saccade.training.loop import fit
from saccade.training.settings import AdamW, Batch, Flat, Schedule
from saccade.worlds.puzzles.task import PUZZLE_NAMES, PuzzleTask
from saccade.worlds.questions import task


@dataclass(frozen=True)
class Settings:
    """SSL4RL; the defaults are the embedded miniature's, on all four tasks."""

    schedule: Flat[Schedule] = Schedule(steps=80, evaluate_every=40, save_every=40)
    batch: Flat[Batch] = Batch(prompts_per_step=24, group_size=5, micro_rows=120)
    seed: int = 0
    """Seed of pictures, puzzles, sampled tokens and initial LoRA weights."""
    model: TokenModel = TokenModel(max_new_tokens=24)
    task: PuzzleTask = PuzzleTask()
    transfer: TransferTask = TransferTask()
    template: Template = "plain"
    """Form of the answer that the prompt asks for: plain, in answer tags, or thoughts and answer in tags."""
    grpo: GRPO = GRPO(std_eps=1e-6, unbiased_std=True, surrogate="dual_clipped", beta=0.01)
    optim: AdamW = AdamW(lr=1e-4, weight_decay=0.01, warmup=5)
    random_rewards: bool = False
    """Control experiment: rewards of 0 or 1 at random, so that nothing about pictures can be learned."""


_TINY = Settings()
_REAL = Settings(
    schedule=Schedule(steps=300, evaluate_every=50, save_every=50),
    batch=Batch(prompts_per_step=512, group_size=5, minibatches=4, micro_rows=8),
    model=replace(QWEN25_VL_3B, max_new_tokens=2048, train_vision=True),
    task=PuzzleTask(("rotation",), images="images", size=448, min_side=28, train_size=8192, held_out_size=512),
    transfer=TransferTask("benchmark.jsonl"),
    template="think",
    optim=AdamW(lr=1e-6, weight_decay=0.01, warmup=1),
)
PRESETS = {
    "tiny": _TINY,
    **{f"qwen25-vl-3b-{name}": replace(_REAL, task=replace(_REAL.task, puzzles=(name,))) for name in PUZZLE_NAMES},
    "qwen25-vl-3b-mixed": replace(_REAL, task=replace(_REAL.task, puzzles=PUZZLE_NAMES)),
}


def policies(cfg: Settings) -> dict[str, TokenPolicy]:
    """The model that answers."""
    return {"policy": build_token_policy(cfg.model, prompt_template(cfg.template), cfg.seed)}


def train(cfg: Settings, run: Run) -> dict[str, dict[str, float]]:
    """Train on puzzles, evaluate, save. Returns the scores of held-out puzzles and questions before and after."""
    sets, policy = held_out_problems(cfg), policies(cfg)["policy"]
    reference = Snapshot(policy.trained)

    def collect(problems: Sequence[Problem], seeds_P: Tensor, step: int) -> Rollout:
        rollout = cfg.batch.groups(policy.rollout, problems, seeds_P)
        reward = correctness(cfg, rollout)
        if cfg.random_rewards:
            reward = random_rewards(seeds_P, cfg.batch.group_size)
        rollout.rewards["total"] = reward
        rollout.advantage_BT = rollout.broadcast(cfg.grpo.advantage(reward, rollout.group_B))
        return cfg.grpo.with_reference(rollout, policy, reference, cfg.batch.micro_rows)

    update = cfg.optim.update("words", cfg.grpo.loss(policy, cfg.model.max_new_tokens), policy.trained)
    return fit(
        cfg.batch.feed(cfg.task.training(cfg.seed), collect, cfg.seed),
        cfg.batch.learner(update),
        run,
        cfg.schedule,
        state={"policy": policy, "reference": reference},
        evaluate=lambda step: score(sets, policy.greedy().rollout, partial(correctness, cfg), run.show(step)),
    )


def correctness(cfg: Settings, rollout: Rollout) -> Tensor:
    """How correct each answer is ``[B]``: 0 or 1, for lists the share of correct places; kept as ``rewards["right"]``.

    Where the template has answer tags, an answer without them is wrong.
    """
    return judge(rollout, {"right": DispatchByType(has_answer_tags(cfg.template))}).rewards["right"]


def held_out_problems(cfg: Settings) -> dict[str, Sequence[Problem]]:
    """Problems that are never trained on: puzzles about other pictures, validation and test questions."""
    return {"puzzles": cfg.task.held_out_problems()} | cfg.transfer.splits()


def evaluate(cfg: Settings, policies: Mapping[str, TokenPolicy]) -> ProblemScores:
    """The scores of held-out puzzles and questions, answered greedily."""
    return score(held_out_problems(cfg), policies["policy"].greedy().rollout, partial(correctness, cfg))


sample = task.sample


_CHECK = replace(_TINY, schedule=Schedule(steps=40, evaluate_every=40, save_every=40))
SINGLES = {
    "rotation": replace(_CHECK, task=PuzzleTask(("rotation",))),
    "position": replace(_CHECK, task=PuzzleTask(("position",))),
    "jigsaw2": replace(_CHECK, task=PuzzleTask(("jigsaw",))),
    "contrast": replace(_CHECK, task=PuzzleTask(("contrast",))),
}
"""The arms of one task each, of which the best is chosen."""
ARMS = {
    **SINGLES,
    "jigsaw3": replace(_CHECK, task=PuzzleTask(("jigsaw",), grid=3)),
    "mixed": _CHECK,
    "random rewards": replace(_CHECK, random_rewards=True),
}


def best(arm: Arms) -> Scores:
    """Scores of the single task that does best on the validation questions."""
    return arm[max(SINGLES, key=lambda name: arm[name]["downstream, validation"])]


LEARNED = Precondition("the best single task's puzzles gain 10 points", lambda arm: gain(best(arm), "solved") - 0.10)
CLAIMS = (
    Claim(
        "the best single task, chosen on validation questions, answers more of the test questions than untrained",
        lambda arm: gain(best(arm), "downstream"),
        requires=(LEARNED,),
    ),
    Claim(
        "and more than GRPO on random rewards",
        lambda arm: best(arm)["downstream"] - arm["random rewards"]["downstream"],
        requires=(LEARNED,),
    ),
    Claim(
        "all tasks mixed gain no more than 1 point over it",
        lambda arm: best(arm)["downstream"] + 0.01 - arm["mixed"]["downstream"],
        tolerance="the paper finds no gain from mixing: a point is the spread of seeds",
        requires=(LEARNED,),
    ),
    Claim(
        "a jigsaw of 2 x 2 pieces helps at least as much as one of 3 x 3",
        lambda arm: arm["jigsaw2"]["downstream"] - arm["jigsaw3"]["downstream"],
        tolerance="the paper finds the easier puzzle at least as good",
        requires=(LEARNED,),
    ),
)
