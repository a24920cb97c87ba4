"""ResFiT: proposals of the base policy, corrected actions, the critics' target and loss, and the recipe."""

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
from saccade.recipes.visual_control.resfit.base_policy import ChunkProposer, ZeroProposer, propose_all
from saccade.recipes.visual_control.resfit.networks import ChunkMLP, ChunkTransformer, ViewEncoder
from saccade.recipes.visual_control.resfit.residual import (
    BaseActionWrapper,
    EnsembleLoss,
    NoisyBasePolicy,
    Residual,
    ResidualActor,
)
from saccade.recipes.visual_control.resfit.task import demonstrations_with_proposals
from saccade.training import checkpoint
from saccade.training.buffers import Buffer
from saccade.training.run import Run

SMALL = recipe.Settings(
    schedule=recipe.EnvSchedule(steps=80, evaluate_every=40, save_every=40, log_every=10, n_envs=2),
    task=ControlTask("push", ("steps=12",), test_episodes=4, test_rows=4, video_episodes=1),
    demonstrations=recipe.Demonstrations(episodes=6),
    seed=3,
    cloning=recipe.Cloning(steps=20, width=16, evaluate_every=10),
    residual=Residual(critic_steps=8),
    algo=replace(recipe.Settings().algo, learning_starts=40, hidden=(16, 16), batch_size=16),
    refresh_every=40,
)


def tens(observation: dict) -> torch.Tensor:
    """A plan of three actions that shows from which state s it was made: 10 s + 0, 1, 2."""
    return 10 * observation["state"][:, :1, None] + torch.arange(3.0)[None, :, None]


def states(*numbers: float) -> dict[str, torch.Tensor]:
    return {"state": torch.tensor(numbers)[:, None]}


def test_each_row_plans_again_when_its_chunk_is_used():
    base = ChunkProposer(tens, length=3, actions=1, count=2)
    assert base.propose(states(1, 2)).flatten().tolist() == [10, 20]
    base.begin([1])
    assert base.propose(states(5, 6)).flatten().tolist() == [11, 60], (
        "a new episode plans again, its neighbour continues"
    )
    saved = base.state_dict()
    rest = [base.propose(states(7, 8)).flatten().tolist() for _ in range(3)]
    assert rest == [[12, 61], [70, 62], [71, 80]]
    other = ChunkProposer(tens, length=3, actions=1, count=2)
    other.load_state_dict(saved)
    assert [other.propose(states(7, 8)).flatten().tolist() for _ in range(3)] == rest
    assert base.propose(states(9), rows=[0]).flatten().tolist() == [72], "other rows keep their place in the chunk"
    assert base.propose(states(9, 9)).flatten().tolist() == [90, 81]


def recorded(length: int) -> dict[str, np.ndarray]:
    """An episode with the states 0, 1, 2, ... that terminates."""
    last = np.arange(length) == length - 1
    return {
        "observation.state": np.arange(length + 1, dtype=np.float32)[:, None],
        "action": np.zeros((length, 1), np.float32),
        "reward": np.zeros(length, np.float32),
        "terminated": last,
        "truncated": np.zeros(length, bool),
    }


def test_demonstrations_get_the_proposals_of_all_observations():
    base = ChunkProposer(tens, length=3, actions=1, count=1)
    assert propose_all(base, recorded(4)).flatten().tolist() == [0, 1, 2, 30, 31]
    buffer = demonstrations_with_proposals([recorded(4), recorded(2)], base, seed=1)
    assert buffer.columns["observation.base_action"].flatten().tolist() == [0, 1, 2, 30, 0, 1]
    assert buffer.columns["next_observation.base_action"].flatten().tolist() == [1, 2, 30, 31, 1, 2]


def test_the_last_proposal_of_an_episode_comes_from_the_present_chunk():
    plan = lambda observation: observation["state"][:, None, :2] + torch.tensor([0.0, 0.25, 0.5])[None, :, None]
    world = BaseActionWrapper(environment("push", 1, steps=2), ChunkProposer(plan, length=3, actions=2, count=1))
    first = world.begin([0], [1])
    world.step(np.zeros((1, 2)))
    end = world.step(np.zeros((1, 2)))
    assert end.truncated_B.all() and np.allclose(end.observation["base_action"] - first["base_action"], 0.5)
    fresh = world.begin([0], [2])
    assert np.allclose(fresh["base_action"], fresh["state"][:, :2])
    assert world.observation_space["base_action"].shape == (2,)


def test_the_range_of_actions_is_widened_and_has_a_least_width():
    actions = np.array([[-1.0, 0.5], [3.0, 0.52]], np.float32)
    action_range = ActionRange.of(actions, margin=0.2, least_width=0.1)
    assert np.allclose(action_range.low, [1 - 2.4, 0.51 - 0.06]) and np.allclose(
        action_range.high, [1 + 2.4, 0.51 + 0.06]
    )
    assert np.allclose(action_range.scale_action(actions)[:, 0], [-1 / 1.2, 1 / 1.2])
    assert np.allclose(action_range.unscale_action(action_range.scale_action(actions)), actions, atol=1e-6)
    world = RescaleAction(environment("push", 1), ActionRange((0.0, 0.0), (0.5, 0.5)))
    plain = environment("push", 1)
    for env in (world, plain):
        env.begin([0], [1])
    rescaled, expected = world.step(np.array([[1.0, -2.0]])), plain.step(np.array([[0.5, 0.0]]))
    assert np.array_equal(rescaled.observation["state"], expected.observation["state"])


def residual_actor(width: int = 3) -> ResidualActor:
    """An actor of two actions on a state of ``width`` numbers, with a correction other than zero."""
    space = spaces.Dict({"state": spaces.Box(-1, 1, (width,), np.float32)})
    actor = Residual().actor(Encoder(space), width, 2, (8,), noise=0.05)
    with torch.no_grad():
        actor.head.layers[-1].weight.normal_()
    return actor


def test_the_corrected_action():
    torch.manual_seed(0)
    observation = {"state": torch.randn(5, 3), "base_action": torch.linspace(-1, 1, 10).view(5, 2)}
    actor, far = residual_actor(), torch.full((5, 2), 100.0)
    before = actor.head(torch.cat([observation["state"], observation["base_action"]], 1))
    expected = (observation["base_action"] + 0.2 * before.tanh()).clamp(-1, 1)
    assert torch.allclose(actor.rsample(observation, far)[0], expected), (
        "noise does not change the action that the critics judge"
    )
    assert torch.allclose(actor.act(observation, None).action_B, expected)
    assert torch.allclose(actor.act(observation, torch.ones(5, 2)).action_B, (expected + 0.05).clamp(-1, 1))
    assert torch.allclose(actor.act(observation, far).action_B, (expected + 0.3).clamp(-1, 1)), "noise is clipped"
    fresh = Residual().actor(actor.encoder, 3, 2, (8,), noise=0.05)
    assert torch.equal(fresh.act(observation, None).action_B, observation["base_action"]), (
        "it begins as the base policy"
    )
    moved = NoisyBasePolicy(0.2).act(observation, torch.randn(5, 2)).action_B - observation["base_action"]
    assert moved.abs().max() <= 0.2 and torch.equal(
        NoisyBasePolicy(0.2).act(observation, None).action_B, observation["base_action"]
    )


def transitions(rows: int = 6):
    """A batch as a buffer gives it, with base actions before and after."""
    rng, buffer = np.random.default_rng(1), Buffer(40, seed=9)
    fields = {
        k: rng.uniform(-1, 1, (40, n))
        for k, n in [("observation.state", 3), ("next_observation.state", 3), ("action", 2)]
    }
    fields |= {f"{when}.base_action": rng.uniform(-1, 1, (40, 2)) for when in ("observation", "next_observation")}
    ends = {"terminated": np.arange(40) % 8 == 7, "truncated": np.zeros(40, bool)}
    buffer.add(fields | ends | {"reward": rng.uniform(0, 1, 40), "episode": np.arange(40) // 8})
    return buffer.sample(rows, step=0, n_step=3, gamma=0.9)


def critic_loss(algo: OffPolicy, actor=None) -> CriticLoss:
    torch.manual_seed(1)
    critics, target = (
        Critics(Encoder(spaces.Dict({"state": spaces.Box(-1, 1, (3,))})), 3, 2, 4, (8,), True) for _ in range(2)
    )
    return CriticLoss(actor or residual_actor(), critics, target, algo)


def test_the_target_follows_the_next_proposal():
    algo = OffPolicy(n_critics=4, target_critics=4, entropy_in_backup=False)
    batch, loss = transitions(), critic_loss(algo)
    after = {name: batch.decisions[f"next_observation.{name}_B"] for name in ("state", "base_action")}
    correction = 0.2 * loss.actor.head(torch.cat([after["state"], after["base_action"]], 1)).tanh()
    best = (after["base_action"] + correction).clamp(-1, 1)
    value = loss.target(after, best).amin(0)
    expected = batch.rewards["reward"] + batch.extras["discount_B"] * value
    assert torch.allclose(loss.backup(batch), expected.detach())
    noisy = replace(algo, target_policy_noise=100.0, target_noise_clip=0.3)
    near = critic_loss(noisy, loss.actor).backup(batch)
    assert not torch.allclose(near, expected), "the noise changes the next action"
    batch.decisions["next_observation.base_action_B"] = batch.decisions["observation.base_action_B"]
    assert not torch.allclose(loss.backup(batch), expected), "another proposal, another target"


def test_both_errors_of_the_ensemble():
    batch, loss = transitions(), critic_loss(OffPolicy(n_critics=4, target_critics=4, entropy_in_backup=False))
    value = loss.critics({"state": batch.decisions["observation.state_B"]}, batch.decisions["action_BT"][:, 0])
    error = value - loss.backup(batch)
    squares, absolutes = EnsembleLoss(loss), EnsembleLoss(loss, "squared mean of absolutes")
    assert torch.allclose(squares(batch).mean(), (error**2).mean())
    assert torch.allclose(absolutes(batch).mean(), (error.abs().mean(0) ** 2).mean())
    assert absolutes(batch).mean() <= squares(batch).mean()
    high = replace(batch, rewards={"reward": batch.rewards["reward"] + 50})
    bounded, free = EnsembleLoss(loss, bounds=(0.0, 1.0))(high), EnsembleLoss(loss)(high)
    assert bounded.mean() < 10 < free.mean() and bounded.metrics["target"] == free.metrics["target"] > 200
    with pytest.raises(ValueError, match="mean of squares"):
        EnsembleLoss(loss, "squares")


def test_chunks_of_demonstrations_are_masked_after_the_episode():
    rows = bc_dataset([recorded(3), recorded(2)], length=2)
    assert rows.decisions["observation.state_B"].flatten().tolist() == [0, 1, 2, 0, 1]
    assert rows.mask_BT.tolist() == [[1, 1], [1, 1], [1, 0], [1, 1], [1, 0]]


SPACE = spaces.Dict({"image": spaces.Box(0, 255, (16, 16, 3), np.uint8), "body": spaces.Box(-1, 1, (4,), np.float32)})


def test_planners_and_encoder_depend_on_all_observations():
    observation = {"image": torch.randint(0, 256, (2, 16, 16, 3), dtype=torch.uint8), "body": torch.randn(2, 4)}
    planner, encoder = ChunkTransformer(SPACE, 2, length=5, width=16), ViewEncoder(SPACE, features=8, channels=16)
    planner.standardize.fit(observation)
    for net, shape in ((planner, (2, 5, 2)), (encoder, (2, encoder.size))):
        output = net(observation)
        assert output.shape == shape
        assert not torch.allclose(output, net(observation | {"image": 255 - observation["image"]}))
        assert not torch.allclose(output, net(observation | {"body": -observation["body"]}))
    with pytest.raises(ValueError, match="transformer"):
        ChunkMLP(SPACE, 2, length=5)


def trained(cfg: recipe.Settings, folder: Path, resume: bool = False) -> dict:
    """Train; the last checkpoint's state."""
    run = Run.resume(folder, display=False) if resume else Run.start(folder, {"recipe": "resfit"}, display=False)
    with run:
        recipe.train(cfg, run)
    return checkpoint.read(checkpoint.latest(folder / "checkpoints"))[1]


@pytest.mark.parametrize("method", ["residual", "scratch", "filtered"])
def test_a_resumed_run_equals_one_at_once(method, tmp_path):
    cfg = replace(SMALL, method=method)
    half = replace(cfg, schedule=replace(cfg.schedule, steps=60))
    expected = trained(cfg, tmp_path / "at once")
    trained(half, tmp_path / "resumed")
    found = trained(cfg, tmp_path / "resumed", resume=True)
    assert _same(expected["base"], found["base"])
    assert _same(expected["feed"]["buffer"]["columns"], found["feed"]["buffer"]["columns"])
    if method == "filtered":
        assert expected["feed"]["until"] == 80
        return
    assert all(_same(expected[name], found[name]) for name in ("policy", "critics", "target", "target_head"))
    assert expected["policy"]["head.layers.4.weight"].abs().max() > 0, "corrections were learned"


def _same(one: dict, other: dict) -> bool:
    return one.keys() == other.keys() and all(
        torch.equal(torch.as_tensor(one[k]), torch.as_tensor(other[k])) for k in one
    )


def test_untrained_corrections_act_as_the_base_policy(tmp_path):
    with Run.start(tmp_path / "run", {"recipe": "resfit", "seed": 3}, display=False) as run:
        base, actor, _ = recipe.networks(SMALL, SMALL.task.make(1))
        episodes = recipe.clone_base(SMALL, base, run.stage("bc"))
    assert 1 <= len(episodes) <= 6 and max(np.abs(e["action"]).max() for e in episodes) <= 1 / 1.2 + 1e-6
    world, plain = recipe.residual_task(SMALL, base).make(4), base.proposer(4)
    seen = world.begin(range(4), range(4))
    for _ in range(10):
        action = actor.act({name: torch.from_numpy(value) for name, value in seen.items()}, None).action_B
        assert torch.equal(action, plain.propose({"state": torch.from_numpy(seen["state"])}))
        seen = world.step(action.numpy()).observation


def test_the_arms_share_demonstrations_and_cloning(tmp_path):
    arms = [SMALL, replace(SMALL, method="scratch"), replace(SMALL, schedule=replace(SMALL.schedule, steps=0))]
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
    task = ControlTask(
        "push", ("observe=image", "pixels=16", "steps=6"), test_episodes=2, test_rows=1, video_episodes=0
    )
    cfg = replace(
        real,
        schedule=replace(real.schedule, steps=14),
        task=task,
        demonstrations=recipe.Demonstrations(episodes=2),
        cloning=replace(real.cloning, width=32, steps=2, batch_size=4, evaluate_every=2),
        residual=replace(real.residual, critic_steps=2),
        algo=replace(real.algo, hidden=(16, 16), batch_size=8, buffer_size=64, learning_starts=8),
    )
    state = trained(cfg, tmp_path / "run")
    updates = state["learner"]["updates"]
    assert updates["critic"]["steps"] == 2 + 24 and updates["actor"]["steps"] == 6
    assert any(name.startswith("encoder.patches") for name in state["policy"])


def test_learning_from_scratch_proposes_zeros_and_corrects_at_full_size():
    assert ZeroProposer(2).propose({"state": torch.ones(3, 4)}).tolist() == [[0, 0]] * 3
    wide = recipe.networks(replace(SMALL, method="scratch"), SMALL.task.make(1))[1]
    assert wide.scale == 1.0


def test_a_stochastic_actor_raises_an_error():
    with pytest.raises(ValueError, match="the residual actor is deterministic"):
        recipe.policies(replace(SMALL, algo=replace(SMALL.algo, stochastic=True)))


def test_an_environment_without_an_expert_needs_a_recording(tmp_path):
    cfg = replace(SMALL, task=ControlTask("reach", ("observe=state",)))
    run = Run.start(tmp_path / "run", {"recipe": "resfit"}, display=False)
    with pytest.raises(ValueError, match="no scripted expert"), run:
        recipe.train(cfg, run)
