"""A check: train every arm with every seed, read the scores, and judge the recipe's claims.

A check is done in a folder ``runs/<name>/check-<time>`` whose check.json holds the settings of its arms. Runs that are
finished there, or are in the recorded result with the same settings, are not run again.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from statistics import fmean
from typing import Any

from saccade import catalog
from saccade.checks import verdicts
from saccade.checks.processes import Job, cores, folder_of, run_all
from saccade.checks.scores import (
    ProblemArrays,
    Scores,
    load_problems,
    names_read,
    read_problems,
    read_scores,
    write_problems,
)
from saccade.config import flat
from saccade.training import files, provenance
from saccade.training.claims import Claim
from saccade.training.meter import duration

FIRST_PILOT_SEED = 100
"""Seeds from here on are for tuning and pilots; results are reported on the seeds from 0 on."""


@dataclass(frozen=True)
class Plan:
    """What a check has to do, and what is known from an earlier one."""

    folder: Path
    jobs: list[Job]
    """Arms and seeds that are not known yet; those that are finished in the folder among them."""
    scores: dict[str, dict[int, Scores]]
    problems: dict[str, dict[int, ProblemArrays]]
    seconds: float
    """Seconds that the check has taken before."""
    seconds_of: dict[str, float]
    """Mean seconds of a run of each arm that was ever run."""


def check(
    name: str,
    seeds: int = 5,
    first_seed: int = 0,
    resume: bool = False,
    workers: int | None = None,
    weak: bool = False,
) -> dict[str, Any]:
    """Check a recipe over ``seeds`` seeds from ``first_seed`` on: the verdicts on its claims, and all scores.

    ``resume`` goes on in the newest folder of a check of the same settings, and adds to the recorded result.
    ``workers`` runs go on at a time, one for each core if it is not given. The result is written into the check's
    folder. ValueError if there is nothing to check or to resume or, unless ``weak``, if earlier runs show that so few
    seeds cannot see the effects that the claims ask for. RunFailed if an arm fails.
    """
    recipe = _checkable(name)
    if seeds < 1:
        raise ValueError(f"--seeds must be 1 or more, not {seeds}")
    if first_seed < 0:
        raise ValueError(f"--first-seed must be 0 or more, not {first_seed}")
    if not weak:
        refuse_weak(name, recipe.CLAIMS, seeds)
    began, plan = time.monotonic(), plan_of(name, range(first_seed, first_seed + seeds), resume)
    waiting = [job for job in plan.jobs if not job.finished]
    if waiting:
        announce(waiting, plan.seconds_of, workers or cores())
        run_all(waiting, workers or cores())
    for job in plan.jobs:
        plan.scores[job.arm][job.seed] = read_scores(job.folder)
        plan.problems[job.arm][job.seed] = read_problems(job.folder)
    result = {
        "name": catalog.name_of(Path(name)),
        "arms": {arm: chosen.settings for arm, chosen in catalog.arms(name).items()},
        "seeds": verdicts.common_seeds(plan.scores),
        "seconds": round(plan.seconds + time.monotonic() - began, 1),
        "scores": plan.scores,
        **judged(recipe.CLAIMS, plan.scores, plan.problems),
        "runs": str(plan.folder),
    }
    write(result, plan.problems, recipe.CLAIMS, plan.folder / "result.json")
    return result


def judged(
    claims: Sequence[Claim],
    scores: Mapping[str, Mapping[int, Scores]],
    problems: Mapping[str, Mapping[int, ProblemArrays]],
) -> dict[str, Any]:
    """The verdicts on claims, and the verdict on the system that follows from them."""
    found = [verdicts.judge(claim, scores, problems) for claim in claims]
    verdict = verdicts.overall(found)
    return {"verdict": verdict, "holds": {"holds": True, "refuted": False}.get(verdict or ""), "claims": found}


def plan_of(name: str, seeds: Sequence[int], resume: bool) -> Plan:
    """What is to be done for a check with these seeds, and what is known. ValueError if there is nothing to resume."""
    stem, arms = catalog.name_of(Path(name)), catalog.arms(name)
    settings = files.plain({arm: chosen.settings for arm, chosen in arms.items()})
    recorded = catalog.result(name, seeds[0]) or {}
    same = [arm for arm in arms if recorded.get("arms", {}).get(arm) == settings[arm]]
    known = {arm: {int(s): found for s, found in recorded["scores"].get(arm, {}).items()} for arm in same}
    folder = unfinished(stem, settings) if resume else None
    if resume and folder is None and not any(known.values()):
        raise ValueError(f"no check of {stem} with the present settings of its arms is there to resume")
    if folder is None:
        folder = catalog.new_run(stem, "check-")
        files.replace(folder / "check.json", {"name": stem, "arms": settings})
    seconds_of = {arm: fmean(found["seconds"] for found in of_arm.values()) for arm, of_arm in known.items() if of_arm}
    if not resume:
        known, recorded = {}, {}
    every = sorted({*seeds, *(seed for of_arm in known.values() for seed in of_arm)})
    kept = load_problems(catalog.result_file(name, seeds[0]).with_suffix(".npz")) if known else {}
    jobs = jobs_of(name, every, folder)
    needed = {job.folder for job in jobs if job.seed not in known.get(job.arm, {})}
    needed |= {job.after for job in jobs if job.folder in needed and job.after}
    jobs = [job for job in jobs if job.folder in needed]
    jobs.sort(key=lambda job: (job.after is not None, -seconds_of.get(job.arm, math.inf)))  # the longest first
    return Plan(
        folder,
        jobs,
        {arm: dict(known.get(arm, {})) for arm in arms},
        {arm: dict(kept.get(arm, {})) for arm in arms},
        recorded.get("seconds", 0.0),
        seconds_of,
    )


def unfinished(stem: str, settings: Mapping[str, Any]) -> Path | None:
    """The newest folder of a check of a recipe whose arms had these settings."""
    for place in sorted(Path("runs", stem).glob("check-*/check.json"), reverse=True):
        if json.loads(place.read_text()).get("arms") == settings:
            return place.parent
    return None


def jobs_of(name: str, seeds: Sequence[int], folder: Path) -> list[Job]:
    """Every arm with every seed, those first whose stages others take."""
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
        for seed in seeds
        for arm, chosen in arms.items()
    ]
    return sorted(jobs, key=lambda job: job.after is not None)


def refuse_weak(name: str, claims: Sequence[Claim], seeds: int) -> None:
    """ValueError if earlier runs show that so few seeds cannot see an effect that a claim asks for."""
    found = catalog.result(name, FIRST_PILOT_SEED) or catalog.result(name) or {}
    pilots = {entry["claim"]: [m for m in entry["margins"] if m is not None] for entry in found.get("claims", ())}
    for claim in claims:
        if reason := verdicts.weak(claim, pilots.get(claim.text, ()), seeds):
            raise ValueError(f"{seeds} seeds are too few for '{claim.text}': {reason}; --weak runs it all the same")


def announce(jobs: Sequence[Job], seconds_of: Mapping[str, float], workers: int) -> None:
    """Say on standard error how many runs there are and how long they will take, where that is known."""
    known = [seconds_of[job.arm] for job in jobs if job.arm in seconds_of]
    time_needed = f", about {duration(fmean(known) * len(jobs) / workers)}" if known else ""
    print(f"{len(jobs)} runs, {min(workers, len(jobs))} at a time{time_needed}", file=sys.stderr, flush=True)


def write(
    result: Mapping[str, Any],
    problems: Mapping[str, Mapping[int, ProblemArrays]],
    claims: Sequence[Claim],
    place: Path,
) -> None:
    """Write the result with versions, machine, date and commit to ``place``, and beside it the scores of single
    problems that claims read.
    """
    origin = {
        "versions": provenance.versions(),
        "machine": provenance.machine(),
        "date": date.today().isoformat(),
        "commit": provenance.commit(),
    }
    read = names_read(claims, {arm: next(iter(seeds.values())) for arm, seeds in result["scores"].items() if seeds})
    chosen = {
        arm: {seed: {name: v for name, v in scores.items() if name in read} for seed, scores in seeds.items()}
        for arm, seeds in problems.items()
    }
    write_problems(place.with_suffix(".npz"), chosen)
    files.replace(place, {**result, **origin})


def record(result: Mapping[str, Any], place: Path) -> Path:
    """Copy what the check wrote into its folder to ``place``, and return that."""
    place.parent.mkdir(parents=True, exist_ok=True)
    for suffix in (".npz", ".json"):
        written = Path(result["runs"], "result").with_suffix(suffix)
        files.replace_bytes(place.with_suffix(suffix), written.read_bytes())
    return place


def _checkable(name: str) -> catalog.Recipe:
    recipe = catalog.load(name)
    for part in ("ARMS", "CLAIMS"):
        if not getattr(recipe, part, None):
            raise ValueError(f"recipe {name} has no {part}, so there is nothing to check")
    return recipe
