"""`saccade train`: run a recipe in a folder of its own, or resume the run in the folder that --out names."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from saccade import catalog
from saccade.cli.commands import report
from saccade.cli.output import figure, first, known, say_error, show_json, show_table, sure
from saccade.cli.request import Request, understand
from saccade.cli.together import alone, together

if TYPE_CHECKING:
    from saccade.training.run import Run

_USAGE = """usage: saccade train NAME [--preset P] [--out DIR] [--stages-of RUN] [--keep-best SCORE [--patience N]]
                     [--sink S] [--json] [--FIELD VALUE …]

Run a recipe. NAME is a recipe's name or a file such as ./my_paper.py; the fields are its settings:
  saccade train NAME --help

Built recipes: {names}.
"""


def main(words: Sequence[str]) -> int:
    """Run the command; the exit status."""
    if not words or words[0].startswith("-"):
        if words and words[0] not in ("-h", "--help"):
            raise ValueError(f"name the recipe before its options: saccade train NAME {words[0]} …")
        print(_USAGE.format(names=", ".join(catalog.recipes()) or "none"), end="")
        return 0 if words else 2
    return together(lambda: _train(understand(words[0], words[1:])))


def _train(request: Request) -> int:
    """Start or resume the run, train, and tell what came of it."""
    with _open(request) as run:
        try:
            result = run.finish(request.recipe.train(request.settings, run))
        except (Exception, KeyboardInterrupt) as error:
            run.close()
            return _ended(error, run)
    if first():
        _tell(run.folder, result, request.options.json)
        if run.settled and not request.options.json:
            score, evaluations = run.config["keep_best"], run.config["patience"]
            print(
                f"ended   after {run.steps} steps: {evaluations} evaluations without a better {score}; the best is {run.folder}/best"
            )
    return 0


def _ended(error: BaseException, run: Run) -> int:
    """Say why a run ended before its time and how to resume it; the exit status. Other errors go on."""
    from saccade.training.distributed import PeerLost
    from saccade.training.run import Interrupted, RunFailed

    if isinstance(error, (Interrupted, KeyboardInterrupt)):
        if first():
            say_error(f"interrupted after {run.steps} steps; resume with: {_again(run)}")
        return 130
    if isinstance(error, PeerLost):
        say_error(f"another process of this run is gone; resume with: {_again(run)}")
        return 1
    if isinstance(error, RunFailed):
        say_error(error if "resume with" in str(error) else f"{error}; resume with: {_again(run)}")
        return 1
    raise error


def _again(run: Run) -> str:
    """The command line that resumes a run with as many processes as it has."""
    several = f"torchrun --nproc-per-node {os.environ.get('LOCAL_WORLD_SIZE')} -m"
    return run.resume_command if alone() else run.resume_command.replace("python -m", several, 1)


def _open(request: Request) -> Run:
    from saccade.training import distributed
    from saccade.training.run import Run

    options, name = request.options, catalog.name_of(catalog.find(request.name))
    # All processes must have looked at the folder before the first one writes to it.
    folder = Path(distributed.gather([options.out or str(catalog.new_run(name))])[0])
    if request.resumed:
        return Run.resume(folder, options.sink)
    config = {"preset": request.preset, "settings": request.settings, "seed": request.settings.seed}
    config |= {name: value for name in ("keep_best", "patience") if (value := getattr(options, name))}
    first = Path(options.stages_of) if options.stages_of else None
    return Run.start(folder, catalog.identity(request.name) | config, options.sink, stages_of=first)


def _tell(folder: Path, result: Mapping[str, Any], as_json: bool) -> None:
    page = _report(folder)
    if as_json:
        return show_json(result)
    before, after = result.get("before", {}), result.get("after", {})
    change = lambda name: (
        f"{after[name] - before[name]:+.3f}" if None not in (before.get(name), after.get(name)) else ""
    )
    rows = [(name, figure(before.get(name)), sure(after, name), change(name)) for name in known({**before, **after})]
    show_table(("held out", "before", "after", "change"), rows, right=(1, 2, 3))
    print(f"run     {folder}")
    if page:
        print(f"report  {page}")


def _report(folder: Path) -> Path | None:
    """Write the run's page; a report that cannot be made is told and does not undo the training."""
    try:
        return report.write([folder], folder / "report.html")
    except (ValueError, ImportError, OSError) as error:
        say_error(f"no report: {error}")
        return None
