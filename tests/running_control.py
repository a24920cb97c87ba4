"""Helpers of control recipes' tests: run a recipe in a folder, read its checkpoint, compare bit for bit."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from saccade.training import checkpoint
from saccade.training.run import Run


def run_for(recipe, cfg, folder: Path) -> dict:
    """Train a recipe's module in a folder, or go on there."""
    resume = folder.exists()
    run = Run.resume(folder, display=False) if resume else Run.start(folder, {"recipe": "small"}, display=False)
    with run:
        return recipe.train(cfg, run)


def saved(folder: Path) -> dict:
    """The state in a run's last checkpoint."""
    return checkpoint.read(checkpoint.latest(folder / "checkpoints"))[1]


def metrics(folder: Path, name: str = "") -> list[dict]:
    """Lines of metrics without times, those that have ``name``."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    timed = ("time", "cost/training_seconds")
    return [{k: v for k, v in line.items() if k not in timed} for line in lines if not name or name in line]


def assert_same(a, b) -> None:
    """Equal values in nested states."""
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b)
    elif isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, list):
        assert len(a) == len(b)
        for one, other in zip(a, b):
            assert_same(one, other)
    else:
        assert a == b
