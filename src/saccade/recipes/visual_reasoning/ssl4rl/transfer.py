"""Questions that are never trained on: validation questions choose between trained models, test questions score them.

Beside the puzzles that were trained on they show whether what was learned transfers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from saccade.config import Count
from saccade.core import LogSamples, Problem, ProblemScores, Reward, Sampler, mean_scores
from saccade.evaluation.scoring import HELD_OUT_SEED
from saccade.evaluation.scoring import score as score_sets
from saccade.evaluation.transcripts import transcripts
from saccade.random import stream
from saccade.worlds import questions
from saccade.worlds.images import Subset
from saccade.worlds.questions.task import by_source

SPLITS = ("validation", "test")
"""The splits of the transfer questions."""

_SHARES = {"relation": 2, "shape_at": 1, "color_at": 1, "count": 1}
"""Skills of the embedded world's questions and their proportions."""

_SCORE_NAMES = {"shape_at": "shape at a place", "color_at": "color at a place", "count": "count"}


@dataclass(frozen=True)
class TransferTask:
    """Questions that measure what training on puzzles transfers to."""

    questions: str = "shapes"
    """The embedded world's questions, or a JSONL file whose lines are for validation and for test in turn."""
    size: Count = 1000
    """Number of questions of the embedded world in each split, about relations, shapes and colors at places, counts."""
    held_out_seed: int = HELD_OUT_SEED
    """Seed of the questions of the embedded world; a check draws others for every training seed."""

    def splits(self) -> dict[str, Sequence[Problem]]:
        """The questions of "validation" and "test". ValueError for a file with fewer than two questions."""
        if self.questions == "shapes":
            return {split: self._sampled(stream(self.held_out_seed, "transfer", split)) for split in SPLITS}
        loaded = questions.load_questions(self.questions)
        if len(loaded) < 2:
            raise ValueError(f"{self.questions}: has 1 question; validation and test need one each, so 2 are needed")
        return {split: Subset(loaded, range(first, len(loaded), 2)) for first, split in enumerate(SPLITS)}

    def _sampled(self, seed: int) -> list[Problem]:
        unit = self.size // sum(_SHARES.values())
        problems: list[Problem] = []
        for skill, share in _SHARES.items():
            problems += questions.sample_problems(unit * share, seed, (skill,), "held_out", 48, (2, 6), "gravity")
        return [replace(problem, source=_score_name(problem)) for problem in problems]


def _score_name(problem: Problem) -> str:
    """The name of the score that a question counts for: its skill, for relations the direction."""
    if problem.source == "relation":
        return "left or right" if problem.answer["text"] in ("left", "right") else "above or below"
    return _SCORE_NAMES[problem.source]


def score(
    sets: Mapping[str, Sequence[Problem]], sampler: Sampler, judge: Reward, log_samples: LogSamples | None = None
) -> ProblemScores:
    """Scores of the sets "puzzles", "validation" and "test".

    For puzzles the mean score by type, "puzzle <name>", and the share "solved" in full; for test questions the mean by
    what they ask, and the mean of these means, "downstream"; "downstream, validation" is that of the validation
    questions.
    """
    scores: ProblemScores = {}
    for name, (parts, score_P) in score_sets(sets, sampler, judge).items():
        problems = [problem for part in parts for problem in part.problems]
        sources = by_source(problems, score_P) or {problems[0].source: score_P}
        mean = fmean(mean_scores(sources)[source] for source in sources)
        match name:
            case "puzzles":
                scores |= {f"puzzle {puzzle}": value for puzzle, value in sources.items()}
                scores["solved"] = (score_P == 1).float()
            case "validation":
                scores["downstream, validation"] = mean
            case "test":
                scores |= {"downstream": mean, **sources}
        if log_samples and name != "validation":
            log_samples(name, transcripts(parts[0], score_P))
    return scores
