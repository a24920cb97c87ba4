"""`saccade eval`: the scores of a run's models, or of a model, on held-out problems."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import tyro

from saccade.cli.output import show_json, show_scores
from saccade.cli.parsing import Flag, RecipeFile, Trust, parse


@dataclass(frozen=True)
class Options:
    """Scores on held-out problems.

    A run is evaluated by its recipe, at its newest checkpoint. A miniature, or a model that was trained from one, is
    evaluated as its card says; any other model that draws on the world of shapes, one that edits on edits of its
    scenes, a vision-language model on questions about them.
    """

    path: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="PATH")]
    """A run's folder, a miniature's name, or a model folder."""
    recipe: RecipeFile = ""
    """File of the run's recipe, where it is one of your own."""
    trust: Trust = False
    """Execute the Python files outside the folder that the run's settings name (recipe, rewards)."""
    json: Flag = False
    """Print one JSON object: {"scores": {score: value}}."""


def main(words: Sequence[str]) -> int:
    """Run the command; the exit status."""
    options = parse(Options, words, "saccade eval")
    from saccade.api.models import open_path

    scores = open_path(options.path, options.recipe, options.trust).evaluate()
    if options.json:
        show_json({"scores": scores})
    else:
        show_scores(scores, options.path)
    return 0
