"""The result of a check in the report: whether claims hold, and each arm's mean and deviation over seeds."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from saccade.math.intervals import student
from saccade.naming import STANDARD_ERROR
from saccade.report.tables import Row, text
from saccade.training.claims import curve, final
from saccade.training.meter import duration


def read_check(path: Path) -> dict[str, Any]:
    """A result of ``saccade check``: {"name", "verdict", "facts", "claims", "scores", "arms", "curves"}.

    ``scores`` are the names of final scores and costs; ``arms`` are rows of an arm and, for each score, the values of
    all seeds; ``curves`` are charts as those of `curves.charts`, a trace an arm. A file that is something else is a
    ValueError.
    """
    try:
        result = json.loads(path.read_text())
        arms = {arm: _by_score(seeds) for arm, seeds in result["scores"].items()}
        claims = [dict(claim) for claim in result["claims"]]
        curves = [chart for name in _scores(result["scores"]) if (chart := _chart(name, result["scores"]))]
        facts = {"seeds": len(result["seeds"]), "time": duration(result["seconds"])}
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        reason = getattr(error, "strerror", None) or "unexpected content"
        raise ValueError(f"{path} is not the result of a check: {reason}") from None
    scores = list(dict.fromkeys(score for found in arms.values() for score in found))
    facts |= {name: result[name] for name in ("date", "machine") if result.get(name)}
    rows = [Row(arm, [found.get(score, []) for score in scores]) for arm, found in arms.items()]
    known = {"name": result.get("name", path.stem), "verdict": result.get("verdict") or "undecided"}
    return known | {"facts": facts, "claims": claims, "scores": scores, "arms": rows, "curves": curves}


def mean_std(values: Sequence[float]) -> str:
    """Mean ± standard deviation over seeds."""
    if not values:
        return "–"
    return text(mean(values)) + (f" ± {text(stdev(values))}" if len(values) > 1 else "")


def _scores(arms: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> list[str]:
    """The names of final scores of all arms, without standard errors."""
    names = (name for seeds in arms.values() for row in seeds.values() for name in final(row))
    return [name for name in dict.fromkeys(names) if not name.endswith(STANDARD_ERROR)]


def _chart(name: str, arms: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> dict[str, Any] | None:
    """The mean of a score over seeds at each evaluation, with its 95 % interval; None where no arm has a curve."""
    traces = [trace for i, (arm, seeds) in enumerate(arms.items()) if (trace := _trace(i, arm, name, seeds))]
    return {"name": name, "traces": traces} if any(len(trace["steps"]) > 2 for trace in traces) else None


def _trace(number: int, arm: str, name: str, seeds: Mapping[str, Mapping[str, Any]]) -> dict[str, Any] | None:
    curves = [dict(curve(row, name)) for row in seeds.values()]
    steps = sorted(set.intersection(*map(set, curves))) if curves else []
    steps = [step for step in steps if all(isinstance(found[step], (int, float)) for found in curves)]
    if not steps:
        return None
    found = [student([of_seed[step] for of_seed in curves]) for step in steps]
    trace = {"run": number, "arm": arm, "steps": steps, "y": [mean for mean, _ in found]}
    if len(curves) < 2:
        return trace
    return trace | {"low": [mean - half for mean, half in found], "high": [mean + half for mean, half in found]}


def _by_score(seeds: Mapping[str, Mapping[str, Any]]) -> dict[str, list[float]]:
    """Values of an arm's seeds under each score, without earlier evaluations ("<score>@<step>") and standard errors."""
    found: dict[str, list[float]] = {}
    for row in seeds.values():
        for score in final(row):
            if not score.endswith(STANDARD_ERROR) and isinstance(row[score], (int, float)):
                found.setdefault(score, []).append(row[score])
    return found
