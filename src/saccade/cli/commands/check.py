"""`saccade check`: the method and its baselines at equal budget over several seeds, and whether the claims hold."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Annotated, Any

import tyro

from saccade import catalog
from saccade.cli.output import VERDICTS, figure, say_error, show_claims, show_json, show_table
from saccade.cli.parsing import Flag, parse
from saccade.training.claims import final


@dataclass(frozen=True)
class Options:
    """Train every arm of a recipe with every seed, in parallel processes, then judge the recipe's claims.

    The result is written to results/NAME.json. Exit status 0 if all claims hold, 1 if not.
    """

    name: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="NAME")]
    """A recipe's name, or a recipe file."""
    seeds: int = 3
    """Number of seeds, from 0 on."""
    json: Flag = False
    """Print one JSON object as the last line: name, holds, arms, seeds, seconds, scores, claims."""


def main(words: Sequence[str]) -> int:
    """Run the command; the exit status."""
    options = parse(Options, words, "saccade check")
    from saccade.checks import runner
    from saccade.core import RunFailed
    from saccade.training.files import plain

    try:
        result = runner.check(options.name, options.seeds)
    except RunFailed as error:
        say_error(error)
        return 1
    place = runner.record(result, catalog.result_file(options.name))
    if options.json:
        show_json(plain(result))
    else:
        _show(result)
        print(f"result  {place}\nruns    {result['runs']}")
    return 0 if result["holds"] else 1


def _show(result: Mapping[str, Any]) -> None:
    """Scores of the arms as mean ± spread over seeds, then the claims with the margin of each seed."""
    names = _compared(result["scores"])
    rows = [
        (arm, *(_spread([s[name] for s in seeds.values()]) for name in names))
        for arm, seeds in result["scores"].items()
    ]
    show_table(("arm", *names), rows, f"{len(result['seeds'])} seeds", right=range(1, len(names) + 1))
    show_claims(result["claims"], f"{result['name']}: {VERDICTS[result['holds']]}, in {result['seconds']:.0f} s")


def _compared(scores: Mapping[str, Mapping[int, Mapping[str, float]]]) -> list[str]:
    """Final scores and costs that all arms have; the evaluations on the way stay in the file."""
    every = [set(found) for seeds in scores.values() for found in seeds.values()]
    first = next(iter(next(iter(scores.values())).values()))
    return [name for name in final(first) if all(name in found for found in every)]


def _spread(values: Sequence[float]) -> str:
    decimals = 0 if fmean(map(abs, values)) >= 100 else 3
    if any(map(math.isnan, values)) or len(values) == 1:
        return figure(fmean(values)) if decimals else f"{fmean(values):.0f}"
    return f"{fmean(values):.{decimals}f} ± {stdev(values):.{decimals}f}"
