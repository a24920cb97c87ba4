"""A recipe as a handle: what it is, which settings it has, and how it is trained."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from saccade import catalog
from saccade.config import changed, code_files, described, flat, words

if TYPE_CHECKING:
    from saccade.api.run import TrainedRun
    from saccade.training.claims import Claim
    from saccade.training.run import Callback


class LoadedRecipe:
    """A recipe by its name or its file; ``module`` is its module."""

    def __init__(self, name: str | Path):
        """ValueError, with the nearest name, if there is no such recipe or if it lacks a part."""
        self._asked = str(name)
        self.file = catalog.find(self._asked)
        self.module = catalog.load(self._asked)

    def __repr__(self) -> str:
        return f"LoadedRecipe({self.name!r}: {self.title})"

    @property
    def name(self) -> str:
        """The name by which `saccade list` shows it, or its file's name."""
        return catalog.name_of(self.file)

    @property
    def title(self) -> str:
        """The first line of the head note."""
        return self.notes["title"]

    @property
    def notes(self) -> dict[str, str]:
        """The head note: title, paper, idea, claims, differs."""
        return catalog.head(self.file)

    @property
    def settings(self) -> Any:
        """The default settings, those of the first preset."""
        return next(iter(self.presets.values()))

    @property
    def presets(self) -> Mapping[str, Any]:
        """Settings by name."""
        return self.module.PRESETS

    @property
    def claims(self) -> tuple[Claim, ...]:
        """What a check tests; () if nothing is claimed."""
        return tuple(getattr(self.module, "CLAIMS", ()))

    def help(self, preset: str = "") -> None:
        """Print the head note and every setting with its value in a preset (else the default) and what it means."""
        settings = self._preset(preset)
        lines = [self.title, "", *(f"{field}: {self.notes[field]}" for field in catalog.FIELDS if self.notes[field])]
        values = flat(settings)
        rows = [(f"{name} = {words(values[name])}", text) for name, _, text in described(type(settings))]
        width = min(max(len(left) for left, _ in rows), 44)
        shown = [f"  {left:<{width}}  {text}".rstrip() for left, text in rows]
        print("\n".join([*lines, "", f"presets: {', '.join(self.presets)}", "", "settings:", *shown]))

    def configured(self, preset: str = "", **settings: Any) -> Any:
        """The settings of a preset with some of them changed, by their whole or short names. ValueError for others."""
        return changed(self._preset(preset), _functions(settings))

    def train(
        self,
        preset: str = "",
        *,
        out: str | Path = "",
        callbacks: Sequence[Callback] = (),
        loggers: Sequence[str] = (),
        display: bool = True,
        stages_of: str | Path = "",
        keep_best: str = "",
        patience: int = 0,
        trust: bool = False,
        smoke: bool = False,
        **settings: Any,
    ) -> TrainedRun:
        """Train in the folder ``out`` (runs/<recipe>/<time> if not given) and return the finished run.

        ``settings`` are named as on the command line: by the dotted name, ``**{"optim.lr": 1e-4}``, or by its last part
        where no other setting has it, ``steps=20``; a group's name stands for the ``name`` in it, and ``model`` for
        that of the only model. A group may be given as its dataclass or as a dict. Functions may stand among rewards.
        Data (``prompts``, ``questions``, …) may be lists, files, folders or data sets (see `api.data`).

        The folder of an unfinished run resumes it with its settings; functions must then be given again, and so must
        reward files, or ``trust=True`` runs those that the folder names. A finished one goes on with more ``steps``.
        ``callbacks``
        are called with (step, metrics, run) after each line of metrics, ``loggers`` are tensorboard, trackio or wandb,
        ``stages_of``, ``keep_best``, ``patience`` and ``smoke`` are those of the command. ``display=False`` shows no
        progress.

        ValueError for what does not fit, RunFailed if the run cannot continue, Interrupted after Ctrl-C; their messages
        say how to resume.
        """
        from saccade.api import training

        plan = training.plan(self._asked, preset, str(out), self.module, trust, smoke)
        tables, others = training.tables_of(type(plan.settings), settings)
        functions = any(map(_has_function, others.values()))
        given = changed(plan.settings, _functions(others))
        again = ", rewards=[…]" if functions else ""
        again += ", trust=True" if code_files(given) else ""
        resume = f"saccade.load({json.dumps(self._asked, ensure_ascii=False)}).train(out={{out}}{again})"
        options = training.Options(
            str(stages_of), keep_best, patience, tuple(loggers), tuple(callbacks), display, tuple(settings), resume
        )
        return training.execute(plan, given, options, tables)

    def _preset(self, name: str) -> Any:
        from saccade.naming import require

        if name:
            require("preset", name, list(self.presets))
        return self.presets[name] if name else self.settings


def load(name: str | Path) -> LoadedRecipe:
    """A recipe by its name (``"flow_grpo"``) or its file (``"./my_paper.py"``). ValueError with the nearest name."""
    return LoadedRecipe(name)


def _has_function(value: Any) -> bool:
    return _is_function(value) or (isinstance(value, (list, tuple)) and any(map(_is_function, value)))


def _is_function(value: Any) -> bool:
    return callable(value) and not isinstance(value, type)


def _functions(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings in which functions are `rewards.registry.Function`. ValueError where two have the same name."""
    return {name: _named(value) if _has_function(value) else value for name, value in settings.items()}


def _named(value: Any) -> Any:
    from saccade.rewards.registry import Function

    named: Callable[[Any], Any] = lambda each: Function(each) if _is_function(each) else each
    if not isinstance(value, (list, tuple)):
        return named(value)
    found = [named(each) for each in value]
    if twice := next((each for each in found if found.count(each) > 1), None):
        raise ValueError(f"two rewards are called '{twice}': give each a name of its own")
    return found
