"""NP-Edit: two unrolled steps, both gradients by hand, their balance, copies, resuming, every method, the real
preset.
"""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from torch import Tensor

from saccade import catalog
from saccade.algorithms.dmd import time_and_noise
from saccade.core import Problem, Question, noise, seeds, spawn
from saccade.math.flow import add_noise, to_data
from saccade.models.loading import MINIATURES
from saccade.policies.flow import FlowModel, FlowPolicy
from saccade.policies.unrolling import empty_rollout, refl_timesteps
from saccade.recipes.image_editing.np_edit.unpaired import UnpairedEditing, drawers, lengths, two_steps
from saccade.training import checkpoint
from saccade.training.run import Interrupted, Run
from saccade.worlds import edits
from saccade.worlds.edits.task import EditingTask

RECIPE = catalog.load("np_edit")
TASK = EditingTask(kinds=("recolor", "replace"), train_size=8, held_out_size=4)
SMALL = dict(copy_steps=1, steps=2, edits_per_step=4, group=2, evaluate_every=2, save_every=1, warmup=1, lr=1e-2)
needs_judge = pytest.mark.skipif(
    not (MINIATURES / "qwen2.5-vl-shapes").is_dir(), reason="qwen2.5-vl-shapes is not built here"
)


def small(folder, **changes):
    return replace(
        RECIPE.Settings(), flow=FlowModel(str(folder), sampling_steps=4, text_length=6), task=TASK, **SMALL | changes
    )


def trio(folder, **changes) -> tuple[FlowPolicy, FlowPolicy, FlowPolicy]:
    """Editor, score network and model that draws, told apart."""
    cfg = small(folder, **changes)
    editor = RECIPE.policies(cfg)["policy"]
    fake, real = drawers(cfg.flow, cfg.reference_guidance, editor, cfg.seed)
    with torch.no_grad():
        for k, part in enumerate((editor, fake)):
            for p in part.trained:
                p.add_(0.05 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel() + k)))
    return editor, fake, real


def dark(rollout) -> Tensor:
    """A judge that wants pictures dark."""
    return -(rollout.outputs - 0.1).square().flatten(1).sum(1)


def gradient(loss: Tensor, policy: FlowPolicy) -> Tensor:
    grads = torch.autograd.grad(loss, policy.trained, allow_unused=True)
    return torch.cat(
        [torch.zeros_like(p).flatten() if g is None else g.flatten() for p, g in zip(policy.trained, grads)]
    )


def step(editor: FlowPolicy, x: Tensor, t_B: Tensor, problems: list[Problem]) -> Tensor:
    return x - t_B[:, None, None, None] * editor.velocity(x, t_B, problems)


# -- two steps ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fresh", [False, True])
def test_two_steps_are_the_samplers_own_with_its_noise_between(kontext_folder, fresh):
    editor, problems, own = trio(kontext_folder, fresh_noise=fresh)[0], TASK.training(0)[:4], seeds(1, 4)
    eps = noise(spawn(own, 0), editor.latent_shape)
    x0 = step(editor, eps, torch.ones(4), problems)
    t_B = editor.times[refl_timesteps(own, 1, 4)]
    x_t = add_noise(x0, noise(spawn(own, 1), editor.latent_shape) if fresh else eps, t_B)
    made = two_steps(editor, problems, own)
    torch.testing.assert_close(made, step(editor, x_t, t_B, problems), atol=1e-5, rtol=1e-5)
    assert len(set(t_B.tolist())) > 1 and 0 < float(t_B.min()) and float(t_B.max()) < 1
    # On the grid 1, t, 0 the same noise makes Euler's two steps, and fresh noise those of a stochastic sampler.
    sampler = replace(
        editor, steps=2, stochastic=(0,) if fresh else (), kernel="renoise", backbone=replace(editor.backbone)
    )
    sampler.backbone.times = lambda steps, size: torch.tensor([1.0, float(t_B[0]), 0.0])
    walked = sampler.rollout(problems[:1], own[:1])
    torch.testing.assert_close(made[:1].detach(), walked.decisions["x0_B"], atol=1e-4, rtol=1e-4)


def test_the_first_step_may_be_left_out_of_the_gradient(kontext_folder):
    editor, problems, own = trio(kontext_folder)[0], TASK.training(0)[:3], seeds(2, 3)
    eps, t_B = noise(spawn(own, 0), editor.latent_shape), editor.times[refl_timesteps(own, 1, 4)]
    with torch.no_grad():
        x_t = add_noise(step(editor, eps, torch.ones(3), problems), eps, t_B)
    by_hand = gradient(step(editor, x_t, t_B, problems).square().sum(), editor)
    cut, whole = (gradient(two_steps(editor, problems, own, detach).square().sum(), editor) for detach in (True, False))
    torch.testing.assert_close(cut, by_hand, atol=1e-3, rtol=1e-3)
    assert (whole - cut).abs().max() > 0.01 * cut.abs().max()


# -- both gradients -------------------------------------------------------------------------------------------------


def test_the_gradient_is_that_of_the_judge_and_of_distribution_matching(kontext_folder):
    editor, fake, real = trio(kontext_folder)
    problems, own = TASK.training(0)[:3], seeds(3, 3)
    loss = UnpairedEditing(editor, fake, real, dark, judge_weight=0.3, matching_weight=2.0, guidance=3.0)
    made = loss(empty_rollout(problems, own))
    x0 = two_steps(editor, problems, own)
    t_B, eps = time_and_noise(own, x0, 1 << 25, 0.02, 0.98)
    x_t = add_noise(x0.detach(), eps, t_B)
    told = [Problem(p.id, p.answer["caption_after"]) for p in problems]
    with torch.no_grad():
        plain = [replace(who, prompt=lambda p: p.inputs) for who in (fake, real)]
        ours = to_data(x_t, plain[0].velocity(x_t, t_B, told), t_B)
        theirs = to_data(x_t, plain[1].velocity(x_t, t_B, told, 3.0), t_B)
        pull = ((x0 - theirs) - (x0 - ours)) / (x0 - theirs).abs().mean((1, 2, 3), True)
    matching = 0.5 * (x0 - (x0.detach() - pull)).square().flatten(1).mean(1).sum()
    judged = -dark(SimpleNamespace(outputs=editor.decode(x0))).sum()
    by_hand = 0.3 * judged + 2.0 * matching
    torch.testing.assert_close(made.total, by_hand, atol=1e-4, rtol=1e-4)
    whole = gradient(by_hand, editor)
    torch.testing.assert_close(gradient(made.total, editor), whole, atol=1e-4 * float(whole.abs().max()), rtol=1e-3)
    parts = [loss(empty_rollout([problems[i] for i in part], own[part])) for part in ([0, 2], [1])]
    torch.testing.assert_close(
        sum(gradient(part.total, editor) for part in parts), whole, atol=1e-3 * float(whole.abs().max()), rtol=1e-2
    )
    assert float(sum(part.count for part in parts)) == float(made.count) == 3
    assert not any(p.grad is not None for p in fake.trained)


def test_matching_moves_a_gaussian_to_the_one_that_it_is_held_to():
    """In one dimension with all scores known: the mean of N(2, 0.5^2) is brought down to -1 and its samples spread
    to 1.
    """

    def known(mean: float, std: float) -> SimpleNamespace:
        def velocity(x_t, t_B, problems, guidance=1.0):
            t = t_B[:, None, None, None]
            gain = (1 - t) * std**2 / ((1 - t) ** 2 * std**2 + t**2)
            return (x_t - (mean + gain * (x_t - (1 - t) * mean))) / t

        return SimpleNamespace(velocity=velocity)

    mean, log_std, own = torch.tensor(2.0), torch.tensor(0.5).log(), seeds(0, 512)
    z = noise(spawn(own, 5), (1, 1, 1))
    for k in range(150):
        stub = SimpleNamespace(steps=4)
        loss = UnpairedEditing(stub, known(float(mean), float(log_std.exp())), known(-1.0, 1.0), dark)
        x0 = mean + log_std.exp() * z
        value_B, pull = loss.matched(SimpleNamespace(problems=[None] * 512, extras={"seed_B": spawn(own, k)}), x0)
        mean, log_std = mean - 0.2 * pull.mean(), log_std - 0.2 * (pull * log_std.exp() * z).mean()
    assert float(mean) == pytest.approx(-1, abs=0.15) and float(log_std.exp()) == pytest.approx(1, abs=0.2)
    assert float(value_B.mean()) < 0.05


def test_in_balance_both_gradients_are_equally_long_and_a_part_may_be_left_out(kontext_folder):
    editor, fake, real = trio(kontext_folder)
    rollout = empty_rollout(TASK.training(0)[:4], seeds(4, 4))
    loss = UnpairedEditing(editor, fake, real, dark)
    even = loss.balance(rollout, rows=3)
    found = replace(loss, judge_weight=even)(rollout).metrics
    assert float(found["judge_pull"]) == pytest.approx(float(found["matching_pull"]), rel=1e-3)
    x0 = two_steps(editor, rollout.problems, rollout.extras["seed_B"]).detach()
    assert float(found["matching_pull"]) == pytest.approx(float(lengths(loss.matched(rollout, x0)[1]).sum()), rel=1e-4)
    assert set(replace(loss, judge_weight=0.0)(rollout).metrics) == {"matching", "matching_pull"}
    assert set(replace(loss, matching_weight=0.0)(rollout).metrics) == {"judge", "judge_pull"}


def test_what_makes_no_sense_is_refused(kontext_folder):
    editor, fake, real = trio(kontext_folder)
    with pytest.raises(ValueError, match="an editor of one step has no second step"):
        UnpairedEditing(replace(editor, steps=1, stochastic=()), fake, real, dark)
    with pytest.raises(ValueError, match="times from 0.9 to 0.1 are not within 0 and 1"):
        UnpairedEditing(editor, fake, real, dark, low=0.9, high=0.1)
    untold = Problem(7, TASK.training(0)[0].inputs, {"caption_after": None, "questions": ()})
    with pytest.raises(ValueError, match="problem 7 has no caption_after"):
        UnpairedEditing(editor, fake, real, dark)(empty_rollout([untold], seeds(0, 1)))


# -- the recipe -----------------------------------------------------------------------------------------------------


def ran(cfg, folder):
    run = (
        Run.resume(folder, display=False)
        if folder.exists()
        else Run.start(folder, {"recipe": "np_edit"}, display=False)
    )
    with run:
        return RECIPE.train(cfg, run)


def state(folder):
    return checkpoint.read(checkpoint.latest(folder / "checkpoints"))[1]


def test_the_warm_up_learns_to_copy(kontext_folder):
    cfg = small(kontext_folder, copy_lr=5e-3, edits_per_step=8)
    policy = RECIPE.policies(cfg)["policy"]
    feed, learner, _ = RECIPE.imitation(cfg, policy, lambda problem: problem.inputs.pictures[0], cfg.copy_lr)
    source = policy.prompt_cache([p.inputs for p in TASK.training(0)], 32).source
    first = feed(0).decisions["x0_B"]
    assert all(any(torch.allclose(row, known, atol=1e-5) for known in source) for row in first)
    losses = [learner.update(feed(k))["loss/editor"] for k in range(25)]
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])


@needs_judge
@pytest.mark.parametrize("changes", [{}, {"method": "grpo"}, {"method": "pairs", "copy_steps": 0}])
def test_two_steps_equal_one_and_one(kontext_folder, tmp_path, changes):
    cfg = small(kontext_folder, **changes)
    whole = ran(cfg, tmp_path / "whole")

    class Stopped(Run):
        stop = True

    with pytest.raises(Interrupted), Stopped.start(tmp_path / "halves", {"recipe": "np_edit"}, display=False) as run:
        RECIPE.train(cfg, run)
    assert ran(cfg, tmp_path / "halves") == whole
    assert {"train wording, overall", "paraphrase, keep", "training reward", "recolor"} <= set(whole["after"])
    one, two = state(tmp_path / "whole"), state(tmp_path / "halves")
    for part in {"policy", "score", "average"} & one.keys():
        assert all(torch.equal(one[part][k], two[part][k]) for k in one[part]), part
    assert ("score" in one) == (not changes)


@needs_judge
def test_the_real_preset_takes_a_step_on_files_with_lora_and_a_judge_in_bfloat16(flux_folder, tmp_path):
    from diffusers import FluxKontextPipeline, FluxPipeline

    FluxKontextPipeline(**FluxPipeline.from_pretrained(flux_folder).components).save_pretrained(tmp_path / "model")
    lines = []
    for problem in edits.problems(2, 0, ("recolor",), size=48):
        Image.fromarray(problem.inputs.pictures[0][:, :40]).save(tmp_path / f"{problem.id}.png")
        asked = [
            {"text": text, "answer": answer, "about": about} for text, answer, about in problem.answer["questions"]
        ]
        lines.append({"image": f"{problem.id}.png", "instruction": problem.inputs.text, "questions": asked})
        lines[-1]["caption_after"] = problem.answer["caption_after"]
    (tmp_path / "edits.jsonl").write_text("\n".join(map(json.dumps, lines)))
    for name, preset in RECIPE.PRESETS.items():
        if name != "tiny":
            cfg = replace(
                preset, flow=replace(preset.flow, name=str(tmp_path / "model"), size=32, lora_rank=2, text_length=6),
                task=replace(preset.task, edits=str(tmp_path / "edits.jsonl"), held_out=str(tmp_path / "edits.jsonl"),
                             verdict_model="qwen2.5-vl-shapes", side=32),
                steps=1, copy_steps=min(preset.copy_steps, 1), edits_per_step=2, group=2, score_updates=1, evaluate_every=1,
            )  # fmt: skip
            assert set(ran(cfg, tmp_path / name)["after"]) == {"held out, sharpness", "training reward"}, name


def test_samples_begin_with_a_picture(kontext_folder, tmp_path):
    Image.fromarray(TASK.training(0)[0].inputs.pictures[0]).save(tmp_path / "a.png")
    cfg = small(kontext_folder)
    items = RECIPE.sample(cfg, RECIPE.policies(cfg), [f"{tmp_path / 'a.png'} Make the ring red."], seeds(0, 1))
    assert items[0]["image"].shape == (3, 32, 32)
    with pytest.raises(ValueError, match="must begin with one picture"):
        RECIPE.sample(cfg, RECIPE.policies(cfg), ["Make the ring red."], seeds(0, 1))


def test_claims_read_scores_that_arms_have_and_can_come_out_false():
    scores = {arm: {"train wording, overall": 0.3, "train wording, keep": 0.8} for arm in RECIPE.ARMS}
    assert all(claim.margin(scores) < max(claim.least, 1e-9) for claim in RECIPE.CLAIMS)
    scores["NP-Edit"] = {"train wording, overall": 0.4, "train wording, keep": 0.9}
    assert all(claim.margin(scores) >= claim.least for claim in RECIPE.CLAIMS)
    assert isinstance(TASK.training(0)[0].inputs, Question)
