"""VLM-R1: both methods resume bit for bit, real presets take a step, rewards are right, claims read real scores."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import tiny_vision
import torch
from settings import changed

from saccade import catalog
from saccade.core import Problem, Question, Rollout, mean_scores
from saccade.math.advantages import per_reward
from saccade.policies.tokens import TokenModel
from saccade.random import seeds
from saccade.rewards.text.answers import Answer, similar
from saccade.training import checkpoint
from saccade.training.run import Run
from saccade.worlds.questions.grounding import GroundingTask, box_scores, count_boxes, f1

VLM_R1 = catalog.load("vlm_r1")
TASK = GroundingTask(train_size=8, held_out_size=4, size=32, objects=(3, 4))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_vision.saved("qwen25", tmp_path_factory.mktemp("qwen25"), loud=3.0)


def small(folder, **changes):
    base = dict(model=TokenModel(str(folder), max_new_tokens=6), task=TASK, prompts_per_step=2, group_size=4, warmup=1)
    return changed(VLM_R1.PRESETS["tiny"], evaluate_every=1, save_every=1, **base | changes)


def ran(cfg, folder):
    run = (
        Run.resume(folder, display=False) if folder.exists() else Run.start(folder, {"recipe": "vlm_r1"}, display=False)
    )
    with run:
        return VLM_R1.train(cfg, run)


def weights(folder):
    return checkpoint.read(checkpoint.latest(folder / "checkpoints"))[1]["policy"]


ODD = {
    "sft": dict(method="sft", template="answer", eval_templates=()),
    "grpo": dict(template="plain", epochs=2, repetition_penalty=True, cosine_length=6, lr=1e-2),
}


@pytest.mark.parametrize("method", ODD)
def test_two_steps_equal_one_and_one(method, folder, tmp_path, monkeypatch):
    monkeypatch.setitem(VLM_R1.REWARDS, "iou", Answer(similar))  # a random model writes no boxes
    whole = ran(small(folder, steps=2, **ODD[method]), tmp_path / "whole")
    ran(small(folder, steps=1, **ODD[method]), tmp_path / "halves")
    assert ran(small(folder, steps=2, **ODD[method]), tmp_path / "halves") == whole
    one, two = weights(tmp_path / "whole"), weights(tmp_path / "halves")
    start = VLM_R1.policies(small(folder))["policy"].state_dict()
    assert all(torch.equal(one[k], two[k]) for k in one) and any(not torch.equal(one[k], start[k]) for k in one)


def test_a_run_logs_every_reward_and_one_that_is_not_trained_on(folder, tmp_path):
    task = replace(TASK, kind="detection")
    ran(
        small(folder, steps=1, task=task, reward="odLength", cosine_length=6, repetition_penalty=True), tmp_path / "run"
    )
    line = [json.loads(x) for x in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()][1]
    assert {f"reward/{name}" for name in ("accuracy", "format", "length", "repetition", "f1", "total")} <= line.keys()
    parts = [line[f"reward/{name}"] for name in ("accuracy", "format", "length", "repetition")]
    assert line["reward/total"] == pytest.approx(sum(parts))
    assert line["health/words_ratio"] == pytest.approx(1, abs=1e-3)


def test_rewards_may_be_normalized_apart(folder, tmp_path, monkeypatch):
    from saccade.algorithms import grpo

    seen = []
    monkeypatch.setattr(grpo, "per_reward", lambda *given, **more: seen.append(given) or per_reward(*given, **more))
    ran(small(folder, steps=1, normalize_each=True, format_weight=0.5, template="plain"), tmp_path / "run")
    ((rewards_KB, weights_K, group_B),) = seen
    assert rewards_KB.shape == (2, 8) and weights_K.tolist() == [1.0, 0.5] and group_B.tolist() == [0] * 4 + [1] * 4


def data(folder):
    """Expressions, lists and nothing, as conversations about one picture."""
    from PIL import Image

    Image.fromarray(np.full((30, 40, 3), 200, np.uint8)).save(folder / "a.png")
    turns = lambda q, a: [{"from": "human", "value": f"<image>{q}"}, {"from": "gpt", "value": a}]
    cat = '[{"bbox_2d": [3, 4, 20, 25], "label": "cat"}]'
    kinds = {"expression": ["[3, 4, 20, 25]", "[1, 2, 9, 9]"], "detection": [cat, "None"]}
    for kind, answers in kinds.items():
        lines = [{"image": "a.png", "conversations": turns(f"Find {i}.", answer)} for i, answer in enumerate(answers)]
        (folder / f"{kind}.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return folder


@pytest.mark.parametrize("preset", [name for name in VLM_R1.PRESETS if not name.startswith("tiny")])
def test_real_presets_take_a_step_at_reduced_depth(preset, folder, tmp_path):
    cfg = VLM_R1.PRESETS[preset]
    task = replace(cfg.task, questions=str(data(tmp_path) / f"{cfg.task.kind}.jsonl"), held_out="", out_of_domain="")
    model = replace(cfg.model, name=str(folder), max_new_tokens=4)
    ran(
        changed(cfg, model=model, task=task, steps=1, prompts_per_step=2, group_size=2, instruction=""),
        tmp_path / "run",
    )
    assert all(v.isfinite().all() for v in weights(tmp_path / "run").values())


def test_questions_from_files_are_scored_in_and_out_of_domain(folder, tmp_path):
    file = str(data(tmp_path) / "detection.jsonl")
    cfg = small(folder, task=GroundingTask("detection", file, file, file), instruction="")
    found = mean_scores(VLM_R1.evaluate(cfg, VLM_R1.policies(cfg)))
    assert {"in domain, F1", "out of domain, boxes per target"} <= found.keys() and found["in domain, AP"] == 0


def test_claims_and_arms_read_scores_that_exist(folder, tmp_path):
    read = {}
    for arm, settings in VLM_R1.ARMS.items():
        task = replace(TASK, kind=settings.task.kind)
        cfg = replace(settings, model=TokenModel(str(folder), max_new_tokens=6), task=task)
        scores = mean_scores(VLM_R1.evaluate(cfg, VLM_R1.policies(cfg)))
        read[arm] = {**scores, **{f"{name}@0": value for name, value in scores.items()}}
    assert {"in domain, accuracy (answer)", "in domain, format", "out of domain, tokens"} <= read["grpo"].keys()
    assert "in domain, accuracy (think)" in read["sft"] and "in domain, AP" in read["od_ap"]
    margins = [claim.margin(read) for claim in VLM_R1.CLAIMS]
    assert len(margins) == 5 and margins[0] == margins[2] == 0 and margins[3] in (0, pytest.approx(1))
    assert (
        VLM_R1.sample(cfg, VLM_R1.policies(cfg), ["Find the ring."], seeds(0, 1, "test"))[0]["prompt"]
        == "Find the ring."
    )


def rollout_of(*texts: str, boxes=((0, 0, 10, 10), (20, 0, 30, 10)), tokens: int = 5) -> Rollout:
    """A rollout of a detection of squares with these texts."""
    answer = {"text": "", "kind": "boxes", "boxes": [list(b) for b in boxes], "labels": ["square"] * len(boxes)}
    rows = len(texts)
    return Rollout(
        [Problem(0, Question("Find all squares."), answer)] * rows,
        {},
        list(texts),
        torch.zeros(rows, 1),
        torch.ones(rows, 1),
        torch.zeros(rows, dtype=torch.long),
        extras={"length_B": torch.full((rows,), float(tokens))},
    )


def listed(*boxes: str, label: str = "square") -> str:
    return "[" + ",".join(f'{{"bbox_2d":[{box}],"label":"{label}"}}' for box in boxes) + "]"


GOLD = ("0,0,10,10", "20,0,30,10")


def test_spurious_boxes_cost_nothing_under_average_precision_alone():
    found = rollout_of(listed(*GOLD), listed(*GOLD, "50,50,60,60", "70,0,80,10"), listed(GOLD[0]), "no idea")
    score = {name: reward(found).tolist() for name, reward in VLM_R1.REWARDS.items()}
    assert score["od_ap"][:2] == pytest.approx([1, 1]) and score["odLength"][:2] == pytest.approx([1, 0.5])
    assert score["weighted_sum"][:2] == pytest.approx([1, 0.7 + 0.3 * 0.75])
    assert count_boxes(found).tolist() == [[2, 2, 2], [2, 4, 2], [1, 1, 2], [0, 0, 2]]
    of_all = {"precision": 5 / 7, "recall": 5 / 8, "F1": 10 / 15, "boxes per target": 7 / 8}
    assert box_scores(count_boxes(found)) == pytest.approx(of_all)
    assert f1(found).tolist() == pytest.approx([1, 4 / 6, 2 / 3, 0])
    assert count_boxes(rollout_of(listed(*GOLD, label="ring"))).tolist() == [[0, 2, 2]]
    nothing = rollout_of("None", listed(GOLD[0]), "no idea", boxes=())
    assert f1(nothing).tolist() == [1, 0, 0] and VLM_R1.REWARDS["odLength"](nothing).tolist() == [1, 0, 0]


def test_the_format_is_that_of_the_template_and_of_the_task():
    full, bare = "<think>two</think><answer>[1,2,3,4]</answer>", "<answer>[1,2,3,4]</answer>"
    texts = rollout_of(
        full, bare, "[1,2,3,4]", "<think>two</think><answer>None</answer>", "None", "<answer>none of it</answer>"
    )
    task = lambda none: GroundingTask("detection" if none else "expression")
    form = lambda template, none: task(none).format_reward(template)(texts).tolist()
    assert form("think", True) == [1, 0, 0, 1, 0, 0] and form("think", False) == [1, 0, 0, 0, 0, 0]
    assert form("answer", False) == [1, 1, 0, 0, 0, 0] and form("plain", True) == [1, 1, 1, 1, 1, 0]


def test_length_and_repetition_depend_on_correctness():
    task = GroundingTask("detection")
    cfg = VLM_R1.Settings(
        task=task, reward="weighted_sum", template="plain", cosine_length=1024, repetition_penalty=True
    )
    for tokens, right, wrong in ((0, 1.0, -0.5), (512, 0.75, -0.25), (1024, 0.5, 0.0)):
        texts = rollout_of(listed(*GOLD), listed("50,50,60,60"), tokens=tokens)
        assert VLM_R1.rewards(cfg)["length"](texts).tolist() == pytest.approx([right, wrong])
    untagged = VLM_R1.rewards(replace(cfg, template="answer"))["accuracy"]
    assert untagged(rollout_of(listed(*GOLD), f"<answer>{listed(*GOLD)}</answer>")).tolist() == pytest.approx([0, 1])
    twice = rollout_of(listed(GOLD[0], GOLD[0], GOLD[1], GOLD[1]))
    assert VLM_R1.rewards(cfg)["repetition"](twice).tolist() == pytest.approx([-0.5])
    plain = VLM_R1.rewards(VLM_R1.Settings())
    assert plain.keys() == {"accuracy", "format"}


def test_what_does_not_fit_is_refused(folder, tmp_path):
    with pytest.raises(ValueError, match="template 'think' has thoughts"):
        ran(small(folder, steps=1, method="sft"), tmp_path / "run")
    (tmp_path / "words.jsonl").write_text('{"image": "a.png", "question": "What?", "answer": "red"}')
    data(tmp_path)
    with pytest.raises(ValueError, match="words.jsonl:1: the answer holds no boxes"):
        GroundingTask(questions=str(tmp_path / "words.jsonl")).training(0)
