"""`saccade train`: run a recipe in a folder of its own, or resume the run in the folder that --out names."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from saccade import catalog
from saccade.cli.output import figure, first, say_error, show_json, show_table
from saccade.cli.parsing import Flag, parse

if TYPE_CHECKING:
    from saccade.training.run import Run

_USAGE = """usage: saccade train NAME [--preset P] [--out DIR] [--sink S] [--json] [--FIELD VALUE …]

Run a recipe. NAME is a recipe's name or a file such as ./my_paper.py; the fields are its settings:
  saccade train NAME --help

Built recipes: {names}.
"""


@dataclass(frozen=True)
class Options:
    """About the run, not the experiment."""

    preset: Annotated[str, tyro.conf.arg(help_behavior_hint="")] = ""
    """A named set of defaults for all settings."""
    out: Annotated[str, tyro.conf.arg(metavar="DIR", help_behavior_hint="")] = ""
    """Folder of the run, runs/<recipe>/<time> if not given. That of an unfinished run resumes it, with its settings."""
    sink: Annotated[tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="S", help_behavior_hint="")] = ()
    """Where metrics also go: tensorboard, trackio or wandb; may be repeated."""
    json: Flag = False
    """Print one JSON object as the last line: run, steps, seconds, before, after."""


@dataclass(frozen=True)
class Request:
    """What a command line asks for, once the folder that it resumes has been read."""

    name: str
    recipe: ModuleType
    preset: str
    settings: Any
    options: Options
    resumed: bool


def main(words: Sequence[str]) -> int:
    if not words or words[0].startswith("-"):
        if words and words[0] not in ("-h", "--help"):
            raise ValueError(f"name the recipe before its options: saccade train NAME {words[0]} …")
        print(_USAGE.format(names=", ".join(catalog.recipes()) or "none"), end="")
        return 0 if words else 2
    return _together(lambda: _train(understand(words[0], words[1:])))


def understand(name: str, words: Sequence[str]) -> Request:
    """Read the recipe, the run that --out names if there is one, and the settings. ValueError for what does not fit."""
    recipe = catalog.load(name)
    asked = {flag: _value(words, flag) for flag in ("--preset", "--out")}
    kept = _resumable(Path(asked["--out"]), name) if asked["--out"] else None
    preset = asked["--preset"] or (kept or {}).get("preset") or next(iter(recipe.PRESETS))
    if preset not in recipe.PRESETS:
        near = catalog.nearest(preset, recipe.PRESETS)
        raise ValueError(f"unknown preset '{preset}'; nearest: {near} (of {', '.join(recipe.PRESETS)})")
    default = recipe.PRESETS[preset]
    if kept:
        default = _settings_to_resume(recipe, kept, asked)
    whole = _command_line(recipe)
    given = parse(whole, words, f"saccade train {name}", whole(default, Options()))
    if kept:
        _refuse_contradiction(given.recipe, default, asked["--out"])
    return Request(name, recipe, preset, given.recipe, given.run, kept is not None)


def _command_line(recipe: ModuleType) -> type:
    """A dataclass of the recipe's settings and the run's options, from which tyro makes the flags."""
    summary = (recipe.__doc__ or recipe.__name__).partition("\n")[0]
    presets = f"Presets: {', '.join(recipe.PRESETS)}."
    fields = [("recipe", recipe.Settings), ("run", Options)]
    made = dataclasses.make_dataclass("CommandLine", fields, frozen=True)
    made.__doc__ = f"{summary}\n\n{presets}"
    return made


def _value(words: Sequence[str], flag: str) -> str:
    """What follows a flag, before the settings can be parsed; "" if it is not there."""
    for i, word in enumerate(words):
        if word == flag and i + 1 < len(words):
            return words[i + 1]
        if word.startswith(f"{flag}="):
            return word.partition("=")[2]
    return ""


def _resumable(folder: Path, name: str) -> dict[str, Any] | None:
    """The config of the unfinished run in ``folder``, None for a new folder. ValueError if it must not be touched."""
    from saccade.training import folder as on_disk

    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return None
    if not (folder / "config.json").is_file():
        raise ValueError(f"{folder} exists and is no run: name a new folder")
    if (folder / "result.json").is_file():
        raise ValueError(f"the run in {folder} is finished ({_steps(folder)} steps): name a new folder")
    config = on_disk.config(folder)
    if "settings" not in config:
        raise ValueError(f"{folder} exists and is no run: name a new folder")
    if config.get("recipe") != catalog.find(name).stem:
        raise ValueError(f"the run in {folder} is one of {config.get('recipe')}, not of {name}: name a new folder")
    return config


def _steps(folder: Path) -> int:
    return json.loads((folder / "result.json").read_text()).get("steps", 0)


def _settings_to_resume(recipe: ModuleType, kept: Mapping[str, Any], asked: Mapping[str, str]) -> Any:
    from saccade.cli.subjects import settings_of

    if asked["--preset"] not in ("", kept.get("preset")):
        raise ValueError(f"the run in {asked['--out']} began with --preset {kept.get('preset')}, not {asked['--preset']}")
    return settings_of(recipe, kept, asked["--out"])


def _refuse_contradiction(given: Any, kept: Any, folder: str) -> None:
    from saccade.cli.settings import contradiction

    if differs := contradiction(given, kept):
        raise ValueError(f"the run in {folder} cannot be resumed with {differs}: leave it out, or name a new folder")


def _train(request: Request) -> int:
    """Start or resume the run, train, and tell what came of it."""
    from saccade.training.run import Interrupted, RunFailed

    with _open(request) as run:
        try:
            result = run.finish(request.recipe.train(request.settings, run))
        except (Interrupted, KeyboardInterrupt):
            run.close()
            if first():
                say_error(f"interrupted after {run.steps} steps; resume with: {run.again}")
            return 130
        except RunFailed as error:
            run.close()
            resume = "" if "resume with" in str(error) else f"; resume with: {run.again}"
            say_error(f"{error}{resume}")
            return 1
    if first():
        _tell(run.folder, result, request.options.json)
    return 0


def _open(request: Request) -> Run:
    from saccade.training import distributed
    from saccade.training.run import Run

    options, name = request.options, catalog.find(request.name).stem
    # All processes must have looked at the folder before the first one writes to it.
    folder = Path(distributed.gather([options.out or str(catalog.new_run(name))])[0])
    if request.resumed:
        return Run.resume(folder, options.sink)
    config = {"preset": request.preset, "settings": request.settings, "seed": request.settings.seed}
    return Run.start(folder, catalog.identity(request.name) | config, options.sink)


def _tell(folder: Path, result: Mapping[str, Any], as_json: bool) -> None:
    page = _report(folder)
    if as_json:
        return show_json(result)
    before, after = result.get("before", {}), result.get("after", {})
    change = lambda name: f"{after[name] - before[name]:+.3f}" if None not in (before.get(name), after.get(name)) else ""
    rows = [(name, figure(before.get(name)), figure(after.get(name)), change(name)) for name in {**before, **after}]
    show_table(("held out", "before", "after", "change"), rows, right=(1, 2, 3))
    print(f"run     {folder}")
    if page:
        print(f"report  {page}")


def _report(folder: Path) -> Path | None:
    """Write the run's page; a report that cannot be made is told and does not undo the training."""
    try:
        from saccade.report import page

        page.write([folder], folder / "report.html")
        return folder / "report.html"
    except (ValueError, ImportError, OSError) as error:
        say_error(f"no report: {error}")
        return None


def _together(work: Callable[[], int]) -> int:
    """Do the work; as one of several processes, tell an error in one line and be gone, so that the others end too."""
    if int(os.environ.get("WORLD_SIZE") or 1) == 1:
        return work()
    from saccade.training import distributed

    try:
        distributed.start()
        status = work()
        if status == 0:
            distributed.stop()
    except BaseException as error:
        status = _told(error)
    sys.stdout.flush()
    sys.stderr.flush()
    # Leaving in good order would wait for the others, who may be waiting for this process.
    os._exit(status)


def _told(error: BaseException) -> int:
    """Say why this process ends, and with which status."""
    if isinstance(error, SystemExit):
        return int(error.code or 0)
    if isinstance(error, (ValueError, OSError)):
        say_error(error)
        return 2
    if _lost(error):
        say_error("another process of this run has gone; resume with the same command and --out")
        return 1
    traceback.print_exc()
    say_error(f"{type(error).__name__}: {error}")
    return 1


def _lost(error: BaseException) -> bool:
    """Whether the error only says that a process at the other end of a connection is no more."""
    signs = ("gloo", "nccl", "connection closed", "connection reset", "socket")
    return isinstance(error, RuntimeError) and any(sign in str(error).lower() for sign in signs)
