"""A task for a model that draws: prompts to train on, prompts kept back, and the rewards that judge a picture.

The one place where worlds and rewards meet, between their floor and the recipes.
"""

from __future__ import annotations

import difflib
import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from saccade.core import Problem, Reward, Rollout, Sampler, seeds
from saccade.rewards import ocr, pictures
from saccade.rewards.judging import judge, per_tag
from saccade.worlds import shapes
from saccade.worlds.shapes import rewards as shape_rewards

REWARDS: dict[str, Reward] = {
    "geneval": shape_rewards.points,
    "geneval_strict": shape_rewards.correct,
    "ocr": shape_rewards.ocr,
    "rapidocr": ocr.similarity,
    "sharpness": pictures.sharpness,
    "diversity": pictures.diversity,
}
"""Rewards by the names of the command line; any other is ``FILE.py:FUNCTION``."""

Show = Callable[[str, list[dict]], None]

MONITORS = ("sharpness", "diversity")
"""Never trained on unless asked for, always measured."""

STRICT = {"geneval": "geneval_strict"}
"""Rewards that give part marks, and what they stand for: measured beside them, so that gaming the marks is seen."""


def reward(name: str) -> Reward:
    """A reward by its name or as ``FILE.py:FUNCTION``. ValueError, with the nearest name, if there is none."""
    if name in REWARDS:
        return REWARDS[name]
    file, _, function = name.rpartition(":")
    if file.endswith(".py"):
        return _from_file(Path(file), function)
    close = difflib.get_close_matches(name, REWARDS, n=1, cutoff=0.0)
    raise ValueError(f"unknown reward '{name}'; nearest: {close[0]}; any other is FILE.py:FUNCTION")


def _from_file(file: Path, function: str) -> Reward:
    if not file.is_file():
        raise ValueError(f"reward file '{file}' does not exist")
    spec = importlib.util.spec_from_file_location(file.stem, file)
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise ValueError(f"reward file '{file}' cannot be run: {type(error).__name__}: {error}") from error
    if not callable(getattr(module, function, None)):
        raise ValueError(f"reward file '{file}' has no function '{function}'")
    return getattr(module, function)


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

    def kept_back(self) -> dict[str, list[Problem]]:
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

    def score(self, draw: Sampler, show: Show | None = None, rows: int = 128) -> dict[str, float]:
        """Mean reward of each set of kept-back prompts, and the monitors over all; always the same prompts and seeds.

        ``draw`` makes one picture a prompt. ``show`` is given some pictures of each set with their scores.
        """
        scores: dict[str, float] = {}
        monitored: list[Rollout] = []
        for name, problems in self.kept_back().items():
            parts = [
                draw(problems[i : i + rows], seeds(54_321, len(problems))[i : i + rows])
                for i in range(0, len(problems), rows)
            ]
            rewards = torch.cat([self.judge(part) for part in parts])
            scores[name] = float(rewards.nanmean())
            if twin := STRICT.get(self.rewards[0]):
                scores[f"{name}, strict"] = float(torch.cat([reward(twin)(part) for part in parts]).nanmean())
            monitored += parts
            if show:
                show(name, exhibits(parts[0], rewards))
        for name in MONITORS[:1] if monitored else ():
            scores[name] = float(torch.cat([part.rewards[name] for part in monitored]).nanmean())
        return scores

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


def pictures_of(draw: Sampler, prompts: Sequence[str], seeds_B: Tensor) -> list[dict]:
    """One picture for each prompt, as `saccade sample` shows them: prompt, image."""
    drawn = draw([Problem(i, prompt) for i, prompt in enumerate(prompts)], seeds_B)
    return [{"prompt": prompt, "image": picture} for prompt, picture in zip(prompts, drawn.outputs)]


def exhibits(rollout: Rollout, rewards_B: Tensor, count: int = 16) -> list[dict]:
    """The first pictures of a rollout as a run shows them: prompt, image, score."""
    return [
        {"prompt": str(p.inputs), "image": picture, "score": float(r)}
        for p, picture, r in zip(rollout.problems[:count], rollout.outputs, rewards_B)
    ]


def _judged_groups(reward_B: Tensor, group_B: Tensor) -> set[int]:
    return set(group_B[reward_B.isfinite()].tolist())
