"""`saccade show`: what a system claims, how its recipe differs, which presets it has, what its check found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

import tyro

from saccade import catalog
from saccade.catalog import System
from saccade.cli.output import console, show_claims, show_table
from saccade.cli.parsing import parse


@dataclass(frozen=True)
class Options:
    """One system: its paper, idea and claims, how the recipe differs, its presets, the result of its check."""

    name: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="NAME")]
    """A system's name as `saccade list` shows it, or a recipe file."""


def main(words: Sequence[str]) -> int:
    """Run the command; the exit status."""
    name = parse(Options, words, "saccade show").name
    system = {s.name: s for s in (*catalog.systems(), *catalog.baselines())}.get(name)
    if system and system.file is None:
        _show_heading(system.title, f"system {system.number}, {system.family}: not built")
        return 0
    file = catalog.find(name)
    notes = catalog.head(file)
    _show_heading(system.title if system else notes["title"], _place(system, file.parent.name))
    _show_notes(notes)
    _show_presets(name)
    if found := catalog.result(name):
        show_claims(found["claims"], f"Check of {found['date']}: {found['verdict']}")
    return 0


def _place(system: System | None, folder: str) -> str:
    if system is None:
        return "a recipe of your own"
    number = f"system {system.number}" if system.number else "baseline"
    return f"{number}, {system.family}: {system.state}"


def _show_heading(title: str, place: str) -> None:
    from rich.text import Text

    console().print(Text(title, style="bold"))
    console().print(Text(place, style="dim"))


def _show_notes(notes: Mapping[str, str]) -> None:
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 2))
    for field in catalog.FIELDS:
        if notes[field]:
            grid.add_row(Text(field, style="bold"), Text(notes[field]))
    console().print(grid)


def _show_presets(name: str) -> None:
    """The settings in which the presets differ; where there is one preset, all of them."""
    from saccade.config import flat, option, words

    presets = {preset: flat(settings) for preset, settings in catalog.load(name).PRESETS.items()}
    first = next(iter(presets.values()))
    differs = lambda each: len(presets) == 1 or any(p[each] != first[each] for p in presets.values())
    rows = [(option(each, True), *(words(p[each]) for p in presets.values())) for each in first if differs(each)]
    title = "Settings" if len(presets) == 1 else "Presets, where they differ"
    show_table(("", *presets), rows, title)
    console().print(f"All settings: saccade train {name} --help")
