"""`saccade report`: one self-contained HTML page of one run, or of several side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from saccade import catalog
from saccade.cli.parsing import parse


@dataclass(frozen=True)
class Options:
    """One self-contained HTML page: curves, pictures before and after, tables, the claims of their recipes.

    The page of one run lies in its folder, that of several in ./report.html, unless -o says otherwise.
    """

    runs: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN…", help_behavior_hint="")]
    """Folders of runs."""
    out: Annotated[str, tyro.conf.arg(aliases=["-o"], metavar="FILE", help_behavior_hint="")] = ""
    """Where the page is written."""


def main(words: Sequence[str]) -> int:
    """Run the command; the exit status."""
    options = parse(Options, words, "saccade report")
    if not options.runs:
        raise ValueError("missing RUN: the folders of one or several runs")
    runs = [Path(run) for run in options.runs]
    print(write(runs, Path(options.out or (runs[0] if len(runs) == 1 else Path()) / "report.html")))
    return 0


def write(runs: Sequence[Path], out: Path) -> Path:
    """Write the page of some runs, with the recorded checks of their recipes, to ``out`` and return that."""
    from saccade.report import page
    from saccade.training import folder as on_disk

    recipes = dict.fromkeys(_recipe(on_disk.config(run)) for run in runs)
    checks = [path for name in recipes if (path := catalog.result_file(name)).is_file()]
    return page.write(runs, out, checks)


def _recipe(config: Mapping[str, Any]) -> str:
    return str(config.get("file") or config.get("recipe"))
