"""`saccade eval`: the scores of a run's policies, or of a model, on prompts that nobody trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from saccade.cli import subjects
from saccade.cli.output import show_json, show_scores
from saccade.cli.parsing import Flag, parse


@dataclass(frozen=True)
class Options:
    """Scores on held-out prompts.

    A run is evaluated by its recipe, at its newest checkpoint. A model that draws is judged on the world of shapes, one
    that edits on edits of its scenes, a language model on rewriting its captions.
    """

    path: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="PATH")]
    """A run's folder, a miniature's name, or a model folder."""
    json: Flag = False
    """Print one JSON object: {"scores": {score: value}}."""


def main(words: Sequence[str]) -> int:
    """Run the command; the exit status."""
    options = parse(Options, words, "saccade eval")
    scores = evaluate(options.path)
    if options.json:
        show_json({"scores": scores})
    else:
        show_scores(scores, options.path)
    return 0


def evaluate(path: str) -> dict[str, float]:
    """The scores of a run or a model."""
    if subjects.is_run(path):
        trained = subjects.open_run(path)
        return {
            name: float(value) for name, value in trained.recipe.evaluate(trained.settings, trained.policies).items()
        }
    if subjects.draws(path):
        return evaluate_drawing(path)
    from saccade.builders import qwen2_rewriter
    from saccade.models.loading import locate

    return qwen2_rewriter.evaluate(Path(locate(path)))


def evaluate_drawing(path: str) -> dict[str, float]:
    """Points of a model's pictures of held-out shapes, by wording and by tag; of an editor, scores of held-out
    edits.
    """
    from saccade.worlds.edits.task import EditingTask
    from saccade.worlds.shapes.task import DrawingTask

    policy = subjects.drawing_policy(path)
    return (
        EditingTask().score(policy.greedy().rollout)
        if subjects.edits(policy)
        else DrawingTask().score_by_tag(policy.greedy().rollout)
    )
