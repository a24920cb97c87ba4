"""Supervised fine-tuning: resumes bit for bit, learns its questions, takes a real preset's step, permutes answers."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import tiny_vision
import torch
from settings import changed

from saccade import catalog
from saccade.core import mean_scores
from saccade.policies.tokens import TokenModel
from saccade.random import seeds
from saccade.training import checkpoint
from saccade.training.run import Run
from saccade.worlds.questions.task import AnsweringTask

SFT = catalog.load("sft")
TASK = AnsweringTask(train_size=16, held_out_size=8, size=32, objects=(1, 2), skills=("color", "verdict"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_vision.saved("qwen25", tmp_path_factory.mktemp("qwen25"), loud=3.0)


def small(folder, **changes):
    base = dict(
        model=TokenModel(str(folder), max_new_tokens=6), task=TASK, prompts_per_step=4, evaluate_every=1, save_every=1
    )
    return changed(SFT.PRESETS["tiny"], **base | changes)


def ran(cfg, folder):
    run = Run.resume(folder, display=False) if folder.exists() else Run.start(folder, {"recipe": "sft"}, display=False)
    with run:
        return SFT.train(cfg, run)


def weights(folder):
    return checkpoint.read(checkpoint.latest(folder / "checkpoints"))[1]["policy"]


def test_two_steps_equal_one_and_one(folder, tmp_path):
    whole = ran(small(folder, steps=2), tmp_path / "whole")
    ran(small(folder, steps=1), tmp_path / "halves")
    assert ran(small(folder, steps=2), tmp_path / "halves") == whole and "held out, exact" in whole["after"]
    one, two = weights(tmp_path / "whole"), weights(tmp_path / "halves")
    assert all(torch.equal(one[k], two[k]) for k in one)


def test_the_likelihood_of_correct_answers_rises_and_permuted_ones_differ(folder, tmp_path):
    ran(small(folder, steps=12, lr=3e-3, warmup=1, evaluate_every=12), tmp_path / "run")
    lines = [json.loads(x) for x in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    trained = [line for line in lines if "loss/words" in line]
    assert trained[-1]["loss/words"] < 0.75 * trained[0]["loss/words"]
    assert trained[-1]["health/words_probability"] > trained[0]["health/words_probability"]
    problems = TASK.training(0)
    permuted = SFT.permuted_answers(problems, seeds(0, 16, "test"))
    texts = lambda listed: [p.answer["text"] for p in listed]
    assert texts(permuted) != texts(problems) and sorted(texts(permuted)) == sorted(texts(problems))
    assert [p.inputs for p in permuted] == [p.inputs for p in problems]


@pytest.mark.parametrize("preset", [name for name in SFT.PRESETS if name != "tiny"])
def test_real_presets_take_a_step_at_reduced_depth(preset, folder, tmp_path):
    from PIL import Image

    Image.fromarray(np.full((30, 40, 3), 200, np.uint8)).save(tmp_path / "a.png")
    lines = [
        {"image": "a.png", "question": f"What is it {i}?", "answer": word} for i, word in enumerate(("red", "blue"))
    ]
    (tmp_path / "all.jsonl").write_text("\n".join(map(json.dumps, lines)))
    cfg = SFT.PRESETS[preset]
    task = replace(cfg.task, questions=str(tmp_path / "all.jsonl"), held_out="")
    model = replace(cfg.model, name=str(folder), max_new_tokens=4)
    cfg = changed(cfg, model=model, task=task, steps=1, prompts_per_step=2)
    ran(cfg, tmp_path / "run")
    assert all(v.isfinite().all() for v in weights(tmp_path / "run").values())


def test_claims_read_scores_that_exist(folder, tmp_path):
    scores = ran(small(folder, steps=1), tmp_path / "run")
    read = {**scores["after"], **{f"{k}@0": v for k, v in scores["before"].items()}}
    for claim in SFT.CLAIMS:
        assert claim.margin(dict.fromkeys(SFT.ARMS, read)) == pytest.approx(0, abs=1)
    policies = SFT.policies(small(folder))
    assert mean_scores(SFT.evaluate(small(folder), policies)) == scores["before"]
    assert len(SFT.sample(small(folder), policies, ["What color is it?"], seeds(0, 1, "test"))) == 1
