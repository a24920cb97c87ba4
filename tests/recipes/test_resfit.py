"""Corrections of a base policy: what it proposes and when, the corrected action, the critics' target, and the whole
recipe.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from gymnasium import spaces

from saccade.algorithms.bc import bc_dataset
from saccade.algorithms.off_policy import CriticLoss, OffPolicy
from saccade.envs import environment
from saccade.envs.rescale import ActionRange, RescaleAction
from saccade.envs.task import ControlTask
from saccade.models.control.critics import Critics
from saccade.models.control.networks import Encoder
from saccade.recipes.visual_control.resfit import recipe
from saccade.recipes.visual_control.resfit.cloning import in_chunks, nothing, proposals
from saccade.recipes.visual_control.resfit.planners import ChunkMLP, ChunkTransformer
from saccade.recipes.visual_control.resfit.residual import BaseActionWrapper, EnsembleError, NoisyBasePolicy, residual
from saccade.recipes.visual_control.resfit.task import relabelled
from saccade.training import checkpoint
from saccade.training.buffers import Buffer
from saccade.training.run import Run

SMALL = recipe.Settings(
    task=ControlTask("push", ("steps=12",), test_episodes=4, test_rows=4, video_episodes=1),
    shown=recipe.Demonstrations(episodes=6),
    clone=recipe.Cloning(clone_steps=20, width=16, clone_evaluate_every=10),
    rows=2, env_steps=80, warm_up=40, critic_steps=8, hidden=(16, 16), batch=16, evaluations=1, refresh=40, log_every=10, seed=3,
)  # fmt: skip


def tens(seen: dict) -> torch.Tensor:
    """A plan of three actions that tells what it was made from: 10 s + 0, 1, 2."""
    return 10 * seen["state"][:, :1, None] + torch.arange(3.0)[None, :, None]


def told(*numbers: float) -> dict[str, torch.Tensor]:
    return {"state": torch.tensor(numbers)[:, None]}


def test_chunks_are_carried_out_before_the_next_is_planned_row_by_row():
    base = in_chunks(tens, length=3, size=1, count=2)
    assert base.propose(told(1, 2)).flatten().tolist() == [10, 20]
    base.begin([1])
    assert base.propose(told(5, 6)).flatten().tolist() == [11, 60], "a new episode plans anew, its neighbour goes on"
    saved = base.state_dict()
    rest = [base.propose(told(7, 8)).flatten().tolist() for _ in range(3)]
    assert rest == [[12, 61], [70, 62], [71, 80]]
    other = in_chunks(tens, length=3, size=1, count=2)
    other.load_state_dict(saved)
    assert [other.propose(told(7, 8)).flatten().tolist() for _ in range(3)] == rest
    assert base.propose(told(9), rows=[0]).flatten().tolist() == [72], "rows that are not asked do not move on"
    assert base.propose(told(9, 9)).flatten().tolist() == [90, 81]


def recorded(length: int) -> dict[str, np.ndarray]:
    """An episode that saw 0, 1, 2, ... and ended."""
    last = np.arange(length) == length - 1
    return {
        "seen.state": np.arange(length + 1, dtype=np.float32)[:, None],
        "action": np.zeros((length, 1), np.float32),
        "reward": np.zeros(length, np.float32),
        "terminated": last,
        "truncated": np.zeros(length, bool),
    }


def test_demonstrations_are_told_what_comes_next_at_the_ends_of_chunks_too():
    base = in_chunks(tens, length=3, size=1, count=1)
    assert proposals(base, recorded(4)).flatten().tolist() == [0, 1, 2, 30, 31]
    held = relabelled([recorded(4), recorded(2)], base, seed=1)
    assert held.columns["seen.base_action"].flatten().tolist() == [0, 1, 2, 30, 0, 1]
    assert held.columns["next.base_action"].flatten().tolist() == [1, 2, 30, 31, 1, 2]


def test_an_environment_shows_the_proposal_of_its_last_moment_from_the_chunk_under_way():
    plan = lambda seen: seen["state"][:, None, :2] + torch.tensor([0.0, 0.25, 0.5])[None, :, None]
    world = BaseActionWrapper(environment("push", 1, steps=2), in_chunks(plan, length=3, size=2, count=1))
    first = world.begin([0], [1])
    world.step(np.zeros((1, 2)))
    end = world.step(np.zeros((1, 2)))
    assert end.truncated_B.all() and np.allclose(end.observation["base_action"] - first["base_action"], 0.5)
    fresh = world.begin([0], [2])
    assert np.allclose(fresh["base_action"], fresh["state"][:, :2])
    assert world.observation_space["base_action"].shape == (2,)


def test_the_range_of_actions_is_widened_and_never_too_narrow():
    shown = np.array([[-1.0, 0.5], [3.0, 0.52]], np.float32)
    range = ActionRange.of(shown, widen=0.2, least=0.1)
    assert np.allclose(range.low, [1 - 2.4, 0.51 - 0.06]) and np.allclose(range.high, [1 + 2.4, 0.51 + 0.06])
    assert np.allclose(range.to_unit(shown)[:, 0], [-1 / 1.2, 1 / 1.2])
    assert np.allclose(range.from_unit(range.to_unit(shown)), shown, atol=1e-6)
    world = RescaleAction(environment("push", 1), ActionRange((0.0, 0.0), (0.5, 0.5)))
    world.begin([0], [1]), (plain := environment("push", 1)).begin([0], [1])
    assert np.array_equal(
        world.step(np.array([[1.0, -2.0]])).observation["state"], plain.step(np.array([[0.5, 0.0]])).observation["state"]
    )


def actor_of(scale: float = 0.2, width: int = 3):
    """An actor of two actions on a state of ``width`` numbers, its correction no longer zero."""
    space = spaces.Dict({"state": spaces.Box(-1, 1, (width,), np.float32)})
    actor = residual(Encoder(space), width, 2, (8,), scale, noise=0.05)
    with torch.no_grad():
        actor.head.layers[-1].weight.normal_()
    return actor


def test_the_corrected_action():
    torch.manual_seed(0)
    seen = {"state": torch.randn(5, 3), "base_action": torch.linspace(-1, 1, 10).view(5, 2)}
    actor, far = actor_of(), torch.full((5, 2), 100.0)
    before = actor.head(torch.cat([seen["state"], seen["base_action"]], 1))
    expected = (seen["base_action"] + 0.2 * before.tanh()).clamp(-1, 1)
    assert torch.allclose(actor.propose(seen, far)[0], expected), "no draw moves what the critics are asked about"
    assert torch.allclose(actor.act(seen, None).action_B, expected)
    assert torch.allclose(actor.act(seen, torch.ones(5, 2)).action_B, (expected + 0.05).clamp(-1, 1))
    assert torch.allclose(actor.act(seen, far).action_B, (expected + 0.3).clamp(-1, 1)), "noise is cut off"
    fresh = residual(actor.encoder, 3, 2, (8,), 0.2, 0.05)
    assert torch.equal(fresh.act(seen, None).action_B, seen["base_action"]), (
        "it begins as the base policy to the last bit"
    )
    moved = NoisyBasePolicy(0.2).act(seen, torch.randn(5, 2)).action_B - seen["base_action"]
    assert moved.abs().max() <= 0.2 and torch.equal(NoisyBasePolicy(0.2).act(seen, None).action_B, seen["base_action"])


def transitions(rows: int = 6):
    """A batch as a buffer gives it, with base actions before and after."""
    rng, buffer = np.random.default_rng(1), Buffer(40, seed=9)
    fields = {k: rng.uniform(-1, 1, (40, n)) for k, n in [("seen.state", 3), ("next.state", 3), ("action", 2)]}
    fields |= {f"{when}.base_action": rng.uniform(-1, 1, (40, 2)) for when in ("seen", "next")}
    ends = {"terminated": np.arange(40) % 8 == 7, "truncated": np.zeros(40, bool)}
    buffer.add(fields | ends | {"reward": rng.uniform(0, 1, 40), "episode": np.arange(40) // 8})
    return buffer.sample(rows, step=0, n_step=3, gamma=0.9)


def loss_of(how: OffPolicy, actor=None) -> CriticLoss:
    torch.manual_seed(1)
    critics, target = (
        Critics(Encoder(spaces.Dict({"state": spaces.Box(-1, 1, (3,))})), 3, 2, 4, (8,), True) for _ in range(2)
    )
    return CriticLoss(actor or actor_of(), critics, target, how)


def test_the_target_follows_the_next_proposal():
    how = OffPolicy(critics=4, subset=4, entropy_in_backup=False)
    batch, loss = transitions(), loss_of(how)
    after = {name: batch.decisions[f"next.{name}_B"] for name in ("state", "base_action")}
    correction = 0.2 * loss.actor.head(torch.cat([after["state"], after["base_action"]], 1)).tanh()
    best = (after["base_action"] + correction).clamp(-1, 1)
    value = loss.target(after, best).amin(0)
    expected = batch.rewards["reward"] + batch.extras["discount_B"] * value
    assert torch.allclose(loss.backup(batch), expected.detach())
    noisy = replace(how, smoothing=100.0, smoothing_clip=0.3)
    near = loss_of(noisy, loss.actor).backup(batch)
    assert not torch.allclose(near, expected), "smoothing moves the next action"
    batch.decisions["next.base_action_B"] = batch.decisions["seen.base_action_B"]
    assert not torch.allclose(loss.backup(batch), expected), "another proposal, another target"


def test_both_errors_of_the_ensemble():
    batch, loss = transitions(), loss_of(OffPolicy(critics=4, subset=4, entropy_in_backup=False))
    error = loss.critics({"state": batch.decisions["seen.state_B"]}, batch.decisions["action_BT"][:, 0]) - loss.backup(
        batch
    )
    squares, absolutes = EnsembleError(loss), EnsembleError(loss, "squared mean of absolutes")
    assert torch.allclose(squares(batch).mean(), (error**2).mean())
    assert torch.allclose(absolutes(batch).mean(), (error.abs().mean(0) ** 2).mean())
    assert absolutes(batch).mean() <= squares(batch).mean()
    high = replace(batch, rewards={"reward": batch.rewards["reward"] + 50})
    bounded, free = EnsembleError(loss, bounds=(0.0, 1.0))(high), EnsembleError(loss)(high)
    assert bounded.mean() < 10 < free.mean() and bounded.metrics["target"] == free.metrics["target"] > 200
    with pytest.raises(ValueError, match="mean of squares"):
        EnsembleError(loss, "squares")


def test_lessons_look_ahead_and_no_further_than_the_episode():
    rows = bc_dataset([recorded(3), recorded(2)], length=2)
    assert rows.decisions["seen.state_B"].flatten().tolist() == [0, 1, 2, 0, 1]
    assert rows.mask_BT.tolist() == [[1, 1], [1, 1], [1, 0], [1, 1], [1, 0]]


def test_the_planners_see_what_they_should():
    space = spaces.Dict(
        {"image": spaces.Box(0, 255, (16, 16, 3), np.uint8), "body": spaces.Box(-1, 1, (4,), np.float32)}
    )
    seen = {"image": torch.randint(0, 256, (2, 16, 16, 3), dtype=torch.uint8), "body": torch.randn(2, 4)}
    net = ChunkTransformer(space, 2, length=5, width=16)
    net.standard.fit(seen)
    plan = net(seen)
    assert plan.shape == (2, 5, 2)
    assert not torch.allclose(plan, net(seen | {"image": 255 - seen["image"]}))
    assert not torch.allclose(plan, net(seen | {"body": -seen["body"]}))
    with pytest.raises(ValueError, match="transformer"):
        ChunkMLP(space, 2, length=5)


def trained(cfg: recipe.Settings, folder: Path, resume: bool = False) -> dict:
    """Train; the last checkpoint's state."""
    run = Run.resume(folder, display=False) if resume else Run.start(folder, {"recipe": "resfit"}, display=False)
    with run:
        recipe.train(cfg, run)
    return checkpoint.read(checkpoint.latest(folder / "checkpoints"))[1]


@pytest.mark.parametrize("method", ["residual", "scratch", "filtered"])
def test_half_and_half_is_the_whole_bit_for_bit(method, tmp_path):
    whole = replace(SMALL, method=method)
    half = replace(whole, env_steps=60)
    expected = trained(whole, tmp_path / "whole")
    trained(half, tmp_path / "halves")
    found = trained(whole, tmp_path / "halves", resume=True)
    assert _same(expected["base"], found["base"]) and _same(
        expected["feed"]["buffer"]["columns"], found["feed"]["buffer"]["columns"]
    )
    if method == "filtered":
        assert expected["feed"]["taken"] == 80
        return
    assert all(_same(expected[name], found[name]) for name in ("policy", "critics", "target", "slow"))
    assert expected["policy"]["head.layers.4.weight"].abs().max() > 0, "corrections were learned"


def _same(one: dict, other: dict) -> bool:
    return one.keys() == other.keys() and all(
        torch.equal(torch.as_tensor(one[k]), torch.as_tensor(other[k])) for k in one
    )


def test_before_the_first_correction_the_episodes_are_those_of_the_base_policy(tmp_path):
    with Run.start(tmp_path / "run", {"recipe": "resfit", "seed": 3}, display=False) as run:
        base, actor, critics = recipe.networks(SMALL, SMALL.task.make(1))
        episodes = recipe.begin(SMALL, base, run.stage("bc"))
    assert 1 <= len(episodes) <= 6 and max(np.abs(e["action"]).max() for e in episodes) <= 1 / 1.2 + 1e-6
    world, plain = recipe.residual_task(SMALL, base).make(4), base.proposer(4)
    seen = world.begin(range(4), range(4))
    for _ in range(10):
        action = actor.act({name: torch.from_numpy(value) for name, value in seen.items()}, None).action_B
        assert torch.equal(action, plain.propose({"state": torch.from_numpy(seen["state"])}))
        seen = world.step(action.numpy()).observation


def test_the_arms_share_demonstrations_and_cloning(tmp_path):
    arms = [SMALL, replace(SMALL, method="scratch"), replace(SMALL, env_steps=0)]
    for number, cfg in enumerate(arms):
        first = tmp_path / "0" if number else None
        with Run.start(tmp_path / str(number), {"recipe": "resfit", "seed": 3}, display=False, stages_of=first) as run:
            recipe.train(cfg, run)
    lines = [json.loads(line) for line in (tmp_path / "2" / "metrics.jsonl").read_text().splitlines()]
    first = [json.loads(line) for line in (tmp_path / "0" / "metrics.jsonl").read_text().splitlines()]
    assert lines[0]["eval/length"] == first[0]["eval/length"]
    assert (tmp_path / "1" / "scratch critic").is_dir() and not (tmp_path / "2" / "residual critic").exists()


def test_the_real_preset_at_reduced_size(tmp_path):
    real = recipe.PRESETS["robomimic-square"]
    task = ControlTask("push", ("observe=image", "pixels=16", "steps=6"), test_episodes=2, test_rows=1, video_episodes=0)
    clone = replace(real.clone, width=32, clone_steps=2, clone_batch=4, clone_evaluate_every=2)
    shown = recipe.Demonstrations(episodes=2)
    cfg = replace(
        real,
        task=task,
        shown=shown,
        clone=clone,
        env_steps=14,
        warm_up=8,
        critic_steps=2,
        hidden=(16, 16),
        batch=8,
        memory=64,
    )
    state = trained(cfg, tmp_path / "run")
    assert (
        state["learner"]["updates"]["critic"]["steps"] == 2 + 24 and state["learner"]["updates"]["actor"]["steps"] == 6
    )
    assert any(name.startswith("encoder.patches") for name in state["policy"])


def test_nothing_proposed_is_an_ordinary_actor():
    assert nothing(2, 3).propose({"state": torch.ones(3, 4)}).tolist() == [[0, 0]] * 3
    wide = recipe.networks(replace(SMALL, method="scratch"), SMALL.task.make(1))[1]
    assert wide.scale == 1.0


def test_where_there_is_nobody_to_demonstrate(tmp_path):
    with Run.start(tmp_path / "run", {"recipe": "resfit"}, display=False) as run:
        with pytest.raises(ValueError, match="no scripted expert"):
            recipe.train(replace(SMALL, task=ControlTask("reach", ("observe=state",))), run)
