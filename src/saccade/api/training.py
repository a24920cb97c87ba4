"""From a recipe and what is asked of it to a finished run: begun or resumed, with settings checked and data written."""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from saccade import catalog
from saccade.api import data
from saccade.api.stages import announcement, shortened, smoke_settings
from saccade.catalog import Recipe
from saccade.config import (
    changed,
    code_files,
    contradiction,
    flat,
    foreign,
    groups,
    matching_names,
    names,
    option,
    out_of_range,
    restore_settings,
    words,
)
from saccade.naming import suggestion

if TYPE_CHECKING:
    from saccade.api.run import TrainedRun
    from saccade.training.run import Callback, Run


@dataclass(frozen=True)
class Plan:
    """A run that is to begin or to be resumed: its recipe, and the settings that it has unless others are given."""

    name: str
    recipe: Recipe
    preset: str
    settings: Any
    out: str
    kept: Mapping[str, Any] | None
    """Config of the run that is resumed, None for a new one."""
    finished: int | None = None
    """Steps of the run that is taken up again, where it was finished."""


@dataclass(frozen=True)
class Options:
    """What concerns the run and not the experiment."""

    stages_of: str = ""
    """A run with the same recipe and seed whose stages are taken as they are."""
    keep_best: str = ""
    """A score of evaluations, or "SCORE:min" where less is better, whose best checkpoint is kept in RUN/best."""
    patience: int = 0
    """Evaluations in a row without a better ``keep_best`` score that end the run; 0 never ends it early."""
    loggers: Sequence[str] = ()
    """Where metrics also go: tensorboard, trackio, wandb."""
    callbacks: Sequence[Callback] = ()
    """Functions called with (step, metrics, run) after each line of metrics."""
    display: bool = True
    """Whether progress is shown on standard error."""
    given: Sequence[str] = ()
    """Names of the settings that were given: stages among them are not shortened with the run."""
    resume: str = ""
    """What resumes the run, where that is not the command line of this process."""


def plan(
    name: str, preset: str = "", out: str = "", recipe: Recipe | None = None, trust: bool = False, smoke: bool = False
) -> Plan:
    """The recipe called ``name``, with the settings of a preset or of the run in the folder ``out``.

    ``recipe`` is its module where it was loaded before; ``trust`` as in ``settings_of``; ``smoke`` takes those of a
    smoke test for a new run. ValueError for an unknown recipe or preset, and for a folder that must not be touched.
    """
    recipe = recipe or catalog.load(name)
    kept = _resumable(Path(out), name) if out else None
    chosen = preset or (kept or {}).get("preset") or next(iter(recipe.PRESETS))
    if chosen not in recipe.PRESETS:
        near = suggestion(chosen, recipe.PRESETS)
        raise ValueError(f"unknown preset '{chosen}'{near} (of {', '.join(recipe.PRESETS)})")
    if kept is None:
        settings = recipe.PRESETS[chosen]
        return Plan(name, recipe, chosen, smoke_settings(settings) if smoke else settings, out, None)
    if preset not in ("", kept.get("preset")):
        raise ValueError(f"the run in {out} began with --preset {kept.get('preset')}, not {preset}")
    from saccade.training import folder as on_disk

    result = on_disk.result(Path(out))
    finished = None if result is None else int(result.get("steps") or 0)
    return Plan(name, recipe, chosen, settings_of(recipe, kept, out, trust), out, kept, finished)


def settings_of(recipe: Recipe, config: Mapping[str, Any], folder: str | Path, trust: bool = False) -> Any:
    """The settings with which the run in ``folder`` began. ValueError if the recipe has other ones now.

    Code that they name is executed only with ``trust``, and never from a file in the folder: then it is a ValueError.
    """
    template = recipe.PRESETS.get(config.get("preset") or "") or next(iter(recipe.PRESETS.values()))
    settings = restore_settings(template, config["settings"], f"the run in {folder}")
    placed = {name: str(Path(folder) / "data" / file) for name, file in (config.get("data") or {}).items()}
    known = [Path(file) for file in config.get("code") or {}]
    return changed(foreign(settings, (lambda name: _trusted(name, known, Path(folder))) if trust else _nothing), placed)


def _nothing(name: str) -> None:
    """No file is trusted."""


def _trusted(name: str, known: Sequence[Path], folder: Path) -> Path | None:
    """The file that a setting names, by the absolute path that the run knows it by."""
    file = Path(name.rpartition(":")[0])
    if file.suffix != ".py":
        return Path()  # a module that Python finds by itself
    ending = file.parts if not file.is_absolute() else ()
    places = [place for place in known if place == file or (ending and place.parts[-len(ending) :] == ending)]
    return outside(places[0] if len(places) == 1 else file, folder)


def outside(file: Path, folder: Path) -> Path:
    """A file of code that may be trusted. ValueError for one inside the run's folder and for a relative path."""
    if not file.is_absolute() or file.resolve().is_relative_to(folder.resolve()):
        where = "lies in the folder itself" if file.is_absolute() else "is no absolute path"
        raise ValueError(
            f"the run in {folder} names the code {file}, which {where}: it is not executed, --trust or not"
        )
    return file


def execute(plan: Plan, settings: Any, options: Options, tables: Mapping[str, data.Table] | None = None) -> TrainedRun:
    """Train until the last step and return the finished run.

    ``tables`` are data for settings by name, written into the run's folder. ValueError for what does not fit, before a
    folder is made. RunFailed, with the line that resumes the run, if it cannot continue; Interrupted after Ctrl-C.
    """
    from saccade.api.run import TrainedRun
    from saccade.core import Diverged, Interrupted, RunFailed
    from saccade.training import distributed

    if plan.kept is None:
        settings = shortened(plan.settings, settings, options.given)
    tables = {**_tables(settings), **(tables or {})}
    _refuse_impossible(settings, plan.settings)
    _refuse(plan, with_data(settings, tables, Path(plan.out)), options)
    if plan.kept is None:
        _examine(settings, tables)
    # All processes must have looked at the folder before the first one writes to it.
    new = not plan.out and int(os.environ.get("RANK") or 0) == 0
    made = str(catalog.new_run(catalog.name_of(catalog.find(plan.name)))) if new else plan.out
    folder = Path(distributed.gather([made])[0])
    settings = with_data(settings, tables, folder)
    try:
        opened = _open(plan, settings, options, folder, tables)
    except BaseException:
        if not plan.out:
            with contextlib.suppress(OSError):  # it holds something
                folder.rmdir()
        raise
    with opened as run:
        if run.writes and options.display and (line := announcement(plan.name, plan.settings, settings)):
            print(line, file=sys.stderr, flush=True)
        try:
            if run.writes:
                for name, table in tables.items():
                    table.write(_place(folder, name, table))
            distributed.gather([str(folder)])
            run.finish(plan.recipe.train(settings, run))
        except (Interrupted, KeyboardInterrupt) as error:
            line = f"interrupted after {run.steps} steps; resume with: {_resume(run)}"
            raise Interrupted(line) from error
        except distributed.PeerLost as error:
            raise RunFailed(f"another process of this run is gone; resume with: {_resume(run)}") from error
        except Diverged:  # to resume would repeat it
            raise
        except RunFailed as error:
            advice = "" if "resume with" in str(error) else f"; resume with: {_resume(run)}"
            raise RunFailed(f"{error}{advice}") from error
        except SystemExit as error:
            code = "" if error.code is None else repr(error.code)
            raise RunFailed(f"code of this run called sys.exit({code}); resume with: {_resume(run)}") from error
        except Exception as error:
            error.add_note(f"resume with: {_resume(run)}")
            raise
    return TrainedRun(folder, plan.recipe, settings, settled=run.settled)


def _examine(settings: Any, tables: Mapping[str, data.Table]) -> None:
    """Let groups of settings say what cannot be, by their method ``examine``, with the data that they will have."""
    if not any(hasattr(group, "examine") for group in groups(settings)):
        return
    with tempfile.TemporaryDirectory() as place:
        for name, table in tables.items():
            table.write(_place(Path(place), name, table))
        for group in groups(with_data(settings, tables, Path(place))):
            if hasattr(group, "examine"):
                group.examine()


def with_data(settings: Any, tables: Mapping[str, data.Table], folder: Path) -> Any:
    """Settings that name the files in ``folder`` to which the tables are written."""
    return changed(settings, {name: str(_place(folder, name, table)) for name, table in tables.items()})


def with_functions(settings: Any, functions: Sequence[Callable]) -> Any:
    """Settings in which functions stand where their names stood."""
    from saccade.rewards.registry import Function

    named: dict[str, Any] = {each: each for each in map(Function, functions)}

    def put(value: Any) -> Any:
        return tuple(put(each) for each in value) if isinstance(value, tuple) else named.get(value, value)

    held = {name: value for name, value in flat(settings).items() if isinstance(value, (str, tuple))}
    return changed(settings, {name: put(value) for name, value in held.items()})


def data_settings(kind: type) -> dict[str, str]:
    """The settings that name data, with the column that holds the text there."""
    known = names(kind)
    found = {name: data.text_column(name, known) for name in known}
    return {name: column for name, column in found.items() if column is not None}


def tables_of(kind: type, values: Mapping[str, Any]) -> tuple[dict[str, data.Table], dict[str, Any]]:
    """Which of some ``values`` by name are data in memory, as tables, and the remaining values.

    A name may be short, as everywhere. ValueError for data that do not fit.
    """
    columns, tables, others = data_settings(kind), {}, {}
    for given, value in values.items():
        found = matching_names(given, names(kind))
        if len(found) == 1 and found[0] in columns and not isinstance(value, (str, Path)):
            held = data.table(value, columns[found[0]], given)
            assert held is not None  # only paths may be left to the world
            tables[found[0]] = held
        else:
            others[given] = str(value) if isinstance(value, Path) else value
    return tables, others


def _tables(settings: Any) -> dict[str, data.Table]:
    """The files and folders among the data settings that the worlds do not read by themselves."""
    values, found = flat(settings), {}
    for name, column in data_settings(type(settings)).items():
        if isinstance(values[name], str) and values[name] and (table := data.table(values[name], column, name)):
            found[name] = table
    return found


def _place(folder: Path, name: str, table: data.Table) -> Path:
    return folder / "data" / f"{name.replace('.', '-')}{table.name}"


def _open(plan: Plan, settings: Any, options: Options, folder: Path, tables: Mapping[str, data.Table]) -> Run:
    from saccade.training.provenance import fingerprint
    from saccade.training.run import Run

    if plan.kept is not None:
        longer = settings if _longer(settings, plan.settings) else None
        return Run.resume(folder, options.loggers, options.display, options.callbacks, longer)
    config = catalog.identity(plan.name) | {"preset": plan.preset, "settings": settings, "seed": settings.seed}
    files = [*([config["file"]] if "file" in config else []), *code_files(settings)]
    config |= {"code": {str(Path(file).resolve()): fingerprint(Path(file)) for file in files}} if files else {}
    config |= {name: value for name in ("keep_best", "patience") if (value := getattr(options, name))}
    config |= {"data": {name: _place(folder, name, table).name for name, table in tables.items()}} if tables else {}
    functions = _functions(settings)
    config |= {"functions": functions} if functions else {}
    if options.resume:
        config["resume"] = options.resume.replace("{out}", json.dumps(str(folder), ensure_ascii=False))
    first = Path(options.stages_of) if options.stages_of else None
    return Run.start(folder, config, options.loggers, options.display, first, options.callbacks)


def _functions(settings: Any) -> list[str]:
    """Names of the functions among the settings."""
    from saccade.rewards.registry import Function

    values = [value if isinstance(value, tuple) else (value,) for value in flat(settings).values()]
    return [str(each) for value in values for each in value if isinstance(each, Function)]


def _refuse(plan: Plan, settings: Any, options: Options) -> None:
    """ValueError for options that cannot be, and for settings that contradict those of the run to be resumed."""
    if plan.kept is None:
        if options.patience < 0 or (options.patience and not options.keep_best):
            raise ValueError(
                f"--patience {options.patience} counts evaluations without a better score: name it by --keep-best SCORE"
            )
        return
    longer = _longer(settings, plan.settings)
    if plan.finished is not None and not longer:
        raise ValueError(
            f"the run in {plan.out} is finished ({plan.finished} steps): give it more --steps, or name a new folder"
        )
    same = changed(settings, {"steps": flat(plan.settings)["steps"]}) if longer else settings
    if differs := contradiction(same, plan.settings):
        raise ValueError(
            f"the run in {plan.out} cannot be resumed with {_in_words(*differs)}: leave it out, or name a new folder"
        )
    for name, none in (("stages_of", ""), ("keep_best", ""), ("patience", 0)):
        value = getattr(options, name)
        if value not in (none, plan.kept.get(name)):
            flag = f"--{name.replace('_', '-')}"
            raise ValueError(f"the run in {plan.out} began without {flag} {value}: name a new folder")
    if missing := [name for name in plan.kept.get("functions", []) if name not in _functions(settings)]:
        raise ValueError(
            f"the run in {plan.out} was trained with the function {missing[0]}, which a folder cannot keep: give it"
            " again, as in train(rewards=[function])"
        )


def _longer(given: Any, kept: Any) -> bool:
    """Whether settings ask for more steps than a run was to take."""
    return flat(given).get("steps", 0) > flat(kept).get("steps", 0)


def _in_words(name: str, value: Any, kept: Any) -> str:
    """A contradiction in the words of the command line: ``--steps 8 instead of 6``."""
    return f"{option(name, value)} instead of {option(name, kept) if isinstance(kept, bool) else words(kept)}"


def _refuse_impossible(given: Any, default: Any) -> None:
    """ValueError for a device that is not here, a missing file, and a number out of its range, of 64 bits, or NaN."""
    usual = flat(default)
    for name, value in flat(given).items():
        for each in value if isinstance(value, tuple) else (value,):
            if value != usual[name] and isinstance(each, str) and _is_missing_file(each):
                raise ValueError(f"--{name.replace('_', '-')} {each}: cannot be read: No such file or directory")
        if name.rpartition(".")[2] == "device" and value != usual[name]:
            from saccade.models.device import device_of  # loads torch

            device_of(value)
        if type(value) is int and not -(1 << 63) <= value < 1 << 63:
            raise ValueError(f"--{name.replace('_', '-')} must be a whole number of 64 bits, not {value}")
        if isinstance(value, float) and math.isnan(value):
            raise ValueError(f"--{name.replace('_', '-')} must be a number, not nan")
    if wrong := out_of_range(given, default):
        raise ValueError(wrong)


_READ = (".csv", ".json", ".jsonl", ".parquet", ".txt")
"""Endings of files that settings name for reading."""


def _is_missing_file(value: str) -> bool:
    return value.endswith(_READ) and not os.path.exists(os.path.expanduser(value))


def _resumable(folder: Path, name: str) -> dict[str, Any] | None:
    """The config of the run in ``folder``, None for a new folder. ValueError if it must not be touched."""
    from saccade.training import folder as on_disk

    if on_disk.is_new(folder):
        return None
    if not (folder / "config.json").is_file():
        raise ValueError(f"{folder} exists and is no run: name a new folder")
    config = on_disk.config(folder)
    if "settings" not in config:
        raise ValueError(f"{folder} exists and is no run: name a new folder")
    if config.get("recipe") != catalog.name_of(catalog.find(name)):
        raise ValueError(f"the run in {folder} is one of {config.get('recipe')}, not of {name}: name a new folder")
    return config


def _resume(run: Run) -> str:
    """What resumes a run, with as many processes as it has."""
    several = f"torchrun --nproc-per-node {os.environ.get('LOCAL_WORLD_SIZE')} -m"
    alone = int(os.environ.get("WORLD_SIZE") or 1) == 1
    return run.resume_command if alone else run.resume_command.replace("python -m", several, 1)
