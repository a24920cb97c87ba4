"""The task of editing: rewards, monitors, scores, logged samples, and the page that shows them."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import torch
from browser import PROGRAM, browser
from PIL import Image

from saccade.core import NothingJudged, Rollout, mean_scores
from saccade.models.loading import MINIATURES
from saccade.naming import STANDARD_ERROR
from saccade.random import seeds
from saccade.report.page import write_page
from saccade.training.run import Run
from saccade.worlds.edits.task import MONITORS, EditingTask, edited, logged_samples

SMALL = EditingTask(held_out_size=14, train_size=20)


def rollout(problems, pictures) -> Rollout:
    shown = torch.stack([torch.tensor(np.array(picture)).permute(2, 0, 1) / 255 for picture in pictures])
    nothing = torch.zeros(len(problems), 0)
    return Rollout(list(problems), {}, shown, nothing, nothing, torch.arange(len(problems)))


def perfect(problems, seeds_B) -> Rollout:
    return rollout(problems, [p.answer["picture"] for p in problems])


def unchanged(problems, seeds_B) -> Rollout:
    return rollout(problems, [p.inputs.pictures[0] for p in problems])


def test_exact_results_are_rewarded_and_monitors_always_measured():
    problems = SMALL.training(0)
    made = perfect(problems, None)
    assert len(problems) == 20 and (SMALL.judge(made) == 1).all() and set(made.rewards) == set(MONITORS)
    still = unchanged(problems, None)
    assert (
        (SMALL.judge(still) == 0).all()
        and (still.rewards["keep"] == 1).all()
        and (still.rewards["sharpness"] > 0).all()
    )


def test_scores_and_logged_samples_of_held_out_edits():
    shown = {}
    scores = mean_scores(SMALL.score(perfect, lambda name, items: shown.update({name: items}), rows=5))
    assert {"held out, overall", "paraphrase, success", "paraphrase, sharpness", "recolor", "text"} <= set(scores)
    assert all(value == 1 for name, value in scores.items() if "sharpness" not in name and STANDARD_ERROR not in name)
    untouched = mean_scores(SMALL.score(unchanged))
    assert untouched["held out, keep"] == 1 and untouched["move"] == 0
    item = shown["paraphrase"][0]
    assert list(item) == ["prompt", "source", "image", "score", "target"] and torch.equal(item["image"], item["target"])
    assert shown["held out"][0]["prompt"] != item["prompt"] and torch.equal(
        shown["held out"][0]["source"], item["source"]
    )


@pytest.mark.skipif(not (MINIATURES / "qwen2.5-vl-shapes").is_dir(), reason="qwen2.5-vl-shapes is not built here")
def test_the_vqa_judge_may_be_the_reward_or_a_part_of_it():
    task = EditingTask(rewards=("vqa_judge", "keep"), kinds=("recolor", "remove"), train_size=8)
    problems = task.training(1)
    gold, still = task.judge(perfect(problems, None)), task.judge(unchanged(problems, None))
    assert gold.mean() > still.mean() + 0.2 and gold.max() <= 2 and task.vqa_judge().compare is False
    assert EditingTask("photographs").vqa_judge().compare


def test_photographs_and_files(tmp_path):
    task = EditingTask("photographs", kinds=("greyscale", "blur"), held_out_size=4, train_size=4, side=40)
    found = mean_scores(task.score(perfect)).items()
    scores = {name: value for name, value in found if "sharpness" not in name and STANDARD_ERROR not in name}
    assert scores == pytest.approx({"held out, success": 1, "held out, overall": 1, "greyscale": 1, "blur": 1})
    Image.fromarray(np.full((32, 32, 3), 90, np.uint8)).save(tmp_path / "a.png")
    (tmp_path / "e.jsonl").write_text(json.dumps({"image": "a.png", "instruction": "Make it red."}))
    task = EditingTask(str(tmp_path / "e.jsonl"))
    assert task.held_out_problems() == {} and mean_scores(task.score(unchanged)) == {}
    with pytest.raises(NothingJudged, match="reward 'overall' judged none"):
        task.judge(unchanged(list(task.training(0)), None))
    item = logged_samples(unchanged([task.training(0)[0]], None), torch.ones(1))[0]
    assert "target" not in item and item["source"].shape == (3, 32, 32)


def test_unknown_names_are_one_line():
    with pytest.raises(ValueError, match="unknown reward 'overal'; nearest: overall"):
        EditingTask(rewards=("overal",)).judge(unchanged(SMALL.training(0), None))
    with pytest.raises(ValueError, match="nearest: recolor"):
        EditingTask(kinds=("recolour",)).training(0)


def test_a_prompt_begins_with_its_picture(tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(np.full((32, 32, 3), 90, np.uint8)).save(path)
    (made,) = edited(unchanged, [f"{path} Make the red ring blue."], seeds(0, 1, "test"))
    assert made["prompt"].endswith("blue.") and float(made["image"].mean()) == pytest.approx(90 / 255)
    with pytest.raises(ValueError, match="must begin with one picture file"):
        edited(unchanged, ["Make the red ring blue."], seeds(0, 1, "test"))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run that leaves all as it was before training, and is perfect afterwards."""
    folder = tmp_path_factory.mktemp("runs") / "editor"
    with Run.start(folder, {"recipe": "editor", "settings": {}, "seed": 0}, display=False) as run:
        for step, editor in ((0, unchanged), (10, perfect)):
            SMALL.score(editor, run.show(step))
    return folder


def test_the_page_shows_source_target_before_and_after(run, tmp_path):
    html = write_page([run], tmp_path / "r.html").read_text()
    captions = re.findall(r'<figcaption><span class="step">([^<]*)</span>', html)
    assert captions == ["source", "target", "before", "after"] * 28
    line = json.loads((run / "samples.jsonl").read_text().splitlines()[0])
    assert (
        line["items"][0]["source"] == "samples/held out/000000-00-source.png"
        and (run / line["items"][0]["source"]).is_file()
    )
    broken = (run / "samples.jsonl").read_text().replace("samples/held out/000000-00-source.png", "../../x.png")
    (tmp_path / "b").mkdir()
    for name, text in (("config.json", (run / "config.json").read_text()), ("samples.jsonl", broken)):
        (tmp_path / "b" / name).write_text(text)
    with pytest.raises(ValueError, match="a picture outside its run"):
        write_page([tmp_path / "b"], tmp_path / "b.html")


@pytest.mark.skipif(PROGRAM is None, reason="needs chromium")
def test_in_a_browser_the_pictures_stand_side_by_side(run, tmp_path):
    path = write_page([run], tmp_path / "r.html")
    with browser(tmp_path / "profile") as tab:
        for width in (1280, 390):
            tab.open(path, width)
            assert (
                tab.errors == []
                and tab.evaluate("document.documentElement.scrollWidth <= innerWidth && innerWidth") == width
            )
        tab.open(path, 1280)
        tops = "new Set([...v.children].map(f => f.getBoundingClientRect().top))"
        rows = f"[...document.querySelectorAll('.views')].map(v => {tops}.size)"
        assert set(tab.evaluate(rows)) == {1}
