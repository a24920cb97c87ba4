"""A grounding task: boxes of the one object that is meant, or of all objects of a kind, and scores of these boxes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from saccade.config import Count
from saccade.core import LogSamples, Problem, ProblemScores, Reward, Rollout, Sampler
from saccade.evaluation.scoring import HELD_OUT_SEED, score
from saccade.evaluation.templates import Template, follows_template, has_answer_tags
from saccade.evaluation.transcripts import transcripts
from saccade.rewards.boxes import BoxFormat, BoxOverlap, DetectionPrecision, MatchedBoxes
from saccade.rewards.text.parsing import parse_boxes, score_rows
from saccade.worlds import questions

SKILLS = {"expression": ("grounding", "grounding_relation"), "detection": ("detection", "detection_classes")}
"""The skill of training, and the one out of domain: relations instead of colors, several kinds at once."""

CORRECT_OVERLAP = 0.5
"""Overlap from which on a box counts as correct."""


@dataclass(frozen=True)
class GroundingTask:
    """Questions whose answers are boxes."""

    kind: Literal["expression", "detection"] = "expression"
    """What boxes are asked for: of the one object an expression means (REC), or of all objects of a kind, if any."""
    questions: str = "shapes"
    """The embedded world, or a JSONL file of questions whose answers are boxes in the pictures' own pixels."""
    held_out: str = ""
    """A file of held-out questions; the embedded world has held-out pictures and wordings."""
    out_of_domain: str = ""
    """A file of evaluation questions of another kind; the embedded world has relations, and several kinds at once."""
    images: str = ""
    """Folder of the files' pictures; empty is each file's own folder."""
    size: Count = 64
    """Side of the embedded world's pictures in pixels."""
    objects: tuple[int, int] = (3, 6)
    """Least and greatest number of objects in a picture of the embedded world."""
    train_size: Count = 2048
    """Number of training questions in the embedded world."""
    held_out_size: Count = 320
    """Number of held-out questions in the embedded world, in domain and out of domain each."""
    held_out_seed: int = HELD_OUT_SEED
    """Seed of the held-out problems of the embedded world; a check draws others for every training seed."""

    def training(self, seed: int) -> Sequence[Problem]:
        """The questions to train on."""
        if self.questions != "shapes":
            return self._load(self.questions)
        return self._sampled(SKILLS[self.kind][0], self.train_size, seed, "train")

    def held_out_problems(self) -> dict[str, Sequence[Problem]]:
        """Held-out questions "in domain" and "out of domain"."""
        if self.questions != "shapes":
            files = {"in domain": self.held_out, "out of domain": self.out_of_domain}
            return {name: self._load(file) for name, file in files.items() if file}
        sets = zip(("in domain", "out of domain"), SKILLS[self.kind])
        return {name: self._sampled(skill, self.held_out_size, self.held_out_seed, "held_out") for name, skill in sets}

    def score(
        self,
        sampler: Sampler,
        log_samples: LogSamples | None = None,
        rewards: Mapping[str, Reward] | None = None,
        require_tags: bool = False,
        rows: int = 128,
    ) -> ProblemScores:
        """Scores of each held-out set, "<set>, <score>": those of `box_scores`, and the means of ``rewards``.

        With ``require_tags`` only boxes between answer tags count.
        """
        expression = self.kind == "expression"
        judge = BoxOverlap(require_tags) if expression else DetectionPrecision(require_tags=require_tags)
        scores: ProblemScores = {}
        for name, (parts, score_P) in score(self.held_out_problems(), sampler, judge, rows).items():
            counts_B3 = torch.cat([count_boxes(part, require_tags) for part in parts])
            found: ProblemScores = {**box_scores(counts_B3)}
            if expression:
                found["accuracy"] = (score_P >= CORRECT_OVERLAP).float()
            found["overlap" if expression else "AP"] = score_P
            for each, reward in (rewards or {}).items():
                found[each] = torch.cat([reward(part) for part in parts])
            scores |= {f"{name}, {each}": value for each, value in found.items()}
            if log_samples:
                log_samples(name, transcripts(parts[0], score_P))
        return scores

    def score_by_template(
        self,
        sampler: Callable[[Template], Sampler],
        templates: Sequence[Template],
        log_samples: LogSamples | None = None,
    ) -> ProblemScores:
        """Scores of each held-out set under the first template, and with "(template)" appended under the others.

        Beside them the share of answers that follow the template, "format", and their mean length, "tokens".
        """
        found: ProblemScores = {}
        for template in dict.fromkeys(templates):
            first, tags = template == templates[0], has_answer_tags(template)
            rewards = {"format": self.format_reward(template), "tokens": length}
            scores = self.score(sampler(template), log_samples if first else None, rewards, tags)
            found |= {name if first else f"{name} ({template})": value for name, value in scores.items()}
        return found

    def format_reward(self, template: Template) -> Reward:
        """1 where an answer follows a template and has a box; in detection "None" counts as well."""
        none = self.kind == "detection"
        return BoxFormat(partial(follows_template, template), has_answer_tags(template), allow_none=none)

    def _load(self, file: str) -> Sequence[Problem]:
        loaded = questions.load_questions(file, self.images or None)
        for line, record in loaded.records:
            if "boxes" not in record.answer:
                raise ValueError(f"{file}:{line}: the answer holds no boxes; all answers here must be boxes")
        return loaded

    def _sampled(self, skill: str, count: int, seed: int, split: str) -> list[Problem]:
        return questions.sample_problems(count, seed, (skill,), split, self.size, self.objects)


def count_boxes(rollout: Rollout, require_tags: bool = False) -> Tensor:
    """Numbers of correct boxes (matched one to one, with the target's label), of boxes and of targets: ``[B, 3]``."""
    recall_B = MatchedBoxes(0.0, 0.0, 1.0, threshold=CORRECT_OVERLAP, require_tags=require_tags)(rollout)
    written_B = score_rows(rollout, lambda problem, text: len(parse_boxes(text, require_tags) or ()))
    targets_B = score_rows(rollout, lambda problem, text: len(problem.answer["boxes"]))
    return torch.stack([recall_B * targets_B, written_B, targets_B], 1)


def box_scores(counts_P3: Tensor) -> dict[str, float]:
    """Precision, recall and F1 over all boxes of a set, and boxes per target, from the numbers of `count_boxes`."""
    correct, written, targets = counts_P3.double().sum(0).tolist()
    return {
        "precision": correct / max(written, 1),
        "recall": correct / max(targets, 1),
        "F1": 2 * correct / max(written + targets, 1),
        "boxes per target": written / max(targets, 1),
    }


def f1(rollout: Rollout, require_tags: bool = False) -> Tensor:
    """F1 of each row's boxes ``[B]``; 1 where there are no targets and the answer says so."""
    correct_B, written_B, targets_B = count_boxes(rollout, require_tags).unbind(1)
    none_B = score_rows(rollout, lambda problem, text: parse_boxes(text, require_tags) == [])
    total_B = written_B + targets_B
    return torch.where(total_B > 0, 2 * correct_B / total_B.clamp(min=1), none_B)


def length(rollout: Rollout) -> Tensor:
    """Number of tokens of each answer, including thoughts ``[B]``."""
    return rollout.extras["length_B"]
