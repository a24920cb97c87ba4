"""A task for a model that looks closer: questions about things that are too small in a first view of their picture."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from saccade.core import LogSamples, Problem, Question, Reward, Rollout, Sampler, seeds
from saccade.evaluation.templates import prompt_template
from saccade.evaluation.transcripts import conversations
from saccade.models.snapshot import Snapshot
from saccade.policies.tokens import TokenPolicy
from saccade.policies.zoom import box_areas, crops
from saccade.rewards.registry import TEXTS
from saccade.worlds import canvases, questions
from saccade.worlds.questions.task import by_source


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
        return (
            self._asked(self.train_size, seed, "train") if self.questions == "canvases" else _lettered(self.questions)
        )

    def held_out_problems(self) -> dict[str, Sequence[Problem]]:
        """Questions that are never trained on."""
        if self.questions == "canvases":
            return {"held out": self._asked(self.held_out_size, 12_345, "held_out")}
        return {"held out": _lettered(self.held_out)} if self.held_out else {}

    @property
    def right(self) -> Reward:
        """1 for the right letter, or for the digit itself where no choices are given."""
        return TEXTS["choice" if self.choices or self.questions != "canvases" else "exact"]

    def judge(self, rollout: Rollout) -> Tensor:
        """1 for a right answer ``[B]``, the only reward; beside it stands what the boxes were like, which nobody
        trains on.
        """
        found = crops(rollout)
        windows = [None if one is None else one.frame.window for one in found]
        right_B = self.right(rollout)
        rollout.rewards |= {
            "valid box": torch.tensor([float(one is not None) for one in found]),
            "box area": box_areas(found),
            "sufficient box": sufficient(windows, rollout.problems),
        }
        return right_B

    def score(
        self, drawn: Sampler, likeliest: Sampler, base: Sampler, show: LogSamples | None = None, rows: int = 128
    ) -> dict[str, float]:
        """Questions kept back in conversations as ``drawn`` has them: answers, boxes, and what ``base`` reads off their
        crops.

        "accuracy, greedy" is that of the conversations ``likeliest``.
        """
        said: dict[str, list[Tensor]] = {}
        sources: list[Problem] = []
        for name, problems in self.held_out_problems().items():
            for number, (asked, seeds_B) in enumerate(batches(problems, rows)):
                rollout = drawn(asked, seeds_B)
                found = {"accuracy": self.judge(rollout), "accuracy, greedy": self.right(likeliest(asked, seeds_B))}
                found |= rollout.rewards | {"answer from the crop alone": from_crops(self.right, base, rollout)}
                said = {key: [*said.get(key, []), value_B] for key, value_B in found.items()}
                sources += [replace(problem, inputs=None) for problem in asked]
                if show and number == 0:
                    show(name, conversations(rollout, found["accuracy"]))
        whole = {key: torch.cat(parts_B) for key, parts_B in said.items()}
        each = by_source(sources, whole["accuracy"]) if whole else {}
        return {key: float(value_B.nanmean()) for key, value_B in whole.items()} | each

    def _asked(self, count: int, seed: int, split: str) -> list[Problem]:
        return canvases.problems(count, seed, ("digit",), split, self.size, self.plates, self.choices)


def _lettered(file: str) -> Sequence[Problem]:
    """The questions of a file. ValueError for one that has no choices, or not one picture."""
    found = questions.load(file)
    for line, record in found.records:
        if record.answer["kind"] != "choice":
            raise ValueError(f"{file}:{line}: the question has no lettered choices; all questions here must")
        if len(record.paths) != 1:
            raise ValueError(
                f"{file}:{line}: a question to look into has one picture, this one has {len(record.paths)}"
            )
    return found


def batches(problems: Sequence[Problem], rows: int) -> Iterator[tuple[list[Problem], Tensor]]:
    """Problems, ``rows`` at once, and always the same seeds; large pictures are read when their batch comes and then
    let go.
    """
    own = seeds(54_321, len(problems))
    for start in range(0, len(problems), rows):
        some = range(start, min(start + rows, len(problems)))
        yield [problems[i] for i in some], own[some.start : some.stop]


def parts(text: str) -> tuple[str, str]:
    """A question and the lines of its choices."""
    return canvases.parts(text)


def sufficient(windows: Sequence[Sequence[float] | None], problems: Sequence[Problem]) -> Tensor:
    """Whether what each window shows is enough to answer ``[B]``: NaN where a problem does not say what is to be
    seen.
    """
    known = lambda problem: bool(problem.answer.get("boxes"))
    verdicts = [float(canvases.sufficient(w, p)) if known(p) else float("nan") for w, p in zip(windows, problems)]
    return torch.tensor(verdicts)


def answer_sampler(policy: TokenPolicy, closing: str) -> Sampler:
    """The policy as it is now, whatever it learns later, answering a whole question at once with the likeliest
    words.
    """
    untrained, plain = Snapshot(policy.trained), replace(policy, prompt=prompt_template("plain", closing)).greedy()

    def answer(problems: Sequence[Problem], seeds_B: Tensor) -> Rollout:
        with untrained:
            return plain.rollout(problems, seeds_B)

    return answer


def from_crops(right: Reward, base: Sampler, rollout: Rollout) -> Tensor:
    """Whether the base answers rightly when it sees nothing but the crop ``[B]``; a box that brought none is not
    enough.
    """
    found = crops(rollout)
    rows = [row for row, one in enumerate(found) if one is not None]
    right_B = torch.zeros(len(rollout))
    if rows:
        asked = [rollout.problems[row] for row in rows]
        alone = [replace(p, inputs=Question(p.inputs.text, (found[row].pixels,))) for p, row in zip(asked, rows)]
        right_B[rows] = right(base(alone, torch.zeros(len(rows), dtype=torch.int64)))
    return right_B
