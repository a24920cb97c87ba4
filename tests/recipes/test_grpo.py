"""GRPO on answers and its kin: they resume bit for bit and differ, DAPO samples again, claims can fail."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import tiny_vision
import torch
from settings import changed

from saccade import catalog
from saccade.core import mean_scores
from saccade.math.advantages import shuffle_rewards
from saccade.policies.tokens import TokenModel
from saccade.random import seeds
from saccade.training import checkpoint
from saccade.training.run import Run
from saccade.worlds.questions.task import AnsweringTask

GRPO = catalog.load("grpo")
TASK = AnsweringTask(train_size=16, held_out_size=8, size=32, objects=(1, 2), skills=("verdict",), rewards=("similar",))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_vision.saved("qwen25", tmp_path_factory.mktemp("qwen25"), loud=3.0)


def small(folder, preset="tiny", **changes):
    cfg = GRPO.PRESETS[preset]
    base = dict(task=TASK, prompts_per_step=4, group_size=4, warmup=1, lr=3e-3, evaluate_every=1, save_every=1)
    return changed(cfg, model=TokenModel(str(folder), max_new_tokens=6), **base | changes)


def ran(cfg, folder):
    run = Run.resume(folder, display=False) if folder.exists() else Run.start(folder, {"recipe": "grpo"}, display=False)
    with run:
        return GRPO.train(cfg, run)


def weights(folder):
    return checkpoint.read(checkpoint.latest(folder / "checkpoints"))[1]["policy"]


def logged(folder):
    found = {}
    for line in map(json.loads, (folder / "metrics.jsonl").read_text().splitlines()):
        found.setdefault(line["step"], {}).update(line)
    return [line for step, line in found.items() if step]


def test_two_steps_equal_one_and_one(folder, tmp_path):
    whole = ran(small(folder, steps=2), tmp_path / "whole")
    ran(small(folder, steps=1), tmp_path / "halves")
    assert ran(small(folder, steps=2), tmp_path / "halves") == whole and "held out, similar" in whole["after"]
    one, two = weights(tmp_path / "whole"), weights(tmp_path / "halves")
    assert all(torch.equal(one[k], two[k]) for k in one)


def test_each_of_the_kin_moves_the_weights_its_own_way(folder, tmp_path):
    after = {}
    for name in ("tiny", *GRPO.KIN):
        ran(small(folder, name, steps=1, seed=1), tmp_path / name)
        after[name] = torch.cat([v.flatten() for v in weights(tmp_path / name).values()])
    before = torch.cat([v.flatten() for v in GRPO.policies(small(folder))["policy"].state_dict().values()])
    assert all(moved.isfinite().all() and not torch.equal(moved, before) for moved in after.values())
    names = list(after)
    assert not any(torch.equal(after[a], after[b]) for i, a in enumerate(names) for b in names[:i])


def test_dapo_samples_until_rewards_differ_in_enough_groups_and_counts_its_samples(folder, tmp_path):
    ran(small(folder, "dapo", steps=2), tmp_path / "run")
    lines = logged(tmp_path / "run")
    assert all(line["cost/generated"] >= 16 and line["health/zero_variance_groups"] == 0 for line in lines)
    with pytest.raises(ValueError, match="sampling_rounds 4: "):
        ran(replace(small(folder, "dapo"), model=TokenModel(str(folder), sharded=True)), tmp_path / "sharded")


def test_shuffled_rewards_are_the_same_in_another_order_each_step():
    reward = torch.arange(16.0)
    first, second = shuffle_rewards(reward, 1), shuffle_rewards(reward, 2)
    assert torch.equal(first.sort().values, reward) and not torch.equal(first, second)


def test_claims_read_scores_that_exist_and_can_fail(folder):
    cfg = small(folder, task=replace(TASK, rewards=("exact",)))
    policies = GRPO.policies(cfg)
    found = mean_scores(GRPO.evaluate(cfg, policies))
    read = {**found, **{f"{k}@0": v for k, v in found.items()}}
    for claim in GRPO.CLAIMS:
        assert claim.margin(dict.fromkeys(GRPO.ARMS, read)) == pytest.approx(0)
    assert len(GRPO.sample(cfg, policies, ["What color is it?"], seeds(0, 1, "test"))) == 1
