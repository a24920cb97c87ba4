"""DPO and GRPO on image tokens: each resumes bit for bit, at equal cost, with any reward; the claims can come out
false.
"""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import tiny_janus
import torch

from saccade import catalog
from saccade.core import Interrupted, Problem, Rollout, RunFailed
from saccade.naming import STANDARD_ERROR
from saccade.policies.image_tokens import ImageTokenModel
from saccade.random import seeds
from saccade.recipes.image_generation.dpo_vs_grpo.domains import DomainsTask, caption_words, contrastive_batches
from saccade.recipes.image_generation.dpo_vs_grpo.dual_encoder import DualEncoder, DualEncoderModel, DualEncoderReward
from saccade.training import checkpoint
from saccade.training.run import Run
from saccade.training.settings import AdamW, Batch, Schedule

RECIPE = catalog.load("dpo_vs_grpo")
SMALL = dict(
    schedule=Schedule(steps=2, evaluate_every=2, save_every=1),
    batch=Batch(prompts_per_step=2, group_size=4, micro_rows=4),
    optim=AdamW(lr=1e-2, weight_decay=0.01, warmup=1),
    candidates=2,
)


def _named(scores):
    """The names of scores without their standard errors."""
    return {name for name in scores if not name.endswith(STANDARD_ERROR)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_janus.janus(tmp_path_factory.mktemp("janus"))


@pytest.fixture(scope="module")
def bright(tmp_path_factory):
    file = tmp_path_factory.mktemp("mine") / "mine.py"
    file.write_text("def bright(rollout):\n    return rollout.outputs.flatten(1).mean(1)\n")
    return f"{file}:bright"


def small(folder, bright, preset="tiny", **changes):
    cfg = RECIPE.PRESETS[preset]
    task = DomainsTask(train_size=16, held_out_size=4, scorer=bright)
    base = dict(model=ImageTokenModel(str(folder), guidance=2.0), task=task, reward=bright)
    return replace(cfg, **base | SMALL | changes)


def ran(cfg, folder):
    run = (
        Run.resume(folder, display=False)
        if folder.exists()
        else Run.start(folder, {"recipe": "dpo_vs_grpo"}, display=False)
    )
    with run:
        return RECIPE.train(cfg, run)


def weights(folder):
    return checkpoint.read(checkpoint.latest(folder / "checkpoints"))[1]["policy"]


def totals(folder) -> dict[str, float]:
    """The sums of what a run's steps cost."""
    found: dict[str, float] = {}
    for line in map(json.loads, (folder / "metrics.jsonl").read_text().splitlines()):
        for key, value in line.items():
            if key.startswith("cost/"):
                found[key] = found.get(key, 0) + value
    return found


@pytest.mark.parametrize(
    "changes", [{"method": "grpo"}, {"method": "dpo"}, {"method": "dpo", "dpo": RECIPE.PreferencePairs(rounds=2)}]
)
def test_two_steps_equal_one_and_one(folder, bright, tmp_path, changes):
    cfg = small(folder, bright, **changes)
    whole = ran(cfg, tmp_path / "whole")

    class Stopped(Run):
        stop = True

    with (
        pytest.raises(Interrupted),
        Stopped.start(tmp_path / "halves", {"recipe": "dpo_vs_grpo"}, display=False) as run,
    ):
        RECIPE.train(cfg, run)
    assert ran(cfg, tmp_path / "halves") == whole
    assert _named(whole["before"]) == {f"{d}{k}" for d in ("in domain", "out of domain") for k in ("", ", best of 2")}
    one, two = weights(tmp_path / "whole"), weights(tmp_path / "halves")
    assert all(torch.equal(one[k], two[k]) for k in one)


def test_both_methods_cost_the_same_and_move_the_weights_their_own_way(folder, bright, tmp_path):
    after, cost = {}, {}
    for method in ("grpo", "dpo"):
        ran(small(folder, bright, method=method), tmp_path / method)
        after[method], cost[method] = weights(tmp_path / method), totals(tmp_path / method)
    for name in ("cost/sampled_codes", "cost/images", "cost/trained_codes"):
        assert cost["grpo"][name] == cost["dpo"][name] > 0, name
    first = RECIPE.policies(small(folder, bright))["policy"].state_dict()
    assert not torch.equal(after["grpo"]["0"], after["dpo"]["0"])
    assert all(any(not torch.equal(w[k], first[k]) for k in first) for w in after.values())


def test_stored_pairs_are_trained_on_without_sampling(folder, bright, tmp_path):
    cfg = small(folder, bright, method="dpo", dpo=RECIPE.PreferencePairs(folder=str(tmp_path / "pairs")))
    ran(cfg, tmp_path / "one")
    ran(cfg, tmp_path / "two")
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    assert all(torch.equal(one[k], two[k]) for k in one)
    assert totals(tmp_path / "one")["cost/images"] == 16 and "cost/images" not in totals(tmp_path / "two")


@pytest.mark.parametrize("preset", [name for name in RECIPE.PRESETS if name != "tiny"])
def test_real_presets_take_a_step(folder, bright, tmp_path, preset):
    (tmp_path / "prompts.txt").write_text("a red circle\ntwo blue squares\n")
    (tmp_path / "other.jsonl").write_text(
        '{"tag": "single_object", "include": [{"class": "ring", "count": 1}], "prompt": "a ring"}\n'
    )
    real = RECIPE.PRESETS[preset]
    task = DomainsTask(
        str(tmp_path / "prompts.txt"), str(tmp_path / "prompts.txt"), str(tmp_path / "other.jsonl"), scorer=bright
    )
    cfg = replace(
        real,
        model=replace(real.model, name=str(folder)),
        task=task,
        reward=bright,
        schedule=replace(real.schedule, steps=1, evaluate_every=1),
        batch=replace(real.batch, prompts_per_step=2, group_size=4),
    )
    assert _named(ran(cfg, tmp_path / "run")["after"]) == {"in domain", "out of domain"}


def test_dual_encoders_match_captions_to_pictures_and_run_as_a_reward(folder, bright, tmp_path):
    torch.manual_seed(0)
    training = DualEncoderModel(width=32, pictures=32, steps=40, batch=16)
    for both in (True, False):
        model = DualEncoder(32, caption_words(), 32)
        assert training.train(model, contrastive_batches(training, both, 32, 0, lambda x: x)) > 0.3, both
    model = DualEncoder(32, caption_words(), 32)
    problems = [Problem(0, "a red circle"), Problem(1, "unheard of"), Problem(2, "")]
    rollout = Rollout(problems, {}, torch.rand(3, 3, 32, 32), torch.zeros(3, 1), torch.ones(3, 1), torch.arange(3))
    assert DualEncoderReward(model, rows=2)(rollout).abs().max() <= 1
    assert not DualEncoderReward(model)(rollout).requires_grad
    cfg = small(folder, bright, reward="dual_encoder_in_domain", dual_encoder=DualEncoderModel(steps=2))
    cfg = replace(cfg, schedule=replace(cfg.schedule, steps=1))
    assert ran(cfg, tmp_path / "run")["after"]


def test_the_two_domains_share_no_prompt_and_no_combination():
    task = DomainsTask(train_size=400, held_out_size=200)
    sets = {"training": task.training(0), **task.held_out_problems()}
    meanings = {
        name: {repr({k: v for k, v in p.answer.items() if k != "wording"}) for p in ps} for name, ps in sets.items()
    }
    assert not meanings["training"] & (meanings["in domain"] | meanings["out of domain"])
    texts = {name: {p.inputs for p in ps} for name, ps in sets.items()}
    assert not texts["in domain"] & texts["out of domain"] and not texts["training"] & texts["out of domain"]


def test_samples_and_scores(folder, bright):
    cfg = small(folder, bright)
    policies = RECIPE.policies(cfg)
    items = RECIPE.sample(cfg, policies, ["a red circle"], seeds(0, 1, "test"))
    assert items[0]["image"].shape == (3, 16, 16) and set(RECIPE.evaluate(cfg, policies)) == {
        "in domain",
        "out of domain",
    }


def test_wrong_settings_are_named(folder, bright, tmp_path):
    with pytest.raises(RunFailed, match="there are no pairs"):
        ran(small(folder, bright, method="dpo", dpo=RECIPE.PreferencePairs(min_gap=9.0)), tmp_path / "pairs")
    with pytest.raises(ValueError, match="3 rounds of equal length"):
        ran(small(folder, bright, dpo=RECIPE.PreferencePairs(rounds=3)), tmp_path / "rounds")
    with pytest.raises(ValueError, match="nearest: dual_encoder "):
        ran(small(folder, bright, reward="dual_encodr"), tmp_path / "judge")


def test_claims_can_fail():
    def arms(difference: float, gain: float, upside_down: bool = False):
        found = {}
        for name in RECIPE.ARMS:
            method, judge = name.split(", ")
            rank = ("in domain", "dual encoder", "program").index(judge)
            found[name] = {
                "in domain@0": 0.4,
                "in domain": 0.4 + gain + (0.02 if method == "dpo" else 0),
                "out of domain": 0.5
                + 0.01 * rank * (-1 if upside_down else 1)
                + (difference if method == "grpo" else 0),
                "out of domain, best of 4@0": 0.6 + 0.05 * rank,
            }
        return found

    margins = lambda scores: [claim.margin(scores) >= claim.least for claim in RECIPE.CLAIMS]
    assert margins(arms(0.03, 0.09)) == [True] * 3
    assert margins(arms(-0.01, 0.09)) == [False, True, True]
    assert margins(arms(0.03, 0.09, upside_down=True)) == [True, True, False]
    assert RECIPE.MOVED.margin(arms(0.03, 0.09)) > 0 > RECIPE.MOVED.margin(arms(0.03, 0.05))
