"""`saccade check`: the method and its baselines at equal budget over several seeds, and the verdicts on the claims."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Annotated, Any

import tyro

from saccade import catalog
from saccade.cli.output import VERDICTS, figure, known, say_error, show_claims, show_json, show_table
from saccade.cli.parsing import Flag, parse


@dataclass(frozen=True)
class Options:
    """Train every arm of a recipe with every seed, in parallel processes, then judge the recipe's claims.

    The result is written to results/NAME.json, that of other seeds than those from 0 on to results/NAME-from-SEED.json.
    Exit status 0 if the claims hold, 1 if they are refuted, undecided or void.
    """

    name: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="NAME")]
    """A recipe's name, or a recipe file."""
    seeds: int = 5
    """Number of seeds."""
    first_seed: int = 0
    """The first seed; the others follow it. Results are reported from 0 on, settings are tuned from 100 on."""
    resume: Flag = False
    """Go on with an interrupted check, or add seeds to the recorded result; what is finished is not run again."""
    weak: Flag = False
    """Run the check even if earlier runs show that so few seeds cannot see the effect that a claim asks for."""
    json: Flag = False
    """Print one JSON object as the last line: name, verdict, holds, arms, seeds, seconds, scores, claims."""


def main(words: Sequence[str]) -> int:
    """Run the command; the exit status."""
    options = parse(Options, words, "saccade check")
    from saccade.checks import runner
    from saccade.core import RunFailed
    from saccade.training.files import plain

    try:
        result = runner.check(options.name, options.seeds, options.first_seed, options.resume, weak=options.weak)
    except RunFailed as error:
        say_error(error)
        return 1
    place = runner.record(result, catalog.result_file(options.name, options.first_seed))
    if options.json:
        show_json(plain(result))
    else:
        _show(result)
        print(f"result  {place}\nruns    {result['runs']}")
    return 0 if result["holds"] else 1


def _show(result: Mapping[str, Any]) -> None:
    """Scores of the arms as mean ± standard deviation over seeds, then the claims with their intervals."""
    names = _compared(result["scores"])
    rows = [
        (arm, *(_spread([s[name] for s in seeds.values()]) for name in names))
        for arm, seeds in result["scores"].items()
    ]
    show_table(("arm", *names), rows, f"{len(result['seeds'])} seeds", right=range(1, len(names) + 1))
    show_claims(result["claims"], f"{result['name']}: {result['verdict']}, in {result['seconds']:.0f} s")
    print(f"{result['verdict']}: {VERDICTS[result['verdict']]}")


def _compared(scores: Mapping[str, Mapping[int, Mapping[str, float]]]) -> list[str]:
    """Final scores and costs that all arms have; the evaluations on the way stay in the file."""
    from saccade.training.claims import final

    every = [set(found) for seeds in scores.values() for found in seeds.values()]
    first = next(iter(next(iter(scores.values())).values()))
    return [name for name in known(dict.fromkeys(final(first), 0.0)) if all(name in found for found in every)]


def _spread(values: Sequence[float]) -> str:
    decimals = 0 if fmean(map(abs, values)) >= 100 else 3
    if any(map(math.isnan, values)) or len(values) == 1:
        return figure(fmean(values)) if decimals else f"{fmean(values):.0f}"
    return f"{fmean(values):.{decimals}f} ± {stdev(values):.{decimals}f}"
