"""Editing: every path of the policy takes the source picture, and samples equal those of the plain pipeline."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from saccade.core import Problem, Question, Rollout
from saccade.models.diffusion.lru import LRUCache
from saccade.models.loading import source_latents
from saccade.policies.flow import FlowModel, FlowPolicy, build_flow_policy, build_frozen_policy
from saccade.random import noise, seeds

RNG = np.random.default_rng(0)
PICTURES = [RNG.integers(0, 256, shape, dtype=np.uint8) for shape in ((16, 16, 3), (16, 16, 3), (20, 33, 3))]
WORDS = ["a red ring", "two blue squares", "a red ring"]
PROBLEMS = [Problem(i, Question(text, (picture,))) for i, (text, picture) in enumerate(zip(WORDS, PICTURES))]


def editor(folder: Path, **changes) -> FlowPolicy:
    model = dict(name=str(folder), size=16, sampling_steps=4, guidance=3.0, text_length=4)
    return build_flow_policy(FlowModel(**model | changes), stochastic=(0, 1, 2))


def with_sources(*pictures: np.ndarray) -> list[Problem]:
    return [Problem(i, Question(p.inputs.text, (picture,))) for i, (p, picture) in enumerate(zip(PROBLEMS, pictures))]


def plain_pictures(folder: Path, policy: FlowPolicy, seeds_B: torch.Tensor) -> torch.Tensor:
    """Samples of plain diffusers from an exported folder, with its sampling arguments, one edit at a time."""
    from diffusers import FluxKontextPipeline

    pipe = FluxKontextPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    call = json.loads((folder / "sampling.json").read_text())
    start, samples = noise(seeds_B, policy.latent_shape, "start"), []
    for problem, x in zip(PROBLEMS, start):
        source = Image.fromarray(problem.inputs.pictures[0]).resize((16, 16), Image.Resampling.LANCZOS)
        packed = pipe._pack_latents(x[None], 1, *x.shape)
        samples.append(pipe(source, problem.inputs.text, latents=packed, output_type="pt", **call).images[0])
    return torch.stack(samples)


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_an_exported_editor_edits_the_same_in_plain_diffusers(kontext_folder, tmp_path, guidance):
    policy = editor(kontext_folder, guidance=guidance, lora_rank=2)
    with torch.no_grad():
        for p in policy.trained:
            p.add_(0.05)
    seeds_B = seeds(3, 3, "test")
    policy.export(tmp_path / "out")
    ours = policy.greedy().rollout(PROBLEMS, seeds_B).outputs
    torch.testing.assert_close(ours, plain_pictures(tmp_path / "out", policy, seeds_B), atol=2e-3, rtol=0)


def test_an_editor_with_embedded_guidance_edits_as_plain_diffusers(flux_folder, tmp_path):
    from diffusers import FluxKontextPipeline, FluxPipeline

    FluxKontextPipeline(**FluxPipeline.from_pretrained(flux_folder).components).save_pretrained(tmp_path / "in")
    policy = editor(tmp_path / "in", guidance=2.5)
    policy.export(tmp_path / "out")
    seeds_B = seeds(4, 3, "test")
    torch.testing.assert_close(
        policy.greedy().rollout(PROBLEMS, seeds_B).outputs,
        plain_pictures(tmp_path / "out", policy, seeds_B),
        atol=2e-3,
        rtol=0,
    )


def test_replay_is_exact_on_the_reference_path_and_rounding_on_the_fast_one(kontext_folder):
    for policy, largest_gap in (
        (replace(editor(kontext_folder), one_call=False, merge=False), 0.0),
        (editor(kontext_folder), 2e-5),
    ):
        rollout = policy.rollout(PROBLEMS, seeds(0, 3, "test"))
        for i in range(3):
            column = rollout.columns(slice(i, i + 1))
            assert (policy.likelihood(column).logp_BT - column.logp_BT).abs().max() <= largest_gap


def test_cuts_by_rows_and_decisions_keep_each_row_with_its_picture(kontext_folder):
    policy = editor(kontext_folder)
    rollout = policy.rollout(PROBLEMS, seeds(0, 3, "test"))
    rows = lambda *index: rollout.rows(torch.tensor(index))
    full = gradient(policy, [rollout])
    torch.testing.assert_close(gradient(policy, [rows(2), rows(1, 0)]), full, atol=1e-4, rtol=1e-4)
    columns = [rollout.columns(slice(0, 1)), rollout.columns(slice(1, 3))]
    torch.testing.assert_close(gradient(policy, columns), full, atol=1e-4, rtol=1e-4)
    few = replace(policy, forward_batch_size=2).rollout(PROBLEMS, seeds(0, 3, "test"))
    torch.testing.assert_close(few.outputs, rollout.outputs, atol=1e-4, rtol=0)


def test_unrolled_samples_equal_the_rollout_and_both_velocities_take_the_source(kontext_folder):
    policy, seeds_B = editor(kontext_folder), seeds(1, 3, "test")
    samples = policy.rollout(PROBLEMS, seeds_B).decisions["x0_B"]
    torch.testing.assert_close(policy.unroll(PROBLEMS, seeds_B).detach(), samples, atol=1e-5, rtol=1e-5)
    other = policy.rollout(with_sources(PICTURES[1], *PICTURES[1:]), seeds_B).decisions["x0_B"]
    assert (other[0] - samples[0]).abs().max() > 1e-3, "another source gives another result"
    torch.testing.assert_close(other[1:], samples[1:], atol=1e-5, rtol=1e-5)
    x, t_B = torch.randn(3, *policy.latent_shape), torch.full((3,), 0.7)
    cond, uncond, guided = (
        policy.velocity(x, t_B, p, g) for p, g in ((PROBLEMS, 1.0), (without_texts(), 1.0), (PROBLEMS, 3.0))
    )
    torch.testing.assert_close(guided, uncond + 3 * (cond - uncond), atol=1e-4, rtol=1e-4)


def without_texts() -> list[Problem]:
    return [Problem(p.id, Question("", p.inputs.pictures)) for p in PROBLEMS]


def test_without_a_picture_it_generates_and_shares_the_encoders(kontext_folder):
    policy = editor(kontext_folder)
    generator = replace(
        build_frozen_policy(FlowModel(str(kontext_folder), size=16, sampling_steps=4, text_length=4), policy),
        prompt=lambda p: p.inputs.text,
    )
    words = [Problem(i, text) for i, text in enumerate(WORDS)]
    seeds_B = seeds(2, 3, "test")
    torch.testing.assert_close(
        generator.greedy().rollout(PROBLEMS, seeds_B).outputs,
        replace(policy, guidance=1.0).greedy().rollout(words, seeds_B).outputs,
        atol=1e-4,
        rtol=0,
    )
    assert generator.prompt_cache is policy.prompt_cache


def test_a_picture_is_encoded_once_as_the_mode_and_at_the_policys_size(kontext_folder):
    policy, calls = editor(kontext_folder), []
    vae, encode = policy.backbone.pipe.vae, policy.backbone.pipe.vae.encode
    vae.encode = lambda pixels: calls.append(len(pixels)) or encode(pixels)
    policy.likelihood(policy.rollout(PROBLEMS, seeds(0, 3, "test")))
    twin = [Problem(0, Question("a blue ring", (PICTURES[0].copy(),)))]
    policy.greedy().rollout(twin, seeds(0, 1, "test"))
    assert sum(calls) == 3, "equal pictures are one"
    source = policy.prompt_cache([p.inputs for p in PROBLEMS], 16).source
    pixels = np.stack([np.asarray(Image.fromarray(p).resize((16, 16), Image.Resampling.LANCZOS)) for p in PICTURES])
    torch.testing.assert_close(
        source, policy.encode(torch.tensor(pixels).permute(0, 3, 1, 2) / 255), atol=1e-5, rtol=1e-5
    )


def test_prompts_that_cannot_be_edited_are_refused(kontext_folder, sd3_folder):
    policy = editor(kontext_folder)
    with pytest.raises(ValueError, match="0 and 1 pictures in one batch"):
        policy.greedy().rollout([PROBLEMS[0], Problem(1, "a red ring")], seeds(0, 2, "test"))
    with pytest.raises(ValueError, match="2 pictures in one batch"):
        policy.greedy().rollout([Problem(0, Question("both", (PICTURES[0], PICTURES[1])))], seeds(0, 1, "test"))
    with pytest.raises(ValueError, match=r"uint8 \[H, W, 3\], not float64 \[16, 16, 3\]"):
        policy.greedy().rollout(with_sources(PICTURES[0] / 255), seeds(0, 1, "test"))
    text_only = build_flow_policy(FlowModel(str(sd3_folder), size=16, sampling_steps=4, text_length=2), ())
    with pytest.raises(ValueError, match="a StableDiffusion3Pipeline takes text alone"):
        text_only.greedy().rollout(PROBLEMS, seeds(0, 3, "test"))
    with pytest.raises(ValueError, match="takes text alone"):
        source_latents(text_only.backbone.pipe, PICTURES, 16)


def test_the_least_recently_used_entry_is_dropped():
    cache, computed = LRUCache(capacity=3 * 8), []
    row = lambda keys: [torch.tensor([computed.append(k) or float(k) for k in keys]).double()]
    assert cache([1, 2, 1], row)[0].tolist() == [1, 2, 1] and computed == [1, 2]
    cache([2, 3, 4], row)
    assert computed == [1, 2, 3, 4] and list(cache.rows) == [2, 3, 4] and cache.used == 24
    assert cache([1, 2, 3, 4, 5], row)[0].tolist() == [1, 2, 3, 4, 5], "a call may exceed the capacity"


def gradient(policy: FlowPolicy, parts: list[Rollout]) -> torch.Tensor:
    for p in policy.trained:
        p.grad = None
    for part in parts:
        policy.likelihood(part).logp_BT.sum().backward()
    return torch.cat([p.grad.flatten() for p in policy.trained if p.grad is not None])
