"""A task for a model that points: boxes of the one thing meant, or of all things of a kind, and how well they were
found.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from saccade.core import LogSamples, Problem, Reward, Rollout, Sampler
from saccade.evaluation.scoring import score
from saccade.evaluation.templates import Template, follows_template
from saccade.evaluation.templates import has_answer_tags as with_tags
from saccade.evaluation.transcripts import conversations
from saccade.rewards.boxes import BoxFormat, BoxOverlap, DetectionPrecision, MatchedBoxes
from saccade.rewards.text.reading import boxes, each_row
from saccade.worlds import questions

SKILLS = {"expression": ("grounding", "grounding_relation"), "detection": ("detection", "detection_classes")}
"""What is asked in training, and what nobody was shown how to answer: relations instead of colors, several kinds at
once.
"""

ENOUGH = 0.5
"""The overlap from which on a box counts as right."""


@dataclass(frozen=True)
class GroundingTask:
    """Which boxes are asked for, and in which pictures."""

    kind: Literal["expression", "detection"] = "expression"
    """One thing that an expression means (REC), or all things of a kind, which may be none."""
    questions: str = "shapes"
    """The embedded world, or a JSONL file of questions whose answers are boxes in the pictures' own pixels."""
    held_out: str = ""
    """A file of such questions kept back; the embedded world keeps back pictures and wordings of its own."""
    out_of_domain: str = ""
    """A file of questions of another kind, only asked; the embedded world has relations, and several kinds at once."""
    images: str = ""
    """Folder of the files' pictures; empty is each file's own folder."""
    size: int = 64
    """Side of the embedded world's pictures in pixels."""
    objects: tuple[int, int] = (3, 6)
    """Least and greatest number of objects in a picture of the embedded world."""
    train_size: int = 2048
    """Training questions drawn from the embedded world."""
    held_out_size: int = 320
    """Questions kept back, and as many out of domain."""

    def training(self, seed: int) -> Sequence[Problem]:
        """The questions to train on."""
        if self.questions != "shapes":
            return self._load(self.questions)
        return self._asked(SKILLS[self.kind][0], self.train_size, seed, "train")

    def held_out_problems(self) -> dict[str, Sequence[Problem]]:
        """Questions that are never trained on, of the kind that training has and of another one."""
        if self.questions != "shapes":
            files = {"in domain": self.held_out, "out of domain": self.out_of_domain}
            return {name: self._load(file) for name, file in files.items() if file}
        sets = zip(("in domain", "out of domain"), SKILLS[self.kind])
        return {name: self._asked(skill, self.held_out_size, 12_345, "held_out") for name, skill in sets}

    def score(
        self,
        attempt: Sampler,
        show: LogSamples | None = None,
        more: Mapping[str, Reward] | None = None,
        tagged: bool = False,
        rows: int = 128,
    ) -> dict[str, float]:
        """Measures of each set kept back, "<set>, <measure>", and means of ``more`` over it; see `measures`.

        ``tagged`` counts nothing but boxes between answer tags.
        """
        verdict = BoxOverlap(tagged) if self.kind == "expression" else DetectionPrecision(tagged=tagged)
        scores: dict[str, float] = {}
        for name, (parts, verdict_B) in score(self.held_out_problems(), attempt, verdict, rows).items():
            found = measures(torch.cat([tally(part, tagged) for part in parts]))
            if self.kind == "expression":
                found |= {
                    "accuracy": float((verdict_B >= ENOUGH).float().mean()),
                    "overlap": float(verdict_B.nanmean()),
                }
            else:
                found["AP"] = float(verdict_B.nanmean())
            for each, reward in (more or {}).items():
                found[each] = float(torch.cat([reward(part) for part in parts]).nanmean())
            scores |= {f"{name}, {measure}": value for measure, value in found.items()}
            if show:
                show(name, conversations(parts[0], verdict_B))
        return scores

    def score_by_template(
        self, asked: Callable[[Template], Sampler], templates: Sequence[Template], show: LogSamples | None = None
    ) -> dict[str, float]:
        """Measures of each set kept back as asked in the first template, and "(template)" behind those of the others.

        Beside them, how many answers keep to the template, "format", and how long they are, "tokens".
        """
        found: dict[str, float] = {}
        for template in dict.fromkeys(templates):
            own, more = template == templates[0], {"format": self.form(template), "tokens": length}
            each = self.score(asked(template), show if own else None, more, with_tags(template))
            found |= {name if own else f"{name} ({template})": value for name, value in each.items()}
        return found

    def form(self, template: Template) -> Reward:
        """1 where an answer keeps to a template and holds a box; in detection "None" will do too."""
        return BoxFormat(partial(follows_template, template), with_tags(template), none=self.kind == "detection")

    def _load(self, file: str) -> Sequence[Problem]:
        found = questions.load(file, self.images or None)
        without = next((line for line, record in found.records if "boxes" not in record.answer), None)
        if without is not None:
            raise ValueError(f"{file}:{without}: the answer holds no boxes; all answers here must be boxes")
        return found

    def _asked(self, skill: str, count: int, seed: int, split: str) -> list[Problem]:
        return questions.problems(count, seed, (skill,), split, self.size, self.objects)


def tally(rollout: Rollout, tagged: bool = False) -> Tensor:
    """Right boxes (one to one, overlap of half, the right label), boxes written, boxes to be found: ``[B, 3]``."""
    recall_B = MatchedBoxes(position=0.0, completeness=0.0, naming=1.0, least=ENOUGH, tagged=tagged)(rollout)
    written_B = each_row(rollout, lambda problem, text: len(boxes(text, tagged) or ()))
    targets_B = each_row(rollout, lambda problem, text: len(problem.answer["boxes"]))
    return torch.stack([recall_B * targets_B, written_B, targets_B], 1)


def measures(tally_P3: Tensor) -> dict[str, float]:
    """Precision, recall and F1 over all boxes of a set, and how many boxes were written for each to be found."""
    right, written, targets = tally_P3.double().sum(0).tolist()
    return {
        "precision": right / max(written, 1),
        "recall": right / max(targets, 1),
        "F1": 2 * right / max(written + targets, 1),
        "boxes per target": written / max(targets, 1),
    }


def f1(rollout: Rollout, tagged: bool = False) -> Tensor:
    """F1 of each row ``[B]``: 1 where there is nothing to be found and the answer says so."""
    right, written, targets = tally(rollout, tagged).unbind(1)
    none = each_row(rollout, lambda problem, text: boxes(text, tagged) == [])
    return torch.where(written + targets > 0, 2 * right / (written + targets).clamp(min=1), none)


def length(rollout: Rollout) -> Tensor:
    """Tokens of each answer, thoughts among them ``[B]``."""
    return rollout.extras["length_B"]
