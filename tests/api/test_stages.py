"""A short run is short in all its stages, and says what comes before it comes."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from saccade import catalog
from saccade.api.stages import announcement, shortened, smoke_settings
from saccade.config import changed, flat, stages
from saccade.training.settings import Flat, Schedule, StageSteps


@dataclass(frozen=True)
class Pretraining:
    steps: StageSteps = 300
    batch: int = 8


@dataclass(frozen=True)
class Settings:
    schedule: Flat[Schedule] = Schedule(steps=30)
    sft: Pretraining = Pretraining()
    teacher: Pretraining = Pretraining(steps=5)
    seed: int = 0


@pytest.mark.parametrize(
    "changes, given, expected",
    [
        ({"steps": 3}, ["steps"], (30, 1)),
        ({"steps": 1}, ["steps"], (10, 1)),
        ({"steps": 60}, ["steps"], (300, 5)),
        ({"steps": 0}, ["steps"], (300, 5)),
        ({"steps": 3, "sft.steps": 7}, ["steps", "sft.steps"], (7, 1)),
        ({"steps": 3}, ["steps", "sft.steps"], (300, 1)),  # given as it is in the preset
        ({"steps": 3}, ["steps", "teacher"], (30, 5)),
    ],
)
def test_a_shorter_run_shortens_the_stages_that_were_not_given(changes, given, expected):
    found = shortened(Settings(), changed(Settings(), changes), given)
    assert (found.sft.steps, found.teacher.steps) == expected and found.sft.batch == 8


def test_every_group_with_steps_of_a_recipe_is_shortened():
    """Whatever else trains in a recipe for a number of steps is a stage of it, and --steps are those of the run."""
    for name in catalog.recipes():
        preset = next(iter(catalog.load(name).PRESETS.values()))
        values, marked = flat(preset), stages(type(preset))
        assert "steps" in values, name
        assert [each for each in values if each.endswith(".steps")] == [m for m in marked if m.endswith(".steps")], name
        small = flat(shortened(preset, changed(preset, {"steps": 1}), ["steps"]))
        assert all(small[each] <= max(values[each] / values["steps"] + 1, 1) for each in marked), name


def test_stages_are_announced_with_the_time_that_the_check_took():
    preset = next(iter(catalog.load("rlrf").PRESETS.values()))
    said = announcement("rlrf", preset, preset)
    assert said.startswith("other stages, where they are used: --sft.steps 120; about ") and "min in all" in said
    small = announcement("rlrf", preset, shortened(preset, changed(preset, {"steps": 3}), ["steps"]))
    assert small.startswith("other stages, where they are used, shortened like --steps: --sft.steps 12")
    flow = next(iter(catalog.load("flow_grpo").PRESETS.values()))
    assert announcement("flow_grpo", flow, flow) == ""


@pytest.mark.parametrize("recipe", catalog.recipes())
def test_a_smoke_test_takes_two_steps_of_every_stage(recipe):
    for preset in catalog.load(recipe).PRESETS.values():
        short, usual = flat(smoke_settings(preset)), flat(preset)
        starts = sum(value for name, value in usual.items() if name.endswith("learning_starts"))
        assert short["steps"] - starts <= 2 * max(usual.get("n_envs", 1), 1)
        assert all(short[name] == min(usual[name], 2) for name in stages(type(preset)))
        assert all(short[name] == usual[name] for name in usual if "batch" in name or name.endswith("group_size"))
