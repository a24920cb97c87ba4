"""What kind of model a name means follows from its own files, and so does what it can be evaluated on."""

from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path

import pytest

import saccade
from saccade.api import models
from saccade.models.loading import MINIATURES, miniatures
from saccade.worlds.questions import task


def test_the_kind_of_a_model_follows_from_its_files(sd3_folder, lm_folder, vlm_folder, tmp_path):
    kinds = [models.kind_of(str(folder)) for folder in (sd3_folder, lm_folder, vlm_folder)]
    assert kinds == ["pipeline", "language", "vision-language"] and models.kind_of("owner/name") == "pipeline"
    with pytest.raises(ValueError, match="'nowhere' is no run, model folder or miniature"):
        models.kind_of("nowhere")
    with pytest.raises(ValueError, match="is neither a run nor a model"):
        models.kind_of(str(tmp_path))


@pytest.mark.skipif("qwen2.5-vl-shapes" not in miniatures(), reason="qwen2.5-vl-shapes is not built here")
def test_a_vision_language_model_answers_about_pictures(tmp_path, monkeypatch):
    folder = Path(shutil.copytree(MINIATURES / "qwen2.5-vl-shapes", tmp_path / "model"))
    config = json.loads((folder / "config.json").read_text())
    del config[models.MINIATURE]
    (folder / "config.json").write_text(json.dumps(config))
    model = saccade.open_model(folder)
    monkeypatch.setattr(task, "AnsweringTask", partial(task.AnsweringTask, held_out_size=4))
    assert "held out, exact" in model.evaluate() and model.sample("What color?", count=2)[1]["text"] is not None


def test_what_nothing_says_how_to_evaluate_is_one_line(lm_folder):
    with pytest.raises(ValueError, match="is a language model, and its config.json names no saccade_miniature"):
        saccade.open_model(lm_folder).evaluate()


def test_a_model_says_from_which_miniature_it_comes(lm_folder, tmp_path, monkeypatch):
    copy = Path(shutil.copytree(lm_folder, tmp_path / "copy"))
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {models.MINIATURE: "qwen2-rewriter"}))
    builder = models.builder_of("qwen2-rewriter")
    monkeypatch.setattr(builder, "evaluate", lambda folder: {"folder": len(str(folder))})
    model = saccade.open_model(copy)
    assert model.evaluate() == {"folder": len(str(copy))}
    model.policy.export(tmp_path / "trained")
    assert json.loads((tmp_path / "trained" / "config.json").read_text())[models.MINIATURE] == "qwen2-rewriter"
    assert models.builder_of("none") is None


@pytest.mark.parametrize(
    "name", [path.name for path in sorted(MINIATURES.iterdir()) if (path / "config.json").is_file()]
)
def test_every_miniature_of_one_model_names_itself(name):
    assert json.loads((MINIATURES / name / "config.json").read_text())[models.MINIATURE] == name
    assert hasattr(models.builder_of(name), "evaluate")
