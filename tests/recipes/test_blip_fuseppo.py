"""BLIP-FusePPO: its mirror, its stages, resuming, its controls, and its real preset at reduced size."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from saccade import catalog
from saccade.core import seeds
from saccade.envs.rollout import RolloutCollector
from saccade.recipes.driving_navigation.blip_fuseppo.captioner import Sizes, fresh
from saccade.recipes.driving_navigation.blip_fuseppo.symmetry import mirror_rollout
from saccade.recipes.driving_navigation.blip_fuseppo.task import accuracy, mirror_ids
from saccade.training import checkpoint
from saccade.training.run import Run

RECIPE = "blip_fuseppo"


@pytest.fixture(scope="module")
def recipe():
    return catalog.load(RECIPE)


def small(cfg, **changes):
    """Settings that take a step in a second."""
    task = replace(cfg.task, road=20.0, test_episodes=4, test_rows=4, video_episodes=1, **changes.pop("task", {}))
    speaker = replace(cfg.speaker, speaker_steps=2, speaker_batch=4, tests=8)
    ppo = replace(cfg.ppo, length=24, minibatch=48, epochs=2, anneal=False)
    return replace(
        cfg, **{"task": task, "speaker": speaker, "ppo": ppo, "rows": 2, "evaluate_every": 1, "save_every": 1} | changes
    )


def drive(recipe, cfg, folder: Path) -> dict:
    run = (
        Run.resume(folder, display=False)
        if folder.exists()
        else Run.start(folder, {"recipe": RECIPE, "seed": cfg.seed}, display=False)
    )
    with run:
        return recipe.train(cfg, run)


def saved(folder: Path) -> dict[str, torch.Tensor]:
    _, state = checkpoint.read(checkpoint.latest(folder / "checkpoints"))
    return {f"{part}.{k}": v for part in ("policy", "captioner") if part in state for k, v in state[part].items()}


def test_a_mirrored_decision_is_valued_as_the_policy_values_it_and_the_mirror_of_a_mirror_is_the_thing(recipe):
    cfg = small(recipe.PRESETS["tiny"])
    words = recipe.captioner(cfg)
    policy, world = recipe.driver(cfg, words), cfg.task.make(2, words, 0)
    flips = cfg.task.flips(words)
    rollout = RolloutCollector(world, policy, 40, 0)(0)
    seen = mirror_rollout(rollout, policy, flips)
    again = mirror_rollout(seen, policy, flips)
    assert all(torch.equal(again.decisions[k], v) for k, v in rollout.decisions.items())
    assert torch.allclose(again.logp_BT, rollout.logp_BT, atol=1e-5) and torch.allclose(
        again.extras["value_BT"], rollout.extras["value_BT"], atol=1e-5
    )
    told = policy.likelihood(seen)
    assert torch.allclose(told.logp_BT, seen.logp_BT, atol=1e-5), "the first ratio is 1"
    assert not torch.allclose(seen.logp_BT, rollout.logp_BT, atol=1e-3)
    assert torch.equal(seen.decisions["action_BT"], rollout.decisions["action_BT"] * torch.tensor([-1.0, 1.0]))
    assert torch.equal(seen.decisions["seen.image_BT"][:, :, :, 0], rollout.decisions["seen.image_BT"][:, :, :, -1])
    goes_on = ~(rollout.extras["terminated_BT"] | rollout.extras["truncated_BT"])[:, :-1]
    value, after = seen.extras["value_BT"][:, 1:], seen.extras["next_value_BT"][:, :-1]
    assert torch.equal(value[goes_on], after[goes_on]) and torch.equal(
        seen.extras["next_value_BT"][:, -1], rollout.extras["next_value_BT"][:, -1]
    )
    with pytest.raises(ValueError, match="no 'seen.smell_BT' to mirror"):
        mirror_rollout(rollout, policy, {"seen.smell_BT": torch.neg})


def test_left_and_right_are_exchanged_in_token_ids_and_nothing_else():
    words = fresh(("left", "right", "road"), 3, Sizes(16, 8, 16, 2, 1))
    told = torch.from_numpy(words.ids(["road left right", "right road"]))
    assert words.words(mirror_ids(words)[told].numpy()) == ["road right left", "left road"]


def test_two_steps_equal_one_and_one_with_captions_from_a_first_stage(recipe, tmp_path):
    cfg = small(recipe.PRESETS["tiny"])
    whole = drive(recipe, replace(cfg, steps=2), tmp_path / "whole")
    drive(recipe, replace(cfg, steps=1), tmp_path / "halves")
    halves = drive(recipe, replace(cfg, steps=2), tmp_path / "halves")
    one, two = saved(tmp_path / "whole"), saved(tmp_path / "halves")
    assert one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one) and whole == halves
    assert {"rmse", "std", "nrmse", "success", "captions a step"} <= whole["after"].keys()
    first = fresh_weights(recipe, cfg)
    assert any(not torch.equal(first[k], one[f"captioner.{k}"]) for k in first), "the captioner was taught"
    item = json.loads((tmp_path / "whole" / "samples.jsonl").read_text().splitlines()[-1])["items"][0]
    assert item["clip"].endswith(".webp") and len(item["path"]) > 1
    own = recipe.policies(cfg)
    for name, policy in own.items():
        policy.load_state_dict({k.removeprefix(f"{name}."): v for k, v in one.items() if k.startswith(f"{name}.")})
    assert recipe.evaluate(cfg, own) == whole["after"]
    (item,) = recipe.sample(cfg, own, ["drive"], seeds(0, 1))
    assert item["clip"].shape[1:] == (96, 96, 3) and item["image"].shape[:2] == (3, 96) and len(item["path"]) > 1


def fresh_weights(recipe, cfg):
    return recipe.captioner(cfg).state_dict()


@pytest.mark.parametrize("arm", ["image and LiDAR", "with hint", "random tokens", "shuffled captions"])
def test_every_arm_takes_a_step_and_only_captions_ask_the_captioner(recipe, arm, tmp_path):
    cfg = small(catalog.arms(RECIPE)[arm].settings, steps=1)
    result = drive(recipe, cfg, tmp_path / "run")["after"]
    assert result["captions a step"] == 0 and np.isfinite(list(result.values())).all()
    assert (tmp_path / "run" / "captioner").exists() == (arm == "shuffled captions")


def test_claims_read_scores_that_there_are(recipe):
    scores = {arm: {"rmse": 0.3, "captions a step": 0.1} for arm in recipe.ARMS}
    assert [round(claim.margin(scores), 3) for claim in recipe.CLAIMS] == [-0.03, 0, 0, 0, 0, 0.02]


def test_the_real_preset_drives_with_a_blip_from_disk(recipe, tmp_path):
    words = fresh(
        "a photo of the road its condition and surroundings : , left right".split(), 16, Sizes(16, 8, 16, 2, 1)
    )
    words.export(tmp_path / "blip")
    cfg = recipe.PRESETS["blip-large"]
    assert (cfg.task.image, cfg.task.rays, cfg.speaker.model) == (
        (224, 244),
        180,
        "Salesforce/blip-image-captioning-large",
    )
    speaker = replace(cfg.speaker, model=str(tmp_path / "blip"), caption_length=6, precision="float32", device="cpu")
    cfg = small(cfg, speaker=speaker, steps=1, rows=1, task={"image": (32, 48), "far": (24, 48), "rays": 12})
    cfg = replace(cfg, ppo=replace(cfg.ppo, length=12, minibatch=24))
    result = drive(recipe, cfg, tmp_path / "run")
    assert 0 < result["after"]["captions a step"] <= 1 / 10 + 0.1
    assert set(recipe.policies(cfg)) == {"policy"}, "a checkpoint from elsewhere is not saved again"


def test_accuracy_of_a_captioner_that_knows_the_truth(recipe):
    cfg = small(recipe.PRESETS["tiny"])
    lane, words = cfg.task.world(8), recipe.captioner(cfg)
    truth = type(
        "Truth", (), {"__call__": lambda self, pictures: words.ids(lane.captions(range(8))), "words": words.words}
    )()
    assert set(accuracy(truth, lane).values()) == {1.0}
    assert accuracy(words, lane)["caption"] < 0.5
