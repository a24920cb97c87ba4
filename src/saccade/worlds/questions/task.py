"""A task for a model that answers: questions to train on, questions kept back, and the rewards that judge an answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from saccade.core import LogSamples, Problem, Question, Rollout, Sampler
from saccade.evaluation.scoring import score
from saccade.evaluation.transcripts import conversations
from saccade.rewards.registry import TEXTS, reward
from saccade.rewards.rubric import judge, weighted
from saccade.worlds import questions


@dataclass(frozen=True)
class AnsweringTask:
    """What is asked of a model that sees, and who judges its answers."""

    questions: str = "shapes"
    """The embedded world, or a file: VLM-R1's JSONL of conversations, or JSONL with image, question and answer."""
    held_out: str = ""
    """A file of questions kept back; the embedded world keeps back pictures and wordings of its own."""
    skills: tuple[str, ...] = ("color", "count", "relation", "verdict")
    """Kinds of questions in the embedded world."""
    rewards: tuple[str, ...] = ("exact",)
    """Rewards that are added up; one that has no verdict on an answer is left out there."""
    size: int = 64
    """Side of the embedded world's pictures in pixels."""
    objects: tuple[int, int] = (1, 6)
    """Least and greatest number of objects in a picture of the embedded world."""
    train_size: int = 2048
    """Training questions drawn from the embedded world."""
    held_out_size: int = 512
    """Questions kept back, of all skills together."""

    def training(self, seed: int) -> Sequence[Problem]:
        """The questions to train on."""
        return (
            self._asked(self.train_size, seed, "train")
            if self.questions == "shapes"
            else questions.load(self.questions)
        )

    def held_out_problems(self) -> dict[str, Sequence[Problem]]:
        """Questions that are never trained on."""
        if self.questions == "shapes":
            return {"held out": self._asked(self.held_out_size, 12_345, "held_out")}
        return {"held out": questions.load(self.held_out)} if self.held_out else {}

    def judge(self, rollout: Rollout) -> Tensor:
        """Fill ``rollout.rewards`` with the rewards; returns their sum ``[B]``."""
        may_abstain = self.rewards if len(self.rewards) > 1 else ()
        judge(rollout, {name: reward(name, TEXTS) for name in self.rewards}, may_abstain)
        return weighted(rollout.rewards, dict.fromkeys(self.rewards, 1.0))

    def score(self, attempt: Sampler, show: LogSamples | None = None, rows: int = 128) -> dict[str, float]:
        """Mean of each reward over the questions kept back, and of the first one for each skill."""
        scores: dict[str, float] = {}
        for name, (parts, _) in score(self.held_out_problems(), attempt, self.judge, rows).items():
            said = {each: torch.cat([part.rewards[each] for part in parts]) for each in self.rewards}
            scores |= {f"{name}, {each}": float(value_B.nanmean()) for each, value_B in said.items()}
            scores |= by_source([p for part in parts for p in part.problems], said[self.rewards[0]])
            if show:
                show(name, conversations(parts[0], said[self.rewards[0]]))
        return scores

    def _asked(self, count: int, seed: int, split: str) -> list[Problem]:
        return questions.problems(count, seed, self.skills, split, self.size, self.objects)


def answers_to(attempt: Sampler, prompts: Sequence[str], seeds_B: Tensor) -> list[dict[str, Any]]:
    """One answer to each prompt, as `saccade sample` shows them: prompt, text. A prompt may begin with picture
    files.
    """
    problems = [Problem(i, question_of(prompt)) for i, prompt in enumerate(prompts)]
    return [{"prompt": prompt, "text": text} for prompt, text in zip(prompts, attempt(problems, seeds_B).outputs)]


def evaluate(cfg: Any, policies: Mapping[str, Any]) -> dict[str, float]:
    """Of a recipe: rewards of held-out questions, answered greedily."""
    return cfg.task.score(policies["policy"].greedy().rollout)


def sample(cfg: Any, policies: Mapping[str, Any], prompts: Sequence[str], seeds_B: Tensor) -> list[dict]:
    """Of a recipe: one answer to each prompt, which may begin with picture files."""
    return answers_to(policies["policy"].greedy().rollout, prompts, seeds_B)


def question_of(prompt: str) -> Question:
    """``"a.png b.png What has changed?"`` as a question about two pictures. ValueError for a file that is no
    picture.
    """
    from PIL import Image, UnidentifiedImageError

    words, pictures = prompt.split(), []
    while len(words) > 1 and Path(words[0]).is_file():
        try:
            pictures.append(np.asarray(Image.open(words.pop(0)).convert("RGB")))
        except (UnidentifiedImageError, OSError) as error:
            raise ValueError(f"{prompt.split()[len(pictures)]} is not a readable picture: {error}") from error
    return Question(prompt.split(maxsplit=len(pictures))[-1] if pictures else prompt, tuple(pictures))


def by_source(problems: Sequence[Problem], reward_B: Tensor) -> dict[str, float]:
    """The mean reward of each set that problems came from, if there are several."""
    names = [p.source for p in problems]
    rows = {name: [i for i, n in enumerate(names) if n == name] for name in sorted(set(names))}
    return {name: float(reward_B[own].nanmean()) for name, own in rows.items()} if len(rows) > 1 else {}
