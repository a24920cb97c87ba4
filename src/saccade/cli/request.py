"""What `saccade train` is asked for: the recipe, its settings, and the run that is resumed, if any."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import tyro

from saccade import catalog
from saccade.cli.parsing import Flag, Flat, parse
from saccade.cli.settings import contradiction, flat
from saccade.cli.subjects import settings_of
from saccade.naming import nearest


@dataclass(frozen=True)
class Options:
    """About the run, not the experiment."""

    preset: Annotated[str, tyro.conf.arg(help_behavior_hint="")] = ""
    """A named set of defaults for all settings."""
    out: Annotated[str, tyro.conf.arg(metavar="DIR", help_behavior_hint="")] = ""
    """Folder of the run, runs/<recipe>/<time> if not given. That of an unfinished run resumes it, with its settings."""
    stages_of: Annotated[str, tyro.conf.arg(metavar="RUN", help_behavior_hint="")] = ""
    """A run with the same recipe and seed whose stages are taken as they are; what comes after them is trained here."""
    keep_best: Annotated[str, tyro.conf.arg(metavar="SCORE", help_behavior_hint="")] = ""
    """A score of evaluations, such as "paraphrase", or "rmse:min" where less is better: what did best stays in
    RUN/best.
    """
    patience: Annotated[int, tyro.conf.arg(metavar="N", help_behavior_hint="")] = 0
    """Evaluations in a row without a better --keep-best score that end the run; 0 goes on to the last step."""
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


def understand(name: str, words: Sequence[str]) -> Request:
    """Read the recipe, the run that --out names if there is one, and the settings. ValueError for what does not fit."""
    recipe = catalog.load(name)
    asked = {flag: _value(words, flag) for flag in ("--preset", "--out")}
    kept = _resumable(Path(asked["--out"]), name) if asked["--out"] else None
    preset = asked["--preset"] or (kept or {}).get("preset") or next(iter(recipe.PRESETS))
    if preset not in recipe.PRESETS:
        near = nearest(preset, recipe.PRESETS)
        raise ValueError(f"unknown preset '{preset}'; nearest: {near} (of {', '.join(recipe.PRESETS)})")
    default = recipe.PRESETS[preset]
    if kept:
        default = _settings_to_resume(recipe, kept, asked)
    whole = _command_line(recipe)
    given = parse(whole, words, f"saccade train {name}", whole(default, Options()))
    _refuse_impossible(given.recipe, default)
    if kept:
        _refuse_contradiction(given.recipe, default, asked["--out"])
        if given.run.stages_of not in ("", kept.get("stages_of")):
            raise ValueError(
                f"the run in {asked['--out']} began without --stages-of {given.run.stages_of}: name a new folder"
            )
        if given.run.keep_best not in ("", kept.get("keep_best")):
            raise ValueError(
                f"the run in {asked['--out']} began without --keep-best {given.run.keep_best}: name a new folder"
            )
        if given.run.patience not in (0, kept.get("patience")):
            raise ValueError(
                f"the run in {asked['--out']} began without --patience {given.run.patience}: name a new folder"
            )
    elif given.run.patience < 0 or (given.run.patience and not given.run.keep_best):
        raise ValueError(
            f"--patience {given.run.patience} counts evaluations without a better score: name it by --keep-best SCORE"
        )
    return Request(name, recipe, preset, given.recipe, given.run, kept is not None)


def _command_line(recipe: ModuleType) -> type:
    """A dataclass of the recipe's settings and the run's options, from which tyro makes the flags."""
    summary = (recipe.__doc__ or recipe.__name__).partition("\n")[0]
    presets = f"Presets: {', '.join(recipe.PRESETS)}."
    fields = [("recipe", Flat[recipe.Settings]), ("run", Flat[Options])]
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
    if config.get("recipe") != catalog.name_of(catalog.find(name)):
        raise ValueError(f"the run in {folder} is one of {config.get('recipe')}, not of {name}: name a new folder")
    return config


def _steps(folder: Path) -> int:
    return json.loads((folder / "result.json").read_text()).get("steps", 0)


def _settings_to_resume(recipe: ModuleType, kept: Mapping[str, Any], asked: Mapping[str, str]) -> Any:
    if asked["--preset"] not in ("", kept.get("preset")):
        raise ValueError(
            f"the run in {asked['--out']} began with --preset {kept.get('preset')}, not {asked['--preset']}"
        )
    return settings_of(recipe, kept, asked["--out"])


def _refuse_impossible(given: Any, default: Any) -> None:
    """ValueError for a device that is not here, and for a count below 0."""
    usual = flat(default)
    for name, value in flat(given).items():
        if name.endswith("device") and value != usual[name]:
            from saccade.models.device import device_of  # loads torch

            device_of(value)
        if type(value) is int and type(usual[name]) is int and value < 0 <= usual[name]:
            raise ValueError(f"{name} must be 0 or more, not {value}")


def _refuse_contradiction(given: Any, kept: Any, folder: str) -> None:
    if differs := contradiction(given, kept):
        raise ValueError(f"the run in {folder} cannot be resumed with {differs}: leave it out, or name a new folder")
