"""Recipes that distil or differentiate: resume bit for bit, rewards move, real presets take a step on tiny models."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from test_recipes import brightness, run_recipe

from saccade import catalog
from saccade.tasks import DrawingTask
from saccade.tasks.critique import Criticism
from saccade.training import checkpoint
from saccade.worlds import pairs

TASK = DrawingTask(train_size=16, held_out_size=4)
CRITIC = Criticism(critic_lessons=32, critic_steps=2, critic_batch=8, critic_width=8)
NAMES = ("diff_instruct_star", "dmd", "reward_gradient", "diffusion_dpo")


def small(name: str, sd3_folder: Path, preset: str | None = None, **changes):
    """A preset's settings on a tiny random model of 16 px."""
    settings = catalog.load(name).PRESETS[preset] if preset else next(iter(catalog.load(name).PRESETS.values()))
    steps = settings.flow.sampling_steps
    cut = dict(
        flow=replace(settings.flow, model=str(sd3_folder), size=16, sampling_steps=min(steps, 4), text_length=2),
        task=TASK, prompts_per_step=4, steps=2, evaluate_every=1, save_every=1, warmup=1,
        criticism=CRITIC, distil_steps=1, reference_steps=2, late=2, pool=8, group=4,
    )  # fmt: skip
    fields = type(settings).__dataclass_fields__
    return replace(settings, **{k: v for k, v in cut.items() if k in fields} | changes)


def state(folder: Path) -> dict[str, torch.Tensor]:
    _, saved = checkpoint.read(checkpoint.latest(folder / "checkpoints"))
    return {f"{part}.{k}": v for part in ("policy", "score", "average") if part in saved for k, v in saved[part].items()}


def lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    ("name", "preset"),
    [
        ("diff_instruct_star", None),
        ("dmd", "four-steps"),
        ("reward_gradient", "refl"),
        ("reward_gradient", "draft-lv"),
        ("diffusion_dpo", "online"),
        ("diffusion_dpo", "offline"),
    ],
)
def test_two_steps_equal_one_and_one(name, preset, sd3_folder, tmp_path):
    reward = brightness(tmp_path)
    task = replace(TASK, rewards=(reward,)) if name == "diffusion_dpo" else TASK
    cfg = small(name, sd3_folder, preset, task=task)
    whole = run_recipe(name, cfg, tmp_path / "whole")
    run_recipe(name, replace(cfg, steps=1), tmp_path / "halves")
    halves = run_recipe(name, cfg, tmp_path / "halves")
    one, two = state(tmp_path / "whole"), state(tmp_path / "halves")
    assert one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)
    start = catalog.load(name).policies(cfg)["policy"].state_dict()
    assert max(float((one[f"policy.{k}"] - v).abs().max()) for k, v in start.items()) > 0
    assert whole["before"] == halves["before"] and {"train wording", "paraphrase"} <= whole["after"].keys()
    evaluations = lambda folder: [line for line in lines(folder) if "eval/train wording" in line]
    assert evaluations(tmp_path / "whole")[-1]["eval/train wording"] == evaluations(tmp_path / "halves")[-1]["eval/train wording"]
