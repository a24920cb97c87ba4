"""A visual search task: questions about objects that are too small in a reduced view of their picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from saccade.config import Count
from saccade.core import LogSamples, Problem, ProblemScores, Question, Reward, Rollout, Sampler
from saccade.evaluation.scoring import HELD_OUT_SEED
from saccade.evaluation.templates import prompt_template
from saccade.evaluation.transcripts import transcripts
from saccade.models.snapshot import Snapshot
from saccade.policies.tokens import TokenPolicy
from saccade.policies.zoom import box_areas, last_crops
from saccade.random import seeds
from saccade.rewards.registry import TEXTS
from saccade.worlds import canvases, questions
from saccade.worlds.questions.task import by_source


@dataclass(frozen=True)
class VisualSearchTask:
    """Questions about large pictures; an answer is correct or wrong."""

    questions: str = "canvases"
    """The embedded world, or a JSONL file with image, question (or text), choices, and the letter of the answer."""
    held_out: str = ""
    """A file of held-out questions; the embedded world has held-out pictures and wordings."""
    size: Count = 96
    """Side of the embedded world's pictures in pixels."""
    plates: Count = 4
    """Number of plates with a digit in a picture of the embedded world."""
    choices: int = 0
    """Number of choices of a question in the embedded world, 2 to 6; with 0 the answer is the digit itself."""
    train_size: Count = 2048
    """Number of training questions in the embedded world."""
    held_out_size: Count = 400
    """Number of held-out questions in the embedded world."""
    held_out_seed: int = HELD_OUT_SEED
    """Seed of the held-out problems of the embedded world; a check draws others for every training seed."""

    def training(self, seed: int) -> Sequence[Problem]:
        """The questions to train on."""
        if self.questions == "canvases":
            return self._sampled(self.train_size, seed, "train")
        return _load_choice_questions(self.questions)

    def held_out_problems(self) -> dict[str, Sequence[Problem]]:
        """Questions that are never trained on, as the set "held out"."""
        if self.questions == "canvases":
            return {"held out": self._sampled(self.held_out_size, self.held_out_seed, "held_out")}
        return {"held out": _load_choice_questions(self.held_out)} if self.held_out else {}

    @property
    def accuracy(self) -> Reward:
        """1 for the correct letter, or for the digit itself where there are no choices."""
        return TEXTS["choice" if self.choices or self.questions != "canvases" else "exact"]

    def judge(self, rollout: Rollout) -> Tensor:
        """1 for a correct answer ``[B]``, the only reward; metrics of the boxes are put into ``rollout.rewards``."""
        crops = last_crops(rollout)
        windows = [None if crop is None else crop.frame.window for crop in crops]
        accuracy_B = self.accuracy(rollout)
        rollout.rewards |= {
            "valid box": torch.tensor([float(crop is not None) for crop in crops]),
            "box area": box_areas(crops),
            "sufficient box": sufficient_boxes(windows, rollout.problems),
        }
        return accuracy_B

    def score(
        self,
        sampled: Sampler,
        greedy: Sampler,
        base: Sampler,
        log_samples: LogSamples | None = None,
        rows: int = 128,
    ) -> ProblemScores:
        """Scores of held-out questions in conversations of ``sampled``: accuracy, box metrics, accuracy from crops.

        "accuracy, greedy" is that of the conversations of ``greedy``, "answer from the crop alone" that of ``base``
        when it is shown nothing but the crop.
        """
        values: dict[str, list[Tensor]] = {}
        sources: list[Problem] = []
        for name, problems in self.held_out_problems().items():
            seeds_P = seeds(HELD_OUT_SEED, len(problems), "evaluation")
            for index in torch.arange(len(problems)).split(rows):
                batch = [problems[i] for i in index.tolist()]  # large pictures are loaded batch by batch
                rollout = sampled(batch, seeds_P[index])
                found = {"accuracy": self.judge(rollout)}
                found["accuracy, greedy"] = self.accuracy(greedy(batch, seeds_P[index]))
                found |= rollout.rewards
                found["answer from the crop alone"] = accuracy_from_crops(self.accuracy, base, rollout)
                values = {key: [*values.get(key, []), value_B] for key, value_B in found.items()}
                sources += [replace(problem, inputs=None) for problem in batch]
                if log_samples and index[0] == 0:
                    log_samples(name, transcripts(rollout, found["accuracy"]))
        joined = {key: torch.cat(parts) for key, parts in values.items()}
        return {**joined, **(by_source(sources, joined["accuracy"]) if joined else {})}

    def _sampled(self, count: int, seed: int, split: str) -> list[Problem]:
        return canvases.sample_problems(count, seed, ("digit",), split, self.size, self.plates, self.choices)


def _load_choice_questions(file: str) -> Sequence[Problem]:
    """The questions of a file. ValueError for a question without choices, or not about one picture."""
    loaded = questions.load_questions(file)
    for line, record in loaded.records:
        if record.answer["kind"] != "choice":
            raise ValueError(f"{file}:{line}: the question has no lettered choices; all questions here must")
        count = len(record.paths)
        if count != 1:
            raise ValueError(f"{file}:{line}: a question to zoom into has one picture, this one has {count}")
    return loaded


def sufficient_boxes(windows: Sequence[Sequence[float] | None], problems: Sequence[Problem]) -> Tensor:
    """Whether each window is enough to answer ``[B]`` (`canvases.sufficient`); NaN where a problem has no boxes."""
    score = lambda window, problem: (
        float(canvases.sufficient(window, problem)) if problem.answer.get("boxes") else math.nan
    )
    return torch.tensor([score(window, problem) for window, problem in zip(windows, problems)])


def base_sampler(policy: TokenPolicy, answer_prompt: str) -> Sampler:
    """Samples greedy answers to complete questions in one turn, with the policy's weights of now, before training."""
    base = Snapshot(policy.trained)
    greedy = replace(policy.greedy(), prompt=prompt_template("plain", answer_prompt))

    def sample(problems: Sequence[Problem], seeds_B: Tensor) -> Rollout:
        with base:
            return greedy.rollout(problems, seeds_B)

    return sample


def accuracy_from_crops(accuracy: Reward, base: Sampler, rollout: Rollout) -> Tensor:
    """Accuracy of ``base`` when it is shown nothing but the crop ``[B]``; 0 where there is no crop."""
    crops = {row: crop for row, crop in enumerate(last_crops(rollout)) if crop is not None}
    accuracy_B = torch.zeros(len(rollout))
    if crops:
        rows = [rollout.problems[row] for row in crops]
        asked = [replace(p, inputs=Question(p.inputs.text, (crop.pixels,))) for p, crop in zip(rows, crops.values())]
        accuracy_B[list(crops)] = accuracy(base(asked, torch.zeros(len(asked), dtype=torch.int64)))
    return accuracy_B
