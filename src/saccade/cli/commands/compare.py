"""`saccade compare`: the scores of several runs in one table, and their page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

import tyro

from saccade.api.comparing import compare
from saccade.cli.output import figure, known, show_json, show_table, with_interval
from saccade.cli.parsing import Flag, parse


@dataclass(frozen=True)
class Options:
    """Scores of runs before and after training, side by side, and the page that `saccade report` writes of them."""

    runs: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN…", help_behavior_hint="")]
    """Folders of two or more runs."""
    out: Annotated[str, tyro.conf.arg(aliases=["-o"], metavar="FILE")] = "report.html"
    """File of the page."""
    json: Flag = False
    """Print one JSON object as the last line: {run: {"before": {score: value}, "after": {score: value}}}."""


def main(words: Sequence[str]) -> int:
    """Run the command; the exit status."""
    options = parse(Options, words, "saccade compare")
    if len(options.runs) < 2:
        raise ValueError("missing RUN: the folders of two or more runs")
    scores = compare(options.runs, options.out)
    if options.json:
        show_json(scores)
    else:
        _show(scores)
        print(options.out)
    return 0


def _show(scores: Mapping[str, Mapping[str, Mapping[str, float]]]) -> None:
    """A row for each score, a column for each run: before → after."""
    names = dict.fromkeys(name for run in scores.values() for side in ("after", "before") for name in known(run[side]))
    cell = lambda run, name: f"{figure(run['before'].get(name))} → {with_interval(run['after'], name)}"
    rows = [(name, *(cell(run, name) for run in scores.values())) for name in names]
    show_table(("held out, before → after", *scores), rows, right=range(1, len(scores) + 1))
