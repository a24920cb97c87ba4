"""A task for a model that looks closer: questions about things that are too small in a first view of their picture."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from saccade.core import Problem, Reward, seeds
from saccade.tasks.names import TEXTS
from saccade.worlds import canvases, questions


@dataclass(frozen=True)
class SearchingTask:
    """What is asked about large pictures; an answer is right or it is not."""

    questions: str = "canvases"
    """The embedded world, or a JSONL file with image, question (or text), choices, and the letter of the answer."""
    held_out: str = ""
    """A file of questions kept back; the embedded world keeps back pictures and wordings of its own."""
    size: int = 96
    """Side of the embedded world's pictures in pixels."""
    plates: int = 4
    """Plates with a digit in a picture of the embedded world."""
    choices: int = 0
    """Choices of a question in the embedded world, 2 to 6; with 0 the answer is the digit itself."""
    train_size: int = 2048
    """Training questions drawn from the embedded world."""
    held_out_size: int = 400
    """Questions kept back."""

    def training(self, seed: int) -> Sequence[Problem]:
        """The questions to train on."""
        return self._asked(self.train_size, seed, "train") if self.questions == "canvases" else _lettered(self.questions)

    def kept_back(self) -> dict[str, Sequence[Problem]]:
        """Questions that are never trained on."""
        if self.questions == "canvases":
            return {"held out": self._asked(self.held_out_size, 12_345, "held_out")}
        return {"held out": _lettered(self.held_out)} if self.held_out else {}

    @property
    def right(self) -> Reward:
        """1 for the right letter, or for the digit itself where no choices are given."""
        return TEXTS["choice" if self.choices or self.questions != "canvases" else "exact"]

    def _asked(self, count: int, seed: int, split: str) -> list[Problem]:
        return canvases.problems(count, seed, ("digit",), split, self.size, self.plates, self.choices)


def _lettered(file: str) -> Sequence[Problem]:
    """The questions of a file. ValueError for one that has no choices, or not one picture."""
    found = questions.load(file)
    for line, record in found.records:
        if record.answer["kind"] != "choice":
            raise ValueError(f"{file}:{line}: the question has no lettered choices; all questions here must")
        if len(record.paths) != 1:
            raise ValueError(f"{file}:{line}: a question to look into has one picture, this one has {len(record.paths)}")
    return found


def batches(problems: Sequence[Problem], rows: int) -> Iterator[tuple[list[Problem], Tensor]]:
    """Problems, ``rows`` at once, and always the same seeds; large pictures are read when their batch comes and then let go."""
    own = seeds(54_321, len(problems))
    for start in range(0, len(problems), rows):
        some = range(start, min(start + rows, len(problems)))
        yield [problems[i] for i in some], own[some.start : some.stop]


def parts(text: str) -> tuple[str, str]:
    """A question and the lines of its choices."""
    return canvases.parts(text)


def sufficient(windows: Sequence[Sequence[float] | None], problems: Sequence[Problem]) -> Tensor:
    """Whether what each window shows is enough to answer ``[B]``: NaN where a problem does not say what is to be seen."""
    known = lambda problem: bool(problem.answer.get("boxes"))
    verdicts = [float(canvases.sufficient(w, p)) if known(p) else float("nan") for w, p in zip(windows, problems)]
    return torch.tensor(verdicts)
