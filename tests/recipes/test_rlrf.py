"""RLRF: stages, guard rails, both modes and its controls, on random tiny models of real classes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import tiny_vision
import torch
from PIL import Image
from running import run_recipe, weights

from saccade import catalog
from saccade.algorithms.sft import tokenize
from saccade.checks import verdicts
from saccade.checks.scores import read_scores
from saccade.core import Problem, Question, Rollout
from saccade.evaluation.best_of import BestOf
from saccade.policies.tokens import TokenModel, TokenPolicy
from saccade.random import seeds
from saccade.recipes.drawing_code.rlrf.determinism import RenderDeterminism
from saccade.rewards.render.rendering import negative_error
from saccade.rewards.render.strip_text import remove_text_elements, strip_text
from saccade.rewards.text.reference import LengthRatio, TokenOverlap
from saccade.tools.render import render
from saccade.training.run import Run
from saccade.training.settings import AdamW, Batch, Schedule
from saccade.worlds import programs
from saccade.worlds.programs.task import ProgramTask, rendered_pictures

SHORT = '<svg viewBox="0 0 32 32"><rect width="{}" height="9" fill="{}"/></svg>'


@pytest.fixture(scope="module")
def vl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random vision-language model with room for programs in single letters."""
    folder = tiny_vision.saved("qwen25", tmp_path_factory.mktemp("vl"), loud=1.0)
    config = folder / "config.json"
    config.write_text(config.read_text().replace('"max_position_embeddings": 512', '"max_position_embeddings": 2048'))
    return folder


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four short programs with captions."""
    path = tmp_path_factory.mktemp("data") / "programs.jsonl"
    drawn = [(9, "red"), (15, "blue"), (22, "lime"), (30, "navy")]
    lines = [{"Svg": SHORT.format(*one), "caption": f"a {one[1]} bar"} for one in drawn]
    path.write_text("\n".join(json.dumps(line) for line in lines))
    return path


@pytest.fixture(scope="module")
def rlrf():
    return catalog.load("rlrf")


def tiny(rlrf, vl: Path, file: Path, **changes):
    """The default settings on a tiny model and four short programs."""
    base = rlrf.PRESETS["tiny"]
    small = dict(
        schedule=Schedule(steps=2, evaluate_every=1, save_every=1),
        batch=replace(base.batch, prompts_per_step=2, group_size=3),
        model=TokenModel(str(vl), max_new_tokens=24, temperature=1.1, train_vision=True),
        task=replace(base.task, programs=str(file), held_out=str(file), size=32),
        sft=replace(base.sft, steps=2, batch=2),
        candidates=2,
        rerender_every=1,
    )
    return replace(base, **small | changes)


def rollout_of(problems, outputs) -> Rollout:
    zeros = torch.zeros(len(problems), 1)
    return Rollout(list(problems), {}, list(outputs), zeros, zeros + 1, torch.arange(len(problems)))


def test_two_steps_equal_one_and_one(rlrf, vl, file, tmp_path):
    cfg = tiny(rlrf, vl, file)
    whole = run_recipe("rlrf", cfg, tmp_path / "whole")
    run_recipe("rlrf", replace(cfg, schedule=replace(cfg.schedule, steps=1)), tmp_path / "halves")
    halves = run_recipe("rlrf", cfg, tmp_path / "halves")
    one, two = weights(tmp_path / "whole"), weights(tmp_path / "halves")
    assert one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)
    assert repr(whole["after"]) == repr(halves["after"])
    lines = [json.loads(x) for x in (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()]
    named = {key for line in lines for key in line}
    assert "cost/training_seconds" in named
    assert {
        "reward/l2",
        "reward/error",
        "reward/length",
        "reward/validity",
        "health/render_syntax",
        "health/render_ok",
    } <= named
    assert (tmp_path / "whole" / "sft" / "metrics.jsonl").is_file() and (tmp_path / "whole" / "samples.jsonl").is_file()


def test_the_first_stage_fits_any_model_and_programs_are_rendered_again_at_the_end(rlrf, vl, file, tmp_path):
    one = tmp_path / "one.jsonl"
    one.write_text(file.read_text().splitlines()[0])
    model = TokenModel(str(vl), max_new_tokens=80, temperature=1.1, train_vision=True)
    cfg = tiny(
        rlrf,
        vl,
        one,
        schedule=Schedule(steps=1),
        batch=Batch(prompts_per_step=1, group_size=3),
        model=model,
        sft=rlrf.SupervisedStage(steps=120, batch=2, optim=AdamW(lr=1e-2)),
        optim=AdamW(lr=1e-6),
    )
    scores = run_recipe("rlrf", cfg, tmp_path / "run")
    assert scores["before"]["held out, validity"] == 1 and scores["before"]["held out, error"] == 0
    assert scores["before"]["held out, length_ratio"] == 1 and scores["before"]["best of 2, held out, error"] == 0
    assert scores["after"]["identical re-renders"] == 1


def test_every_arm_runs_and_claims_read_scores_that_exist(rlrf, vl, tmp_path):
    found = {}
    for arm, chosen in catalog.arms("rlrf").items():
        settings = chosen.settings
        task = replace(settings.task, train_size=4, held_out_size=2, larger_size=2, size=32)
        candidates = min(settings.candidates, 2)
        small = tiny(rlrf, vl, tmp_path, method=settings.method, task=task, candidates=candidates)
        small = replace(small, schedule=Schedule(steps=1), sft=replace(small.sft, steps=1))
        folder = tmp_path / arm.replace(" ", "-")
        with Run.start(folder, {"recipe": "rlrf"}, display=False) as run:
            run.finish(rlrf.train(small, run))
        found[arm] = {0: read_scores(folder)}
    for claim in rlrf.CLAIMS:
        assert verdicts.judge(claim, found)["verdict"], claim.text
    assert "best of 2, held out, error@0" in found["RLRF"][0]


def test_the_best_of_several_is_scored_on_few_problems(rlrf, vl, tmp_path):
    cfg = tiny(rlrf, vl, tmp_path, candidates=2, task=ProgramTask(held_out_size=4, larger_size=0, size=32))
    asked = []
    policy = rlrf.policies(cfg)["policy"]
    rollout = TokenPolicy.rollout
    count = lambda one, problems, seeds_B: asked.append(len(problems)) or rollout(one, problems, seeds_B)
    with mock.patch.object(TokenPolicy, "rollout", count):
        rlrf.held_out_scores(replace(cfg, candidates_size=1), policy)
    assert asked == [4, 2], "one sample of each problem, then two of one"


@pytest.mark.parametrize("canvas", ["0 0 4 4", "0 0 4.0 4"])
def test_the_canvas_trick_pays_nothing(rlrf, canvas):
    problems = programs.sample_problems(6, 3, size=32)
    codes = [problem.answer["code"] for problem in problems]
    tricked = [code.replace("0 0 32 32", canvas) for code in codes]
    true, small = rollout_of(problems, codes), rollout_of(problems, tricked)
    gain = rlrf.PRESETS["tiny"].task.judge(small) - rlrf.PRESETS["tiny"].task.judge(true)
    assert all(torch.equal(small.rewards[name], true.rewards[name]) for name in true.rewards if "length" not in name)
    # the canvas of the first one is two letters shorter, and that is all that it is paid for
    assert torch.allclose(gain, 0.5 * (small.rewards["length"] - true.rewards["length"]), atol=1e-6)
    assert (gain <= (0.01 if len(canvas) < 9 else 0)).all() and (true.rewards["l2"] == 1).all()


def test_length_counts_only_where_the_picture_is_alike_and_failing_is_worst(rlrf):
    problem = next(p for p in programs.sample_problems(9, 3, size=32) if "<g>" in p.answer["code"])
    code = problem.answer["code"]
    shorter = code.replace("<g>", "").replace("</g>", "").replace(' opacity="1"', "").replace(' stroke="none"', "")
    texts = [shorter, code, '<svg><rect x="30" y="30" width="1" height="1"/></svg>', "<svg/>", "no program"]
    rollout = rollout_of([problem] * len(texts), texts)
    total = rlrf.PRESETS["tiny"].task.judge(rollout).tolist()
    assert total == sorted(total, reverse=True) and total[0] > total[1] and total[-1] == -2
    unlike = rollout.rewards["l2"] < 0.5
    assert unlike.tolist() == [False, False, True, True, True] and (rollout.rewards["length"][unlike] == 1).any()
    named = zip(("l2", "edge_l2", "structure"), (1.0, 0.5, 0.5))
    assert total[2] == pytest.approx(sum(w * rollout.rewards[n][2].item() for n, w in named) + 0.25, abs=1e-5)


@pytest.mark.parametrize(
    "text",
    [
        "<text>red</text>",
        '<text x="1"/>',
        "<g><text>a<tspan>b</tspan></text></g>",
        '<s:text xmlns:s="http://www.w3.org/2000/svg">c</s:text>',
        "<defs><text id='t' y='9'>d</text></defs><use href='#t'/>",
    ],
)
def test_text_elements_are_removed_unless_the_input_is_a_picture(text):
    code = f'<svg xmlns="http://www.w3.org/2000/svg"><rect x="2" y="20" width="9" height="9" fill="red"/>{text}</svg>'
    plain = render(code.replace(text, ""), "svg", 32).picture
    assert np.array_equal(render(remove_text_elements(f"<answer>{code}</answer>"), "svg", 32).picture, plain)
    shown = Problem(0, Question("?", (plain,)), {"picture": plain})
    asked = Problem(1, Question("?"), {"picture": plain})
    outputs = strip_text(rollout_of([shown, asked], [code, code])).outputs
    assert outputs[0] == code and "text>" not in outputs[1]


def test_text_elements_are_not_rendered_but_count_as_length(rlrf):
    code = '<svg xmlns="http://www.w3.org/2000/svg"><rect x="2" y="20" width="9" height="9" fill="red"/></svg>'
    wordy = code.replace("</svg>", f"<text>{'red ' * 40}</text></svg>")
    problem = Problem(0, Question("?"), {"code": code, "picture": render(code, "svg", 32).picture})
    rollout = rollout_of([problem] * 2, [code, wordy])
    rlrf.PRESETS["tiny"].task.judge(rollout)
    assert rollout.rewards["l2"].tolist() == [1, 1] and rollout.rewards["length"].tolist() == [0.75, -1]


def test_without_a_reference_a_program_is_drawn_on_its_own_canvas():
    red = '<rect width="256" height="512" fill="red"/>'
    half = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 512 512">{red}</svg>'
    picture = np.full((32, 32, 3), 255, np.uint8)
    picture[:, :16] = (255, 0, 0)
    asked = Problem(0, Question("?", (picture,)), {"picture": picture, "box": "own"})
    rollout = rollout_of([asked] * 3, [half, "<svg/>", "no program"])
    value = negative_error(rollout)
    assert value[0] == 0 and value[1:].isnan().all(), "what draws nothing is not the best of several"
    assert (rendered_pictures(rollout)[0][:, :, :16].mean((1, 2)) == torch.tensor([1.0, 0, 0])).all()


def test_what_is_no_program_stays_as_it_is():
    for text in (
        "",
        "a text",
        "<svg><text>",
        "<svg><rect/></svg>",
        "<svg><!ENTITY a><text/></svg>",
        "<text>red</text>",
    ):
        assert remove_text_elements(text) == text


def test_programs_end_soon_after_the_longest_reference_of_their_batch(rlrf, vl, file, tmp_path):
    cfg = tiny(rlrf, vl, file, model=TokenModel(str(vl), max_new_tokens=500, temperature=1.1), extra_tokens=3)
    policy = rlrf.policies(cfg)["policy"]
    with Run.start(tmp_path / "run", {"recipe": "rlrf"}, display=False) as run:
        feed, _ = rlrf.reinforcement(cfg, policy, cfg.task.training(0), RenderDeterminism(), run)
        rollout = feed(0)
    longest = max(len(tokenize(policy, p.answer["code"])) for p in rollout.problems)
    assert longest < rollout.extras["length_B"].max() <= longest + 3
    per_group = rollout.advantage_BT[:, 0].view(2, 3)
    reward = rollout.rewards["total"].view(2, 3)
    assert torch.allclose(per_group, reward - reward.mean(1, keepdim=True), atol=1e-5)


def test_the_learning_rate_falls_by_the_papers_schedule(rlrf, vl, file, tmp_path):
    cfg = tiny(rlrf, vl, file)
    with Run.start(tmp_path / "run", {"recipe": "rlrf"}, display=False) as run:
        _, learner = rlrf.reinforcement(
            cfg, rlrf.policies(cfg)["policy"], cfg.task.training(0), RenderDeterminism(), run
        )
    factors = [learner.updates[0].schedule(k) for k in (0, 99, 100, 250)]
    assert factors == pytest.approx([1, 1, 0.7, 0.49])
    real = rlrf.PRESETS["qwen25-vl-7b"]
    assert (real.optim.lr, real.grpo.clip, real.min_tokens) == (1e-5, 0.4, 500)
    assert (real.schedule.steps, real.batch.group_size) == (500, 64)


@pytest.mark.parametrize("preset", ["qwen25-vl-7b", "text"])
def test_real_presets_take_a_step_at_reduced_depth_and_sample(rlrf, preset, vl, lm_folder, eyes, file, tmp_path):
    cfg = rlrf.PRESETS[preset]
    small = dict(
        schedule=replace(cfg.schedule, steps=1),
        batch=replace(cfg.batch, prompts_per_step=2, group_size=2),
        model=replace(
            cfg.model, name=str(vl if preset != "text" else lm_folder), max_new_tokens=8, precision="float32"
        ),
        task=replace(cfg.task, programs=str(file), held_out=str(file), size=32),
        encoder=str(eyes),
        sft=replace(cfg.sft, steps=1, batch=2),
        min_tokens=9,
        candidates=2,
    )
    cfg = replace(cfg, **small)
    result = run_recipe("rlrf", cfg, tmp_path / "run")
    assert {"held out, total", f"held out, {cfg.task.rewards[0]}", "held out, error"} <= result["after"].keys()
    assert all(v.isfinite().all() for v in weights(tmp_path / "run").values())
    prompts = ["a red bar"]
    if preset != "text":
        Image.fromarray(tiny_vision.picture(20, 30)).save(tmp_path / "a.png")
        prompts.append(str(tmp_path / "a.png"))
    items = rlrf.sample(cfg, rlrf.policies(cfg), prompts, seeds(0, len(prompts), "test"))
    assert all(item["image"].ndim == 3 and isinstance(item["text"], str) for item in items)


def test_alignment_is_lowest_for_what_does_not_render_and_nan_without_a_caption(eyes):
    from saccade.recipes.drawing_code.rlrf.encoders import TextAlignment

    named = Problem(0, Question("?"), {"caption": "a red circle"})
    code = SHORT.format(9, "red")
    score = TextAlignment(str(eyes), rows=1)(
        rollout_of([named, named, Problem(1, Question("?")), named], [code, "<svg", code, code])
    )
    assert score[1] == -1 and score[2].isnan() and -1 < score[0] == score[3] < 1
    with pytest.raises(ValueError, match="no such folder"):
        TextAlignment("no/such/folder")(rollout_of([named], [code]))


def test_rewards_for_reference_similarity_read_the_text_alone(file):
    problem = ProgramTask(str(file), size=32).training(0)[0]
    code = problem.answer["code"]
    texts = [code, f"<think>red</think><answer>{code}</answer>", code[: len(code) // 2], "", "x" * 9]
    rollout = rollout_of([problem] * 5, texts)
    assert TokenOverlap()(rollout).tolist() == pytest.approx([1, 1, 0.5, 0, 1 / len(code)], abs=0.02)
    assert LengthRatio()(rollout).tolist() == pytest.approx([1, 1, 0.5, 0, 9 / len(code)], abs=0.02)
    assert TokenOverlap()(rollout_of([Problem(0, "draw")], [code])).isnan().all()


def test_the_best_of_several_is_kept_and_one_without_a_score_is_not():
    problems = [Problem(i, str(i)) for i in range(2)]
    values = torch.tensor([0.1, float("nan"), 0.9, float("nan"), -0.5, float("nan")])
    best = BestOf(lambda p, s: rollout_of(p, [f"{q.id}:{i}" for i, q in enumerate(p)]), lambda r: values, 3)(
        problems, seeds(0, 2, "test")
    )
    assert best.outputs == ["0:2", "1:4"] and best.group_B.tolist() == [0, 1]


def test_a_picture_that_changes_is_found_and_resuming_keeps_the_sample():
    problems = programs.sample_problems(40, 1, size=32)
    determinism = RenderDeterminism(every=4)
    determinism.record(rollout_of(problems, [p.answer["code"] for p in problems]))
    assert 3 <= len(determinism.recorded) <= 20 and determinism.match_rate() == 1
    again = RenderDeterminism(every=4)
    again.load_state_dict(json.loads(json.dumps(determinism.state_dict())))
    next(iter(again.recorded.values()))["picture"] = "another"
    assert again.match_rate() == pytest.approx(1 - 1 / len(again.recorded))
    assert np.isnan(RenderDeterminism().match_rate())


def test_what_makes_no_sense_is_said_in_one_line(tmp_path, file):
    with pytest.raises(ValueError, match="1 weights are given for 5 rewards"):
        ProgramTask(weights=(1.0,))
    with pytest.raises(ValueError, match="no captions"):
        ProgramTask(condition="text")
    (tmp_path / "bare.jsonl").write_text(json.dumps({"Svg": SHORT.format(9, "red")}))
    with pytest.raises(ValueError, match="bare.jsonl:1: .* has no text 'caption'"):
        ProgramTask(str(tmp_path / "bare.jsonl"), condition="text").training(0)
    with pytest.raises(ValueError, match="nearest: foreground_iou"):
        ProgramTask(rewards=("foreground",), weights=(1.0,)).judge(rollout_of([Problem(0, "?")], [""]))
