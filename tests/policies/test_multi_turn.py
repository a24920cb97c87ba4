"""Conversations with tools: replay equals sampling over all turns, replies are not trained, tools may fail."""

from __future__ import annotations

import pickle
from unittest import mock

import numpy as np
import pytest
import tiny_vision
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_vision import picture

from saccade.algorithms.grpo import PolicyGradient
from saccade.core import Problem, Question, Rollout
from saccade.math.advantages import group_advantage
from saccade.math.frames import Frame
from saccade.models.adapters import trainable
from saccade.models.language import cache
from saccade.models.language.model import load_language_model
from saccade.policies.multi_turn import Conversation, MultiTurnRollout
from saccade.policies.tokens import TokenPolicy
from saccade.policies.zoom import crop_box, parse_box, view
from saccade.random import seeds
from saccade.rewards.rubric import judge
from saccade.training.feeds import OnPolicy
from saccade.training.groups import sample_groups
from saccade.training.learner import Update, Updates
from saccade.training.loop import fit
from saccade.training.run import Run
from saccade.training.settings import Schedule

PROBLEMS = [
    Problem(0, Question("a red circle", (picture(40, 60),))),
    Problem(1, Question("two blue squares", (picture(20, 20, 1), picture(33, 17, 2)))),
    Problem(2, Question("the word")),
]


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    return {kind: tiny_vision.saved(kind, tmp_path_factory.mktemp(kind)) for kind in ("qwen25", "gemma3")}


@pytest.fixture
def policy(folders):
    """Over a model of which every twelfth token ends a turn."""

    def make(kind: str = "qwen25", **fields) -> TokenPolicy:
        language = load_language_model(folders[kind])
        language.model.generation_config.eos_token_id = list(range(0, 280, 12))
        return TokenPolicy(language, trainable(language.model), **{"max_new_tokens": 8, **fields})

    return make


def several(problem: Problem, conversation: Conversation, text: str):
    """Ends, fails, answers in words, or shows a picture of one size or another."""
    match len(text) % 4:
        case 0:
            return None
        case 1:
            raise KeyError("box")
        case 2:
            return [{"role": "user", "content": "again"}]
    image = {"type": "image", "image": picture(16 + 8 * len(conversation.turns), 24, len(text))}
    return [{"role": "user", "content": [{"type": "text", "text": "look"}, image]}]


def again(problem: Problem, conversation: Conversation, text: str):
    return [{"role": "user", "content": "again"}]


def sampled(sampler, group: int = 4, seed: int = 0) -> Rollout:
    return sample_groups(sampler, PROBLEMS, seeds(seed, len(PROBLEMS), "test"), group)


def gap(one: TokenPolicy, rollout: Rollout) -> float:
    return (one.likelihood(rollout).logp_BT - rollout.logp_BT).abs().max().item()


def own_tokens(rollout: Rollout) -> list[torch.Tensor]:
    written = rollout.decisions["ids_BL"].gather(1, rollout.decisions["column_BT"])
    return [tokens[mask > 0] for tokens, mask in zip(written, rollout.mask_BT)]


@pytest.mark.parametrize("kind", ["qwen25", "gemma3"])
def test_one_likelihood_replays_a_complete_conversation(kind, policy):
    one = policy(kind)
    rollout = sampled(MultiTurnRollout(one, several, max_turns=4), seed=1)
    shown = {f.original.height for frames in rollout.extras["frames_B"].values for f in frames}
    assert set(rollout.extras["turns_B"].tolist()) >= {1, 2, 4} and len(shown) > 4
    assert gap(one, rollout) < 1e-4
    some = torch.tensor([9, 2, 5, 4])
    picked = pickle.loads(pickle.dumps(rollout.rows(some)))
    torch.testing.assert_close(one.likelihood(picked).logp_BT, rollout.logp_BT[some], rtol=0, atol=1e-4)


def test_rescored_conversations_replay_exactly(policy):
    one = policy(rescore=True)
    assert gap(one, sampled(MultiTurnRollout(one, several, max_turns=3))) == 0


def test_keys_and_values_that_stay_between_turns_are_those_of_reading_again(policy):
    one = policy()
    kept = sampled(MultiTurnRollout(one, several, max_turns=4))
    with mock.patch.object(cache, "keeps_inactive_rows", lambda _: False):
        again_read = sampled(MultiTurnRollout(one, several, max_turns=4))
    assert kept.outputs == again_read.outputs and kept.extras["turns_B"].max() == 4
    assert torch.equal(kept.decisions["ids_BL"], again_read.decisions["ids_BL"])
    torch.testing.assert_close(kept.logp_BT, again_read.logp_BT, rtol=0, atol=1e-4)


@settings(max_examples=30, deadline=None)
@given(stays=st.lists(st.lists(st.booleans(), min_size=7, max_size=7), min_size=1, max_size=4))
def test_inactive_rows_keep_their_past(stays):
    from transformers.cache_utils import DynamicCache

    kept = DynamicCache()
    kept.update(torch.arange(7.0)[:, None, None, None].expand(7, 2, 3, 4), torch.zeros(7, 2, 3, 4), 0)
    cache.make_static(kept, torch.arange(7), 6)
    layer, held = kept.layers[0], torch.arange(7)
    for stay in stays:
        stay_N = torch.tensor(stay[: layer.count], dtype=torch.bool)
        order = cache.move_to_front(kept, stay_N)
        wanted = set(held[: len(stay_N)][stay_N].tolist())
        held = torch.cat([held[order], held[len(order) :]])
        assert layer.count == len(wanted) and set(held[: layer.count].tolist()) == wanted
        assert torch.equal(layer.all_keys[:, 0, 0, 0].long(), held)


def test_one_turn_is_a_plain_rollout(policy):
    one = policy()
    plain, conversation = sampled(one.rollout), sampled(MultiTurnRollout(one, several, max_turns=1))
    assert plain.outputs == conversation.outputs and torch.equal(plain.logp_BT, conversation.logp_BT)
    assert all(
        torch.equal(v, conversation.decisions[k]) for k, v in plain.decisions.items() if isinstance(v, torch.Tensor)
    )


def test_decisions_are_the_models_own_tokens_and_not_the_replies(policy):
    one = policy()
    rollout = sampled(MultiTurnRollout(one, several, max_turns=4), seed=1)
    for row, (tokens, conversation) in enumerate(zip(own_tokens(rollout), rollout.extras["conversation_B"].values)):
        turns = rollout.extras["turn_BT"][row][rollout.mask_BT[row] > 0]
        texts = [one.language.decode(tokens[turns == t].tolist()) for t in range(len(conversation.turns))]
        assert texts == [turn.text for turn in conversation.turns] and rollout.outputs[row] == texts[-1]
        assert conversation.end_reason in ("answer", "turns") and not conversation.turns[-1].reply
        whole = one.language.decode(
            rollout.decisions["ids_BL"][row][rollout.decisions["attention_BL"][row] > 0].tolist()
        )
        assert all(
            m["content"] in whole for turn in conversation.turns for m in turn.reply if isinstance(m["content"], str)
        )
    assert torch.equal(rollout.extras["length_B"], rollout.mask_BT.sum(1))


def test_a_turn_that_the_model_closed_is_not_closed_again(policy):
    one = policy(max_new_tokens=10)
    closing = one.language.tokenizer.eos_token_id
    one.language.model.generation_config.eos_token_id = [closing]
    louder = torch.nn.Linear(32, len(one.language.tokenizer), bias=False)
    louder.weight.data.copy_(one.language.model.lm_head.weight)
    louder.weight.data[closing] *= 20
    one.language.model.lm_head = louder
    rollout = sampled(MultiTurnRollout(one, again, max_turns=2), group=8)
    closed = 0
    for ids, tokens, turn in zip(rollout.decisions["ids_BL"], own_tokens(rollout), rollout.extras["turn_BT"]):
        first = tokens[: int((turn == 0).sum())]
        closed += int(first[-1] == closing)
        text = one.language.tokenizer.decode(ids[rollout.decisions["begin_B"][0] :])
        assert text.count("<|im_end|>\n<|im_start|>user\nagain<|im_end|>\n<|im_start|>assistant\n") == 1
        assert "<|im_end|><|im_end|>" not in text
    assert 2 < closed < len(rollout)


def test_a_tool_that_fails_becomes_a_message_and_is_counted(policy):
    one = policy()

    def broken(problem: Problem, conversation: Conversation, text: str):
        if problem.id == 0:
            raise RuntimeError("no such <|image_pad|><|im_end|>\nbox")
        if problem.id == 1:
            return [{"role": "user", "content": [{"type": "image", "image": "a.png"}]}]
        return [{"role": "user", "content": [{"type": "image", "image": np.zeros((3, 3))}]}]

    rollout = sampled(MultiTurnRollout(one, broken, max_turns=2), group=2)
    assert rollout.extras["failures_B"].tolist() == [1] * 6 and rollout.extras["turns_B"].tolist() == [2] * 6
    first = [conversation.turns[0] for conversation in rollout.extras["conversation_B"].values]
    assert first[0].failure == "RuntimeError: no such <|image_pad|><|im_end|>"
    assert first[0].reply[0]["content"] == "That did not work: no such "
    assert "not str" in first[2].failure and "picture" in first[5].failure and gap(one, rollout) < 1e-4


def test_conversations_end_at_the_limit_of_turns_or_tokens(policy):
    one = policy()
    by_turns = sampled(MultiTurnRollout(one, again, max_turns=3), group=1)
    assert [conversation.end_reason for conversation in by_turns.extras["conversation_B"].values] == ["turns"] * 3
    longest = by_turns.decisions["attention_BL"].sum(1).max()
    by_room = sampled(MultiTurnRollout(one, again, max_turns=9, max_tokens=int(longest)), group=1)
    ended = [conversation.end_reason for conversation in by_room.extras["conversation_B"].values]
    assert (
        "tokens" in ended and (by_room.decisions["attention_BL"].sum(1) <= longest).all() and gap(one, by_room) < 1e-4
    )
    assert not by_room.extras["conversation_B"].values[ended.index("tokens")].turns[-1].reply
    with pytest.raises(ValueError, match="max_turns 0 is less than 1"):
        MultiTurnRollout(one, again, max_turns=0)
    with pytest.raises(ValueError, match=r"a prompt of \d+ tokens and max_new_tokens 8 exceed 20"):
        sampled(MultiTurnRollout(one, again, max_tokens=20))
    plain = policy(prompt=lambda problem: "a red circle")
    with pytest.raises(ValueError, match="chat messages"):
        sampled(MultiTurnRollout(plain, again))


def test_a_conversation_depends_on_its_seed_and_not_on_its_company(policy):
    one = policy()
    rows, seeds_B = PROBLEMS * 3, seeds(0, 9, "test")
    together = MultiTurnRollout(one, several, max_turns=3)(rows, seeds_B)
    for i in (0, 4, 8):
        alone = MultiTurnRollout(one, several, max_turns=3)(rows[i : i + 1], seeds_B[i : i + 1])
        assert alone.outputs[0] == together.outputs[i]
        wide = alone.logp_BT.shape[1]
        torch.testing.assert_close(alone.logp_BT[0], together.logp_BT[i, :wide], rtol=0, atol=1e-4)


def test_any_cut_has_the_full_gradient_and_masked_turns_have_none(policy):
    one = policy()
    rollout = sampled(MultiTurnRollout(one, several, max_turns=3))
    rollout.advantage_BT = torch.randn(rollout.logp_BT.shape, generator=torch.Generator().manual_seed(0))

    def gradient(parts, masked: bool = False) -> torch.Tensor:
        loss = PolicyGradient(one, clip=0.2, average="decisions")
        for p in one.parameters():
            p.grad = None
        for part in parts:
            if masked:
                part.mask_BT = part.mask_BT * (part.extras["turn_BT"] == 1)
            loss(part).total.backward()
        return torch.cat([p.grad.flatten() for p in one.parameters() if p.grad is not None])

    full = gradient([rollout])
    by_rows = gradient([rollout.rows(torch.tensor(i)) for i in ([0, 1, 2, 3], [4, 9], [5, 6, 7, 8, 10, 11])])
    by_columns = gradient([rollout.columns(slice(i, i + 5)) for i in range(0, rollout.logp_BT.shape[1], 5)])
    for cut in (by_rows, by_columns):
        torch.testing.assert_close(cut, full, rtol=1e-3, atol=1e-4 * float(full.abs().max()))
    second = gradient([rollout.rows(torch.arange(12))], masked=True)
    rollout.advantage_BT = rollout.advantage_BT * (rollout.extras["turn_BT"] == 1)
    torch.testing.assert_close(second, gradient([rollout]), rtol=1e-3, atol=1e-4 * float(full.abs().max()))
    assert (second - full).abs().max() > 0.01 * full.abs().max()


def test_the_crop_tool_shows_the_original(policy):
    one = policy()

    def zoom(problem: Problem, conversation: Conversation, text: str):
        found = crop_box("[[4, 2, 19, 9.5]]", problem.inputs.pictures[0], conversation.frames[0])
        return [{"role": "user", "content": [view(found.pixels, frame=found.frame)]}]

    rollout = MultiTurnRollout(one, zoom, max_turns=2)(PROBLEMS[:1], seeds(0, 1, "test"))
    shown, cut = rollout.extras["frames_B"].values[0]
    reply = rollout.extras["conversation_B"].values[0].turns[0].reply[0]["content"][0]
    left, top, right, bottom = reply["frame"].window
    assert (left, top, right, bottom) == (10, 5, 48, 24)  # 60 x 40 pixels were shown as 24 x 16
    assert np.array_equal(reply["image"], PROBLEMS[0].inputs.pictures[0][top:bottom, left:right])
    assert cut.parent == reply["frame"] and cut.kind == "displayed" and cut.original == shown.original


@settings(max_examples=50, deadline=None)
@given(corners=st.lists(st.integers(0, 30), min_size=4, max_size=4), wide=st.integers(8, 90), high=st.integers(8, 90))
def test_a_crop_holds_the_box_and_at_most_a_pixel_more(corners, wide, high):
    original, shown = picture(high, wide), Frame(wide, high, "x").displayed(30, 30)
    text = f'<think>maybe [1, 2, 3, 4]</think> {{"bbox_2d": {corners}}}'
    x1, y1, x2, y2 = corners
    if x1 >= x2 or y1 >= y2:
        with pytest.raises(ValueError, match="is not inside 30 x 30 pixels; nearest"):
            parse_box(text, shown)
        return
    found = crop_box(text, original, shown)
    left, top, right, bottom = found.frame.window
    assert found.pixels.shape == (bottom - top, right - left, 3)
    assert left <= x1 * wide / 30 + 1e-5 < left + 1 + 2e-5 and bottom - 1 - 1e-5 < y2 * high / 30 <= bottom + 1e-5
    assert parse_box("[0, 0, 1, 1]", found.frame.displayed(8, 8)).into(shown).valid


def test_texts_without_a_box_and_other_pictures_are_refused():
    shown = Frame(60, 40, "x").displayed(24, 16)
    outside = r"nearest: \[0.0, 0.0, 24.0, 9.0\]"
    for text, why in (
        ("none", "no box"),
        ("[1, 2, 3]", "no box"),
        ("[0, 0, 25, 9]", outside),
        ("[nan, 1, 2, 3]", "no box"),
    ):
        with pytest.raises(ValueError, match=why):
            parse_box(text, shown)
    with pytest.raises(ValueError, match="the original has 10 x 10 pixels, not 60 x 40"):
        crop_box("[1, 1, 5, 5]", picture(10, 10), shown)


def test_two_steps_equal_one_and_one(policy, tmp_path):
    def run(steps: int, folder, resume: bool = False) -> dict[str, torch.Tensor]:
        one = policy(max_new_tokens=5)
        sampler = MultiTurnRollout(one, several, max_turns=2)

        def collect(problems, seeds_P, step) -> Rollout:
            rollout = judge(sample_groups(sampler, problems, seeds_P, 3), {"short": lambda r: -r.extras["length_B"]})
            rollout.advantage_BT = rollout.broadcast(group_advantage(rollout.rewards["short"], rollout.group_B))
            return rollout

        update = Update("words", PolicyGradient(one, 0.2), one.trained, torch.optim.AdamW(one.trained, lr=1e-3))
        place = (
            Run.resume(folder, display=False)
            if resume
            else Run.start(folder, {"recipe": "conversation"}, display=False)
        )
        with place:
            feed, learner = OnPolicy(PROBLEMS, collect, 2, 0), Updates([update], micro_rows=4)
            fit(feed, learner, place, Schedule(steps), state={"policy": one})
        return one.state_dict()

    whole = run(2, tmp_path / "whole")
    run(1, tmp_path / "halves")
    halves = run(2, tmp_path / "halves", resume=True)
    assert all(torch.equal(whole[k], halves[k]) for k in whole)
