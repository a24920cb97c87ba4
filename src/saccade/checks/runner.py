"""A check: train every arm with every seed, read the scores, and evaluate the recipe's claims."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any

from saccade import catalog
from saccade.checks.processes import Job, cores, folder_of, run_all
from saccade.config import flat
from saccade.training import claims, files, provenance

Scores = dict[str, float]


def check(name: str, seeds: int = 3, at_once: int | None = None) -> dict[str, Any]:
    """Check a recipe over seeds 0 … ``seeds`` - 1: whether its claims hold, the scores of all arms, and the time taken.

    ``at_once`` runs go on at a time, one for each core if it is not given. The runs lie in
    ``runs/<name>/check-<time>/<arm>-<seed>``. ValueError if there is nothing to check, RunFailed if an arm fails.
    """
    recipe = _checkable(name)
    if seeds < 1:
        raise ValueError(f"--seeds must be 1 or more, not {seeds}")
    began = time.monotonic()
    folder = catalog.new_run(catalog.name_of(Path(name)), "check-")
    folder.mkdir(parents=True)
    arms, jobs = catalog.arms(name), jobs_of(name, seeds, folder)
    run_all(jobs, at_once or cores())
    scores: dict[str, dict[int, Scores]] = {arm: {} for arm in arms}
    for job in jobs:
        scores[job.arm][job.seed] = read_scores(job.folder)
    verdicts = [_judge(claim, scores) for claim in recipe.CLAIMS]
    return {
        "name": catalog.name_of(Path(name)),
        "holds": overall(verdicts),
        "arms": {arm: chosen.settings for arm, chosen in arms.items()},
        "seeds": list(range(seeds)),
        "seconds": round(time.monotonic() - began, 1),
        "scores": scores,
        "claims": verdicts,
        "runs": str(folder),
    }


def jobs_of(name: str, seeds: int, folder: Path) -> list[Job]:
    """Every arm with every seed: those first whose stages others take, and of these those that are expected to take
    longest, so that no core waits long for the last one.
    """
    file, arms = str(catalog.find(name)) if name.endswith(".py") else name, catalog.arms(name)
    first = lambda arm, seed: folder_of(folder, arm, seed) if arm else None
    jobs = [
        Job(
            file,
            arm,
            seed,
            flat(chosen.settings).get("steps"),
            folder_of(folder, arm, seed),
            first(chosen.stages_of, seed),
        )
        for seed in range(seeds)
        for arm, chosen in arms.items()
    ]
    took = seconds_of(catalog.result(name) or {})
    return sorted(jobs, key=lambda job: (job.after is not None, -took.get(job.arm, math.inf)))


def seconds_of(result: Mapping[str, Any]) -> dict[str, float]:
    """The longest time that a run of each arm took in a recorded check; arms without one are left out."""
    times = {arm: [_number(each.get("seconds")) for each in runs.values()] for arm, runs in _scores_of(result).items()}
    return {arm: max(known) for arm, every in times.items() if (known := [each for each in every if each == each])}


def _scores_of(result: Mapping[str, Any]) -> Mapping[str, Mapping[str, Mapping[str, float]]]:
    return result.get("scores", {})


def record(result: Mapping[str, Any], place: Path) -> Path:
    """Write the result with versions, machine, date and commit to the file ``place``, and return that."""
    place.parent.mkdir(parents=True, exist_ok=True)
    origin = {
        "versions": provenance.versions(),
        "machine": provenance.machine(),
        "date": date.today().isoformat(),
        "commit": provenance.commit(),
    }
    files.replace(place, {**result, **origin})
    return place


def read_scores(run: Path) -> Scores:
    """The scores after training by name, every evaluation as ``<score>@<step>``, ``seconds`` and the sums of
    ``cost/…``.

    What stages of the run logged is prefixed with ``<stage>/``; costs without a prefix are those of all of them.
    """
    result = json.loads((run / "result.json").read_text())
    scores: Scores = {name: _number(value) for name, value in result["after"].items()}
    for place in (run, *sorted(file.parent for file in run.glob("*/metrics.jsonl"))):
        stage = "" if place == run else f"{place.name}/"
        for line in files.records(place / "metrics.jsonl"):
            for key, value in line.items():
                if key.startswith("eval/"):
                    scores[f"{stage}{key.removeprefix('eval/')}@{line['step']}"] = _number(value)
                elif key.startswith("cost/"):
                    for name in {key, f"{stage}{key}"}:
                        scores[name] = scores.get(name, 0.0) + (value or 0.0)
    return scores | {"seconds": result["seconds"]}


def overall(verdicts: list[dict[str, Any]]) -> bool | None:
    """True if all claims hold, None if any is undecided, else False."""
    found = [verdict["holds"] for verdict in verdicts]
    return None if None in found or not found else all(found)


def _checkable(name: str) -> catalog.Recipe:
    recipe = catalog.load(name)
    for part in ("ARMS", "CLAIMS"):
        if not getattr(recipe, part, None):
            raise ValueError(f"recipe {name} has no {part}, so there is nothing to check")
    return recipe


def _judge(claim: claims.Claim, scores: Mapping[str, Mapping[int, Scores]]) -> dict[str, Any]:
    try:
        return claims.judge(claim, scores)
    except KeyError as missing:
        raise ValueError(f"the claim '{claim.text}' reads {missing}, which no arm or no score is called") from missing


def _number(value: float | None) -> float:
    return math.nan if value is None else value
