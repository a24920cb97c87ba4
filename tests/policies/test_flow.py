"""The flow policy: replay, agreement with the plain pipelines, gradients, both kinds of checkpoint."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from saccade.algorithms.dpo import DiffusionDPO
from saccade.core import Problem, Rollout
from saccade.models.snapshot import Snapshot
from saccade.policies.flow import FlowModel, FlowPolicy, build_flow_policy
from saccade.random import seeds
from saccade.training.groups import sample_groups

PROMPTS = ["a red ring", "two blue squares", "a red ring"]
PROBLEMS = [Problem(i, p) for i, p in enumerate(PROMPTS)]


def sd3(folder: Path, **changes) -> FlowPolicy:
    model = dict(name=str(folder), size=16, sampling_steps=4, guidance=3.0, text_length=2)
    return build_flow_policy(FlowModel(**model | changes), stochastic=(0, 1, 2))


def exact(policy: FlowPolicy) -> FlowPolicy:
    return replace(policy, one_call=False, merge=False)


def test_replay_is_exact_on_the_reference_path(sd3_folder):
    policy = exact(sd3(sd3_folder))
    rollout = policy.rollout(PROBLEMS, seeds(0, 3, "test"))
    for i in range(3):
        column = rollout.columns(slice(i, i + 1))
        assert torch.equal(policy.likelihood(column).logp_BT, column.logp_BT)


@pytest.mark.parametrize(
    "changes", [{}, {"lora_rank": 2}, {"guidance": 1.0}, {"kernel": "cps"}, {"kernel": "dance_sde"}]
)
def test_replay_gap_of_the_fast_path_is_rounding(sd3_folder, changes):
    policy = sd3(sd3_folder, **changes)
    with torch.no_grad():  # LoRA must not be the identity here
        for p in policy.trained:
            p.add_(0.02 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())))
    rollout = policy.rollout(PROBLEMS, seeds(1, 3, "test"))
    gap = (policy.likelihood(rollout).logp_BT - rollout.logp_BT).abs().max()
    assert gap < 2e-5


def test_replay_of_flux_with_embedded_guidance(flux_folder):
    policy = build_flow_policy(
        FlowModel(str(flux_folder), size=16, sampling_steps=4, guidance=3.5, text_length=4), (0, 1)
    )
    rollout = policy.rollout(PROBLEMS, seeds(0, 3, "test"))
    assert rollout.outputs.shape == (3, 3, 16, 16)
    assert (policy.likelihood(rollout).logp_BT - rollout.logp_BT).abs().max() < 2e-5


def test_a_sample_depends_on_its_seed_alone(sd3_folder):
    policy = sd3(sd3_folder)
    batch = policy.rollout(PROBLEMS, seeds(5, 3, "test"))
    alone = policy.rollout(PROBLEMS[1:2], seeds(5, 3, "test")[1:2])
    torch.testing.assert_close(alone.outputs[0], batch.outputs[1], atol=1e-4, rtol=0)
    assert not torch.equal(batch.outputs[0], batch.outputs[2]), "equal prompts have different noise"


def test_samples_are_those_of_the_plain_sd3_pipeline(sd3_folder):
    from diffusers import StableDiffusion3Pipeline

    policy = sd3(sd3_folder)
    start = torch.randn(2, *policy.latent_shape, generator=torch.Generator().manual_seed(3))
    ours = _from_noise(policy, PROBLEMS[:2], start)
    pipe = StableDiffusion3Pipeline.from_pretrained(sd3_folder, text_encoder_3=None, tokenizer_3=None)
    pipe.set_progress_bar_config(disable=True)
    theirs = pipe(
        PROMPTS[:2], num_inference_steps=4, guidance_scale=3.0, latents=start, height=16, width=16,
        max_sequence_length=2, output_type="pt",
    ).images  # fmt: skip
    torch.testing.assert_close(ours, theirs, atol=2e-3, rtol=0)


def test_samples_are_those_of_the_plain_flux_pipeline(flux_folder):
    from diffusers import FluxPipeline

    policy = build_flow_policy(FlowModel(str(flux_folder), size=16, sampling_steps=4, guidance=3.5, text_length=4), ())
    start = torch.randn(2, *policy.latent_shape, generator=torch.Generator().manual_seed(3))
    ours = _from_noise(policy, PROBLEMS[:2], start)
    pipe = FluxPipeline.from_pretrained(flux_folder)
    pipe.set_progress_bar_config(disable=True)
    b, c, h, w = start.shape
    packed = pipe._pack_latents(start, b, c, h, w)
    theirs = pipe(
        PROMPTS[:2], num_inference_steps=4, guidance_scale=3.5, latents=packed, height=16, width=16,
        max_sequence_length=4, output_type="pt",
    ).images  # fmt: skip
    torch.testing.assert_close(ours, theirs, atol=2e-3, rtol=0)


def test_cutting_by_rows_and_decisions_gives_the_same_gradient(sd3_folder):
    policy = sd3(sd3_folder)
    rollout = policy.rollout(PROBLEMS, seeds(0, 3, "test"))
    full = _gradient(policy, [rollout])
    rows = _gradient(policy, [rollout.rows(torch.tensor([0, 2])), rollout.rows(torch.tensor([1]))])
    columns = _gradient(policy, [rollout.columns(slice(0, 1)), rollout.columns(slice(1, 3))])
    torch.testing.assert_close(rows, full, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(columns, full, atol=1e-4, rtol=1e-4)


def test_the_unconditional_velocity_has_no_gradient_by_default(sd3_folder):
    policy = sd3(sd3_folder)
    rollout = policy.rollout(PROBLEMS, seeds(0, 3, "test"))
    detached = _gradient(policy, [rollout])
    through = _gradient(replace(policy, grad_through_uncond=True), [rollout])
    assert (detached - through).abs().max() > 1e-4


def test_snapshot_of_lora_is_the_adapter_off(sd3_folder):
    plain, adapted = sd3(sd3_folder), sd3(sd3_folder, lora_rank=2)
    reference = Snapshot(adapted.trained)
    before = adapted.state_dict()["0"].clone()
    with torch.no_grad():
        for p in adapted.trained:
            p.add_(0.1)
    with reference:
        at_reference = adapted.greedy().rollout(PROBLEMS, seeds(0, 3, "test")).outputs
    torch.testing.assert_close(
        at_reference, plain.greedy().rollout(PROBLEMS, seeds(0, 3, "test")).outputs, atol=1e-4, rtol=0
    )
    assert torch.equal(adapted.state_dict()["0"], before + 0.1), "the weights are restored unchanged"


def test_diffusion_dpo_begins_at_log_two_and_falls_towards_the_chosen(sd3_folder):
    policy = sd3(sd3_folder, guidance=1.0)
    reference = Snapshot(policy.trained)
    rollout = sample_groups(policy.rollout, PROBLEMS, seeds(0, 3, "test"), 2)
    rollout.advantage_BT = rollout.broadcast(torch.tensor([1.0, -1, -1, 1, 0, 0]))
    dpo = DiffusionDPO().loss(policy, reference)
    loss = dpo(rollout)
    assert int(loss.count) == 2, "a group of equal rewards has no pair"
    torch.testing.assert_close(loss.total.detach(), 2 * torch.tensor(2.0).log())
    loss.total.backward()
    with torch.no_grad():
        for p in policy.trained:
            if p.grad is not None:
                p.sub_(1e-4 * p.grad)
    assert dpo(rollout).total < loss.total - 1e-4


def test_export_is_a_plain_pipeline_with_lora_folded_in(sd3_folder, tmp_path):
    policy = sd3(sd3_folder, lora_rank=2)
    with torch.no_grad():
        for p in policy.trained:
            p.add_(0.05)
    policy.export(tmp_path / "out")
    exported = sd3(tmp_path / "out")
    torch.testing.assert_close(
        exported.greedy().rollout(PROBLEMS, seeds(0, 3, "test")).outputs,
        policy.greedy().rollout(PROBLEMS, seeds(0, 3, "test")).outputs,
        atol=1e-4,
        rtol=0,
    )


def test_the_encoding_of_a_prompt_does_not_depend_on_its_batch(sd3_folder):
    texts = ["a red ring", "two blue squares and a star", "a cat", "x", "a green star left of a dog"]
    batch = sd3(sd3_folder).prompt_cache(texts, 16)
    policy = sd3(sd3_folder)
    for i, text in reversed(list(enumerate(texts))):
        alone = policy.prompt_cache([text], 16)
        assert all(torch.equal(x[i : i + 1], y) for x, y in zip(batch.parts, alone.parts))


def test_a_prompt_is_encoded_once(sd3_folder):
    policy = sd3(sd3_folder)
    encoded: list[str] = []
    original = policy.backbone.encode
    policy.backbone.encode = lambda prompts: encoded.extend(prompts) or original(prompts)
    policy.likelihood(policy.rollout(PROBLEMS, seeds(0, 3, "test")))
    assert sorted(encoded) == sorted({*PROMPTS, ""})


def test_bad_models_give_one_line(sd3_folder, tmp_path):
    (tmp_path / "model_index.json").write_text('{"_class_name": "WanPipeline"}')
    with pytest.raises(ValueError, match="WanPipeline is not supported; supported: StableDiffusion3Pipeline"):
        build_flow_policy(FlowModel(str(tmp_path)), ())
    (tmp_path / "model_index.json").write_text("{")
    with pytest.raises(ValueError, match="model_index.json is broken"):
        build_flow_policy(FlowModel(str(tmp_path)), ())
    with pytest.raises(ValueError, match="nearest miniature: sd3-shapes|miniatures:"):
        build_flow_policy(FlowModel("./sd3-shape"), ())
    with pytest.raises(ValueError, match="stochastic step 9 is not one of the 4 steps"):
        build_flow_policy(FlowModel(str(sd3_folder), size=16, sampling_steps=4), stochastic=(9,))


def _from_noise(policy: FlowPolicy, problems: list[Problem], x: torch.Tensor) -> torch.Tensor:
    times = policy.times
    with torch.no_grad():
        for t, t_next in pairwise(times):
            x = x + (t_next - t) * policy.velocity(x, t.expand(len(x)), problems, policy.guidance)
    return policy.decode(x)


def _gradient(policy: FlowPolicy, parts: list[Rollout]) -> torch.Tensor:
    for p in policy.trained:
        p.grad = None
    for part in parts:
        policy.likelihood(part).logp_BT.sum().backward()
    return torch.cat([p.grad.flatten() for p in policy.trained if p.grad is not None])


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"size": 0}, "size 0 is not a multiple of "),
        ({"size": 17}, "size 17 is not a multiple of "),
        ({"sampling_steps": 0}, "a picture takes 1 denoising step or more, not 0"),
    ],
)
def test_impossible_sizes_and_steps_are_refused(sd3_folder, changes, why):
    with pytest.raises(ValueError, match=why):
        sd3(sd3_folder, **changes)


def test_a_rollout_without_stochastic_steps_has_no_likelihood(sd3_folder):
    policy = sd3(sd3_folder)
    with pytest.raises(ValueError, match="no stochastic denoising step, so they have no likelihood"):
        policy.likelihood(policy.greedy().rollout(PROBLEMS, seeds(0, 3, "test")))
