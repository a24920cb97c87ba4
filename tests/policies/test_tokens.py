"""A token policy: replay equals sampling, a row depends on its seed, cuts are exact, texts end where they should."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny_language
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from saccade.core import Problem
from saccade.models.adapters import merged, trainable
from saccade.models.language.decoding import generate, nucleus, sample_token
from saccade.models.language.model import load_language_model
from saccade.models.language.prompts import pad_left
from saccade.models.loading import MINIATURES
from saccade.policies.tokens import TokenPolicy
from saccade.random import seeds

PROMPTS = ["a red circle", "two blue squares above a ring", "the word", "a"]
REWRITER = MINIATURES / "qwen2-rewriter"


def chat(problem: Problem) -> list[dict[str, str]]:
    return [{"role": "user", "content": problem.inputs}]


def problems(rows: int) -> list[Problem]:
    return [Problem(i, PROMPTS[i % 4]) for i in range(rows)]


def policy(many_ends: bool = True, lora_rank: int = 0, **fields) -> TokenPolicy:
    """Over a random model; with ``many_ends`` every tenth token ends a text, so that lengths differ."""
    language = tiny_language.qwen2()
    if many_ends:
        language.model.generation_config.eos_token_id = list(range(0, 280, 10))
    trained = trainable(language.model, lora_rank)
    return TokenPolicy(language, trained, **{"prompt": chat, "max_new_tokens": 12, **fields})


def encoded(policy: TokenPolicy, rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and attention mask of prompts, padded on the left."""
    prompts = [policy.language.encode_prompt(chat(p)) for p in problems(rows)]
    return pad_left(prompts, policy.language.pad_id)[:2]


def gap(policy: TokenPolicy, rollout) -> float:
    return (policy.likelihood(rollout).logp_BT - rollout.logp_BT).abs().max().item()


def test_replay_gives_the_stored_log_probs():
    one = policy()
    rollout = one.rollout(problems(16), seeds(0, 16, "test"))
    assert len(set(rollout.extras["length_B"].tolist())) > 3
    assert gap(one, rollout) < 1e-4
    assert torch.equal(rollout.group_B, torch.arange(16))


def test_rescored_replay_is_exact():
    one = policy(rescore=True, lora_rank=2)
    torch.nn.init.normal_(one.trained[1])
    rollout = one.rollout(problems(16), seeds(0, 16, "test"))
    assert gap(one, rollout) == 0


@pytest.mark.parametrize("fields", [dict(temperature=0.6), dict(top_p=0.7), dict(temperature=1.7, top_p=0.4)])
def test_replay_holds_for_all_sampling_settings(fields):
    one = policy(**fields)
    assert gap(one, one.rollout(problems(8), seeds(1, 8, "test"))) < 1e-4


def test_replay_of_lower_precision_is_near():
    one = policy(precision=torch.bfloat16)
    rollout = one.rollout(problems(8), seeds(0, 8, "test"))
    assert rollout.logp_BT.dtype == torch.float32 and gap(one, rollout) < 1.0


def test_a_row_depends_on_its_seed_and_not_on_the_batch():
    one = policy()
    together = one.rollout(problems(12), seeds(0, 12, "test"))
    for i in (0, 5, 11):
        alone = one.rollout(problems(12)[i : i + 1], seeds(0, 12, "test")[i : i + 1])
        length = alone.logp_BT.shape[1]
        assert alone.outputs[0] == together.outputs[i]
        torch.testing.assert_close(alone.logp_BT[0], together.logp_BT[i, :length], rtol=0, atol=1e-4)
    assert one.rollout(problems(12), seeds(1, 12, "test")).outputs != together.outputs


def test_a_shared_prefix_changes_nothing():
    one = policy(many_ends=False)
    ids, attention = encoded(one, 4)
    index = torch.tensor([0, 0, 2, 1, 2, 3, 1, 1])
    uniform = torch.rand(8, 10, generator=torch.Generator().manual_seed(0))

    def generated(*prompts: torch.Tensor):
        state = tiny_language.prefilled(one.language.model, *prompts, ids.shape[1] + 10)
        return generate(state, uniform, lambda tokens: torch.zeros(len(tokens), dtype=torch.bool))

    shared = generated(ids, attention, index)
    separate = generated(ids[index], attention[index], torch.arange(8))
    assert torch.equal(shared[0], separate[0]) and torch.equal(shared[2], separate[2])
    torch.testing.assert_close(shared[1], separate[1], rtol=0, atol=1e-4)


def test_micro_batches_add_up_to_the_full_gradient():
    one = policy(lora_rank=2)
    rollout = one.rollout(problems(8), seeds(0, 8, "test"))
    weight = torch.randn(rollout.logp_BT.shape, generator=torch.Generator().manual_seed(0))
    rollout.advantage_BT = weight

    def gradient(parts) -> torch.Tensor:
        for p in one.parameters():
            p.grad = None
        for part in parts:
            seen = one.likelihood(part)
            (part.advantage_BT * (seen.logp_BT + 0.1 * seen.entropy_BT) * part.mask_BT).sum().backward()
        return torch.cat([p.grad.flatten() for p in one.parameters()])

    full = gradient([rollout])
    by_rows = gradient([rollout.rows(torch.tensor(i)) for i in ([3, 0, 7], [1, 2], [6, 5, 4])])
    by_columns = gradient([rollout.columns(slice(i, i + 5)) for i in range(0, rollout.logp_BT.shape[1], 5)])
    for cut in (by_rows, by_columns):
        torch.testing.assert_close(cut, full, rtol=1e-4, atol=1e-4 * float(full.abs().max()))


def test_lora_is_folded_in_for_sampling_and_for_export(tmp_path):
    one = policy(lora_rank=2)
    for p in one.trained:
        torch.nn.init.normal_(p, std=0.3)
    rollout = one.rollout(problems(8), seeds(0, 8, "test"))
    assert gap(one, rollout) < 1e-4
    one.export(tmp_path)
    again = load_language_model(tmp_path)
    with merged(one.language.model) as model:
        assert torch.equal(model.lm_head.weight, again.model.lm_head.weight)
    other = TokenPolicy(again, [], prompt=chat, max_new_tokens=12)
    assert other.rollout(problems(8), seeds(0, 8, "test")).outputs == rollout.outputs


def test_a_text_ends_with_its_end_token_and_only_there():
    one = policy()
    rollout = one.rollout(problems(16), seeds(3, 16, "test"))
    tokens = rollout.decisions["ids_BL"].gather(1, rollout.decisions["column_BT"])
    ends = torch.isin(tokens, torch.tensor(one.language.eos_ids)) & rollout.mask_BT.bool()
    length = rollout.extras["length_B"].long()
    assert torch.equal(rollout.mask_BT.sum(1), length.float())
    for row, n in enumerate(length.tolist()):
        assert not ends[row, : n - 1].any() and (n == 12 or ends[row, n - 1])
    assert (rollout.logp_BT[rollout.mask_BT == 0] == 0).all() and (rollout.logp_BT[rollout.mask_BT == 1] < 0).all()


def test_stop_strings_end_a_text():
    free = policy(many_ends=False).rollout(problems(8), seeds(4, 8, "test"))
    stop = (free.outputs[0][4:7], free.outputs[5][3:5])
    cut = policy(many_ends=False, stop=stop).rollout(problems(8), seeds(4, 8, "test"))
    for whole, text, n in zip(free.outputs, cut.outputs, cut.extras["length_B"].tolist()):
        assert whole.startswith(text) and (n == 12 or any(s in text for s in stop))
    assert stop[0] in cut.outputs[0] and cut.extras["length_B"][0] < 12


def test_greedy_is_what_transformers_generates():
    one = policy(temperature=0.0, many_ends=False)
    rollout = one.rollout(problems(4), seeds(0, 4, "test"))
    ids, attention = encoded(one, 4)
    theirs = one.language.model.generate(ids, attention_mask=attention, do_sample=False, max_new_tokens=12)
    assert torch.equal(rollout.decisions["ids_BL"], theirs[:, : rollout.decisions["ids_BL"].shape[1]])
    assert gap(one, rollout) < 1e-4


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 999), temperature=st.floats(0.2, 3.0))
def test_a_uniform_number_picks_by_the_cumulative_distribution(seed, temperature):
    rng = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(1, 9, generator=rng)
    uniform = torch.linspace(0, 1 - 2**-24, 20_001)
    token, logp = sample_token(logits.expand(len(uniform), -1), uniform, temperature, 1.0)
    share = torch.bincount(token, minlength=9) / len(uniform)
    expected = (logits[0] / temperature).softmax(-1)
    torch.testing.assert_close(share, expected, rtol=0, atol=2e-4)
    torch.testing.assert_close(logp, expected[token].log(), rtol=1e-4, atol=1e-4)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 999), top_p=st.floats(0.05, 0.99))
def test_the_nucleus_is_the_smallest_set_that_holds_the_mass(seed, top_p):
    p = (2 * torch.randn(3, 11, generator=torch.Generator().manual_seed(seed))).softmax(-1)
    kept = nucleus(p, top_p)
    assert (kept.sum(-1) >= top_p - 1e-6).all()
    least = torch.where(kept > 0, kept, torch.inf).amin(-1)
    assert ((kept.sum(-1) - least) < top_p + 1e-6).all()
    assert (torch.where(kept > 0, 0.0, p).amax(-1) <= least).all()
    token, _ = sample_token(p.log().repeat_interleave(50, 0), torch.rand(150), 1.0, top_p)
    assert (kept.repeat_interleave(50, 0).gather(1, token[:, None]) > 0).all()


def test_a_vision_language_model_rewrites_by_folder(tmp_path):
    language = load_language_model(tiny_language.qwen25_vl(tmp_path))
    assert type(language.model).__name__ == "Qwen2_5_VLForConditionalGeneration"
    one = TokenPolicy(language, trainable(language.model.get_decoder(), 2), prompt=chat, max_new_tokens=8)
    rollout = one.rollout(problems(8), seeds(0, 8, "test"))
    assert gap(one, rollout) < 1e-4
    one.likelihood(rollout).logp_BT.sum().backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in one.parameters())
    one.export(tmp_path / "out")
    assert type(load_language_model(tmp_path / "out").model).__name__ == "Qwen2_5_VLForConditionalGeneration"


def test_plain_prompts_and_state_come_through():
    one, other = policy(prompt=lambda p: p.inputs), policy(prompt=lambda p: p.inputs)
    for p in one.trained:
        p.data.mul_(1.5)
    assert (
        one.rollout(problems(4), seeds(0, 4, "test")).outputs != other.rollout(problems(4), seeds(0, 4, "test")).outputs
    )
    other.load_state_dict(one.state_dict())
    assert (
        one.rollout(problems(4), seeds(0, 4, "test")).outputs == other.rollout(problems(4), seeds(0, 4, "test")).outputs
    )


@pytest.mark.parametrize(
    "fields", [dict(temperature=-1.0), dict(top_p=0.0), dict(top_p=1.5), dict(max_new_tokens=0), dict(stop=("",))]
)
def test_senseless_fields_are_refused(fields):
    with pytest.raises(ValueError):
        policy(**fields)


def test_prompts_that_cannot_be_read_are_refused():
    with pytest.raises(ValueError, match="exceed the model's 128 positions"):
        policy(max_new_tokens=120).rollout(problems(2), seeds(0, 2, "test"))
    with pytest.raises(ValueError, match="no tokens"):
        policy(prompt=lambda p: "").rollout(problems(2), seeds(0, 2, "test"))
    silent = policy()
    silent.language.tokenizer.chat_template = None
    with pytest.raises(ValueError, match="no chat template"):
        silent.rollout(problems(2), seeds(0, 2, "test"))


@pytest.mark.skipif(not (REWRITER / "config.json").is_file(), reason="the miniature is not built")
def test_the_miniature_loads_in_plain_transformers(tmp_path: Path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, words = AutoModelForCausalLM.from_pretrained(REWRITER), AutoTokenizer.from_pretrained(REWRITER)
    asked = words.apply_chat_template(
        [{"role": "user", "content": "two red circles"}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    )
    written = model.generate(**asked, do_sample=False, max_new_tokens=32)[0, asked["input_ids"].shape[1] :]
    text = words.decode(written, skip_special_tokens=True)
    assert text.startswith("<answer>") and text.endswith("</answer>")
    one = TokenPolicy(load_language_model("qwen2-rewriter"), [], prompt=chat, temperature=0.0)
    assert one.rollout([Problem(0, "two red circles")], seeds(0, 1, "test")).outputs == [text]


@pytest.mark.parametrize("spread", [0.1, 8.0])
def test_the_nucleus_is_that_of_all_tokens_sorted(spread):
    torch.manual_seed(0)
    p = (spread * torch.randn(7, 2000)).softmax(-1)
    for top_p in (0.1, 0.5, 0.95):
        ordered, index = p.sort(-1, descending=True)
        kept = ordered.masked_fill(ordered.cumsum(-1) - ordered >= top_p, 0.0)
        assert torch.equal(nucleus(p, top_p), torch.zeros_like(p).scatter(-1, index, kept))
