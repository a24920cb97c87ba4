"""Short runs of the off-policy recipes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from running import run_recipe

from saccade import catalog
from saccade.training import checkpoint
from saccade.training.settings import EnvSchedule
from saccade.training.state import pack


def run_off_policy(name: str, folder: Path, steps: int = 60, algo: dict | None = None, **changes) -> dict:
    """Train a recipe with small networks on a small task; continue the run in ``folder`` if there is one."""
    cfg = catalog.load(name).PRESETS["tiny"]
    n_envs = cfg.schedule.n_envs
    schedule = EnvSchedule(steps, evaluate_every=20, save_every=20, log_every=10, n_envs=n_envs)
    small = dict(hidden=(8, 8), batch_size=16, learning_starts=20, buffer_size=60) | (algo or {})
    task = replace(cfg.task, env="push", test_episodes=2, test_rows=2, video_episodes=1, settings=("steps=9",))
    return run_recipe(
        name, replace(cfg, schedule=schedule, algo=replace(cfg.algo, **small), task=task, **changes), folder
    )


def assert_resumes_exactly(name: str, folder: Path, **changes) -> None:
    """40 environment steps and 20 more equal 60 at once, bit for bit."""
    at_once = run_off_policy(name, folder / "at once", **changes)
    run_off_policy(name, folder / "resumed", steps=40, **changes)
    resumed = run_off_policy(name, folder / "resumed", **changes)
    states = [checkpoint.read(checkpoint.latest(folder / run / "checkpoints"))[1] for run in ("at once", "resumed")]
    (tree, one), (other, two) = (pack({k: v for k, v in state.items() if k != "scores"}) for state in states)
    assert tree == other and all(torch.equal(one[k], two[k]) for k in one) and len(one) > 20
    assert at_once["after"] == resumed["after"] and {"return", "success"} <= at_once["after"].keys()
