"""The BLIP-FusePPO recipe: symmetry, its stages, resuming, its controls, its real preset at a reduced size."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from gymnasium import spaces

from saccade import catalog
from saccade.core import mean_scores
from saccade.envs.lane import Lane
from saccade.envs.rollout import RolloutCollector
from saccade.random import seeds
from saccade.recipes.driving_navigation.blip_fuseppo.captioner import BlipSizes, build_captioner
from saccade.recipes.driving_navigation.blip_fuseppo.captions import CaptionObservation, constant, shuffled
from saccade.recipes.driving_navigation.blip_fuseppo.pid import PID, PIDObservation
from saccade.recipes.driving_navigation.blip_fuseppo.symmetry import mirror_rollout
from saccade.recipes.driving_navigation.blip_fuseppo.task import caption_accuracy, mirror_ids
from saccade.training import checkpoint
from saccade.training.run import Run
from saccade.training.settings import Schedule

RECIPE = "blip_fuseppo"
FULL_SPEED = np.array([0.0, 1.0])


@pytest.fixture(scope="module")
def recipe():
    return catalog.load(RECIPE)


def small(cfg, **changes):
    """Settings that take a step in a second."""
    task = dict(road_length=20.0, test_episodes=4, test_rows=4, video_episodes=1) | changes.pop("task", {})
    settings = {
        "schedule": Schedule(changes.pop("steps", 1), evaluate_every=1, save_every=1),
        "task": replace(cfg.task, **task),
        "captioner": replace(cfg.captioner, steps=2, batch_size=4, test_pictures=8),
        "ppo": replace(cfg.ppo, n_steps=24, batch_size=48, n_epochs=2, anneal_lr=False),
        "n_envs": 2,
    }
    return replace(cfg, **settings | changes)


def drive(recipe, cfg, folder: Path) -> dict:
    run = (
        Run.resume(folder, display=False)
        if folder.exists()
        else Run.start(folder, {"recipe": RECIPE, "seed": cfg.seed}, display=False)
    )
    with run:
        return recipe.train(cfg, run)


def with_steps(cfg, steps: int):
    return replace(cfg, schedule=replace(cfg.schedule, steps=steps))


def saved(folder: Path) -> dict[str, torch.Tensor]:
    _, state = checkpoint.read(checkpoint.latest(folder / "checkpoints"))
    return {f"{part}.{k}": v for part in ("policy", "captioner") if part in state for k, v in state[part].items()}


def test_mirrored_decisions_have_the_policys_values_and_mirroring_twice_changes_nothing(recipe):
    cfg = small(recipe.PRESETS["tiny"])
    captioner = recipe.build_captioner(cfg)
    policy, world = recipe.build_policy(cfg, captioner), cfg.task.make(2, captioner, 0)
    symmetry = cfg.task.symmetry(captioner)
    rollout = RolloutCollector(world, policy, 40, 0)(0)
    mirrored = mirror_rollout(rollout, policy, symmetry)
    again = mirror_rollout(mirrored, policy, symmetry)
    assert all(torch.equal(again.decisions[k], v) for k, v in rollout.decisions.items())
    assert torch.allclose(again.logp_BT, rollout.logp_BT, atol=1e-5) and torch.allclose(
        again.extras["value_BT"], rollout.extras["value_BT"], atol=1e-5
    )
    present = policy.likelihood(mirrored)
    assert torch.allclose(present.logp_BT, mirrored.logp_BT, atol=1e-5), "the first ratio is 1"
    assert not torch.allclose(mirrored.logp_BT, rollout.logp_BT, atol=1e-3)
    assert torch.equal(mirrored.decisions["action_BT"], rollout.decisions["action_BT"] * torch.tensor([-1.0, 1.0]))
    assert torch.equal(
        mirrored.decisions["observation.image_BT"][:, :, :, 0], rollout.decisions["observation.image_BT"][:, :, :, -1]
    )
    goes_on = ~(rollout.extras["terminated_BT"] | rollout.extras["truncated_BT"])[:, :-1]
    value, after = mirrored.extras["value_BT"][:, 1:], mirrored.extras["next_value_BT"][:, :-1]
    assert torch.equal(value[goes_on], after[goes_on]) and torch.equal(
        mirrored.extras["next_value_BT"][:, -1], rollout.extras["next_value_BT"][:, -1]
    )
    with pytest.raises(ValueError, match="no 'observation.smell_BT' to mirror"):
        mirror_rollout(rollout, policy, {"observation.smell_BT": torch.neg})


def test_left_and_right_are_exchanged_in_token_ids_and_nothing_else():
    captioner = build_captioner(("left", "right", "road"), 3, BlipSizes(16, 8, 16, 2, 1))
    ids = torch.from_numpy(captioner.encode(["road left right", "right road"]))
    assert captioner.decode(mirror_ids(captioner)[ids].numpy()) == ["road right left", "left road"]


def test_two_steps_equal_one_and_one_with_captions_from_a_first_stage(recipe, tmp_path):
    cfg = small(recipe.PRESETS["tiny"])
    whole = drive(recipe, with_steps(cfg, 2), tmp_path / "whole")
    drive(recipe, with_steps(cfg, 1), tmp_path / "halves")
    halves = drive(recipe, with_steps(cfg, 2), tmp_path / "halves")
    one, two = saved(tmp_path / "whole"), saved(tmp_path / "halves")
    assert one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one) and whole == halves
    assert {"rmse", "std", "nrmse", "success", "captions per step"} <= whole["after"].keys()
    first = recipe.build_captioner(cfg).state_dict()
    assert any(not torch.equal(first[k], one[f"captioner.{k}"]) for k in first), "the captioner was trained"
    item = json.loads((tmp_path / "whole" / "samples.jsonl").read_text().splitlines()[-1])["items"][0]
    assert item["clip"].endswith(".webp") and len(item["path"]) > 1
    policies = recipe.policies(cfg)
    for name, policy in policies.items():
        policy.load_state_dict({k.removeprefix(f"{name}."): v for k, v in one.items() if k.startswith(f"{name}.")})
    assert mean_scores(recipe.evaluate(cfg, policies)) == whole["after"]
    (item,) = recipe.sample(cfg, policies, ["drive"], seeds(0, 1, "test"))
    assert item["clip"].shape[1:] == (96, 96, 3) and item["image"].shape[:2] == (3, 96) and len(item["path"]) > 1


@pytest.mark.parametrize("arm", ["image and LiDAR", "with hint", "random tokens", "shuffled captions"])
def test_every_arm_takes_a_step_and_only_captions_ask_the_captioner(recipe, arm, tmp_path):
    cfg = small(catalog.arms(RECIPE)[arm].settings, steps=1)
    result = drive(recipe, cfg, tmp_path / "run")["after"]
    assert result["captions per step"] == 0 and np.isfinite(list(result.values())).all()
    assert (tmp_path / "run" / "captioner").exists() == (arm == "shuffled captions")


def test_claims_are_about_existing_scores(recipe):
    scores = {arm: {"rmse": 0.3, "captions per step": 0.1} for arm in recipe.ARMS}
    assert [round(claim.margin(scores), 3) for claim in recipe.CLAIMS] == [-0.03, 0, 0, 0, 0, 0.02]


def test_the_real_preset_drives_with_a_captioner_from_disk(recipe, tmp_path):
    vocabulary = "a photo of the road its condition and surroundings : , left right".split()
    build_captioner(vocabulary, 16, BlipSizes(16, 8, 16, 2, 1)).export(tmp_path / "blip")
    cfg = recipe.PRESETS["blip-large"]
    assert cfg.task.image_size == (224, 244) and cfg.task.lidar_rays == 180
    assert cfg.captioner.model == "Salesforce/blip-image-captioning-large"
    captioner = replace(cfg.captioner, model=str(tmp_path / "blip"), length=6, precision="float32", device="cpu")
    sizes = {"image_size": (32, 48), "caption_image_size": (24, 48), "lidar_rays": 12}
    cfg = small(cfg, captioner=captioner, n_envs=1, task=sizes)
    cfg = replace(cfg, ppo=replace(cfg.ppo, n_steps=12, batch_size=24))
    result = drive(recipe, cfg, tmp_path / "run")
    assert 0 < result["after"]["captions per step"] <= 1 / 10 + 0.1
    assert set(recipe.policies(cfg)) == {"policy"}, "a checkpoint from elsewhere is not saved again"


def test_true_captions_have_accuracy_one(recipe):
    cfg = small(recipe.PRESETS["tiny"])
    lane, captioner = cfg.task.world(8), recipe.build_captioner(cfg)

    class Truth:
        decode = staticmethod(captioner.decode)

        def __call__(self, pictures):
            return captioner.encode(lane.captions(range(8)))

    assert set(caption_accuracy(Truth(), lane).values()) == {1.0}
    assert caption_accuracy(captioner, lane)["caption"] < 0.5


def test_the_pid_controller_is_odd_clips_its_integral_and_resets():
    one, other = PID(1), PID(1)
    errors = np.random.default_rng(0).normal(size=300)
    for error in errors:
        a, b = one.advise([0], np.array([error])), other.advise([0], np.array([-error]))
        assert a == -b and abs(a) <= 0.8
    assert one.advise([0], np.array([100.0])) == -0.8 and one.integral_B[0] == 1
    one.reset([0])
    assert one.advise([0], np.array([2.0]))[0] == pytest.approx(-(0.15 * 2 + 0.02 * 0.2))


class Brightness:
    """A captioner whose ids are the mean brightness of the pictures; counts its calls."""

    def __init__(self):
        self.calls: list[int] = []

    def __call__(self, pictures: np.ndarray) -> np.ndarray:
        self.calls.append(len(pictures))
        return np.stack([pictures.reshape(len(pictures), -1).mean(1).astype(np.int64)] * 2, 1)


def captioned(count: int, captioner: Brightness, **settings) -> CaptionObservation:
    lane = Lane(count)
    return CaptionObservation(
        PIDObservation(lane, lane.error), captioner, lane.camera, spaces.MultiDiscrete([256, 256]), **settings
    )


def test_captions_are_refreshed_at_the_start_and_every_k_steps_and_saved():
    captioner = Brightness()
    world = captioned(2, captioner, every=5)
    first = world.begin([0, 1], [1, 2])["caption"].copy()
    steps = [world.step(np.tile(FULL_SPEED, (2, 1))) for _ in range(4)]
    assert captioner.calls == [2] and all(np.array_equal(step.observation["caption"], first) for step in steps)
    assert steps[-1].info["caption_age"].tolist() == [4, 4] and steps[-1].info["captions"].tolist() == [1, 1]
    world.begin([1], [8])
    world.step(np.tile(FULL_SPEED, (2, 1)))
    assert captioner.calls == [2, 1, 1], "row 0 is due, row 1 has just begun"
    again = captioned(2, Brightness(), every=5)
    again.load_state_dict(world.state_dict())
    for _ in range(6):
        one, two = world.step(np.tile(FULL_SPEED, (2, 1))), again.step(np.tile(FULL_SPEED, (2, 1)))
        assert all(np.array_equal(one.observation[k], two.observation[k]) for k in one.observation)
    with pytest.raises(ValueError, match="have shape \\[2\\] for 2 pictures"):
        captioned(2, lambda pictures: np.zeros(len(pictures), np.int64)).begin([0, 1], [1, 2])


def test_caption_controls_never_call_the_captioner_and_follow_from_the_seed():
    for control, constant_ in (
        (shuffled(lambda: np.arange(200).reshape(100, 2)), False),
        (constant(np.array([3, 4])), True),
    ):
        captioner = Brightness()
        one, two = captioned(2, captioner, every=2, control=control), captioned(1, captioner, every=2, control=control)
        a, b = one.begin([0, 1], [1, 2]), two.begin([0], [2])
        shown = [tuple(b["caption"][0])]
        for _ in range(6):
            a, b = one.step(np.tile(FULL_SPEED, (2, 1))).observation, two.step(FULL_SPEED[None]).observation
            assert np.array_equal(a["caption"][1], b["caption"][0]) and np.allclose(a["hint"][1], b["hint"][0])
            shown.append(tuple(b["caption"][0]))
        assert not captioner.calls and (len(set(shown)) == 1) == constant_
