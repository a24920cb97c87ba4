"""The drawing task: prompts to train on, held-out prompts, and the rewards that judge pictures."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from saccade.config import Count
from saccade.core import LogSamples, Problem, ProblemScores, Rollout, Sampler
from saccade.evaluation.scoring import HELD_OUT_SEED, logged_samples, score
from saccade.rewards.registry import reward, why_none
from saccade.rewards.rubric import judge, per_tag
from saccade.worlds import shapes
from saccade.worlds.shapes.rewards import by_tag

MONITORS = ("sharpness", "diversity")
"""Rewards that are always measured, and trained on only if they are named."""

STRICT = {"shapes": "shapes_strict"}
"""Rewards with partial credit, and the all-or-nothing reward that is measured beside each, to show reward hacking."""


@dataclass(frozen=True)
class DrawingTask:
    """Which prompts are drawn, and which rewards judge the pictures."""

    prompts: str = "shapes"
    """Training prompts: shapes (the embedded world), or a file: GenEval's JSONL, or text with one prompt a line."""
    held_out: str = ""
    """File of held-out prompts; the embedded world has held-out meanings and wordings instead."""
    rewards: tuple[str, ...] = ("shapes",)
    """Names of the rewards; with several, each prompt is judged by the first reward that can judge it."""
    wordings: str = "terse"
    """Wordings of training prompts in the embedded world: terse, descriptive or all."""
    tags: tuple[str, ...] = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
    """Kinds of prompts in the embedded world: GenEval's six tags, and "text"."""
    train_size: Count = 2048
    """Number of training prompts sampled from the embedded world."""
    held_out_size: Count = 96
    """Number of held-out prompts of the embedded world, in each wording."""
    held_out_seed: int = HELD_OUT_SEED
    """Seed of the held-out problems of the embedded world; a check draws others for every training seed."""

    def examine(self) -> None:
        """ValueError for rewards that are unknown, lack a package or can judge no prompt, before models are loaded.

        Warns where nothing will be evaluated.
        """
        rewards = {name: reward(name) for name in self.rewards}
        for each in rewards.values():
            getattr(each, "ready", lambda: None)()
        if self.prompts == "shapes":
            return
        sets = {"prompts": self.training(0), **self.held_out_problems()}
        for place, problems in sets.items():
            reasons = {name: why_none(each, problems) for name, each in rewards.items()}
            if all(reasons.values()):
                name, reason = next(iter(reasons.items()))
                many = f"none of {len(problems)} prompts" if len(problems) > 1 else "the prompt"
                raise ValueError(f"reward '{name}' can judge {many} of --{place.replace(' ', '-')}: {reason}")
        if not self.held_out:
            warnings.warn("no --held-out prompts are given: nothing is evaluated", stacklevel=2)

    def training(self, seed: int) -> list[Problem]:
        """The prompts to train on."""
        if self.prompts != "shapes":
            return shapes.load_prompts(self.prompts)
        return shapes.sample_problems(self.train_size, seed, self.tags, self._wordings(shapes.TRAIN_WORDINGS), "train")

    def held_out_problems(self) -> dict[str, list[Problem]]:
        """Prompts that are never trained on, by name of the set; sets of the embedded world share their meanings."""
        if self.prompts != "shapes":
            return {"held out": shapes.load_prompts(self.held_out)} if self.held_out else {}
        sets = {"held out": self._wordings(shapes.TRAIN_WORDINGS), "paraphrase": shapes.HELD_OUT_WORDINGS}
        return {
            name: shapes.sample_problems(self.held_out_size, self.held_out_seed, self.tags, wordings, "held_out")
            for name, wordings in sets.items()
        }

    def judge(self, rollout: Rollout) -> Tensor:
        """Fill ``rollout.rewards`` with the rewards and monitors; returns the reward to train on ``[B]``."""
        names = tuple(dict.fromkeys((*self.rewards, *MONITORS)))
        judge(rollout, {name: reward(name) for name in names}, may_abstain=names if len(self.rewards) > 1 else MONITORS)
        return per_tag(rollout.rewards, self.assigned_rewards(rollout))

    def score(self, sampler: Sampler, log: LogSamples | None = None, rows: int = 128) -> ProblemScores:
        """Reward of each held-out prompt by set, and the sharpness; prompts and seeds are always the same.

        ``sampler`` makes one picture of each prompt, ``rows`` at a time. ``log`` is given some pictures of each set
        with their scores.
        """
        sets = score(self.held_out_problems(), sampler, self.judge, rows)
        if log:
            for name, (parts, reward_B) in sets.items():
                log(name, logged_samples(parts[0], reward_B))
        scores: ProblemScores = {name: reward_B for name, (_, reward_B) in sets.items()}
        if strict := STRICT.get(self.rewards[0]):
            strict_B = {name: torch.cat([reward(strict)(part) for part in parts]) for name, (parts, _) in sets.items()}
            scores |= {f"{name}, strict": reward_B for name, reward_B in strict_B.items()}
        if sets:
            parts = [part for found, _ in sets.values() for part in found]
            scores["sharpness"] = torch.cat([part.rewards["sharpness"] for part in parts])
        return scores

    def score_by_tag(self, sampler: Sampler) -> ProblemScores:
        """The scores of `score`, and the mean of the first reward for each tag over all sets."""
        rollouts: list[Rollout] = []

        def collect(problems: Sequence[Problem], seeds_B: Tensor) -> Rollout:
            rollouts.append(sampler(problems, seeds_B))
            return rollouts[-1]

        scores = self.score(collect)
        reward_B = torch.cat([rollout.rewards[self.rewards[0]] for rollout in rollouts])
        tags = by_tag(reward_B, [problem for rollout in rollouts for problem in rollout.problems])
        return scores | {f"tag {tag}": value for tag, value in tags.items()}

    def assigned_rewards(self, rollout: Rollout) -> list[str]:
        """The name of the reward that judges each row: the first one that is finite for any sample of its group."""
        if len(self.rewards) == 1:
            return [self.rewards[0]] * len(rollout)
        judged = {name: _judged_groups(rollout.rewards[name], rollout.group_B) for name in self.rewards}
        first = lambda group: next((name for name in self.rewards if group in judged[name]), self.rewards[0])
        return [first(group) for group in rollout.group_B.tolist()]

    def _wordings(self, known: Sequence[int]) -> list[int]:
        if self.wordings not in ("terse", "descriptive", "all"):
            raise ValueError(f"unknown wordings '{self.wordings}': one of terse, descriptive, all")
        return [w for w in known if self.wordings in ("all", shapes.style(w))]


OCR = DrawingTask(prompts="ocr_train.txt", held_out="ocr_test.txt", rewards=("rapidocr",))
"""Files of prompts that ask for words in a picture, judged by rapidocr."""


def pictures_of(sampler: Sampler, prompts: Sequence[str], seeds_B: Tensor) -> list[dict[str, Any]]:
    """One picture of each prompt, as `saccade sample` shows them: prompt, image."""
    rollout = sampler([Problem(i, prompt) for i, prompt in enumerate(prompts)], seeds_B)
    return [{"prompt": prompt, "image": picture} for prompt, picture in zip(prompts, rollout.outputs)]


def evaluate(cfg: Any, policies: Mapping[str, Any]) -> ProblemScores:
    """Evaluation of a recipe: scores of held-out prompts by greedy sampling; prompts and seeds are always the same."""
    return cfg.task.score(policies["policy"].greedy().rollout)


def sample(cfg: Any, policies: Mapping[str, Any], prompts: Sequence[str], seeds_B: Tensor) -> list[dict[str, Any]]:
    """Samples of a recipe: one picture of each prompt."""
    return pictures_of(policies["policy"].greedy().rollout, prompts, seeds_B)


def _judged_groups(reward_B: Tensor, group_B: Tensor) -> set[int]:
    return set(group_B[reward_B.isfinite()].tolist())
