"""The scores of a check's runs: read from their folders, and those of single problems kept beside the result."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from saccade.training import files
from saccade.training.claims import Claim, Margin
from saccade.training.folder import PROBLEM_SCORES

Scores = dict[str, float]
ProblemArrays = dict[str, np.ndarray]
"""Score -> one value for each held-out problem ``[P]``."""


def read_scores(run: Path) -> Scores:
    """The scores after training by name, every evaluation as ``<score>@<step>``, ``seconds`` and the sums of
    ``cost/…``.

    What stages of the run logged is prefixed with ``<stage>/``; costs without a prefix are those of all of them.
    """
    result = json.loads((run / "result.json").read_text())
    scores: Scores = {name: _number(value) for name, value in result["after"].items()}
    for stage, place in _places(run):
        for line in files.records(place / "metrics.jsonl"):
            for key, value in line.items():
                if key.startswith("eval/"):
                    scores[f"{stage}{key.removeprefix('eval/')}@{line['step']}"] = _number(value)
                elif key.startswith("cost/"):
                    for name in {key, f"{stage}{key}"}:
                        scores[name] = scores.get(name, 0.0) + (value or 0.0)
    return scores | {"seconds": result["seconds"]}


def read_problems(run: Path) -> ProblemArrays:
    """The scores of single problems under the names of `read_scores`, as far as the run kept them."""
    found: ProblemArrays = {}
    for stage, place in _places(run):
        for line in files.records(place / PROBLEM_SCORES):
            values = {name: np.array(scores, np.float64) for name, scores in line["scores"].items()}
            found |= {f"{stage}{name}@{line['step']}": array for name, array in values.items()}
            found |= values if not stage else {}
    return found


def names_read(claims: Sequence[Claim], arms: Mapping[str, Mapping[str, float]]) -> set[str]:
    """The names of the scores that claims read, with those before training."""
    read: set[str] = set()
    watched = {arm: _Watched(scores, read) for arm, scores in arms.items()}
    for margin in (margin for claim in claims for margin in _margins(claim)):
        try:
            margin(watched)
        except (KeyError, ZeroDivisionError, ValueError):
            continue
    return read | {f"{name.partition('@')[0]}@0" for name in read}


def write_problems(path: Path, problems: Mapping[str, Mapping[int, ProblemArrays]]) -> None:
    """Write the scores of single problems of all arms and seeds as one compressed file, in single precision."""
    arrays = {
        json.dumps([arm, seed, name]): values.astype(np.float32)
        for arm, seeds in problems.items()
        for seed, scores in seeds.items()
        for name, values in scores.items()
    }
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # pyrefly: ignore[bad-argument-type]
    files.replace_bytes(path, buffer.getvalue())


def load_problems(path: Path) -> dict[str, dict[int, ProblemArrays]]:
    """What `write_problems` wrote; nothing if there is no file."""
    found: dict[str, dict[int, ProblemArrays]] = {}
    if path.is_file():
        with np.load(path, allow_pickle=False) as arrays:
            for key in arrays.files:
                arm, seed, name = json.loads(key)
                found.setdefault(arm, {}).setdefault(seed, {})[name] = arrays[key].astype(np.float64)
    return found


class _Watched(Mapping[str, float]):
    """Scores that note which of them are read."""

    def __init__(self, scores: Mapping[str, float], read: set[str]):
        self.scores, self.read = scores, read

    def __getitem__(self, name: str) -> float:
        self.read.add(name)
        return self.scores[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.scores)

    def __len__(self) -> int:
        return len(self.scores)


def _margins(claim: Claim) -> list[Margin]:
    return [claim.margin, *(asked.margin for asked in claim.requires), *claim.nulls.values()]


def _places(run: Path) -> list[tuple[str, Path]]:
    """The run and its stages, each with the prefix of its scores."""
    stages = sorted(file.parent for file in run.glob("*/metrics.jsonl"))
    return [("", run), *((f"{stage.name}/", stage) for stage in stages)]


def _number(value: float | None) -> float:
    return math.nan if value is None else value
