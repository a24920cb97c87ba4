"""The HTML page of a run, or of several side by side: one file that needs no network."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from saccade import catalog
from saccade.report import check, intervals, tables
from saccade.report.conversations import conversation_sets
from saccade.report.curves import charts
from saccade.report.episodes import episode_sets
from saccade.report.pictures import picture_sets, rewrites
from saccade.report.record import Record, read_all
from saccade.training.files import replace_bytes

_HERE = Path(__file__).parent


def write_page(runs: Sequence[Path], out: Path, checks: Sequence[Path] = ()) -> Path:
    """Write the report of ``runs`` (folders) to ``out`` and return its path; ``checks`` are results of checks.

    Parts that a run lacks are left out; a folder that is empty, broken or not a run is a ValueError with one line.
    """
    records = read_all(runs)
    context = _context(records, [check.read_check(path) for path in checks])
    out.parent.mkdir(parents=True, exist_ok=True)
    replace_bytes(out, _render(context).encode(errors="replace"))
    return out


def _context(records: list[Record], checks: list[dict[str, Any]]) -> dict[str, Any]:
    names = list(dict.fromkeys(section.name for record in records for section in record.sections))
    sections = [section for name in names if (section := _section(records, name))]
    headline = tables.headline(records)
    return {
        "records": records,
        "notes": [_note(record) for record in records],
        "headline": headline,
        "has_intervals": any(change and change.halves[1] for row in headline for change in row.values),
        "over_seeds": intervals.over_seeds(records),
        "sections": sections,
        "checks": checks,
        "cost": tables.cost(records),
        "settings": tables.settings(records),
        "provenance": tables.provenance(records),
        "has_episodes": any(section["episodes"] for section in sections),
        "has_charts": any(section["curves"] or section["health"] for section in sections)
        or any(found["curves"] for found in checks),
    }


def _note(record: Record) -> dict[str, str]:
    """The head note of the run's recipe, read and not run; empty if the recipe is gone."""
    try:
        return catalog.head(catalog.find(str(record.config.get("file") or record.config.get("recipe"))))
    except (ValueError, OSError):
        return {}


def _section(records: list[Record], name: str) -> dict[str, Any] | None:
    """One section over all runs, or None if none of them has anything in it."""
    parts = [(i, part) for i, record in enumerate(records) if (part := record.section(name))]
    found = {
        "curves": charts(records, name, ("reward", "eval")),
        "pictures": picture_sets(records, name),
        "episodes": episode_sets(records, name),
        "conversations": conversation_sets(records, name),
        "rewrites": rewrites(records, name),
        "tables": _tables(parts),
        "health": charts(records, name, ("health", "loss"), others=True),
    }
    return {"name": name, **found} if any(found.values()) else None


def _tables(parts: Sequence[tuple[int, Any]]) -> list[dict[str, Any]]:
    """Tables by title, those of all runs together."""
    titles = dict.fromkeys(title for _, part in parts for title in part.tables)
    return [
        {"title": t, "runs": [(i, _table(part.tables[t])) for i, part in parts if t in part.tables]} for t in titles
    ]


def _table(table: dict[str, Any]) -> dict[str, Any]:
    """A table and which of its columns hold numbers alone."""
    columns = [
        [row[i] for row in table["rows"] if i < len(row) and row[i] is not None] for i in range(len(table["columns"]))
    ]
    numeric = [i for i, values in enumerate(columns) if values and all(isinstance(v, (int, float)) for v in values)]
    return table | {"numeric": numeric}


def _render(context: dict[str, Any]) -> str:
    try:
        from jinja2 import Environment, FileSystemLoader
        from plotly.offline import get_plotlyjs
    except ImportError:
        raise ValueError("a report needs two packages: pip install 'saccade[report]'") from None
    environment = Environment(loader=FileSystemLoader(_HERE), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"text": tables.text, "mean_std": check.mean_std, "inert": _inert}
    safe = {
        "style": (_HERE / "page.css").read_text(),
        "script": (_HERE / "page.js").read_text(),
        "view": (_HERE / "page_view.js").read_text(),
        "motion": (_HERE / "page_motion.js").read_text(),
        "plotly": get_plotlyjs() if context["has_charts"] else "",
    }
    return environment.get_template("page.html.j2").render(**context, raw=safe)


def _inert(data: Any) -> str:
    """JSON that no parser of HTML can take for a tag."""
    found = json.dumps(data, allow_nan=False)
    return found.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")
