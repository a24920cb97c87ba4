"""Parts that builders share: the training loop, moving averages, tokenizers and answers in tags."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from saccade.builders.parts.stages import (
    LearningRates,
    ScheduledOptimizers,
    Step,
    muon_and_adamw,
    parameter_count,
    run_steps,
    seed_stage,
    with_ema,
)
from saccade.builders.parts.texts import answer_in_tags, qwen2_tokenizer, rows_by_kind


def test_learning_rates_rise_then_fall_to_their_least_share():
    network, rates = nn.Linear(1, 1), []
    optimizer = torch.optim.AdamW(network.parameters(), lr=2.0)
    optimizers = ScheduledOptimizers([optimizer], steps=10, warmup=4, least=0.5)
    for _ in range(10):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizers.step(network(torch.ones(1, 1)).sum())
    assert rates == pytest.approx([0.5, 0.9, 1.2, 1.4, 1.2, 1.0, 1.0, 1.0, 1.0, 1.0])


def test_muon_trains_matrices_of_blocks_and_adam_all_other_weights():
    network = nn.ModuleDict({"block": nn.Linear(3, 4), "embed": nn.Embedding(5, 3)})
    muon, adam = muon_and_adamw(network, [nn.Linear(2, 2)], LearningRates(0.1, 0.2), steps=4, warmup=1).optimizers
    shapes = lambda optimizer: [tuple(p.shape) for group in optimizer.param_groups for p in group["params"]]
    assert shapes(muon) == [(4, 3)] and shapes(adam) == [(4,), (5, 3), (2, 2), (2,)]


def test_a_step_is_taken_before_the_next_is_computed_and_the_average_stays():
    network, weights, logged = nn.Linear(1, 1, bias=False), [], []
    nn.init.ones_(network.weight)

    def steps():
        for step in range(3):
            weights.append(network.weight.item())
            loss = network.weight.sum()
            yield Step("odd" if step % 2 else "even", loss, logged=2 * loss, scores={"step": float(step)})

    optimizers = ScheduledOptimizers([torch.optim.SGD(network.parameters(), lr=1.0)], steps=4, warmup=1)
    means = run_steps(with_ema(steps(), network, decay=0.5), optimizers, lambda *values: logged.append(values))
    about = lambda value: pytest.approx(value, abs=1e-5)
    assert weights == about([1.0, 0.0, -0.75]), "weights move by 1, 3/4, 1/2"
    assert [values[:3] for values in logged] == [("even", 1, 4), ("odd", 2, 4), ("even", 3, 4)]
    assert means == about({"even": 0.98 * 2 - 0.02 * 1.5, "odd": 0.0, "step": 0.98 * 0.02 + 0.02 * 2})
    assert [values[3] for values in logged] == about([2.0, 0.0, means["even"]])
    average = 1.0
    for decay, weight in zip((1 / 10, 2 / 11, 3 / 12), (0.0, -0.75, -1.25)):
        average = decay * average + (1 - decay) * weight
    assert network.weight.item() == about(average) and parameter_count(network) == 1


def test_a_stage_can_be_repeated_alone():
    first, noise = seed_stage(3, "first").random(), torch.rand(1)
    assert seed_stage(3, "first").random() == first and torch.rand(1) == noise
    assert (
        seed_stage(3, "second").random() != first
        and seed_stage(4, "first").random() != first
        and torch.rand(1) != noise
    )


def test_rows_are_grouped_by_kind_and_answers_lose_their_tags():
    assert {kind: rows.tolist() for kind, rows in rows_by_kind("abcab").items()} == {"a": [0, 3], "b": [1, 4], "c": [2]}
    rng = np.random.default_rng(0)
    assert answer_in_tags("red", 0.0, rng) == "<answer>red</answer>"
    assert {answer_in_tags("red", 1.0, rng) for _ in range(40)} == {"red</answer>", "<answer>red", "red"}


def test_given_words_are_tokens():
    tokenizer = qwen2_tokenizer(["a ring"] * 9, 300, ["<|im_start|>"], ("<answer>", "42"), "{{ messages }}")
    ids = tokenizer("a ring<answer>42<|im_end|>")["input_ids"]
    assert len(ids) == 5 and tokenizer.decode(ids) == "a ring<answer>42<|im_end|>"


def test_the_rewriter_is_built(tmp_path):
    from transformers import AutoModelForCausalLM

    from saccade.builders import qwen2_rewriter

    cfg = qwen2_rewriter.Settings(
        width=16, layers=1, heads=2, meanings=40, steps=3, batch=4, wrong_share=1.0, untagged_share=0.5
    )
    parts: list[tuple[str, int, int]] = []
    facts = qwen2_rewriter.build(cfg, tmp_path, lambda *words: parts.append(words[:3]))
    assert parts == [("rewriter", step, 3) for step in (1, 2, 3)]
    assert (
        parameter_count(AutoModelForCausalLM.from_pretrained(tmp_path)) == facts["parameters"]
        and 0 < facts["loss per token"] < 20
    )
    assert set(qwen2_rewriter.evaluate(tmp_path, count=2)) >= {"meaning kept, terse", "answer tags, held-out wordings"}


def test_the_flow_model_is_built_and_its_autoencoder_used_again(tmp_path, monkeypatch):
    from saccade.builders import sd3_shapes
    from saccade.worlds.shapes import sample_scenes

    few = lambda count, *args: sample_scenes(min(count, 200), *args)
    monkeypatch.setattr(sd3_shapes.shapes, "sample_scenes", few)
    cfg = sd3_shapes.Settings(vae_steps=2, vae_batch=4, flow_steps=3, flow_batch=8, plain_share=0.5)
    parts: list[str] = []
    facts = sd3_shapes.build(cfg, tmp_path / "one", lambda part, *counts: parts.append(part))
    assert parts == ["autoencoder"] * 2 + ["flow"] * 3 and facts["velocity loss"] > 0
    again = replace(cfg, autoencoder=str(tmp_path / "one" / "vae"), flow_steps=1)
    facts = sd3_shapes.build(again, tmp_path / "two", lambda *words: None)
    weights = [load_file(tmp_path / name / "vae" / "diffusion_pytorch_model.safetensors") for name in ("one", "two")]
    assert np.isnan(facts["pixel loss of the autoencoder"]) and all(
        torch.equal(w, weights[1][k]) for k, w in weights[0].items()
    )
    kept = load_file(tmp_path / "two" / "transformer" / "diffusion_pytorch_model.safetensors")
    assert {w.dtype for w in kept.values()} == {torch.float16}


def test_the_model_that_sees_is_built_and_grown(tmp_path):
    from saccade.builders.qwen25_vl_shapes import build

    vision = dict(vision_width=32, vision_layers=1, vision_steps=1)
    cfg = build.Settings(width=24, layers=3, heads=2, steps=4, batch=2, questions_per_picture=2, **vision)
    parts: list[str] = []
    facts = build.build(cfg, tmp_path / "one", lambda part, *counts: parts.append(part))
    assert parts == ["sight"] + ["answers"] * 4 and {"tower, loss", "parameters that see"} <= set(facts)
    grown = replace(cfg, start=str(tmp_path / "one"), layers=4, vision_steps=1, steps=1)
    assert build.build(grown, tmp_path / "two", lambda *words: None)["parameters"] > facts["parameters"]
    with pytest.raises(ValueError, match="it can get more layers, but not be made to 2"):
        build.build(replace(grown, layers=2), tmp_path / "three", lambda *words: None)
