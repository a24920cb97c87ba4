"""SketchyNet: its three stages, resuming and sharing them, advantages of the choices, the real preset on files."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from running import run_recipe

from saccade import catalog
from saccade.checks.runner import read_scores
from saccade.random import seeds
from saccade.recipes.recognition.sketch_flops.task import RetrievalTask
from saccade.training import checkpoint
from saccade.training.run import Run
from saccade.worlds import sketches

TASK = RetrievalTask(size=32, canvases=(16, 32), train_size=10, selector_size=4, held_out_size=6, sketches_each=2)


@pytest.fixture(scope="module")
def recipe():
    return catalog.load("sketch_flops")


def tiny(recipe, steps=2, **changes):
    embedder = recipe.EmbedderTraining("small", 2, 4, recipe.AdamW(lr=1e-3, weight_decay=0.01))
    small = dict(
        task=TASK,
        schedule=recipe.Schedule(steps, evaluate_every=1, save_every=1, log_every=10),
        batch=recipe.Batch(prompts_per_step=4, group_size=2),
        teacher=embedder,
        student=embedder,
        embedding_size=8,
        selector=recipe.Selector(width=4),
        reward=recipe.SelectorReward(distractors=2),
        device="cpu",
    )
    return replace(recipe.PRESETS["tiny"], **small | changes)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    _, state = checkpoint.read(checkpoint.latest(folder / "checkpoints"))
    return {
        f"{part}.{k}": v for part in state if part in ("policy", "student", "network") for k, v in state[part].items()
    }


def alike(one: Path, two: Path) -> bool:
    a, b = weights(one), weights(two)
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_two_steps_equal_one_and_one_in_every_stage(recipe, tmp_path):
    whole = run_recipe("sketch_flops", tiny(recipe), tmp_path / "whole")
    run_recipe("sketch_flops", tiny(recipe, steps=1), tmp_path / "halves")
    halves = run_recipe("sketch_flops", tiny(recipe), tmp_path / "halves")
    assert alike(tmp_path / "whole", tmp_path / "halves") and whole == halves
    assert weights(tmp_path / "whole").keys() > {"policy.head.bias", "student.head.weight"}
    scores = whole["after"]
    assert {
        "acc@1",
        "acc@1, 16 px",
        "acc@1, shuffled choice",
        "acc@1, teacher",
        "MFLOPs",
        "entropy of choices",
    } <= scores.keys()
    assert scores["MFLOPs"] > scores["MFLOPs, reading"] > 0 and scores["MFLOPs, 32 px"] > scores["MFLOPs, 16 px"]
    lines = [json.loads(x) for x in (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()]
    assert {
        "reward/reciprocal_rank",
        "reward/margin",
        "reward/compute",
        "reward/entropy",
        "reward/total",
    } <= set().union(*lines)
    item = json.loads((tmp_path / "whole" / "samples.jsonl").read_text().splitlines()[-1])["items"][0]
    assert item["text"] in ("16 x 16 pixels", "32 x 32 pixels") and {"image", "target", "score"} <= item.keys()


def test_the_control_shares_the_teacher_and_trains_another_student(recipe, tmp_path):
    run_recipe("sketch_flops", tiny(recipe), tmp_path / "first")
    with Run.start(tmp_path / "second", {"recipe": "sketch_flops"}, display=False, stages_of=tmp_path / "first") as run:
        run.finish(recipe.train(tiny(recipe, method="triplets"), run))
    assert alike(tmp_path / "first" / "teacher", tmp_path / "second" / "teacher")
    assert not alike(tmp_path / "first" / "distilled", tmp_path / "second" / "triplets")
    stages = {p.parent.name for p in (tmp_path / "second").glob("*/metrics.jsonl")}
    assert {"teacher", "triplets"} <= stages
    names = [
        json.loads(x).keys() for x in (tmp_path / "second" / "triplets" / "metrics.jsonl").read_text().splitlines()
    ]
    assert not any("health/embedding_distances" in n for n in names)


def test_claims_read_scores_that_a_run_has(recipe, tmp_path):
    cfg = tiny(recipe, task=replace(TASK, size=64, canvases=recipe.PRESETS["tiny"].task.canvases), steps=1)
    with Run.start(tmp_path / "run", {"recipe": "sketch_flops"}, display=False) as run:
        run.finish(recipe.train(cfg, run))
    scores = read_scores(tmp_path / "run")
    for claim in recipe.CLAIMS:
        assert np.isfinite(claim.margin({"SketchyNet": scores, "triplets alone": scores}))
    collapsed = scores | {"acc@1": 0.5, "acc@1, shuffled choice": 0.5}
    assert recipe.CLAIMS[-1].margin({"SketchyNet": collapsed}) < recipe.CLAIMS[-1].least


@pytest.mark.parametrize("baseline", ["group", "batch", "greedy", "none"])
def test_advantages_subtract_the_baseline(recipe, baseline):
    cfg = tiny(recipe, advantage=baseline, reward=recipe.SelectorReward(distractors=0))
    made = recipe.policies(cfg)
    torch.nn.init.normal_(made["policy"].network.head.weight)
    _, pairs = cfg.task.training(0)
    rollout = recipe.collector(cfg, made["policy"], made["student"], pairs)(pairs.problems(), seeds(0, 8, "test"), 0)
    total, advantage = rollout.rewards["total"], rollout.advantage_BT[:, 0]
    named = rollout.rewards
    retrieval = named["reciprocal_rank"] + 0.1 * named["margin"]
    assert torch.allclose(total, 0.8 * retrieval + 0.2 * named["compute"] + 0.01 * named["entropy"], atol=1e-5)
    match baseline:
        case "none":
            assert torch.equal(advantage, total)
        case "batch":
            assert torch.allclose(advantage, total - total.mean(), atol=1e-5)
        case "group":
            pairs = total.view(-1, 2)
            assert torch.allclose(advantage.view(-1, 2), pairs - pairs.mean(1, keepdim=True), atol=1e-5)
        case "greedy":
            greedy = made["policy"].greedy().rollout(rollout.problems, seeds(0, 16, "test")).outputs
            same = torch.tensor([a == b for a, b in zip(greedy, rollout.outputs)])
            assert (advantage[same].abs() < 1e-6).all() and (advantage[~same] != 0).all()


def files(folder: Path) -> str:
    """Six pairs as files of strokes and photos."""
    made, lines = sketches.generate_pairs(6, 1, 1, "train", 40), []
    for i, (sketch, photo) in enumerate(zip(made.sketches, made.photos)):
        np.save(folder / f"{i}.npy", sketches.to_stroke5(sketch))
        Image.fromarray(photo).save(folder / f"{i}.png")
        lines.append(json.dumps({"sketch": f"{i}.npy", "photo": f"{i}.png", "coordinates": "absolute"}))
    (folder / "pairs.jsonl").write_text("\n".join(lines))
    return str(folder / "pairs.jsonl")


def test_the_real_preset_at_reduced_size(recipe, tmp_path):
    file, cfg = files(tmp_path), recipe.PRESETS["shoe-v2"]
    assert (cfg.teacher.network, cfg.student.network, cfg.task.canvases) == (
        "torchvision:vgg16",
        "torchvision:mobilenet_v2",
        (32, 64, 128, 256),
    )
    task = replace(cfg.task, pairs=file, held_out=file, size=32, canvases=(16, 32), selector_size=2)
    small = dict(
        task=task,
        schedule=replace(cfg.schedule, steps=1),
        batch=replace(cfg.batch, prompts_per_step=2),
        teacher=replace(cfg.teacher, network="small", steps=1, batch_size=2),
        student=replace(cfg.student, network="small", steps=1, batch_size=2),
    )
    cfg = replace(cfg, device="cpu", **small)
    result = run_recipe("sketch_flops", cfg, tmp_path / "run")
    assert 0 <= result["after"]["acc@1"] <= 1 and all(v.isfinite().all() for v in weights(tmp_path / "run").values())
    made = recipe.policies(cfg)
    items = recipe.sample(cfg, made, [str(tmp_path / "3.npy")], seeds(0, 1, "test"))
    assert items[0]["image"].shape == (3, 32, 64) and items[0]["text"].endswith("pixels")
    assert recipe.evaluate(cfg, made)["MFLOPs"] > 0


def test_impossible_settings_raise_one_line(recipe, tmp_path):
    with pytest.raises(ValueError, match="two or more, from small to large"):
        RetrievalTask(canvases=(64, 32))
    with pytest.raises(ValueError, match="set held_out"):
        cfg = tiny(recipe, task=replace(TASK, pairs=files(tmp_path)))
        recipe.sample(cfg, recipe.policies(cfg), ["a.npy"], seeds(0, 1, "test"))
