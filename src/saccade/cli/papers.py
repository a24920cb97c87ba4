"""The tables in README.md and the page docs/papers.md, written from the recipes, the results and the benchmarks.

python -m saccade.cli.papers
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from saccade import catalog
from saccade.catalog import System
from saccade.cli.output import VERDICTS, interval, verdict_counts, why

SPEED = (
    (
        "sampling of pictures, tiny SD3",
        "a plain loop on diffusers",
        "flow_tiny",
        "models/tiny/sampling/float32/x plain",
    ),
    ("update, tiny SD3, as recipes set it", "the same", "flow_tiny", "models/tiny/update with KL/float32/x plain"),
    ("answers of a VLM", "TRL's own trainer", "vlm", "generation/saccade/x trl"),
    ("update of a VLM", "the same", "vlm", "update/saccade/x trl"),
    ("whole GRPO step of a VLM", "the same", "vlm", "step/saccade/x trl"),
    ("PPO on CartPole", "stable-baselines3", "control", "pole/sides/float32/x sb3"),
    ("PPO on Pong, pictures", "stable-baselines3", "control", "pong/sides/float32/x sb3"),
    ("SAC on Pendulum", "stable-baselines3", "control_sac", "ours/x sb3"),
)
"""Rows of the table of speed: the work, the peer, the file in benchmarks/results, and where the ratio is in it."""
_MARKS = {"not built": "", "built": "built", "holds": "**holds**"}


def table() -> str:
    """All systems, in their order: number, name, family, title, state."""
    row = lambda s: f"| {s.number} | {_link(s)} | {s.family} | {s.title} | {_mark(s)} |"
    return "\n".join(("| | name | family | title | check |", "|--:|---|---|---|---|", *map(row, catalog.systems())))


def page() -> str:
    """docs/papers.md: by family, what each recipe does, claims and measured."""
    systems = catalog.systems()
    families = dict.fromkeys(system.family for system in systems)
    groups = {family: [s for s in systems if s.family == family] for family in families}
    parts = [_family(name, members) for name, members in {"baselines": catalog.baselines(), **groups}.items()]
    return "\n\n".join((_HEAD.format(summary=_summary(systems)), *parts)) + "\n"


def built() -> str:
    """One sentence of what stands, and of what checks came to."""
    systems, baselines = catalog.systems(), catalog.baselines()
    ready = [system for system in systems if system.file]
    claims = [claim for s in (*ready, *baselines) for claim in (catalog.result(s.name) or {}).get("claims", [])]
    return (
        f"**{len(ready)} of {len(systems)} published systems and {len(baselines)} baselines are built**; the others are"
        f" listed below and not built yet. Of {len(claims)} claims that were checked: {verdict_counts(claims)}."
    )


def speed(results: Path) -> str:
    """How many times faster than peers, from the files in benchmarks/results."""
    rows = []
    for work, peer, name, place in SPEED:
        found = json.loads((results / f"{name}.json").read_text(encoding="utf-8"))
        ratio = found
        for key in place.split("/", place.count("/")):
            ratio = ratio[key]
        where = f"{found['date'][:10]}, {found['commit'][:8]}, {found['machine']['gpu'] or 'no GPU'}"
        rows.append(f"| {work} | {peer} | {ratio:.1f} × | {where} |")
    return "\n".join(("| work | peer | faster | measured |", "|---|---|--:|---|", *rows))


def update(root: Path) -> None:
    """Write both files of the checkout at ``root``. ValueError if README.md has no place for the tables."""
    (root / "docs" / "papers.md").write_text(page(), encoding="utf-8")
    readme = root / "README.md"
    readme.write_text(with_tables(readme.read_text(encoding="utf-8"), root), encoding="utf-8")


def with_tables(readme: str, root: Path) -> str:
    """The text of README.md with what stands between its markers replaced."""
    parts = {"built": built(), "speed": speed(root / "benchmarks" / "results"), "systems": table()}
    for name, text in parts.items():
        first, last = f"<!-- {name}: written by `python -m saccade.cli.papers` -->", f"<!-- /{name} -->"
        if readme.count(first) != 1 or readme.count(last) != 1:
            raise ValueError(f"README.md must hold the lines {first} and {last}, once each")
        before, _, rest = readme.partition(first)
        readme = f"{before}{first}\n\n{text}\n\n{last}{rest.partition(last)[2]}"
    return readme


def _mark(system: System) -> str:
    """The state of a system, with the number of seeds and the margin of its first decisive claim."""
    found = catalog.result(system.name)
    if not found:
        return _MARKS[system.state]
    return f"{_MARKS.get(system.state, system.state)} ({verdict_counts(found['claims'])}; {len(found['seeds'])} seeds)"


def _summary(systems: Sequence[System]) -> str:
    states = [system.state for system in systems]
    counted = [(states.count(state), state) for state in (*VERDICTS, "built", "not built")]
    return ", ".join(f"{count} {state}" for count, state in counted if count)


def _family(name: str, members: Sequence[System]) -> str:
    built = [system for system in members if system.file]
    planned = [f"- {_name(system)} {system.title}" for system in members if not system.file]
    title = name.replace("_", " ").capitalize()
    return "\n\n".join(
        [f"## {title}", *map(_entry, built), *(["\n".join(["Not built yet:\n", *planned])] if planned else [])]
    )


def _entry(system: System) -> str:
    notes = catalog.head(system.file) if system.file else {}
    fields = [f"- *{field}:* {notes[field]}" for field in catalog.FIELDS if notes.get(field)]
    found = catalog.result(system.name)
    return "\n".join(
        [f"### {_name(system)} {system.title}", "", *fields, "", _measured(found) if found else "Not checked yet."]
    )


def _measured(found: Mapping[str, Any]) -> str:
    """The claims of a check with their intervals and the margins of all seeds."""
    number = lambda x: "–" if x is None else f"{x:.3f}"
    text = lambda claim: claim.replace("|", "\\|")
    cells = lambda c: (
        text(c["claim"]),
        c["origin"],
        c["verdict"] + (f": {text(reason)}" if (reason := why(c)) else ""),
        interval(c),
        f"{c['least']:g}",
        " ".join(map(number, c["margins"])),
    )
    rows = [f"| {' | '.join(cells(claim))} |" for claim in found["claims"]]
    commit = re.sub(r"^(\w{8})\w*", r"\1", found.get("commit") or "no commit")
    cost = f"{len(found['seeds'])} seeds, {found['seconds'] / 60:.0f} min on {found['machine']['cores']} cores"
    head = f"Checked {found['date']} at {commit} ({cost}): **{found['verdict']}**."
    return "\n".join(
        [
            head,
            "",
            "| claim | origin | verdict | margin, 95 % | must exceed | each seed |",
            "|---|---|---|--:|--:|---|",
            *rows,
        ]
    )


def _name(system: System) -> str:
    return f"{system.number} · `{system.name}`" if system.number else f"`{system.name}`"


def _link(system: System) -> str:
    return (
        f"[`{system.name}`](src/saccade/{system.file.relative_to(catalog.PACKAGE)})"
        if system.file
        else f"`{system.name}`"
    )


_HEAD = """# The systems

Written by `python -m saccade.cli.papers` from the recipes' head notes and `results/`; not by hand.

{summary}. A claim has one of four verdicts, by the 95 % interval of its margin over seeds and held-out problems: it
*holds* if the interval lies above what is claimed, is *refuted* if it lies below, *undecided* if it contains it, and
*void* if nothing was tested. The state of a system is that of the claims of its paper. Results that were recorded with
three seeds have wide intervals."""


if __name__ == "__main__":
    update(catalog.PACKAGE.parents[1])
