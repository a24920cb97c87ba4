"""Policies of image tokens: samples, log-probs and gradients are those of plain transformers, in all cuts of a
batch.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny_janus
import torch

from saccade.algorithms.grpo import PolicyGradient
from saccade.core import Problem, Question
from saccade.models.language.janus import ImageTokenGenerator, load_image_token_generator
from saccade.policies.image_tokens import ImageTokenModel, ImageTokenPolicy, build_image_token_policy
from saccade.random import seeds
from saccade.training.groups import sample_groups

PROMPTS = ("a red circle", "a green star above a ring", "three small crosses in pink")
PROBLEMS = [Problem(i, prompt) for i, prompt in enumerate(PROMPTS)]
CODES = 16


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tiny_janus.janus(tmp_path_factory.mktemp("janus"))


@pytest.fixture(scope="module")
def image_generator(folder) -> ImageTokenGenerator:
    return load_image_token_generator(folder)


def plain(folder):
    from transformers import AutoProcessor, JanusForConditionalGeneration

    return JanusForConditionalGeneration.from_pretrained(
        folder, dtype=torch.float32
    ).eval(), AutoProcessor.from_pretrained(folder)


def asked(processor):
    texts = [
        processor.apply_chat_template(
            [{"role": "user", "content": [{"type": "text", "text": prompt}]}], add_generation_prompt=True
        )
        for prompt in PROMPTS
    ]
    return processor(text=texts, generation_mode="image", padding=True, return_tensors="pt")


def greedy(image_generator, **changes):
    return ImageTokenPolicy(image_generator, [], temperature=1e-5, **changes)


def generated_plainly(folder, guidance: float = 3.0):
    model, processor = plain(folder)
    codes = model.generate(**asked(processor), generation_mode="image", do_sample=False, guidance_scale=guidance)
    return codes, (model.decode_image_tokens(codes) / 2 + 0.5).clamp(0, 1).permute(0, 3, 1, 2)


def test_prompts_are_those_of_the_processor(folder, image_generator):
    inputs = asked(plain(folder)[1])
    policy = ImageTokenPolicy(image_generator, [])
    encoded = image_generator.encode_prompts([policy.prompt(problem) for problem in PROBLEMS])
    for passage, ids, attention in zip(encoded, inputs["input_ids"], inputs["attention_mask"]):
        assert passage.ids_L.tolist() == ids[attention > 0].tolist()


def test_greedy_pictures_are_those_of_plain_transformers(folder, image_generator):
    codes, images = generated_plainly(folder)
    rollout = greedy(image_generator, guidance=3.0).rollout(PROBLEMS, seeds(0, 3, "test"))
    policy = greedy(image_generator)
    assert torch.equal(policy.codes(rollout), codes) and len(codes.unique()) > 3
    assert rollout.outputs.shape == (3, 3, 16, 16)
    torch.testing.assert_close(rollout.outputs, images, rtol=0, atol=1e-5)


@torch.no_grad()
def naive(folder, rollout, policy) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of every code with the prompt and with its text masked out, row by row through plain
    transformers.
    """
    model, processor = plain(folder)
    kept = {processor.tokenizer.bos_token_id, processor.tokenizer.convert_tokens_to_ids("<boi>")}
    halves = []
    for masked in (False, True):
        rows = []
        for passage, codes in zip(
            policy.image_generator.encode_prompts([policy.prompt(p) for p in rollout.problems]), policy.codes(rollout)
        ):
            ids = torch.tensor(
                [i if not masked or i in kept else processor.tokenizer.pad_token_id for i in passage.ids_L.tolist()]
            )
            embeds = [model.get_input_embeddings()(ids), model.prepare_embeddings_for_image_generation(codes)]
            hidden = model.model.language_model(inputs_embeds=torch.cat(embeds)[None]).last_hidden_state[0]
            rows.append(model.model.generation_head(hidden[len(ids) - 1 : -1]))
        halves.append(torch.stack(rows))
    return halves[0], halves[1]


@pytest.mark.parametrize("under", ["cond", "guided"])
def test_log_probs_and_entropies_are_those_of_plain_transformers(folder, image_generator, under):
    policy = ImageTokenPolicy(image_generator, [], guidance=2.5, temperature=1.3, logprob_under=under)
    rollout = policy.rollout(PROBLEMS, seeds(1, 3, "test"))
    cond, uncond = naive(folder, rollout, policy)
    mixed = uncond + 2.5 * (cond - uncond)
    cond_logp, guided_logp = ((x / 1.3).log_softmax(-1) for x in (cond, mixed))
    logp = cond_logp if under == "cond" else guided_logp
    expected = logp.gather(-1, policy.codes(rollout)[..., None])[..., 0]
    seen = policy.likelihood(rollout)
    for found in (rollout.logp_BT, seen.logp_BT):
        torch.testing.assert_close(found, expected, rtol=0, atol=2e-4)
    torch.testing.assert_close(seen.entropy_BT, -(logp.exp() * logp).sum(-1), rtol=0, atol=2e-4)
    for name, x in (("entropy_B", cond_logp), ("guided_entropy_B", guided_logp)):
        torch.testing.assert_close(rollout.extras[name], -(x.exp() * x).sum(-1).mean(-1), rtol=0, atol=2e-4)


def test_codes_are_drawn_from_the_guided_distribution(image_generator):
    """The share of a first code over many seeds is its probability."""
    policy = ImageTokenPolicy(image_generator, [], guidance=2.0, temperature=2.0, logprob_under="guided")
    rollout = policy.rollout([PROBLEMS[0]] * 600, seeds(5, 600, "test"))
    first, p = policy.codes(rollout)[:, 0], rollout.logp_BT[:, 0].exp()
    common = first.mode().values
    expected = float(p[first == common][0])
    assert abs(float((first == common).float().mean()) - expected) < 4 * (expected * (1 - expected) / 600) ** 0.5


@pytest.mark.parametrize("under", ["cond", "guided"])
def test_replay_is_rollout_and_exact_where_it_was_scored_again(image_generator, under):
    policy = ImageTokenPolicy(image_generator, [], guidance=2.0, logprob_under=under)
    rollout = sample_groups(policy.rollout, PROBLEMS, seeds(0, 3, "test"), 4)
    assert (policy.likelihood(rollout).logp_BT - rollout.logp_BT).abs().max() < 1e-4
    exact = replace(policy, rescore=True)
    rollout = exact.rollout(PROBLEMS, seeds(0, 3, "test"))
    assert torch.equal(exact.likelihood(rollout).logp_BT, rollout.logp_BT)


def test_a_sample_depends_on_its_seed_alone(image_generator):
    policy = ImageTokenPolicy(image_generator, [], guidance=2.0)
    together = policy.rollout(PROBLEMS, seeds(7, 3, "test"))
    turned = replace(policy, max_batch=2).rollout(PROBLEMS[::-1], seeds(7, 3, "test").flip(0))
    alone = policy.rollout(PROBLEMS[:1], seeds(7, 3, "test")[:1])
    assert torch.equal(policy.codes(together), policy.codes(turned).flip(0))
    assert torch.equal(policy.codes(together)[:1], policy.codes(alone))
    torch.testing.assert_close(together.logp_BT, turned.logp_BT.flip(0), rtol=0, atol=1e-4)


def gradient(policy, rollout, rows: int | None = None, decisions: int | None = None):
    from saccade.training.learner import micro

    objective = PolicyGradient(policy, 0.2)
    for p in policy.trained:
        p.grad = None
    for part in micro(rollout, rows, decisions):
        objective(part).total.backward()
    return torch.cat([p.grad.flatten() for p in policy.trained if p.grad is not None])


@pytest.mark.parametrize("under", ["cond", "guided"])
def test_every_cut_shared_prompts_and_recomputing_give_one_gradient(folder, under):
    policy = build_image_token_policy(ImageTokenModel(str(folder), guidance=2.0, logprob_under=under))
    rollout = sample_groups(policy.rollout, PROBLEMS, seeds(2, 3, "test"), 2)
    rollout.advantage_BT = torch.randn(6, CODES, generator=torch.Generator().manual_seed(0))
    whole = gradient(policy, rollout)
    assert float(whole.norm()) > 0.1
    for cut in (dict(rows=1), dict(rows=4, decisions=5)):
        torch.testing.assert_close(
            gradient(policy, rollout, **cut), whole, rtol=0, atol=2e-4 * float(whole.abs().max())
        )
    again = gradient(replace(policy, checkpointing=True), rollout)
    torch.testing.assert_close(again, whole, rtol=0, atol=2e-4 * float(whole.abs().max()))
    assert not any(m.training for m in policy.image_generator.network.modules())


def test_gradients_agree_with_finite_differences(folder):
    policy = build_image_token_policy(ImageTokenModel(str(folder), guidance=1.7, logprob_under="guided"))
    network = policy.image_generator.network.double()
    rollout = policy.rollout(PROBLEMS[:1], seeds(0, 1, "test"))
    weight = network.model.generation_head.proj_out.weight
    along = torch.randn(weight.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    total = lambda: policy.likelihood(rollout).logp_BT.double().sum()
    total().backward()
    values = []
    for step in (1e-4, -1e-4):
        with torch.no_grad():
            weight += step * along
            values.append(float(total()))
            weight -= step * along
    assert float((weight.grad * along).sum()) == pytest.approx((values[0] - values[1]) / 2e-4, rel=1e-3)


def test_lora_begins_as_the_base_and_is_folded_in_by_an_export_that_plain_transformers_draws_with(folder, tmp_path):
    cfg = ImageTokenModel(str(folder), guidance=3.0, lora_rank=2, temperature=1e-5)
    policy, base = build_image_token_policy(cfg), greedy(load_image_token_generator(folder), guidance=3.0)
    before = policy.rollout(PROBLEMS, seeds(0, 3, "test"))
    assert torch.equal(policy.codes(before), base.codes(base.rollout(PROBLEMS, seeds(0, 3, "test"))))
    with torch.no_grad():
        for i, p in enumerate(policy.trained):
            p += 0.3 * torch.randn(p.shape, generator=torch.Generator().manual_seed(i))
    after = policy.rollout(PROBLEMS, seeds(0, 3, "test"))
    assert not torch.equal(policy.codes(after), policy.codes(before))
    policy.export(tmp_path)
    assert torch.equal(generated_plainly(tmp_path)[0], policy.codes(after))
    model, processor = plain(tmp_path)
    sampled = model.generate(**asked(processor), generation_mode="image", do_sample=True, num_return_sequences=2)
    assert sampled.shape == (6, CODES)


def test_what_is_trained_is_what_a_picture_goes_through(folder):
    policy = build_image_token_policy(ImageTokenModel(str(folder)))
    names = {name.split(".")[1] for name, p in policy.image_generator.network.named_parameters() if p.requires_grad}
    assert names == {"language_model", "generation_embeddings", "generation_aligner", "generation_head"}
    other = build_image_token_policy(ImageTokenModel(str(folder)))
    with torch.no_grad():
        policy.trained[0].add_(1.0)
    other.load_state_dict(policy.state_dict())
    assert torch.equal(other.trained[0], policy.trained[0])


def test_lower_precision_is_scored_again_so_ratios_begin_at_one(folder):
    policy = build_image_token_policy(ImageTokenModel(str(folder), precision="bfloat16", lora_rank=2))
    rollout = policy.rollout(PROBLEMS, seeds(0, 3, "test"))
    assert torch.equal(policy.likelihood(rollout).logp_BT, rollout.logp_BT) and rollout.outputs.dtype == torch.float32


def test_pictures_go_through_codes_and_back(image_generator):
    codes = torch.randint(24, (5, CODES), generator=torch.Generator().manual_seed(0))
    pictures = image_generator.decode_pictures(codes, rows=2)
    assert pictures.shape == (5, 3, 16, 16) and 0 <= float(pictures.min()) and float(pictures.max()) <= 1
    assert image_generator.encode_pictures(pictures, rows=3).shape == codes.shape and image_generator.picture_size == 16


def test_the_same_folder_reads_pictures_and_generates_text(folder):
    from saccade.policies.tokens import TokenModel, build_token_policy

    policy = build_token_policy(TokenModel(str(folder), max_new_tokens=5))
    picture = np.random.default_rng(0).integers(0, 255, (16, 16, 3), dtype=np.uint8)
    problems = [Problem(0, Question("a red circle", (picture,))), Problem(1, "two blue squares")]
    rollout = sample_groups(policy.rollout, problems, seeds(0, 2, "test"), 3)
    assert (policy.likelihood(rollout).logp_BT - rollout.logp_BT).abs().max() < 1e-4
    assert len(rollout.outputs) == 6 and float(rollout.mask_BT.sum()) > 6


def test_hostile_settings_prompts_and_models_are_refused(folder, image_generator, lm_folder):
    for wrong in (dict(temperature=0.0), dict(logprob_under="free"), dict(max_batch=0)):
        with pytest.raises(ValueError):
            ImageTokenPolicy(image_generator, [], **wrong)
    policy = ImageTokenPolicy(image_generator, [])
    with pytest.raises(ValueError, match="exceed the model's 512 positions"):
        policy.rollout([Problem(0, "circle " * 600)], seeds(0, 1, "test"))
    with pytest.raises(ValueError, match="does not generate pictures"):
        load_image_token_generator(lm_folder)
    for text in ("", "a <image_placeholder> circle"):  # a special token in a prompt is text
        assert policy.rollout([Problem(0, text)], seeds(0, 1, "test")).outputs.shape == (1, 3, 16, 16)
