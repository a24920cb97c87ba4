"""`saccade list`: every system with its family, its state and the result of its check."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import tyro

from saccade import catalog
from saccade.catalog import System
from saccade.cli.output import show_json, show_table, verdict_counts
from saccade.cli.parsing import Flag, parse
from saccade.naming import suggestion


@dataclass(frozen=True)
class Options:
    """The 63 systems and the baselines: number, name, family, state, result of the check.

    States: not built, built (never checked), and the verdicts of a check: holds, refuted, undecided, void.
    """

    family: Annotated[str, tyro.conf.arg(metavar="F", help_behavior_hint="")] = ""
    """Only this family, such as image_generation."""
    json: Flag = False
    """Print one JSON array: number, name, title, family, state, result."""


def main(words: Sequence[str]) -> int:
    """Run the command; the exit status."""
    options = parse(Options, words, "saccade list")
    systems, baselines = catalog.systems(), catalog.baselines()
    families = dict.fromkeys(s.family for s in (*systems, *baselines))
    if options.family and options.family not in families:
        near = suggestion(options.family, families)
        raise ValueError(f"unknown family '{options.family}'{near} (of {', '.join(families)})")
    chosen = lambda group: [s for s in group if options.family in ("", s.family)]
    if options.json:
        show_json([described(system) for system in chosen(systems)])
        return 0
    _show(chosen(systems), "")
    _show(chosen(baselines), "What they are compared with")
    return 0


def described(system: System) -> dict[str, Any]:
    """A system as an object of the JSON array; ``result`` is its check without the figures of single seeds."""
    found = catalog.result(system.name)
    kept = ("verdict", "holds", "claims", "seeds", "seconds", "date", "commit")
    return {
        "number": system.number,
        "name": system.name,
        "title": system.title,
        "family": system.family,
        "state": system.state,
        "result": found and {key: found[key] for key in kept if key in found},
    }


def measured(system: System) -> str:
    """How many of its claims got each verdict, and from how many seeds; "" before a check."""
    found = catalog.result(system.name)
    return f"{verdict_counts(found['claims'])}, {len(found['seeds'])} seeds" if found else ""


def _show(systems: Sequence[System], title: str) -> None:
    if systems:
        rows = [(str(s.number or ""), s.name, s.family, s.state, measured(s), s.title) for s in systems]
        show_table(("no", "name", "family", "state", "measured", "title"), rows, title, right=(0,))
