"""The law of resuming: whatever interrupts a run at whatever moment, the resumed run is the one never interrupted."""

from __future__ import annotations

import itertools
import shutil
import sys
from pathlib import Path

import pytest
import torch
from golden import RUNS, changed
from resuming import copies_at_first_checkpoints, different, killed_at, train

from saccade import catalog

torch.set_num_threads(1)
PLAIN = {name: run for name, run in RUNS.items() if name in catalog.recipes()}
GREY = str(Path(__file__).parents[1] / "grey.py")


def settings(name: str):
    """Short settings of a golden run that saves in the middle."""
    recipe, preset, changes = RUNS[name]
    cfg = changed(catalog.load(recipe).PRESETS[preset], changes)
    return recipe, changed(cfg, {"schedule.save_every": 1}) if cfg.schedule.save_every < 60 else cfg


def test_every_recipe_is_resumed_by_a_test_here():
    assert set(PLAIN) == set(catalog.recipes())


@pytest.mark.parametrize("name", PLAIN)
def test_every_recipe_killed_and_resumed_is_the_run_never_killed(name, tmp_path, monkeypatch):
    """Its stages done, killed after the first checkpoint of the run itself: every line, picture, table, score and
    tensor is the same.
    """
    recipe, cfg = settings(name)
    copy = copies_at_first_checkpoints(recipe, cfg, tmp_path / "whole", monkeypatch)[-1]
    train(recipe, cfg, copy)
    assert different(tmp_path / "whole", copy) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_every_recipe_killed_in_any_stage_is_the_run_never_killed(name, tmp_path, monkeypatch):
    recipe, cfg = settings(name)
    for copy in copies_at_first_checkpoints(recipe, cfg, tmp_path / "whole", monkeypatch):
        train(recipe, cfg, copy)
        assert different(tmp_path / "whole", copy) == [], copy.name


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="finds the files that are synced in /proc")
@pytest.mark.parametrize("every", [3, pytest.param(1, marks=pytest.mark.slow)])
def test_a_run_with_a_stage_killed_before_any_operation_on_its_files(every, tmp_path):
    """The kill comes before the n-th opening, making, renaming, removing or syncing, for every n (here every third)."""
    module = catalog.load(GREY)
    cfg = module.Settings(steps=3, first_steps=3)
    train(GREY, cfg, tmp_path / "whole")
    folder = tmp_path / "r"
    for n in itertools.count(1, every):
        shutil.rmtree(folder, ignore_errors=True)
        if killed_at(n, folder, lambda: train(GREY, cfg, folder)) < n:
            break
        if not (folder / "result.json").exists():
            train(GREY, cfg, folder)
        assert different(tmp_path / "whole", folder) == [], f"killed before operation {n}"
    assert n > 60
