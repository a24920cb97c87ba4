"""A question-answering task: training and held-out questions, and the rewards that judge the answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from saccade.config import Count
from saccade.core import LogSamples, Problem, ProblemScores, Question, Rollout, Sampler
from saccade.evaluation.scoring import HELD_OUT_SEED, score
from saccade.evaluation.transcripts import transcripts
from saccade.models.pictures import open_picture
from saccade.rewards.registry import TEXTS, reward
from saccade.rewards.rubric import judge, weighted
from saccade.worlds import questions


@dataclass(frozen=True)
class AnsweringTask:
    """Questions about pictures and the rewards on their answers."""

    questions: str = "shapes"
    """The embedded world, or a file: VLM-R1's JSONL of conversations, or JSONL with image, question and answer."""
    held_out: str = ""
    """A file of held-out questions; the embedded world has held-out pictures and wordings."""
    skills: tuple[str, ...] = ("color", "count", "relation", "verdict")
    """Kinds of questions in the embedded world."""
    rewards: tuple[str, ...] = ("exact",)
    """Rewards that are added up; a reward that is NaN for an answer is left out of its sum."""
    size: Count = 64
    """Side of the embedded world's pictures in pixels."""
    objects: tuple[int, int] = (1, 6)
    """Least and greatest number of objects in a picture of the embedded world."""
    train_size: Count = 2048
    """Number of training questions in the embedded world."""
    held_out_size: Count = 512
    """Number of held-out questions in the embedded world, of all skills together."""
    held_out_seed: int = HELD_OUT_SEED
    """Seed of the held-out problems of the embedded world; a check draws others for every training seed."""

    def training(self, seed: int) -> Sequence[Problem]:
        """The questions to train on."""
        if self.questions == "shapes":
            return self._sampled(self.train_size, seed, "train")
        return questions.load_questions(self.questions)

    def held_out_problems(self) -> dict[str, Sequence[Problem]]:
        """Questions that are never trained on, as the set "held out"."""
        if self.questions == "shapes":
            return {"held out": self._sampled(self.held_out_size, self.held_out_seed, "held_out")}
        return {"held out": questions.load_questions(self.held_out)} if self.held_out else {}

    def judge(self, rollout: Rollout) -> Tensor:
        """Fill ``rollout.rewards`` with the rewards; returns their sum ``[B]``."""
        may_abstain = self.rewards if len(self.rewards) > 1 else ()
        judge(rollout, {name: reward(name, TEXTS) for name in self.rewards}, may_abstain)
        return weighted(rollout.rewards, dict.fromkeys(self.rewards, 1.0), rollout.group_B)

    def score(self, sampler: Sampler, log_samples: LogSamples | None = None, rows: int = 128) -> ProblemScores:
        """Each reward of the held-out questions, and the first reward of those of each skill."""
        scores: ProblemScores = {}
        for name, (parts, _) in score(self.held_out_problems(), sampler, self.judge, rows).items():
            rewards = {each: torch.cat([part.rewards[each] for part in parts]) for each in self.rewards}
            first_P = rewards[self.rewards[0]]
            scores |= {f"{name}, {each}": value_P for each, value_P in rewards.items()}
            scores |= by_source([problem for part in parts for problem in part.problems], first_P)
            if log_samples:
                log_samples(name, transcripts(parts[0], first_P))
        return scores

    def _sampled(self, count: int, seed: int, split: str) -> list[Problem]:
        return questions.sample_problems(count, seed, self.skills, split, self.size, self.objects)


def answers_to(sampler: Sampler, prompts: Sequence[str], seeds_B: Tensor) -> list[dict[str, Any]]:
    """One answer to each prompt as ``saccade sample`` shows them, {"prompt", "text"}; see `question_of`."""
    problems = [Problem(i, question_of(prompt)) for i, prompt in enumerate(prompts)]
    return [{"prompt": prompt, "text": text} for prompt, text in zip(prompts, sampler(problems, seeds_B).outputs)]


def evaluate(cfg: Any, policies: Mapping[str, Any]) -> ProblemScores:
    """A recipe's ``evaluate``: scores of held-out questions, answered greedily."""
    return cfg.task.score(policies["policy"].greedy().rollout)


def sample(cfg: Any, policies: Mapping[str, Any], prompts: Sequence[str], seeds_B: Tensor) -> list[dict[str, Any]]:
    """A recipe's ``sample``: one greedy answer to each prompt, which may begin with picture files."""
    return answers_to(policies["policy"].greedy().rollout, prompts, seeds_B)


def question_of(prompt: str) -> Question:
    """A prompt that may begin with picture files, ``"a.png b.png What has changed?"``, as a question about them.

    ValueError for a file that is not a readable picture.
    """
    words, pictures = prompt.split(), []
    while len(words) > 1 and Path(words[0]).is_file():
        pictures.append(open_picture(words.pop(0)))
    return Question(prompt.split(maxsplit=len(pictures))[-1] if pictures else prompt, tuple(pictures))


def by_source(problems: Sequence[Problem], reward_B: Tensor) -> ProblemScores:
    """The rewards of the problems of each source, empty if there is only one source."""
    sources = [problem.source for problem in problems]
    rows = {name: [i for i, source in enumerate(sources) if source == name] for name in sorted(set(sources))}
    return {name: reward_B[index] for name, index in rows.items()} if len(rows) > 1 else {}
