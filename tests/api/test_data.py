"""Data from Python and from files of other formats become files that the worlds read, and stay with their run."""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import saccade
from saccade.api import data
from saccade.config import names
from saccade.worlds import edits, questions, shapes
from saccade.worlds.shapes.task import DrawingTask

RED = np.zeros((12, 16, 3), np.uint8) + np.array([255, 0, 0], np.uint8)


class Columns:
    """A data set with the two things that are asked of one: names of columns, and columns by name."""

    def __init__(self, **columns):
        self.columns = columns
        self.column_names = list(columns)

    def __getitem__(self, name):
        return self.columns[name]


def written(value, tmp_path: Path, text: str = "prompt") -> Path:
    table = data.table(value, text, "prompts")
    place = tmp_path / f"out{table.name}"
    table.write(place)
    table.write(place)  # the same again changes nothing
    return place


def test_texts_become_a_line_each_and_captions_keep_their_meaning(tmp_path):
    place = written(["a red circle", "a photo\nof a dog", 'the word "HI"'], tmp_path)
    assert place.suffix == ".txt"
    first, second, third = shapes.load_prompts(place)
    assert first.answer["tag"] == "colors" and second.inputs == "a photo of a dog" and second.answer is None
    assert third.answer["text"] == "HI"


@pytest.mark.parametrize(
    "value",
    [
        [{"text": "a red circle", "level": 2}, {"text": "a dog", "level": 3}],
        {"caption": ["a red circle", "a dog"], "level": [2, 3]},
        Columns(prompt=["a red circle", "a dog"], level=[2, 3]),
        [saccade.Problem(0, "a red circle", {"level": 2}), saccade.Problem(1, "a dog", {"level": 3})],
    ],
)
def test_other_columns_reach_rewards_as_the_answer(value, tmp_path):
    first, second = shapes.load_prompts(written(value, tmp_path))
    assert first.inputs == "a red circle" and first.answer["level"] == 2 and first.answer["tag"] == "colors"
    assert (second.inputs, second.answer) == ("a dog", {"level": 3})


def test_problems_of_a_world_stay_what_they_are(tmp_path):
    problems = shapes.sample_problems(8, 0)
    again = shapes.load_prompts(written(problems, tmp_path))
    assert [(p.inputs, p.answer) for p in again] == [
        (p.inputs, {k: v for k, v in p.answer.items() if k != "wording"}) for p in problems
    ]


def test_pictures_lie_beside_their_rows(tmp_path):
    rows = [{"question": "What color?", "answer": "red", "image": Image.fromarray(RED)}]
    (problem,) = questions.load_questions(written(rows, tmp_path, "question"))
    assert problem.answer["text"] == "red" and (problem.inputs.pictures[0] == RED).all()
    asked = [saccade.Problem(0, saccade.Question("What color?", (RED, RED)), {"text": "red", "kind": "text"})]
    (tmp_path / "b").mkdir()
    (problem,) = questions.load_questions(written(asked, tmp_path / "b", "question"))
    assert len(problem.inputs.pictures) == 2 and problem.answer == {"text": "red", "kind": "text"}
    (tmp_path / "c").mkdir()
    tensor = torch.from_numpy(RED).movedim(-1, 0) / 255
    (problem,) = edits.load_edits(written([{"text": "Make it blue.", "image": tensor}], tmp_path / "c", "instruction"))
    assert problem.inputs.text == "Make it blue." and (problem.inputs.pictures[0] == RED).all()


def test_files_of_other_formats(tmp_path, monkeypatch):
    (tmp_path / "p.csv").write_text('caption,level\n"a dog, asleep",3\n')
    (problem,) = shapes.load_prompts(written(tmp_path / "p.csv", tmp_path))
    assert problem.inputs == "a dog, asleep" and problem.answer == {"level": "3"}
    (tmp_path / "p.jsonl").write_text('{"text": "a dog"}\n\n{"text": "a cat"}\n')
    assert [p.inputs for p in shapes.load_prompts(written(str(tmp_path / "p.jsonl"), tmp_path))] == ["a dog", "a cat"]
    (tmp_path / "g.jsonl").write_text(json.dumps({"prompt": "x", "tag": "colors", "include": []}) + "\n")
    (tmp_path / "p.txt").write_text("a dog\n")
    for own in ("g.jsonl", "p.txt", "nowhere.txt"):
        assert data.table(str(tmp_path / own), "prompt", "prompts") is None, "the world reads it"
    (tmp_path / "p.parquet").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ValueError, match="p.parquet needs a package: pip install pyarrow"):
        data.table(str(tmp_path / "p.parquet"), "prompt", "prompts")
    table = types.SimpleNamespace(to_pylist=lambda: [{"text": "a bird"}])
    monkeypatch.setattr(data, "read_parquet", lambda path: table)
    assert data.table(str(tmp_path / "p.parquet"), "prompt", "prompts").rows == [{"prompt": "a bird"}]


def test_a_folder_of_pictures_with_captions(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name in ("b", "a"):
        Image.fromarray(RED).save(folder / f"{name}.png")
    with pytest.raises(ValueError, match=r"has no caption for a.png: put it into a.txt"):
        data.table(folder, "prompt", "prompts")
    for name in ("b", "a"):
        (folder / f"{name}.txt").write_text(f"picture {name}\n")
    first, second = shapes.load_prompts(written(folder, tmp_path))
    assert (first.inputs, second.inputs) == ("picture a", "picture b")
    assert Path(first.answer["image"]) == folder / "a.png"
    (folder / "metadata.jsonl").write_text('{"file_name": "b.png", "text": "What?", "answer": "red"}\n')
    (tmp_path / "other").mkdir()
    (problem,) = questions.load_questions(written(folder, tmp_path / "other", "question"))
    assert problem.inputs.text == "What?" and problem.answer["text"] == "red" and len(problem.inputs.pictures) == 1


@pytest.mark.parametrize(
    ("value", "line"),
    [
        ([], "prompts holds no rows"),
        (3, "prompts must be a list, a file, a folder or a data set, not a int"),
        ([{"level": 1}], r"prompts has no column 'prompt' \(of level\)"),
        ([{"prompt": "a"}, {"prompt": ""}], "prompts row 2: prompt '' must be a text"),
    ],
)
def test_what_is_no_data_is_one_line(value, line):
    with pytest.raises(ValueError, match=line):
        data.table(value, "prompt", "prompts")


def test_the_settings_that_name_data_are_found_by_their_names():
    from saccade.api.training import data_settings

    found = data_settings(saccade.load("flow_grpo").module.Settings)
    assert found == {"task.prompts": "prompt", "task.held_out": "prompt"}
    found = data_settings(saccade.load("grpo").module.Settings)
    assert found == {"task.questions": "question", "task.held_out": "question"}
    assert data.text_column("task.images", []) == "" and data.text_column("flow.name", []) is None
    assert "prompts" in names(DrawingTask)


def red(rollout):
    return rollout.outputs[:, 0].mean((1, 2))


def test_a_run_keeps_its_data_and_names_its_functions(tmp_path, monkeypatch):
    """The real thing, as small as it gets: prompts of a list, a reward that is a function, stopped and resumed."""
    monkeypatch.chdir(tmp_path)
    recipe = saccade.load("flow_grpo")
    small = dict(
        prompts=["a red circle", "a blue ring"], held_out=["a red ring"], rewards=["shapes", red], steps=2,
        prompts_per_step=2, group_size=2, save_every=1, window=1, sampling_steps=2, display=False, out="r",
    )  # fmt: skip

    def stop(step, metrics, run):
        if step == 2 and any(name.startswith("loss/") for name in metrics):
            raise ZeroDivisionError

    with pytest.raises(
        saccade.RunFailed, match=r"resume with: saccade.load\(.flow_grpo.\).train\(out=.r., rewards=\[…\]\)"
    ):
        recipe.train(**small, callbacks=[stop])
    config = json.loads(Path("r/config.json").read_text())
    name = f"{__name__}:red"
    assert config["functions"] == [name] and config["settings"]["task"]["rewards"] == ["shapes", name]
    assert config["data"] == {"task.prompts": "task-prompts.txt", "task.held_out": "task-held_out.txt"}
    with pytest.raises(
        ValueError, match="was trained with the function .*:red, which a folder cannot keep: give it again"
    ):
        recipe.train(out="r", display=False)
    with pytest.raises(ValueError, match=r"holds other data than those given now"):
        recipe.train(out="r", display=False, rewards=["shapes", red], prompts=["a green circle"])
    Path("r").rename("moved")
    run = recipe.train(out="moved", display=False, rewards=["shapes", red])
    assert run.result["steps"] == 2 and "held out" in run.result["after"]
    assert run.settings.task.prompts == "moved/data/task-prompts.txt" and f"reward/{name}" in run.metrics()[-2]
    assert run.samples()[0]["prompt"] == "a red ring" and run.samples()[0]["image"].is_file()
    assert saccade.open_run("moved", functions=[red]).evaluate() == run.result["after"]
    with pytest.raises(ValueError, match="is a function of the program that trained the run"):
        saccade.open_run("moved").evaluate()
