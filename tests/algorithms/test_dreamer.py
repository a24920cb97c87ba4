"""Recipes that learn in imagination: the feed, resume bit for bit, what is shown, adaptation, and the real preset
made small.
"""

from __future__ import annotations

import json
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

from saccade.algorithms.dreamer import Dreamer, Memory, Sequences, build_dreamer
from saccade.core import EnvironmentFailed, generator
from saccade.envs.task import ControlTask
from saccade.evaluation.world_model import readings, wander
from saccade.models.world_model.rssm import Sizes
from saccade.recipes.baselines import dreamer
from saccade.recipes.visual_control.repo import recipe
from saccade.recipes.visual_control.repo.adaptation import Adaptation, Adapting, density_loss, fooled, gap
from saccade.recipes.visual_control.repo.domains import Domains, paired
from saccade.training.run import Run

SIZES = Sizes(depth=2, belief=6, latent=3, hidden=8)
TASK = ControlTask("reach", ("distract=0.5", "steps=8"), test_episodes=4, test_rows=4, video_episodes=1)
NIGHT = replace(TASK, settings=(*TASK.settings, 'palette="night"'))
MEMORY = Memory(rows=2, warm_up=12, every=2, batch=2, length=5)
SMALL = {"task": TASK, "sizes": SIZES, "memory": MEMORY, "evaluate_every": 100, "save_every": 100, "log_every": 1}


def run_for(module, cfg, folder: Path) -> dict:
    run = (
        Run.resume(folder, display=False) if folder.exists() else Run.start(folder, {"recipe": "small"}, display=False)
    )
    with run:
        return module.train(cfg, run)


def lines(folder: Path) -> list[dict]:
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in one.items() if k not in ("time", "cost/training_seconds")} for one in found]


def losses(folder: Path) -> list[dict]:
    return [one for one in lines(folder) if "loss/model" in one or "loss/align" in one]


def test_six_updates_equal_three_and_three_bit_for_bit(tmp_path):
    cfg = dreamer.Settings(**SMALL, steps=6)
    whole = run_for(dreamer, cfg, tmp_path / "whole")
    run_for(dreamer, replace(cfg, steps=3), tmp_path / "halves")
    assert run_for(dreamer, cfg, tmp_path / "halves")["after"] == whole["after"]
    assert losses(tmp_path / "halves") == losses(tmp_path / "whole")


def test_adaptation_follows_the_first_stage_and_resumes_bit_for_bit(tmp_path):
    cfg = recipe.Settings(**SMALL, steps=2, adapt="align", adapt_steps=4, paired_frames=10)
    whole = run_for(recipe, cfg, tmp_path / "whole")
    run_for(recipe, replace(cfg, adapt_steps=2), tmp_path / "halves")
    assert run_for(recipe, cfg, tmp_path / "halves")["after"] == whole["after"]
    assert losses(tmp_path / "halves") == losses(tmp_path / "whole")
    first = losses(tmp_path / "whole" / "learning")[-1]
    assert {"health/divergence_multiplier", "health/divergence", "health/reward"} <= set(first), "beta's path is logged"
    shown = (tmp_path / "whole" / "samples").rglob("*reconstructions*")
    assert list(shown), "what was seen stands above what was decoded"


def test_alone_the_encoder_is_adapted_and_pairs_come_together():
    policy = build_dreamer(TASK, SIZES, 1.0, seed=0)
    before = {k: v.clone() for k, v in policy.model.state_dict().items()}
    source = Sequences(MEMORY, TASK.make(2), policy, 0)
    source(0)
    feed = Domains(MEMORY, source.buffer, Sequences(MEMORY, NIGHT.make(2), policy, 1), paired(TASK, NIGHT, 20, 0))
    calib = replace(Adapting(), align_weight=0.0, dyn=0.0, lr=3e-3)
    learner = Adaptation(policy, calib)
    told = [learner.update(feed(step))["loss/calib"] for step in range(60)]
    assert np.mean(told[-10:]) < 0.7 * np.mean(told[:10])
    moved = {k for k, v in policy.model.state_dict().items() if not torch.equal(v, before[k])}
    assert moved and all(name.startswith("encoder.") for name in moved)


@pytest.mark.parametrize("align", ["support", "distribution"])
def test_both_alignments_move_the_encoder_towards_what_the_discriminator_takes_for_source(align):
    policy = build_dreamer(TASK, SIZES, 1.0, seed=0)
    learner = Adaptation(policy, Adapting(align=align))
    with torch.no_grad():
        before, _ = learner._verdict(torch.zeros(4, policy.model.encoder.width), generator(0))
    x = torch.zeros(4, policy.model.encoder.width, requires_grad=True)
    learner._alignment(x, generator(0)).backward()
    with torch.no_grad():
        after, _ = learner._verdict(x - 0.1 * x.grad, generator(0))
    assert (after > before).all()


def test_the_divergence_of_the_support_is_that_of_its_best_critic():
    # For densities s, t on two points, sup_f E_s[tau f] - E_t[f + f^2/4] is E_t[(tau s/t - 1)^2], reached at f = 2 (tau
    # s/t - 1).
    s, t, tau = torch.tensor([0.5, 0.5]), torch.tensor([0.8, 0.2]), torch.tensor([1.0, 1.0])
    best = 2 * (tau * s / t - 1)
    value = lambda f: float((s * tau * f).sum() - (t * (f + f**2 / 4)).sum())
    assert value(best) == pytest.approx(float((t * (tau * s / t - 1) ** 2).sum()))
    assert all(value(best + d) < value(best) for d in torch.tensor([[0.1, 0.0], [0.0, -0.1]]))
    f = torch.tensor([0.5, -1.0])
    assert float(gap(tau, f, f)) == pytest.approx(float(f.mean()) - float(fooled(f)))
    tau_N, even = torch.tensor([1.0, 2.0], requires_grad=True), torch.tensor(0.3, requires_grad=True)
    density_loss(tau_N, f, even).backward()
    torch.testing.assert_close(tau_N.grad, (f + 0.3) / 2)
    assert float(even.grad) == pytest.approx(-0.5), "descending raises u while the mean of tau is above 1"


def test_memory_is_fed_on_schedule_and_a_failure_names_the_world():
    policy = build_dreamer(TASK, SIZES, 1.0, seed=0)
    feed = Sequences(MEMORY, TASK.make(2), policy, 0)
    feed(0)
    assert len(feed.buffer) == 2 * 13
    feed(1)
    assert len(feed.buffer) == 2 * 13, "an update in between acts no more"
    batch = feed(2)
    assert len(feed.buffer) == 2 * 14 and batch.decisions["seen.image_BT"].shape == (2, 5, 32, 32, 3)

    def broken(action_B):
        raise EnvironmentFailed("reach: gone")

    feed.experience.environment.world.step = broken
    held = {k: v.clone() for k, v in feed.acting.state_dict().items()}
    with pytest.raises(EnvironmentFailed, match="reach"):
        feed(4)
    assert all(torch.equal(held[k], v) for k, v in feed.acting.state_dict().items())


def test_readings_find_the_facts_of_the_world():
    policy = build_dreamer(TASK, SIZES, 1.0, seed=0)
    walk = wander(TASK, policy, rows=6)
    assert walk.features_BTF.shape == (6, 8, 9) and walk.facts["position"].shape == (6, 8, 2)
    told = walk._replace(features_BTF=walk.facts["position"].float())
    found = readings(told)
    assert found["R2 position"] > 0.95 and {"R2 goal", "R2 phase", "R2 backdrop"} <= set(found)
    again = wander(TASK, build_dreamer(TASK, SIZES, 1.0, seed=1), rows=6)
    assert torch.equal(again.seen_BT, walk.seen_BT), "a walk does not depend on the policy"


@pytest.mark.parametrize(
    ("task", "words"),
    [
        (ControlTask("reach", ('observe="state"',)), "one picture"),
        (ControlTask("reach", ("pixels=40",)), "one picture"),
    ],
)
def test_a_world_that_no_world_model_sees_is_refused_in_one_line(task, words):
    with pytest.raises(ValueError, match=words):
        build_dreamer(task, SIZES, 1.0, seed=0)


def test_pairs_of_worlds_that_have_none_are_refused():
    with pytest.raises(ValueError, match="paired frames"):
        paired(ControlTask("push", ('observe="image"', "pixels=32")), NIGHT, 10, 0)


@pytest.mark.skipif(
    find_spec("mujoco") is None, reason="needs mujoco, which must not be imported before its OpenGL is chosen"
)
def test_the_real_preset_runs_at_reduced_size():
    real = recipe.PRESETS["half-cheetah"]
    memory = replace(real.memory, warm_up=20, every=2, burst=1, capacity=200, batch=2, length=4)
    cfg = replace(real, sizes=replace(real.sizes, depth=4, belief=8, latent=4, hidden=8), memory=memory, device="cpu")
    policy = recipe.policies(cfg)["policy"]
    feed = Sequences(cfg.memory, cfg.task.make(1), policy, 0)
    told = Dreamer(policy, recipe.terms(cfg), cfg.learning).update(feed(0))
    assert np.isfinite(list(told.values())).all()
    shown = feed.buffer.sequences(2, 4, 0).decisions["seen.image_BT"]
    assert shown.float().std() > 20, "a video stands behind the animal"
