"""The result of a check as the report shows it: verdict, claims, and a row an arm with mean and spread over seeds."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from saccade.report.tables import Row, text
from saccade.training.meter import duration


def read(path: Path) -> dict[str, Any]:
    """A result of ``saccade check``: {"name", "holds", "facts", "claims", "scores", "arms"} with scores as mean ± spread.

    ``arms`` are rows of (arm, one cell a score); a cell is its text and the values of all seeds.
    """
    try:
        result = json.loads(path.read_text())
        arms = {arm: _by_score(seeds) for arm, seeds in (result.get("arms") or {}).items()}
    except (OSError, ValueError, AttributeError, TypeError) as error:
        reason = getattr(error, "strerror", None) or "unexpected content"
        raise ValueError(f"{path} is not the result of a check: {reason}") from None
    scores = list(dict.fromkeys(score for found in arms.values() for score in found))
    facts = {name: result[name] for name in ("seeds", "date", "machine", "commit") if result.get(name) not in (None, "")}
    seconds = {"time": duration(result["seconds"])} if isinstance(result.get("seconds"), (int, float)) else {}
    claims = [claim for claim in result.get("claims") or [] if isinstance(claim, dict)]
    rows = [Row(arm, [found.get(score, []) for score in scores]) for arm, found in arms.items()]
    return {"name": result.get("name", path.stem), "holds": result.get("holds"), "facts": facts | seconds,
            "claims": claims, "scores": scores, "arms": rows}  # fmt: skip


def spread(values: Sequence[float]) -> str:
    """Mean ± standard deviation over seeds."""
    if not values:
        return "–"
    return text(mean(values)) + (f" ± {stdev(values):.2g}" if len(values) > 1 else "")


def _by_score(seeds: Any) -> dict[str, list[float]]:
    """Values of an arm's seeds under each score; an arm without seeds counts as one seed."""
    rows = list(seeds.values()) if isinstance(seeds, dict) else list(seeds)
    if rows and not all(isinstance(row, dict) for row in rows):
        rows = [seeds]
    found: dict[str, list[float]] = {}
    for row in rows:
        for score, value in row.items():
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                found.setdefault(score, []).append(value)
    return found
