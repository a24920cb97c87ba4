"""A task for a model that draws: prompts to train on, prompts kept back, and the rewards that judge a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from saccade.core import LogSamples, Problem, Rollout, Sampler
from saccade.evaluation.scoring import logged_samples, score
from saccade.rewards.registry import reward
from saccade.rewards.rubric import judge, per_tag
from saccade.worlds import shapes
from saccade.worlds.shapes.rewards import by_tag

MONITORS = ("sharpness", "diversity")
"""Never trained on unless asked for, always measured."""

STRICT = {"geneval": "geneval_strict"}
"""Rewards that give part marks, and what they stand for: measured beside them, so that gaming the marks is seen."""


@dataclass(frozen=True)
class DrawingTask:
    """What is to be drawn and who judges it."""

    prompts: str = "shapes"
    """The embedded world, or a file: GenEval's JSONL, or text with one prompt a line."""
    held_out: str = ""
    """A file of prompts kept back; the embedded world keeps back meanings and wordings of its own."""
    rewards: tuple[str, ...] = ("geneval",)
    """One reward, or several: then every prompt carries one of them as its tag (the first that can judge it)."""
    wordings: str = "terse"
    """Wordings of training prompts in the embedded world: terse, descriptive or all."""
    tags: tuple[str, ...] = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
    """Kinds of prompts in the embedded world: GenEval's six, and "text"."""
    train_size: int = 2048
    """Training prompts drawn from the embedded world."""
    held_out_size: int = 96
    """Prompts kept back, in each wording."""

    def training(self, seed: int) -> list[Problem]:
        """The prompts to train on."""
        if self.prompts != "shapes":
            return shapes.load(self.prompts)
        return shapes.problems(self.train_size, seed, self.tags, self._wordings(shapes.TRAIN_WORDINGS), "train")

    def held_out_problems(self) -> dict[str, list[Problem]]:
        """Prompts that are never trained on: by the wording they use, the same meanings in each."""
        if self.prompts != "shapes":
            return {"held out": shapes.load(self.held_out)} if self.held_out else {}
        sets = {"train wording": self._wordings(shapes.TRAIN_WORDINGS), "paraphrase": shapes.HELD_OUT_WORDINGS}
        draw = lambda wordings: shapes.problems(self.held_out_size, 12_345, self.tags, wordings, "held_out")
        return {name: draw(wordings) for name, wordings in sets.items()}

    def judge(self, rollout: Rollout) -> Tensor:
        """Fill ``rollout.rewards`` with the rewards and monitors; returns the one to train on ``[B]``."""
        names = dict.fromkeys((*self.rewards, *MONITORS))
        judge(rollout, {name: reward(name) for name in names}, may_abstain=names if len(self.rewards) > 1 else MONITORS)
        return per_tag(rollout.rewards, self.choose(rollout))

    def score(self, draw: Sampler, show: LogSamples | None = None, rows: int = 128) -> dict[str, float]:
        """Mean reward of each set of kept-back prompts, and the monitors over all; always the same prompts and seeds.

        ``draw`` makes one picture a prompt. ``show`` is given some pictures of each set with their scores.
        """
        found = score(self.held_out_problems(), draw, self.judge, rows)
        if show:
            for name, (parts, rewards_B) in found.items():
                show(name, logged_samples(parts[0], rewards_B))
        means = {name: float(rewards_B.nanmean()) for name, (_, rewards_B) in found.items()}
        if twin := STRICT.get(self.rewards[0]):
            strict = {name: torch.cat([reward(twin)(part) for part in parts]) for name, (parts, _) in found.items()}
            means |= {f"{name}, strict": float(value_B.nanmean()) for name, value_B in strict.items()}
        every = [part for parts, _ in found.values() for part in parts]
        monitored = {name: torch.cat([part.rewards[name] for part in every]) for name in MONITORS[:1] if every}
        return means | {name: float(value_B.nanmean()) for name, value_B in monitored.items()}

    def score_by_tag(self, draw: Sampler) -> dict[str, float]:
        """The same scores, and the mean of the first reward for each tag over all sets."""
        drawn: list[Rollout] = []

        def kept(problems: Sequence[Problem], seeds_B: Tensor) -> Rollout:
            drawn.append(draw(problems, seeds_B))
            return drawn[-1]

        scores = self.score(kept)
        points_B = torch.cat([rollout.rewards[self.rewards[0]] for rollout in drawn])
        tags = by_tag(points_B, [problem for rollout in drawn for problem in rollout.problems])
        return scores | {f"tag {tag}": value for tag, value in tags.items()}

    def choose(self, rollout: Rollout) -> list[str]:
        """Which reward each row's prompt is judged by: the first whose verdict exists for its group."""
        if len(self.rewards) == 1:
            return [self.rewards[0]] * len(rollout)
        able = {n: _judged_groups(rollout.rewards[n], rollout.group_B) for n in self.rewards}
        fits = lambda g: next((n for n in self.rewards if g in able[n]), self.rewards[0])
        return [fits(g) for g in rollout.group_B.tolist()]

    def _wordings(self, known: Sequence[int]) -> list[int]:
        if self.wordings not in ("terse", "descriptive", "all"):
            raise ValueError(f"unknown wordings '{self.wordings}': one of terse, descriptive, all")
        return [w for w in known if self.wordings in ("all", shapes.style(w))]


OCR = DrawingTask(prompts="ocr_train.txt", held_out="ocr_test.txt", rewards=("rapidocr",))
"""Files of prompts that ask for words in a picture, judged by what is read there."""


def pictures_of(draw: Sampler, prompts: Sequence[str], seeds_B: Tensor) -> list[dict]:
    """One picture for each prompt, as `saccade sample` shows them: prompt, image."""
    drawn = draw([Problem(i, prompt) for i, prompt in enumerate(prompts)], seeds_B)
    return [{"prompt": prompt, "image": picture} for prompt, picture in zip(prompts, drawn.outputs)]


def evaluate(cfg: Any, policies: Mapping[str, Any]) -> dict[str, float]:
    """Of a recipe: rewards of held-out prompts, drawn without noise but the first; the same prompts and noise each
    time.
    """
    return cfg.task.score(policies["policy"].greedy().rollout)


def sample(cfg: Any, policies: Mapping[str, Any], prompts: Sequence[str], seeds_B: Tensor) -> list[dict]:
    """Of a recipe: one picture for each prompt."""
    return pictures_of(policies["policy"].greedy().rollout, prompts, seeds_B)


def _judged_groups(reward_B: Tensor, group_B: Tensor) -> set[int]:
    return set(group_B[reward_B.isfinite()].tolist())
