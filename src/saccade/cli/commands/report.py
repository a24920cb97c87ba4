"""`saccade report`: one self-contained HTML page of one run, or of several side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from saccade.api.comparing import report
from saccade.cli.parsing import parse


@dataclass(frozen=True)
class Options:
    """One self-contained HTML page: curves, pictures before and after, tables, the claims of the recipes.

    The page of one run lies in its folder, that of several in ./report.html, unless -o names another file.
    """

    runs: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN…", help_behavior_hint="")]
    """Folders of runs."""
    out: Annotated[str, tyro.conf.arg(aliases=["-o"], metavar="FILE", help_behavior_hint="")] = ""
    """File of the page."""


def main(words: Sequence[str]) -> int:
    """Run the command; the exit status."""
    options = parse(Options, words, "saccade report")
    if not options.runs:
        raise ValueError("missing RUN: the folders of one or several runs")
    beside = Path(options.runs[0]) if len(options.runs) == 1 else Path()
    print(report(options.runs, options.out or beside / "report.html"))
    return 0
