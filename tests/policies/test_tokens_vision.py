"""Token policies with pictures: these are encoded once, replay equals sampling, shared prefixes have equal
gradients.
"""

from __future__ import annotations

import pickle
from dataclasses import replace
from unittest import mock

import numpy as np
import pytest
import tiny_language
import tiny_vision
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_vision import picture

from saccade.core import Problem, Question, Rollout
from saccade.math.frames import Box, Frame
from saccade.models.adapters import trainable
from saccade.models.language.head import token_logprobs
from saccade.models.language.hidden_states import TokenRows, hidden_states
from saccade.models.language.model import LanguageModel, load_language_model
from saccade.models.language.prompts import PerRow
from saccade.models.vision import encoder
from saccade.models.vision.encoder import VisionEncoder
from saccade.policies.tokens import TokenModel, TokenPolicy, build_token_policy, inputs_as_prompt
from saccade.random import seeds
from saccade.training.feeds import join
from saccade.training.groups import sample_groups

PROBLEMS = [
    Problem(0, Question("a red circle", (picture(40, 60),))),
    Problem(1, Question("two blue squares", (picture(20, 20, 1), picture(33, 17, 2)))),
    Problem(2, Question("the word")),
]


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """Every kind of model on disk."""
    return {kind: tiny_vision.saved(kind, tmp_path_factory.mktemp(kind)) for kind in tiny_vision.KINDS}


@pytest.fixture
def language(folders):
    return lambda kind: load_language_model(folders[kind])


def policy(
    language: LanguageModel, many_ends: bool = True, sees: bool = True, lora_rank: int = 0, **fields
) -> TokenPolicy:
    """All weights, or those that read words; with ``many_ends`` every tenth token ends a text, so that lengths
    differ.
    """
    model = language.model
    model.generation_config.eos_token_id = list(range(0, 280, 10)) if many_ends else None
    words = torch.nn.ModuleList([model.get_decoder(), model.get_output_embeddings()])
    trained = trainable(model if sees else words, lora_rank)
    return TokenPolicy(language, trained, **{"max_new_tokens": 10, **fields})


def sampled(one: TokenPolicy, group: int = 4, seed: int = 0) -> Rollout:
    return sample_groups(one.rollout, PROBLEMS, seeds(seed, len(PROBLEMS), "test"), group)


def gap(one: TokenPolicy, rollout: Rollout) -> float:
    return (one.likelihood(rollout).logp_BT - rollout.logp_BT).abs().max().item()


def gradient(one: TokenPolicy, parts: list[Rollout]) -> torch.Tensor:
    for p in one.parameters():
        p.grad = None
    for part in parts:
        seen = one.likelihood(part)
        (part.advantage_BT * (seen.logp_BT + 0.1 * seen.entropy_BT) * part.mask_BT).sum().backward()
    return torch.cat([torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten() for p in one.parameters()])


def with_advantage(rollout: Rollout) -> Rollout:
    rollout.advantage_BT = torch.randn(rollout.logp_BT.shape, generator=torch.Generator().manual_seed(0))
    return rollout


@pytest.mark.parametrize("kind", tiny_vision.KINDS)
def test_greedy_is_what_transformers_generates(kind, language):
    one = policy(language(kind), many_ends=False, temperature=0.0, max_new_tokens=12)
    rollout = one.rollout(PROBLEMS, seeds(0, 3, "test"))
    written = rollout.decisions["ids_BL"].gather(1, rollout.decisions["column_BT"])
    for problem, tokens in zip(PROBLEMS[:2], written):
        asked = one.language.processor.apply_chat_template(
            inputs_as_prompt(problem), tokenize=True, add_generation_prompt=True, return_dict=True, return_tensors="pt"
        )
        theirs = one.language.model.generate(
            **asked, do_sample=False, max_new_tokens=12, suppress_tokens=one.language.banned_ids
        )
        assert torch.equal(tokens, theirs[0, asked["input_ids"].shape[1] :])


@pytest.mark.parametrize("kind", tiny_vision.KINDS)
def test_replay_holds_in_rows_with_and_without_pictures(kind, language):
    one = policy(language(kind), temperature=0.8)
    rollout = sampled(one, seed=1)
    assert len(set(rollout.extras["length_B"].tolist())) > 3 and gap(one, rollout) < 1e-4
    some = torch.tensor([9, 2, 5, 4])
    picked = pickle.loads(pickle.dumps(rollout.rows(some)))
    torch.testing.assert_close(one.likelihood(picked).logp_BT, rollout.logp_BT[some], rtol=0, atol=1e-4)
    (seen,), *others = rollout.decisions["images_B"].values
    other = replace(seen, inputs={k: v.flip(-1) if v.is_floating_point() else v for k, v in seen.inputs.items()})
    swapped = replace(rollout, decisions=rollout.decisions | {"images_B": PerRow(((other,), *others))})
    moved = (one.likelihood(swapped).logp_BT - rollout.logp_BT).abs().amax(1)
    assert moved[0] > 1e-2 and moved[1:].max() < 1e-4


def test_rescored_replay_is_exact(language):
    one = policy(language("qwen25"), lora_rank=2, rescore=True)
    torch.nn.init.normal_(one.trained[1])
    assert gap(one, sampled(one)) == 0


@pytest.mark.parametrize("kind", ["qwen25", "qwen3", "llava"])
def test_a_shared_prefix_has_the_gradient_of_the_unshared(kind, language):
    one = policy(language(kind))
    rollout = with_advantage(sampled(one))
    shared = gradient(one, [rollout])
    with mock.patch("saccade.policies.tokens.hidden_states", lambda *args: hidden_states(*args, sharing=False)):
        unshared = gradient(one, [rollout])
    scale = float(unshared.abs().max())
    torch.testing.assert_close(shared, unshared, rtol=0, atol=2e-6 * scale)
    assert (
        max(float(p.grad.abs().max()) for p in encoder.vision_parameters(one.language.model) if p.grad is not None)
        > 1e-4 * scale
    )


@pytest.mark.parametrize("kind", tiny_vision.KINDS)
def test_micro_batches_add_up_to_the_full_gradient(kind, language):
    one = policy(language(kind), sees=kind != "llava")
    rollout = with_advantage(sampled(one))
    full = gradient(one, [rollout])
    cuts = ([3, 0, 7], [1, 2], [6, 5, 4, 11, 8], [9, 10])
    by_rows = gradient(one, [rollout.rows(torch.tensor(i)) for i in cuts])
    by_columns = gradient(one, [rollout.columns(slice(i, i + 4)) for i in range(0, rollout.logp_BT.shape[1], 4)])
    for cut in (by_rows, by_columns):
        torch.testing.assert_close(cut, full, rtol=1e-4, atol=1e-4 * float(full.abs().max()))


def test_pictures_are_prepared_and_seen_once_by_a_policy_and_its_copies(language):
    one = policy(language("qwen25"), sees=False)
    with (
        mock.patch.object(
            LanguageModel, "_encode_prompt", autospec=True, side_effect=LanguageModel._encode_prompt
        ) as read,
        mock.patch.object(VisionEncoder, "_encode", autospec=True, side_effect=VisionEncoder._encode) as seen,
    ):
        one.rollout(PROBLEMS, seeds(0, 3, "test"))
        counts = read.call_count, seen.call_count
        for again in (one, one.greedy(), replace(one, max_new_tokens=3), replace(one.greedy(), top_p=0.5)):
            again.rollout(PROBLEMS, seeds(0, 3, "test"))
        assert (read.call_count, seen.call_count) == counts and counts[0] == 3
    words = list(one.trained)
    assert not replace(one, trained=[*words, *encoder.vision_parameters(one.language.model)]).vision.frozen


def test_prompts_that_do_not_fit_are_encoded_again(language):
    one = language("qwen25")
    prompts = [inputs_as_prompt(problem) for problem in PROBLEMS]
    first = [one.encode_prompt(prompt) for prompt in prompts]
    assert [one.encode_prompt(prompt) for prompt in prompts] == first
    one.encoded.capacity = max(encoded.size for encoded in first)
    again = [one.encode_prompt(prompt) for prompt in prompts + prompts]
    assert again[0] is not again[3] and torch.equal(again[0].ids_L, again[3].ids_L)
    assert one.encoded.used == sum(encoded.size for encoded in one.encoded.kept.values()) <= one.encoded.capacity


def test_rollouts_that_were_joined_share_prefixes_and_replay(language):
    one = policy(language("qwen25"))
    parts = [
        sample_groups(one.rollout, some, seeds(0, 2, "test"), 3) for some in (PROBLEMS[:2], [PROBLEMS[2], PROBLEMS[0]])
    ]
    whole = join(parts)
    assert len(set(whole.decisions["begin_B"].tolist())) == 2 and gap(one, whole) < 1e-4
    last = whole.decisions["column_BT"].amax(1)
    rows, _ = TokenRows.for_decisions(one.language, whole.decisions, torch.arange(12), last)
    assert len(rows.unique_prompts()[0]) == 3, "a prompt of another rollout is the same, with its pictures"
    late = whole.rows(whole.mask_BT.sum(1).argmin()[None]).columns(slice(-1, None))
    assert not late.mask_BT.any() and not one.likelihood(late).logp_BT.any()


def test_lower_precision_replays_nearly(language):
    one = policy(language("qwen25"), precision=torch.bfloat16)
    rollout = sampled(one)
    assert rollout.logp_BT.dtype == torch.float32 and 0 < gap(one, rollout) < 1.0


@pytest.mark.parametrize("sees", [True, False])
def test_a_picture_is_prepared_and_encoded_once_a_prompt(sees, language):
    one = policy(language("qwen25"), sees=sees)
    encoded, prepared = [], []
    one.language.model.model.visual.register_forward_pre_hook(lambda part, given: encoded.append(len(given[0])))
    prepare = type(one.language.processor).__call__
    with mock.patch.object(
        type(one.language.processor), "__call__", lambda *a, **k: prepared.append(1) or prepare(*a, **k)
    ):
        rollout = with_advantage(sampled(one, group=3))
        images = {one for (one,) in rollout.decisions["images_B"].values if one}
        patches = sum(len(one.inputs["pixel_values"]) for one in images)
        assert len(prepared) == 2 and sum(encoded) == patches
        encoded.clear()
        gradient(one, [rollout])
        assert sum(encoded) == (patches if sees else 0) and len(prepared) == 2


def test_picture_tokens_are_never_generated_even_if_the_logits_prefer_them(language):
    words = language("qwen25")
    banned, names = words.banned_ids, ["<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
    assert banned == words.tokenizer.convert_tokens_to_ids(names)
    plain = torch.nn.Linear(32, len(words.tokenizer), bias=False)
    plain.weight.data.copy_(words.model.lm_head.weight)
    plain.weight.data[banned] *= 40
    words.model.lm_head = plain
    for temperature in (0.0, 1.0):
        one = policy(words, many_ends=False, temperature=temperature)
        rollout = sampled(one)
        written = rollout.decisions["ids_BL"].gather(1, rollout.decisions["column_BT"])
        assert not torch.isin(written, torch.tensor(banned)).any() and rollout.logp_BT.isfinite().all()
        assert gap(one, rollout) < 1e-4 and one.likelihood(rollout).entropy_BT.isfinite().all()
    rows, _ = TokenRows.for_decisions(words, rollout.decisions, torch.arange(12), rollout.decisions["column_BT"][:, -1])
    preferred = plain(hidden_states(words, one.vision, rows)).argmax(-1)
    assert torch.isin(preferred, torch.tensor(banned)).float().mean() > 0.2


@pytest.mark.parametrize("kind", ["qwen25", "qwen3"])
def test_positions_are_the_models_own(kind, language):
    one = policy(language(kind), many_ends=False)
    rollout = one.rollout(PROBLEMS[:2], seeds(0, 2, "test"))
    ids, attention = rollout.decisions["ids_BL"], rollout.decisions["attention_BL"]
    grids = torch.cat([images[0].inputs["image_grid_thw"] for images in rollout.decisions["images_B"].values])
    kinds = (ids == one.language.model.config.image_token_id).long()
    theirs, _ = one.language.model.model.get_rope_index(
        input_ids=ids, mm_token_type_ids=kinds, image_grid_thw=grids, attention_mask=attention
    )
    assert torch.equal(rollout.decisions["position_BAL"].transpose(0, 1) * attention, theirs * attention)


def test_frames_have_the_size_of_resized_pictures(language):
    rollout = policy(language("qwen25")).rollout(PROBLEMS, seeds(0, 3, "test"))
    (first,), (second, third), none = rollout.extras["frames_B"].values
    assert (first.width, first.height, first.kind) == (24, 16, "displayed") and not none
    assert (first.original.width, first.original.height) == (60, 40) and second.original != third.original
    free = policy(language("llava")).rollout(PROBLEMS[:1], seeds(0, 1, "test")).extras["frames_B"].values[0][0]
    assert free == Frame.of(PROBLEMS[0].inputs.pictures[0], free.picture)


def test_a_prompt_without_room_is_refused_and_nothing_is_cut(language):
    one = policy(language("qwen25"), max_new_tokens=500)
    with pytest.raises(
        ValueError, match=r"a prompt of \d+ tokens \(6 of them pictures\) and max_new_tokens 500 exceed"
    ):
        one.rollout(PROBLEMS[:1], seeds(0, 1, "test"))


@pytest.mark.parametrize(
    ("shown", "why"),
    [
        (np.zeros((8, 8), np.uint8), r"a picture is uint8 \[H, W, 3\], not uint8 \[8, 8\]"),
        (np.zeros((8, 8, 3), np.float32), "not float32"),
        (np.zeros((0, 8, 3), np.uint8), r"not uint8 \[0, 8, 3\]"),
        ("a.png", "not str"),
        (picture(4, 1000), "aspect ratio"),
    ],
)
def test_pictures_that_cannot_be_shown_are_refused_in_one_line(shown, why, language):
    one = policy(language("qwen25"))
    with pytest.raises(ValueError, match=why) as error:
        one.rollout([Problem(0, Question("x", (shown,)))], seeds(0, 1, "test"))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["<|image_pad|>", "<|video_pad|>", "<|im_end|>", "<|endoftext|>"])
@pytest.mark.parametrize("pictures", [(), (picture(8, 8),)])
def test_names_of_special_tokens_in_a_question_are_letters(name, pictures, language):
    words = language("qwen25")
    ids = lambda text: words.encode_prompt(inputs_as_prompt(Problem(0, Question(text, pictures)))).ids_L.tolist()
    token = words.tokenizer.convert_tokens_to_ids(name)
    assert ids(f"see {name}").count(token) == ids("see").count(token)
    assert len(ids(f"see {name}")) > len(ids("see")) + 1


def test_words_that_pose_as_a_picture_are_refused(language):
    with pytest.raises(ValueError, match="holds '<|video_pad|>' but no picture is given"):
        policy(language("qwen25")).rollout([Problem(0, "see <|video_pad|>")], seeds(0, 1, "test"))
    with pytest.raises(ValueError, match="has no processor"):
        policy(tiny_language.qwen2(), prompt=inputs_as_prompt).rollout(PROBLEMS[:1], seeds(0, 1, "test"))


def test_boxes_of_models_that_speak_of_thousandths_are_in_thousandths(language):
    words = language("qwen3")
    [frame] = words.encode_prompt(inputs_as_prompt(Problem(0, Question("x", (picture(90, 150),))))).frames
    assert Box(200, 200, 800, 800, frame).into(frame.original).corners == pytest.approx((30.0, 18.0, 120.0, 72.0))


def test_settings_build_bound_and_export(folders, tmp_path):
    cfg = TokenModel(str(folders["qwen25"]), max_new_tokens=6, lora_rank=2, min_pixels=64, max_pixels=128)
    one = build_token_policy(cfg)
    assert not any(p.requires_grad for p in one.language.model.model.visual.parameters()) and one.vision.frozen
    for p in one.trained:
        torch.nn.init.normal_(p, std=0.3)
    rollout = sampled(one)
    assert rollout.extras["frames_B"].values[0][0].width * rollout.extras["frames_B"].values[0][0].height <= 128
    assert gap(one, rollout) < 1e-4
    one.export(tmp_path)
    again = TokenPolicy(load_language_model(tmp_path), [], max_new_tokens=6)
    assert sampled(again).outputs == rollout.outputs
    seeing = build_token_policy(replace(cfg, train_vision=True))
    assert any(p.requires_grad for p in seeing.language.model.model.visual.parameters()) and not seeing.vision.frozen
    whole = build_token_policy(replace(cfg, train_vision=True, lora_rank=0))
    assert len(whole.trained) == len(list(whole.language.model.parameters()))


@pytest.mark.parametrize(
    ("kind", "fields", "why"),
    [
        ("llava", dict(min_pixels=64), "min_pixels has no effect"),
        ("qwen25", dict(min_pixels=256, max_pixels=64), "min_pixels 256 is not between 1 and max_pixels 64"),
        ("words", dict(max_pixels=64), "max_pixels has no effect"),
        ("words", dict(train_vision=True), "train_vision has no effect"),
    ],
)
def test_options_without_effect_are_refused(kind, fields, why, folders, lm_folder):
    with pytest.raises(ValueError, match=why):
        build_token_policy(TokenModel(str(folders.get(kind, lm_folder)), **fields))


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 999),
    max_elements=st.sampled_from([1, 20, 60, 10**6]),
    temperature=st.sampled_from([0.0, 0.7, 1.0, 2.0]),
)
def test_log_probs_in_parts_are_those_of_the_plain_formula(seed, max_elements, temperature):
    rng = torch.Generator().manual_seed(seed)
    head = torch.nn.Linear(5, 11).double()
    hidden = torch.randn(9, 5, generator=rng, dtype=torch.float64, requires_grad=True)
    token, pull = torch.randint(0, 8, (9,), generator=rng), torch.randn(2, 9, generator=rng, dtype=torch.float64)
    logits = head(hidden) / (temperature or 1.0)
    logits[:, 8:10] = -1e9
    logp = logits.log_softmax(-1)
    plain = logp.gather(1, token[:, None])[:, 0], -(logp.exp() * logp).sum(-1)
    ours = token_logprobs(head, hidden, token, temperature, [8, 9], max_elements)
    inputs = (hidden, *head.parameters())
    for which in ((0,), (1,), (0, 1)):
        pulled = [sum((pull[i] * x[i]).sum() for i in which) for x in (plain, ours)]
        grads = [torch.autograd.grad(loss, inputs, retain_graph=True) for loss in pulled]
        for mine, theirs in zip(*grads):
            torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-10)
    for mine, theirs in zip(ours, plain):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-9)
