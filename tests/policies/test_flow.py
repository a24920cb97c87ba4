"""The flow policy: replay, agreement with the plain pipelines, gradients, both kinds of checkpoint."""

from __future__ import annotations

import warnings
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from saccade.algorithms.dpo import DiffusionDPO
from saccade.core import Problem, Rollout
from saccade.models.diffusion.pipelines import TEXTS_AT_ONCE, PromptCache, load_backbone
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


@pytest.mark.parametrize("guidance", [1.0, 4.5])
@pytest.mark.parametrize("changes", [{}, {"lora_folded": True}, {"window": (1,)}])
def test_ratios_begin_at_one_with_lora_in_bfloat16(sd3_folder, guidance, changes):
    model = {name: value for name, value in changes.items() if name != "window"}
    policy = sd3(sd3_folder, precision="bfloat16", lora_rank=4, guidance=guidance, **model)
    with torch.no_grad():  # adapters that have moved
        for p in policy.trained:
            p.add_(0.02 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())))
    rollout = policy.rollout(PROBLEMS, seeds(1, 3, "test"), changes.get("window"))
    for part in (rollout, rollout.rows(torch.arange(1)), rollout.columns(slice(0, 1))):
        with_gradients = policy.likelihood(part).logp_BT.detach()
        # The published clip range; in bfloat16 a row alone is rounded otherwise than among others.
        limit = 1e-4 if len(part) == len(rollout) else 5e-4
        assert ((with_gradients - part.logp_BT).exp() - 1).abs().max() < limit
        with torch.no_grad():
            assert (policy.likelihood(part).logp_BT - with_gradients).abs().max() < 1e-4


@pytest.mark.parametrize("kernel", ["flow_sde", "dance_sde", "cps", "renoise"])
def test_the_last_step_has_finite_log_probs_and_gradients(sd3_folder, kernel):
    policy = sd3(sd3_folder, kernel=kernel)
    rollout = policy.rollout(PROBLEMS, seeds(1, 3, "test"), stochastic=(2, 3))
    found = policy.likelihood(rollout)
    slopes = torch.autograd.grad(found.logp_BT.sum(), policy.trained, allow_unused=True)
    assert found.logp_BT.isfinite().all() and rollout.logp_BT.isfinite().all() and (found.std_BT > 0).all()
    assert all(slope.isfinite().all() for slope in slopes if slope is not None)


@pytest.mark.parametrize("changes", [{"noise": 0.0}, {"noise": -1.0}, {"noise": float("nan")}, {"noise": float("inf")}])
@pytest.mark.parametrize("kernel", ["flow_sde", "cps"])
def test_noise_without_a_density_is_refused(sd3_folder, kernel, changes):
    with pytest.raises(ValueError, match="noise"):
        sd3(sd3_folder, kernel=kernel, **changes)
    with pytest.raises(ValueError, match="at most 1"):
        sd3(sd3_folder, kernel="cps", noise=1.5)


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


@pytest.mark.parametrize("changes", [{}, {"lora_rank": 2}, {"lora_rank": 2, "lora_folded": True}])
def test_the_fast_path_has_the_gradient_of_the_reference_path_with_and_without_checkpointing(sd3_folder, changes):
    gradients = []
    for policy in (exact(sd3(sd3_folder, **changes)), *(sd3(sd3_folder, **changes, checkpointing=c) for c in (0, 1))):
        with torch.no_grad():
            for p in policy.trained:
                p.add_(0.02 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())))
        rollout = policy.rollout(PROBLEMS, seeds(0, 3, "test"))
        gradients.append(_gradient(policy, [rollout]))
        form = policy.backbone.transformer.transformer_blocks[0]
        assert not any("forward" in vars(module) for module in form.modules()), "the network is plain again"
    for gradient in gradients[1:]:
        torch.testing.assert_close(gradient, gradients[0], atol=1e-4, rtol=1e-4)


def test_the_unconditional_velocity_has_no_gradient_by_default(sd3_folder):
    policy = sd3(sd3_folder)
    rollout = policy.rollout(PROBLEMS, seeds(0, 3, "test"))
    detached = _gradient(policy, [rollout])
    through = _gradient(replace(policy, grad_through_uncond=True), [rollout])
    assert (detached - through).abs().max() > 1e-4


def test_unconditional_velocities_are_taken_from_sampling_while_the_weights_are_the_same(sd3_folder):
    policy = sd3(sd3_folder)
    rollout = policy.rollout(PROBLEMS, seeds(0, 3, "test"))
    rows: list[int] = []
    network = policy.backbone.velocity
    policy.backbone.velocity = lambda x, *rest: rows.append(len(x)) or network(x, *rest)
    fresh = replace(rollout, decisions={k: v for k, v in rollout.decisions.items() if k != "uncond_BT"})
    torch.testing.assert_close(_gradient(policy, [rollout]), _gradient(policy, [fresh]), atol=1e-4, rtol=1e-4)
    assert rows == [9, 9, 9], "the conditional rows alone, then both"
    reference = Snapshot(policy.trained)
    with torch.no_grad():
        policy.trained[0].add_(1e-3)
    for chosen, calls in ((policy, 2), (replace(policy, reuse_uncond=True), 1)):
        rows.clear()
        chosen.likelihood(rollout)
        assert len(rows) == calls
    rows.clear()
    with torch.no_grad(), reference:
        policy.likelihood(rollout)
    assert rows == [9], "the reference has the weights of sampling"


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
    few = ["a red ring", "two blue squares and a star", "a cat", "x", "a green star left of a dog"]
    texts = [*few, *(f"{count} rings and a star" for count in range(2, 20))]  # more than one call of the encoders
    batch = sd3(sd3_folder).prompt_cache(texts, 16)
    policy = sd3(sd3_folder)
    for i, text in reversed(list(enumerate(texts))):
        alone = policy.prompt_cache([text], 16)
        assert all(torch.equal(x[i : i + 1], y) for x, y in zip(batch.parts, alone.parts))


def test_length_of_prompts_and_size_of_pictures_are_the_checkpoints_own_unless_given(sd3_folder, flux_folder, tmp_path):
    for folder, length in ((sd3_folder, 256), (flux_folder, 512)):
        policy = build_flow_policy(FlowModel(str(folder), sampling_steps=2), ())
        pipe = policy.backbone.pipe
        assert policy.backbone.text_length == length
        assert policy.size == pipe.default_sample_size * pipe.vae_scale_factor
    sd3(sd3_folder).export(tmp_path / "model")
    again = build_flow_policy(FlowModel(str(tmp_path / "model")), ())
    assert (again.backbone.text_length, again.size) == (2, 16)
    (tmp_path / "model" / "sampling.json").write_text("{")
    with pytest.raises(ValueError, match="sampling.json"):
        build_flow_policy(FlowModel(str(tmp_path / "model")), ())
    miniature = build_flow_policy(FlowModel(), ())
    assert (miniature.backbone.text_length, miniature.size) == (1, 32)


def test_a_prompt_is_encoded_once(sd3_folder):
    policy = sd3(sd3_folder)
    encoded: list[list[str]] = []
    original = policy.backbone.encode
    policy.backbone.encode = lambda prompts: encoded.append(prompts) or original(prompts)
    policy.likelihood(policy.rollout(PROBLEMS, seeds(0, 3, "test")))
    policy.greedy().rollout(PROBLEMS, seeds(0, 3, "test"))
    assert [set(texts) for texts in encoded] == [set(PROMPTS), {""}]
    assert {len(texts) for texts in encoded} == {TEXTS_AT_ONCE}


def test_bad_models_give_one_line(sd3_folder, tmp_path):
    (tmp_path / "model_index.json").write_text('{"_class_name": "MochiPipeline"}')
    with pytest.raises(ValueError, match="MochiPipeline is not proven; proven: StableDiffusion3Pipeline"):
        build_flow_policy(FlowModel(str(tmp_path)), ())
    (tmp_path / "model_index.json").write_text("{")
    with pytest.raises(ValueError, match="model_index.json is broken"):
        build_flow_policy(FlowModel(str(tmp_path)), ())
    with pytest.raises(ValueError, match="miniatures are"):
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


def test_a_prompt_longer_than_the_encoders_is_told():
    prompts = PromptCache(load_backbone("sd3-shapes"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        prompts(["a red ring"], 32)
    with pytest.warns(UserWarning, match="is cut: the text encoders read"):
        prompts([" ".join(["a red ring above a blue square"] * 40)], 32)
