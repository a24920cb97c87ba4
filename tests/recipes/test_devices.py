"""Recipes on a device where tensors of the CPU are refused, as a GPU refuses them; see `far`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import golden
import pytest

from saccade import catalog

HERE = Path(__file__).parent.parent
EACH_FAMILY = ("diffusion_nft", "grpo", "dreamer")
"""One recipe for each kind of policy, which every run of the tests takes."""


def steps_on_the_device(*names: str) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(HERE), *sys.path])}
    command = [sys.executable, str(HERE / "far_worker.py"), *names]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]


def test_a_step_of_each_family_meets_on_one_device():
    steps_on_the_device(*EACH_FAMILY)


@pytest.mark.claim
@pytest.mark.parametrize("name", [name for name in golden.RUNS if name not in EACH_FAMILY])
def test_a_step_of_every_recipe_meets_on_one_device(name):
    steps_on_the_device(name)


def test_every_recipe_is_among_them():
    assert {recipe for recipe, _, _ in golden.RUNS.values()} == set(catalog.recipes())
