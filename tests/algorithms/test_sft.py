"""Supervised fine-tuning: log-probs of transformers, exact cuts, texts that are learned, boxes in resized pictures."""

from __future__ import annotations

import math
from dataclasses import replace
from unittest import mock

import pytest
import tiny_language
import tiny_vision
import torch
from tiny_vision import picture

from saccade.algorithms.sft import SupervisedLoss, eos_id, expected_text, resized_frames, sft_batch, teacher_forced
from saccade.core import Problem, Question
from saccade.models.adapters import trainable
from saccade.models.language.model import load_language_model
from saccade.policies.tokens import TokenPolicy, inputs_as_prompt
from saccade.random import seeds
from saccade.rewards.boxes import BoxOverlap, DetectionPrecision
from saccade.training.feeds import join

PROBLEMS = [
    Problem(0, Question("a red circle", (picture(40, 60),))),
    Problem(1, Question("two blue squares", (picture(20, 20, 1), picture(33, 17, 2)))),
    Problem(2, Question("the word")),
    Problem(3, Question("a red circle", (picture(40, 60),))),
]
TEXTS = ["a red circle", "", "two blue squares in pink", "<answer>[1,2,3,4]</answer>"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return {kind: tiny_vision.saved(kind, tmp_path_factory.mktemp(kind), loud=3.0) for kind in tiny_vision.KINDS}


@pytest.fixture
def policy(folders):
    def made(kind: str = "qwen25", **fields) -> TokenPolicy:
        language = load_language_model(folders[kind])
        return TokenPolicy(language, trainable(language.model), **{"max_new_tokens": 24, **fields})

    return made


@pytest.mark.parametrize("kind", tiny_vision.KINDS)
def test_a_text_is_as_likely_as_in_transformers(kind, policy):
    one = policy(kind)
    language, rollout = one.language, teacher_forced(one, PROBLEMS, TEXTS)
    with torch.no_grad():
        logp_BT = one.likelihood(rollout).logp_BT
    for row, (problem, text) in enumerate(zip(PROBLEMS, TEXTS)):
        asked = language.processor.apply_chat_template(
            inputs_as_prompt(problem), tokenize=True, add_generation_prompt=True, return_dict=True, return_tensors="pt"
        )
        answer = torch.tensor(
            [[*language.tokenizer(text, add_special_tokens=False)["input_ids"], eos_id(one, problem)]]
        )
        ids = torch.cat([asked["input_ids"], answer], 1)
        marks = {k: torch.nn.functional.pad(v, (0, answer.shape[1])) for k, v in asked.items() if "token_type" in k}
        kept = {k: v for k, v in asked.items() if k not in (*marks, "input_ids", "attention_mask")}
        with torch.no_grad():
            logits = language.model(input_ids=ids, attention_mask=torch.ones_like(ids), **marks, **kept).logits[0]
        logits[:, language.banned_ids] = -math.inf
        expected = logits[-answer.shape[1] - 1 : -1].log_softmax(-1).gather(1, answer[0, :, None])[:, 0]
        length = int(rollout.extras["length_B"][row])
        torch.testing.assert_close(logp_BT[row, :length], expected, rtol=0, atol=2e-4)
        assert length == answer.shape[1] == rollout.mask_BT[row].sum() and not logp_BT[row, length:].any()


def test_given_texts_have_no_log_probs_and_equal_prompts_are_encoded_once(policy):
    one = policy()
    rollout = teacher_forced(one, PROBLEMS, TEXTS)
    assert torch.equal(rollout.logp_BT.isnan(), rollout.mask_BT > 0)
    images = [row[0] for row in rollout.decisions["images_B"].values]
    assert images[0] is images[3] and images[0] is not images[1] and images[2] is None
    assert [len(frames) for frames in resized_frames(one, PROBLEMS)] == [1, 2, 0, 1]
    with mock.patch.object(one.vision, "_encode", wraps=one.vision._encode) as encode:
        one.likelihood(rollout)
    assert sum(len(call.args[0]) for call in encode.call_args_list) == 2
    sampled = one.rollout(PROBLEMS, seeds(0, 4, "test"))
    both = join([rollout, sampled])
    assert both.decisions.keys() == sampled.decisions.keys() and both.extras.keys() == sampled.extras.keys()
    with torch.no_grad():
        assert torch.allclose(one.likelihood(both).logp_BT[4:, : sampled.logp_BT.shape[1]], sampled.logp_BT, atol=1e-4)


@pytest.mark.parametrize("average", ["decisions", "rows"])
def test_any_cut_has_the_gradient_of_the_whole(policy, average):
    one = policy()
    objective, rollout = SupervisedLoss(one, average), teacher_forced(one, PROBLEMS, TEXTS)
    rows = [rollout.rows(torch.tensor(index)) for index in ([0, 3], [1], [2])]
    cuts = [part.columns(piece) for part in rows for piece in (slice(0, 4), slice(4, 99))]

    def gradient(parts):
        losses = [objective(part) for part in parts]
        total, count = sum(loss.total for loss in losses), sum(loss.count for loss in losses)
        found = torch.autograd.grad(total / count, one.trained, allow_unused=True)
        return total / count, torch.cat([g.flatten() for g in found if g is not None])

    whole, one_gradient = gradient([rollout])
    cut, many_gradient = gradient(cuts)
    torch.testing.assert_close(cut, whole)
    torch.testing.assert_close(many_gradient, one_gradient, rtol=1e-3, atol=1e-5)
    logp = one.likelihood(rollout).logp_BT
    length_B, sum_B = rollout.extras["length_B"], (logp * rollout.mask_BT).sum(1)
    mean = (sum_B / length_B).mean() if average == "rows" else sum_B.sum() / length_B.sum()
    torch.testing.assert_close(whole, -mean, rtol=1e-4, atol=0)


def test_learned_texts_are_generated_and_ended(policy):
    one = policy(temperature=0.0)
    problems, texts = PROBLEMS[:3], TEXTS[:3]
    objective, optimizer = SupervisedLoss(one), torch.optim.AdamW(one.trained, lr=5e-3)
    for _ in range(120):
        loss = objective(teacher_forced(one, problems, texts)).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert loss < 0.1
    written = one.rollout(problems, seeds(0, 3, "test"))
    assert written.outputs == texts
    assert torch.equal(written.extras["length_B"], teacher_forced(one, problems, texts).extras["length_B"])


def test_plain_prompts_end_with_the_tokenizers_own_token():
    language = tiny_language.qwen2()
    one = TokenPolicy(language, trainable(language.model), max_new_tokens=8)
    rollout = teacher_forced(one, [Problem(0, "two blue")], ["squares"])
    last = rollout.decisions["ids_BL"][0, rollout.decisions["column_BT"][0, -1]]
    assert last == language.tokenizer.eos_token_id and one.likelihood(rollout).logp_BT.isfinite().all()


def test_invalid_texts_are_refused_in_one_line(policy):
    one = policy()
    for texts, why in (
        (["a"], "1 texts are given for 4 problems"),
        (["a<|im_end|>b", "", "", ""], r"holds '<\|im_end\|>'"),
        (["<|image_pad|>", "", "", ""], r"holds '<\|image_pad\|>'"),
        (["a red circle " * 400, "", "", ""], "exceed the model's 512 positions"),
    ):
        with pytest.raises(ValueError, match=why) as error:
            teacher_forced(one, PROBLEMS, texts)
        assert "\n" not in str(error.value)


def boxed(text: str, boxes: list, labels: list) -> Problem:
    answer = {"text": text, "kind": "boxes", "boxes": boxes, "labels": labels}
    return Problem(0, Question("a red circle", (picture(40, 70),)), answer)


def test_expected_boxes_are_in_resized_pixels_and_score_one(policy):
    one = policy()
    frame = resized_frames(one, [boxed("", [], [])])[0][0]
    across, down = 70 / frame.width, 40 / frame.height
    assert across > 2 and across != down
    first, second = [across * 2, down * 3, across * 9, down * 11], [across * 10, 0.0, across * 16, down * 4]
    problems = [
        boxed("[1,2,3,4]", [first], ["ring"]),
        boxed('[{"bbox_2d":[1,2,3,4],"label":"ring"}]', [first, second], ["ring", "star"]),
        boxed("None", [], []),
    ]
    rollout = sft_batch(one, problems, "<answer>{}</answer>")
    assert rollout.outputs[0] == "<answer>[2,3,9,11]</answer>" and rollout.outputs[2] == "<answer>None</answer>"
    for reward in (BoxOverlap(), DetectionPrecision()):
        assert reward(rollout).tolist() == pytest.approx([1, 1, 1])
    assert expected_text(replace(PROBLEMS[2], answer={"text": "red", "kind": "word"}), ()) == "red"
    with pytest.raises(ValueError, match="problem 2 has no expected answer"):
        sft_batch(one, [PROBLEMS[2]])
    with pytest.raises(ValueError, match="has no {} for the answer"):
        sft_batch(one, problems, "answer")
