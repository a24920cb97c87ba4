"""Models by folder: drawn from and judged as they are, without a run."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

import saccade as library
from saccade.api import models
from saccade.worlds.shapes import task
from saccade.worlds.shapes.task import DrawingTask


def test_a_pipeline_draws_at_its_own_size_and_the_same_seed_draws_the_same(saccade, sd3_folder):
    words = ("sample", sd3_folder, "a red circle", "two rings", "--count", "2", "--seed", "3")
    completed = saccade(*words, "-o", "a.png")
    assert completed.status == 0 and completed.out.splitlines() == ["a red circle", "two rings", "a.png"]
    assert saccade(*words, "-o", "b.png").status == 0
    a, b = (np.array(Image.open(name)) for name in ("a.png", "b.png"))
    assert (a == b).all() and a.std() > 0 and not (a[:16, :16] == a[:16, 18:34]).all()
    edge = models.native(Path(sd3_folder))["size"]
    assert a.shape == (2 * edge + 2, 2 * edge + 2, 3)
    refused = saccade("sample", sd3_folder, "x", "--without", "rewriter").refused()
    assert "is one model: there is no rewriter to leave out" in refused


def test_a_language_model_writes_and_makes_no_picture(saccade, lm_folder):
    completed = saccade("sample", lm_folder, "a red circle", "--count", "2")
    assert completed.status == 0 and completed.out.startswith("a red circle") and not Path("sample.png").exists()


def test_eval_judges_a_pipeline_by_wording_and_tag(saccade, sd3_folder, monkeypatch):
    monkeypatch.setattr(task, "DrawingTask", partial(DrawingTask, held_out_size=14))
    scores = json.loads(saccade("eval", sd3_folder, "--json").out.splitlines()[-1])["scores"]
    assert {"held out", "paraphrase", "sharpness", "tag counting"} <= set(scores)
    assert all(0 <= value <= 1 for value in scores.values())
    assert library.open_model(sd3_folder).evaluate() == scores


def test_broken_models_are_one_line(saccade, sd3_folder, tmp_path):
    (tmp_path / "hollow").mkdir()
    assert "./hollow is neither a run nor a model" in saccade("eval", "./hollow").refused()
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "model_index.json").write_text('{"_class_name": "OddPipeline"}')
    assert "OddPipeline" in saccade("sample", "./odd", "x").refused()
    (tmp_path / "odd" / "model_index.json").unlink()
    (tmp_path / "odd" / "config.json").write_text('{"model_type": "qwen9"}')
    assert "qwen9" in saccade("sample", "./odd", "x").refused()
    assert "is a language model, and its config.json names no saccade_miniature" in saccade("eval", "./odd").refused()


def test_an_editor_is_shown_a_picture_file_and_judged_by_edits(saccade, kontext_folder, tmp_path, monkeypatch):
    from saccade.policies.flow import FlowModel, build_flow_policy
    from saccade.worlds.edits import task

    build_flow_policy(FlowModel(str(kontext_folder), size=32, text_length=6), ()).export(tmp_path / "editor")
    assert models.native(tmp_path / "editor") == {"size": 32, "text_length": 6}
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 32, 3), dtype=np.uint8)).save("a.png")
    assert saccade("sample", "./editor", "a.png Make the ring red.", "-o", "edited.png").status == 0
    assert saccade("sample", "./editor", "Make the ring red.", "-o", "drawn.png").status == 0
    refused = saccade("sample", "./editor", "b.png Make the ring red.").refused()
    assert "there is no picture 'b.png', with which the prompt 'b.png Make the ring red.' begins" in refused
    edited, drawn = (np.array(Image.open(name)) for name in ("edited.png", "drawn.png"))
    assert edited.shape == (32, 32, 3) and not (edited == drawn).all()
    monkeypatch.setattr(task, "EditingTask", partial(task.EditingTask, held_out_size=7))
    scores = json.loads(saccade("eval", "./editor", "--json").out.splitlines()[-1])["scores"]
    assert {"held out, overall", "paraphrase, keep", "recolor"} <= set(scores)
