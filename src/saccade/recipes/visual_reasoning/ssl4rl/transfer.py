"""Questions that nobody trains on: one half chooses between trainings, the other judges the chosen one.

Beside the puzzles that were trained on they show whether what was learned there carries over.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from saccade.core import LogSamples, Problem, Rollout, Sampler
from saccade.evaluation.scoring import score as attempted
from saccade.evaluation.transcripts import conversations
from saccade.worlds import questions
from saccade.worlds.images import Subset
from saccade.worlds.questions.task import by_source

HALVES = {"validation": 11, "test": 12}
"""The half that chooses and the half that judges, each with the seed of its scenes."""

_SHARES = {"relation": 2, "shape_at": 1, "color_at": 1, "count": 1}

_ASPECTS = {"shape_at": "shape at a place", "color_at": "color at a place", "count": "count"}


@dataclass(frozen=True)
class TransferTask:
    """What is asked of a model that was trained on something else."""

    downstream: str = "shapes"
    """Questions that are only asked: the embedded world's, or a JSONL file; every other one chooses, the rest judge."""
    downstream_size: int = 1000
    """Questions of the embedded world in each half: left or right, above or below, shape and color at a place,
    counts.
    """

    def halves(self) -> dict[str, Sequence[Problem]]:
        """The questions of "validation" and "test". ValueError for a file that has no two of them."""
        if self.downstream == "shapes":
            return {half: self._asked(seed) for half, seed in HALVES.items()}
        asked = questions.load(self.downstream)
        if len(asked) < 2:
            raise ValueError(f"{self.downstream}: has 1 question; some choose and others judge, so 2 are needed")
        return {half: Subset(asked, range(first, len(asked), 2)) for first, half in enumerate(HALVES)}

    def _asked(self, seed: int) -> list[Problem]:
        part = self.downstream_size // sum(_SHARES.values())
        draw = lambda skill, share: questions.problems(part * share, seed, (skill,), "held_out", 48, (2, 6), "gravity")
        return [replace(p, source=_aspect(p)) for skill, share in _SHARES.items() for p in draw(skill, share)]


def _aspect(problem: Problem) -> str:
    """What a question asks for, the name of its score: relations are told apart by their direction."""
    if problem.source == "relation":
        return "left or right" if problem.answer["text"] in ("left", "right") else "above or below"
    return _ASPECTS[problem.source]


def score(
    sets: Mapping[str, Sequence[Problem]],
    attempt: Sampler,
    judge: Callable[[Rollout], Tensor],
    show: LogSamples | None = None,
) -> dict[str, float]:
    """Of "puzzles", "validation" and "test": the mean verdict of each kind of puzzle, "puzzle <name>", the share of
    puzzles "solved" in full, that of the test questions by what they ask, and the mean of these as "downstream";
    "downstream, validation" is that of the other half.
    """
    scores: dict[str, float] = {}
    for name, (parts, right_P) in attempted(sets, attempt, judge).items():
        problems = [problem for part in parts for problem in part.problems]
        each = by_source(problems, right_P) or {problems[0].source: float(right_P.nanmean())}
        mean = sum(each.values()) / len(each)
        match name:
            case "puzzles":
                scores |= {f"puzzle {kind}": value for kind, value in each.items()}
                scores["solved"] = float((right_P == 1).float().mean())
            case "validation":
                scores["downstream, validation"] = mean
            case "test":
                scores |= {"downstream": mean, **each}
        if show and name != "validation":
            show(name, conversations(parts[0], right_P))
    return scores
