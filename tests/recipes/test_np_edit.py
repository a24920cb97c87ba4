"""NP-Edit: two unrolled steps, both gradients by hand, their balance, the warm-up, resuming, methods, real presets."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from running import run_recipe
from torch import Tensor

from saccade import catalog
from saccade.algorithms.dmd import time_and_noise
from saccade.core import Interrupted, Problem, Question
from saccade.math.flow import add_noise, to_data
from saccade.models.loading import MINIATURES
from saccade.naming import STANDARD_ERROR
from saccade.policies.flow import FlowModel, FlowPolicy
from saccade.policies.unrolling import empty_rollout, refl_timesteps
from saccade.random import noise, seeds, stream
from saccade.recipes.image_editing.np_edit.unpaired import NPEdit, lengths, two_steps
from saccade.training import checkpoint
from saccade.training.run import Run
from saccade.training.settings import AdamW, Batch, Schedule
from saccade.worlds import edits
from saccade.worlds.edits.task import EditingTask

RECIPE = catalog.load("np_edit")
TASK = EditingTask(kinds=("recolor", "replace"), train_size=8, held_out_size=4)
SMALL = Schedule(steps=2, evaluate_every=2, save_every=1)
OPTIM = AdamW(lr=1e-2, betas=(0.9, 0.99), warmup=1)
METHODS = [
    {},
    {"method": "grpo", "batch": Batch(prompts_per_step=2, group_size=2)},
    {"method": "pairs", "copy": RECIPE.CopyStage(steps=0)},
]
needs_judge = pytest.mark.skipif(
    not (MINIATURES / "qwen2.5-vl-shapes").is_dir(), reason="qwen2.5-vl-shapes is not built here"
)


def small(folder, **changes):
    settings = RECIPE.Settings(
        schedule=SMALL,
        batch=Batch(prompts_per_step=4, group_size=1),
        flow=FlowModel(str(folder), size=32, sampling_steps=4, text_length=6),
        task=TASK,
        copy=RECIPE.CopyStage(steps=1, optim=replace(OPTIM, lr=2e-4)),
        optim=OPTIM,
    )
    return replace(settings, **changes)


def networks(folder, **changes) -> tuple[FlowPolicy, FlowPolicy, FlowPolicy]:
    """Editor, score network and text-to-image model with different weights."""
    cfg = small(folder, **changes)
    editor = RECIPE.policies(cfg)["policy"]
    fake, real = cfg.np_edit.networks(cfg.flow, editor, cfg.seed)
    with torch.no_grad():
        for k, part in enumerate((editor, fake)):
            for p in part.trained:
                p.add_(0.05 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel() + k)))
    return editor, fake, real


def dark(rollout) -> Tensor:
    """A judge that prefers dark pictures."""
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
def test_two_steps_are_those_of_the_sampler_with_its_noise_between(kontext_folder, fresh):
    editor, problems, seeds_B = (
        networks(kontext_folder, fresh_noise=fresh)[0],
        TASK.training(0)[:4],
        seeds(1, 4, "test"),
    )
    eps = noise(seeds_B, editor.latent_shape, "start")
    x0 = step(editor, eps, torch.ones(4), problems)
    t_B = editor.times[refl_timesteps(seeds_B, 1, 4)]
    x_t = add_noise(x0, noise(seeds_B, editor.latent_shape, "denoising", 0) if fresh else eps, t_B)
    made = two_steps(editor, problems, seeds_B)
    torch.testing.assert_close(made, step(editor, x_t, t_B, problems), atol=1e-5, rtol=1e-5)
    assert len(set(t_B.tolist())) > 1 and 0 < float(t_B.min()) and float(t_B.max()) < 1
    # On the grid 1, t, 0 the same noise makes Euler's two steps, and fresh noise those of a stochastic sampler.
    sampler = replace(
        editor, steps=2, stochastic=(0,) if fresh else (), kernel="renoise", backbone=replace(editor.backbone)
    )
    sampler.backbone.times = lambda steps, size: torch.tensor([1.0, float(t_B[0]), 0.0])
    walked = sampler.rollout(problems[:1], seeds_B[:1])
    torch.testing.assert_close(made[:1].detach(), walked.decisions["x0_B"], atol=1e-4, rtol=1e-4)


def test_the_first_step_may_be_left_out_of_the_gradient(kontext_folder):
    editor, problems, seeds_B = networks(kontext_folder)[0], TASK.training(0)[:3], seeds(2, 3, "test")
    eps, t_B = noise(seeds_B, editor.latent_shape, "start"), editor.times[refl_timesteps(seeds_B, 1, 4)]
    with torch.no_grad():
        x_t = add_noise(step(editor, eps, torch.ones(3), problems), eps, t_B)
    by_hand = gradient(step(editor, x_t, t_B, problems).square().sum(), editor)
    loss = lambda detach: two_steps(editor, problems, seeds_B, detach).square().sum()
    cut, full = (gradient(loss(detach), editor) for detach in (True, False))
    torch.testing.assert_close(cut, by_hand, atol=1e-3, rtol=1e-3)
    assert (full - cut).abs().max() > 0.01 * cut.abs().max()


# -- both gradients -------------------------------------------------------------------------------------------------


def test_the_gradient_is_that_of_the_judge_and_of_distribution_matching(kontext_folder):
    editor, fake, real = networks(kontext_folder)
    problems, seeds_B = TASK.training(0)[:3], seeds(3, 3, "test")
    settings = NPEdit(judge_weight=0.3, matching_weight=2.0, reference_guidance=3.0)
    loss = settings.loss(editor, fake, real, dark)
    made = loss(empty_rollout(problems, seeds_B))
    x0 = two_steps(editor, problems, seeds_B)
    t_B, eps = time_and_noise(seeds_B, x0, "matching", 0.02, 0.98)
    x_t = add_noise(x0.detach(), eps, t_B)
    captions = [Problem(p.id, p.answer["caption_after"]) for p in problems]
    with torch.no_grad():
        plain = [replace(network, prompt=lambda p: p.inputs) for network in (fake, real)]
        fake_x0 = to_data(x_t, plain[0].velocity(x_t, t_B, captions), t_B)
        real_x0 = to_data(x_t, plain[1].velocity(x_t, t_B, captions, 3.0), t_B)
        pull = ((x0 - real_x0) - (x0 - fake_x0)) / (x0 - real_x0).abs().mean((1, 2, 3), True)
    matching = 0.5 * (x0 - (x0.detach() - pull)).square().flatten(1).mean(1).sum()
    judged = -dark(SimpleNamespace(outputs=editor.decode(x0))).sum()
    by_hand = 0.3 * judged + 2.0 * matching
    torch.testing.assert_close(made.total, by_hand, atol=1e-4, rtol=1e-4)
    full = gradient(by_hand, editor)
    torch.testing.assert_close(gradient(made.total, editor), full, atol=1e-4 * float(full.abs().max()), rtol=1e-3)
    parts = [loss(empty_rollout([problems[i] for i in part], seeds_B[part])) for part in ([0, 2], [1])]
    torch.testing.assert_close(
        sum(gradient(part.total, editor) for part in parts), full, atol=1e-3 * float(full.abs().max()), rtol=1e-2
    )
    assert float(sum(part.count for part in parts)) == float(made.count) == 3
    assert not any(p.grad is not None for p in fake.trained)


def test_matching_moves_a_gaussian_to_the_reference():
    """In one dimension with known scores, N(2, 0.5^2) moves to N(-1, 1)."""

    def known(mean: float, std: float) -> SimpleNamespace:
        def velocity(x_t, t_B, problems, guidance=1.0):
            t = t_B[:, None, None, None]
            gain = (1 - t) * std**2 / ((1 - t) ** 2 * std**2 + t**2)
            return (x_t - (mean + gain * (x_t - (1 - t) * mean))) / t

        return SimpleNamespace(velocity=velocity)

    mean, log_std, seeds_B = torch.tensor(2.0), torch.tensor(0.5).log(), seeds(0, 512, "test")
    z = noise(seeds_B, (1, 1, 1), "test")
    for k in range(150):
        stub = SimpleNamespace(steps=4)
        loss = NPEdit().loss(stub, known(float(mean), float(log_std.exp())), known(-1.0, 1.0), dark)
        x0 = mean + log_std.exp() * z
        value_B, pull = loss.matching_loss(
            SimpleNamespace(problems=[None] * 512, extras={"seed_B": stream(seeds_B, "step", k)}), x0
        )
        mean, log_std = mean - 0.2 * pull.mean(), log_std - 0.2 * (pull * log_std.exp() * z).mean()
    assert float(mean) == pytest.approx(-1, abs=0.15) and float(log_std.exp()) == pytest.approx(1, abs=0.2)
    assert float(value_B.mean()) < 0.05


def test_balanced_gradients_are_equally_long_and_a_part_of_weight_0_is_left_out(kontext_folder):
    editor, fake, real = networks(kontext_folder)
    rollout = empty_rollout(TASK.training(0)[:4], seeds(4, 4, "test"))
    metrics = lambda **weights: NPEdit(**weights).loss(editor, fake, real, dark)(rollout).metrics
    loss = NPEdit(matching_weight=1.0).loss(editor, fake, real, dark)
    found = loss.balanced(rollout, rows=3)(rollout).metrics
    assert float(found["judge_gradient"]) == pytest.approx(float(found["matching_gradient"]), rel=1e-3)
    x0 = two_steps(editor, rollout.problems, rollout.extras["seed_B"]).detach()
    length = float(lengths(loss.matching_loss(rollout, x0)[1]).sum())
    assert float(found["matching_gradient"]) == pytest.approx(length, rel=1e-4)
    assert set(metrics(judge_weight=0.0)) == {"matching", "matching_gradient"}
    assert set(metrics(matching_weight=0.0)) == {"judge", "judge_gradient"}


def test_impossible_settings_are_refused(kontext_folder):
    editor, fake, real = networks(kontext_folder)
    with pytest.raises(ValueError, match="an editor of one step has no second step"):
        NPEdit().loss(replace(editor, steps=1, stochastic=()), fake, real, dark)
    with pytest.raises(ValueError, match="times from 0.9 to 0.1 are not within 0 and 1"):
        NPEdit(min_t=0.9, max_t=0.1).loss(editor, fake, real, dark)
    without_caption = Problem(7, TASK.training(0)[0].inputs, {"caption_after": None, "questions": ()})
    with pytest.raises(ValueError, match="problem 7 has no caption_after"):
        NPEdit().loss(editor, fake, real, dark)(empty_rollout([without_caption], seeds(0, 1, "test")))


# -- the recipe -----------------------------------------------------------------------------------------------------


def state(folder):
    return checkpoint.read(checkpoint.latest(folder / "checkpoints"))[1]


def test_the_warm_up_learns_to_copy(kontext_folder):
    cfg = small(kontext_folder, batch=Batch(prompts_per_step=8, group_size=1))
    policy = RECIPE.policies(cfg)["policy"]
    parts = RECIPE.supervised(cfg, policy, lambda problem: problem.inputs.pictures[0], replace(OPTIM, lr=5e-3), 0)
    sources = policy.encode_sources([p.inputs for p in TASK.training(0)])
    first = parts.feed(0).decisions["x0_B"]
    assert all(any(torch.allclose(row, source, atol=1e-5) for source in sources) for row in first)
    losses = [parts.learner.update(parts.feed(k))["loss/editor"] for k in range(25)]
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])


@needs_judge
@pytest.mark.parametrize("changes", METHODS)
def test_two_steps_equal_one_and_one(kontext_folder, tmp_path, changes):
    cfg = small(kontext_folder, **changes)
    once = run_recipe("np_edit", cfg, tmp_path / "once")

    class Stopped(Run):
        stop = True

    with pytest.raises(Interrupted), Stopped.start(tmp_path / "resumed", {"recipe": "np_edit"}, display=False) as run:
        RECIPE.train(cfg, run)
    assert run_recipe("np_edit", cfg, tmp_path / "resumed") == once
    assert {"held out, overall", "paraphrase, keep", "training reward", "recolor"} <= set(once["after"])
    one, two = state(tmp_path / "once"), state(tmp_path / "resumed")
    for part in {"policy", "score", "ema"} & one.keys():
        assert all(torch.equal(one[part][k], two[part][k]) for k in one[part]), part
    assert ("score" in one) == (not changes)


@needs_judge
def test_the_real_preset_takes_a_step_on_files_with_lora_and_a_judge_in_bfloat16(flux_folder, tmp_path):
    from diffusers import FluxKontextPipeline, FluxPipeline

    FluxKontextPipeline(**FluxPipeline.from_pretrained(flux_folder).components).save_pretrained(tmp_path / "model")
    lines = []
    for problem in edits.sample_problems(2, 0, ("recolor",), size=48):
        Image.fromarray(problem.inputs.pictures[0][:, :40]).save(tmp_path / f"{problem.id}.png")
        asked = [
            {"text": text, "answer": answer, "about": about} for text, answer, about in problem.answer["questions"]
        ]
        lines.append({"image": f"{problem.id}.png", "instruction": problem.inputs.text, "questions": asked})
        lines[-1]["caption_after"] = problem.answer["caption_after"]
    (tmp_path / "edits.jsonl").write_text("\n".join(map(json.dumps, lines)))
    for name, preset in RECIPE.PRESETS.items():
        if name != "tiny":
            files = dict(edits=str(tmp_path / "edits.jsonl"), held_out=str(tmp_path / "edits.jsonl"), side=32)
            cfg = replace(
                preset,
                schedule=replace(preset.schedule, steps=1, evaluate_every=1),
                batch=replace(preset.batch, prompts_per_step=2, group_size=min(preset.batch.group_size, 2)),
                flow=replace(preset.flow, name=str(tmp_path / "model"), size=32, lora_rank=2, text_length=6),
                task=replace(preset.task, vqa=replace(preset.task.vqa, model="qwen2.5-vl-shapes"), **files),
                copy=replace(preset.copy, steps=min(preset.copy.steps, 1)),
                np_edit=replace(preset.np_edit, score_updates=1),
            )
            after = run_recipe("np_edit", cfg, tmp_path / name)["after"]
            assert {score for score in after if not score.endswith(STANDARD_ERROR)} == {
                "held out, sharpness",
                "training reward",
            }, name


def test_samples_begin_with_a_picture(kontext_folder, tmp_path):
    Image.fromarray(TASK.training(0)[0].inputs.pictures[0]).save(tmp_path / "a.png")
    cfg = small(kontext_folder)
    items = RECIPE.sample(cfg, RECIPE.policies(cfg), [f"{tmp_path / 'a.png'} Make the ring red."], seeds(0, 1, "test"))
    assert items[0]["image"].shape == (3, 32, 32)
    with pytest.raises(ValueError, match="must begin with one picture"):
        RECIPE.sample(cfg, RECIPE.policies(cfg), ["Make the ring red."], seeds(0, 1, "test"))


def test_claims_read_scores_that_arms_have_and_can_come_out_false():
    scores = {arm: {"held out, overall": 0.3, "held out, keep": 0.8} for arm in RECIPE.ARMS}
    assert all(claim.margin(scores) < max(claim.least, 1e-9) for claim in RECIPE.CLAIMS)
    scores["NP-Edit"] = {"held out, overall": 0.4, "held out, keep": 0.9}
    assert all(claim.margin(scores) >= claim.least for claim in RECIPE.CLAIMS)
    assert isinstance(TASK.training(0)[0].inputs, Question)
