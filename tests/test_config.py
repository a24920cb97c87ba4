"""The one rule by which settings are named, on the command line and in Python, and how values from Python fit."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Annotated, Literal

import pytest
import tyro

from saccade import catalog
from saccade.config import (
    changed,
    contradiction,
    described,
    flags,
    flat,
    foreign,
    matching_names,
    names,
    option,
    restore_settings,
)
from saccade.training.files import plain


@dataclass(frozen=True)
class Optimizer:
    """How weights move."""

    lr: float = 1e-4
    """Learning rate, which rises to this value
    over the warmup.
    """
    warmup: int = 0
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay rates."""


@dataclass(frozen=True)
class Model:
    name: str = "tiny"
    """Folder."""
    lora_rank: int = 0
    sharded: bool = False
    kind: Literal["plain", "fancy"] = "plain"
    size: int | None = None


@dataclass(frozen=True)
class Schedule:
    steps: int = 6
    """Steps."""


@dataclass(frozen=True)
class Settings:
    schedule: Annotated[Schedule, tyro.conf.arg(name="")] = Schedule()
    seed: int = 0
    flow: Model = Model()
    optim: Optimizer = Optimizer()
    tags: tuple[str, ...] = ("a",)


@dataclass(frozen=True)
class Two:
    flow: Model = Model()
    rewriter: Model = Model()
    seed: int = 0
    optim: Optimizer = Optimizer()


NAMES = names(Settings)


def test_names_and_options_carry_the_prefix_of_their_group():
    assert NAMES[:3] == ["steps", "seed", "flow.name"] and "--flow.lora-rank" in flags(Settings)
    assert flat(Settings())["optim.betas"] == (0.9, 0.999) and list(flat(Settings())) == NAMES


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ("steps", ["steps"]), ("flow.lora_rank", ["flow.lora_rank"]), ("lora-rank", ["flow.lora_rank"]),
        ("flow", ["flow.name"]), ("model", ["flow.name"]), ("lr", ["optim.lr"]), ("name", ["flow.name"]),
        ("rank", []), ("ora_rank", []), ("", []), ("optim", []),
    ],
)  # fmt: skip
def test_a_name_is_whole_or_its_last_part_or_a_group(given, found):
    assert matching_names(given, NAMES) == found


def test_what_could_be_several_is_refused_with_all_of_them():
    assert (
        matching_names("lora_rank", names(Two))
        == matching_names("lora-rank", names(Two))
        == ["flow.lora_rank", "rewriter.lora_rank"]
    )
    assert matching_names("rewriter", names(Two)) == ["rewriter.name"]
    with pytest.raises(ValueError, match=r"^'model' may mean flow.name, rewriter.name: give the whole name$"):
        changed(Two(), {"model": "x"})


def test_values_from_python_fit_or_are_one_line():
    made = changed(Settings(), {"steps": 2, "lr": 1, "model": "x", "tags": ["p", "q"], "size": 4, "flow.sharded": True})
    assert made.schedule.steps == 2 and made.optim.lr == 1.0 and isinstance(made.optim.lr, float)
    assert made.flow == Model("x", sharded=True, size=4) and made.tags == ("p", "q")
    assert changed(Settings(), {"optim": {"lr": 0.5, "betas": [0.1, 0.2]}}).optim == Optimizer(0.5, betas=(0.1, 0.2))
    assert changed(Settings(), {"optim": Optimizer(0.5), "warmup": 3}).optim == Optimizer(0.5, 3)
    assert changed(Settings(), {"tags": "one"}).tags == ("one",) and changed(Settings(), {"size": None}) == Settings()
    for values, line in [
        ({"step": 2}, "unknown setting 'step'; nearest: steps"),
        ({"lora_rnk": 2}, "unknown setting 'lora_rnk'; nearest: lora_rank"),
        ({"steps": "two"}, "steps must be a whole number, not 'two'"),
        ({"steps": True}, "steps must be a whole number, not True"),
        ({"lr": "fast"}, "optim.lr must be a number, not 'fast'"),
        ({"kind": "fancie"}, "flow.kind must be one of plain, fancy, not 'fancie'"),
        ({"size": 0.5}, "flow.size must be a whole number or None, not 0.5"),
        ({"betas": [0.1]}, r"optim.betas must be a list \(a number, a number\), not \[0.1\]"),
        ({"tags": [1]}, r"tags must be a list \(a text, …\), not \[1\]"),
        ({"sharded": 1}, "flow.sharded must be True or False, not 1"),
        ({"flow": Optimizer()}, "flow must be a Model, not a Optimizer"),
        ({"optim": {"rate": 1}}, "unknown setting 'rate'"),
    ]:
        with pytest.raises(ValueError, match=f"^{line}"):
            changed(Settings(), values)


def test_settings_are_written_as_options_are_given():
    assert option("flow.lora_rank", 4) == "--flow.lora-rank 4" and option("task.tags", ("a", "b")) == "--task.tags a b"
    assert [option("flow.sharded", value) for value in (True, False)] == ["--flow.sharded", "--flow.no-sharded"]
    assert option("frozen", False) == "--no-frozen"
    assert contradiction(Settings(), Settings()) is None
    assert contradiction(replace(Settings(), flow=Model("y")), Settings()) == ("flow.name", "y", "tiny")


def test_help_texts_stand_on_one_line():
    texts = {name: text for name, _, text in described(Settings)}
    assert texts["optim.lr"] == "Learning rate, which rises to this value over the warmup." and texts["seed"] == ""


@pytest.mark.parametrize("name", catalog.recipes())
def test_every_recipe_takes_its_own_values_and_those_of_a_config(name):
    recipe = catalog.load(name)
    for preset in recipe.PRESETS.values():
        assert changed(preset, flat(preset)) == preset
        saved = plain(preset)
        if not any(isinstance(value, float) and math.isinf(value) for value in flat(preset).values()):
            assert restore_settings(preset, saved, "a run") == preset


@dataclass(frozen=True)
class Rewarded:
    rewards: tuple[str, ...] = ("mine.py:bright", "ocr")
    env: str = "evil:Env-v0"
    seed: int = 0


def test_code_that_a_folder_names_is_not_executed_by_whoever_meets_its_name(tmp_path, monkeypatch):
    from saccade.envs import environment
    from saccade.envs.gym import Gym
    from saccade.rewards.registry import PICTURES, reward

    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("mine", "evil"):
        (tmp_path / f"{name}.py").write_text("open('ran', 'w')\nbright = abs\n")
    kept = foreign(restore_settings(Rewarded(), plain(Rewarded()), "r"))
    assert kept == Rewarded() and changed(kept, {"seed": 1}).rewards[0].file is None
    for act in (lambda: reward(kept.rewards[0]), lambda: Gym.of(kept.env, 1), lambda: environment(kept.env, 1)):
        with pytest.raises(ValueError, match="is code that the run's folder names, which is executed only if you ask"):
            act()
    assert reward(kept.rewards[1]) is PICTURES["ocr"] and not (tmp_path / "ran").exists()
    assert reward(foreign(kept, lambda name: tmp_path / "mine.py").rewards[0]) is abs and (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "saved", [{"seed": "0"}, {"rewards": [1]}, {"env": None}, {"rewards": {"a": 1}}, {"seed": True}]
)
def test_settings_of_another_type_in_a_folder_are_one_line(saved):
    with pytest.raises(ValueError, match=r"^r: \w+ must be [^\n]*$"):
        restore_settings(Rewarded(), plain(Rewarded()) | saved, "r")
    with pytest.raises(ValueError, match="r has no Optimizer where the recipe has its settings"):
        restore_settings(Settings(), plain(Settings()) | {"optim": saved.get("seed", [])}, "r")
