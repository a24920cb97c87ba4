"""`saccade train`: run a recipe in a folder of its own, or resume the run in the folder that --out names."""

from __future__ import annotations

import dataclasses
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from saccade import catalog
from saccade.api import training
from saccade.catalog import Recipe
from saccade.cli.output import figure, first, known, meant, say_error, show_json, show_table, with_interval
from saccade.cli.parsing import Flag, Flat, parse
from saccade.cli.together import together

if TYPE_CHECKING:
    from saccade.api.run import TrainedRun

_USAGE = """usage: saccade train NAME [--preset P] [--out DIR] [--stages-of RUN] [--keep-best SCORE [--patience N]]
                     [--smoke] [--logger L] [--json] [--SETTING VALUE …]

Run a recipe. NAME is a recipe's name or a file such as ./my_paper.py; its settings are listed by
  saccade train NAME --help

The last part of a setting's name will do where no other setting has it: --lora-rank for --flow.lora-rank.

Built recipes: {names}.
"""


@dataclass(frozen=True)
class Options:
    """What concerns the run and not the experiment."""

    preset: Annotated[str, tyro.conf.arg(help_behavior_hint="")] = ""
    """A named set of defaults for all settings."""
    out: Annotated[str, tyro.conf.arg(metavar="DIR", help_behavior_hint="")] = ""
    """Folder of the run, runs/<recipe>/<time> if not given. That of an unfinished run resumes it, with its settings;
    a finished one goes on with more --steps.
    """
    stages_of: Annotated[str, tyro.conf.arg(metavar="RUN", help_behavior_hint="")] = ""
    """A run with the same recipe and seed whose stages are taken as they are; what follows them is trained here."""
    keep_best: Annotated[str, tyro.conf.arg(metavar="SCORE", help_behavior_hint="")] = ""
    """A score of evaluations, such as "paraphrase", or "rmse:min" where less is better: the checkpoint with the best
    value is kept in RUN/best.
    """
    patience: Annotated[int, tyro.conf.arg(metavar="N", help_behavior_hint="")] = 0
    """Evaluations in a row without a better --keep-best score that end the run; 0 never ends it early."""
    logger: Annotated[
        tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="L", help_behavior_hint="")
    ] = ()
    """Where metrics also go: tensorboard, trackio or wandb; may be repeated."""
    smoke: Flag = False
    """Try every stage of a new run for two steps, with short evaluations, to see at once what is missing or too large.
    """
    trust: Flag = False
    """Execute the reward files outside the folder that the settings of a resumed run name."""
    json: Flag = False
    """Print one JSON object as the last line: run, steps, seconds, before, after."""


def main(words: Sequence[str]) -> int:
    """Run the command; the exit status."""
    if not words or words[0].startswith("-"):
        if words and words[0] not in ("-h", "--help"):
            raise ValueError(f"name the recipe before its options: saccade train NAME {words[0]} …")
        print(_USAGE.format(names=", ".join(catalog.recipes()) or "none"), end="")
        return 0 if words else 2
    if words[1:] and not words[1].startswith("-"):
        raise ValueError(f"one recipe a run: '{words[1]}' after {words[0]} is no option; options begin with --")
    return together(lambda: _train(words[0], words[1:]))


def _train(name: str, words: Sequence[str]) -> int:
    """Start or resume the run, train, and print the result."""
    preset, out = _value(words, "--preset"), _value(words, "--out")
    plan = training.plan(name, preset, out, trust="--trust" in words, smoke="--smoke" in words)
    kind = _command_line(plan.recipe)
    given = parse(kind, words, f"saccade train {name}", kind(plan.settings, Options()))
    options: Options = given.run
    from saccade.core import Interrupted, RunFailed

    try:
        run = training.execute(
            plan,
            given.recipe,
            training.Options(
                options.stages_of,
                options.keep_best,
                options.patience,
                options.logger,
                given=[word[2:].partition("=")[0] for word in words if word.startswith("--")],
            ),
        )
    except Interrupted as error:
        if first():
            say_error(error)
        return 130
    except RunFailed as error:
        cause = error.__cause__
        while isinstance(cause, RunFailed):
            cause = cause.__cause__
        if cause is not None and not meant(cause):
            traceback.print_exception(cause)
        say_error(error)
        return 1
    if first():
        _show(run, options.json)
    return 0


def _command_line(recipe: Recipe) -> type:
    """A dataclass of the recipe's settings and the run's options, from which tyro makes the flags."""
    summary = (recipe.__doc__ or "").partition("\n")[0]
    presets = f"Presets: {', '.join(recipe.PRESETS)}."
    fields: list[Any] = [("recipe", Flat[recipe.Settings]), ("run", Flat[Options])]
    made = dataclasses.make_dataclass("CommandLine", fields, frozen=True)
    made.__doc__ = f"{summary}\n\n{presets}"
    return made


def _value(words: Sequence[str], flag: str) -> str:
    """The word after a flag, before the settings can be parsed; "" if the flag is not there."""
    for i, word in enumerate(words):
        if word == flag and i + 1 < len(words):
            return words[i + 1]
        if word.startswith(f"{flag}="):
            return word.partition("=")[2]
    return ""


def _show(run: TrainedRun, as_json: bool) -> None:
    page = _report(run)
    result: Mapping[str, Any] = run.result or {}
    if as_json:
        return show_json(result)
    before, after = result.get("before", {}), result.get("after", {})
    change = lambda name: (
        f"{after[name] - before[name]:+.3f}" if None not in (before.get(name), after.get(name)) else ""
    )
    rows = [
        (name, figure(before.get(name)), with_interval(after, name), change(name))
        for name in known({**before, **after})
    ]
    show_table(("held out", "before", "after", "change"), rows, right=(1, 2, 3))
    print(f"run     {run.folder}")
    if page:
        print(f"report  {page}")
    if run.settled:
        score, evaluations = run.config["keep_best"], run.config["patience"]
        end = f"{evaluations} evaluations without a better {score}; the best is {run.folder}/best"
        print(f"ended   after {result['steps']} steps: {end}")


def _report(run: TrainedRun) -> Path | None:
    """Write the run's page; a page that cannot be written is one line and does not undo the training."""
    try:
        return run.report()
    except (ValueError, ImportError, OSError) as error:
        say_error(f"no report: {error}")
        return None
