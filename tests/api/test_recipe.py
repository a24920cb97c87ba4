"""Recipes and runs from Python: trained, resumed, called back, refused, sampled, exported, uploaded."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

import saccade
from saccade.api import hub
from saccade.config import flat
from saccade.training.run import Run


def test_importing_is_light_and_every_name_is_there():
    code = (
        "import sys, time; began = time.perf_counter(); import saccade; took = time.perf_counter() - began; "
        "heavy = {'torch', 'numpy', 'tyro', 'rich', 'PIL'} & set(sys.modules); print(took, heavy); "
        "sys.exit(bool(heavy) or took > 0.1)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert all(getattr(saccade, name) for name in saccade.__all__) and set(saccade.__all__) <= set(dir(saccade))
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = saccade.nothing


def test_a_recipe_says_what_it_is(grey, capsys):
    recipe = saccade.load(grey)
    assert (recipe.name, recipe.title) == ("grey", "Grey: a grey level learns to be right")
    assert recipe.settings.steps == 6 and recipe.presets["large"].steps == 50 and len(recipe.claims) == 3
    recipe.help("large")
    shown = capsys.readouterr().out
    assert "share = 0.5" in shown and "Share of the way that a step takes." in shown and "model.model = slate" in shown
    assert saccade.load("flow_grpo").notes["paper"].startswith("Flow-GRPO")
    with pytest.raises(ValueError, match="unknown recipe 'flow_grop'; nearest: flow_grpo"):
        saccade.load("flow_grop")
    with pytest.raises(ValueError, match="unknown preset 'lage'; nearest: large"):
        recipe.help("lage")


def test_a_run_is_a_handle(grey, tmp_path):
    seen = []
    run = saccade.load(grey).train(
        steps=4, share=0.25, out="r", display=False, callbacks=[lambda *given: seen.append(given)]
    )
    assert run.result["steps"] == 4 and run.result["after"]["level"] == pytest.approx(1 - 0.75**4)
    lines = run.metrics()
    assert [(step, dict(metrics)) for step, metrics, _ in seen] == [
        (line["step"], {k: v for k, v in line.items() if k not in ("step", "time")}) for line in lines
    ]
    assert all(isinstance(each, Run) and each.folder == Path("r") for *_, each in seen)
    again = saccade.open_run("r", recipe=grey)
    assert flat(again.settings) == flat(run.settings) and again.evaluate() == run.evaluate() == run.result["after"]
    (item,) = again.sample("one", seed=3)
    assert (
        item["text"] == "ONE" and isinstance(item["image"], Image.Image) and len(run.sample(["a", "b"], count=2)) == 4
    )
    assert (run.export("weights") / "weight.txt").read_text() and run.report().name == "report.html"
    with pytest.raises(ValueError, match="weights exists and is not empty"):
        run.export("weights")
    with pytest.raises(ValueError, match="has no stage 'first'; it has none"):
        run.metrics("first")
    with pytest.raises(ValueError, match="has no rewriter; it has policy"):
        run.sample("x", without=["rewriter"])
    assert "grey, 4 steps" in repr(run)


def test_the_command_and_python_make_the_same_run(grey):
    from saccade import cli

    recipe = saccade.load(grey)
    fancy = recipe.module.Model(kind="fancy")
    run = recipe.train(steps=3, names=["x", "y"], model=fancy, out="a", display=False)
    assert cli.main(["train", grey, "--steps", "3", "--names", "x", "y", "--model.kind", "fancy", "--out", "b"]) == 0
    other = saccade.open_run("b", trust=True)
    assert flat(run.settings) == flat(other.settings) and run.result["after"] == other.result["after"]
    same = ("recipe", "preset", "settings", "seed", "file")
    assert [run.config[name] for name in same] == [other.config[name] for name in same]
    table = saccade.compare(["a", "b"], "both.html")
    assert Path("both.html").is_file() and [each["after"] for each in table.values()] == [run.result["after"]] * 2


def test_a_stopped_run_is_resumed_by_the_line_it_gives(grey):
    recipe = saccade.load(grey)

    def stop(step, metrics, run):
        if step == 3:
            raise ZeroDivisionError("no")

    with pytest.raises(saccade.RunFailed) as failed:
        recipe.train(out="r", display=False, callbacks=[stop], seed=4)
    line = f'callback \'stop\' at step 3: ZeroDivisionError: no; resume with: saccade.load("{grey}").train(out="r")'
    assert str(failed.value) == line
    assert saccade.open_run("r", recipe=grey).result is None and "not finished" in repr(
        saccade.open_run("r", recipe=grey)
    )
    for settings, line in [
        ({"steps": 4}, "cannot be resumed with --steps 4 instead of 6"),
        ({"preset": "large"}, "began with --preset tiny, not large"),
        ({"keep_best": "level"}, "began without --keep-best level"),
    ]:
        with pytest.raises(ValueError, match=line):
            recipe.train(out="r", display=False, **settings)
    resumed = eval(str(failed.value).partition("resume with: ")[2])
    assert resumed.result["after"] == {"level": 0.984375, "from seed": 0.984375 + 0.04}
    with pytest.raises(ValueError, match="is finished"):
        recipe.train(out="r", display=False)


def test_what_does_not_fit_is_refused_before_a_folder_is_made(grey, tmp_path):
    recipe = saccade.load(grey)
    for settings, line in [
        ({"stpes": 3}, "unknown setting 'stpes'; nearest: steps"),
        ({"steps": "3"}, "steps must be a whole number, not '3'"),
        ({"steps": -1}, "--steps must be 0 or more, not -1"),
        ({"preset": "lage"}, "unknown preset 'lage'; nearest: large"),
        ({"loggers": ["tensorbord"]}, "there is no logger 'tensorbord'; nearest: tensorboard"),
        ({"patience": 2}, "counts evaluations without a better score"),
    ]:
        with pytest.raises(ValueError, match=line):
            recipe.train(out="r", display=False, **settings)
    assert not (tmp_path / "r").exists()


def test_progress_is_shown_or_not(grey, capsys):
    saccade.load(grey).train(steps=2, display=False)
    assert capsys.readouterr() == ("", "")
    saccade.load(grey).train(steps=2)
    assert "step 2/2" in capsys.readouterr().err


def test_a_run_is_uploaded_as_it_is_exported(grey, monkeypatch, tmp_path):
    sent = {}

    def upload(folder: Path, repository: str, private: bool) -> str:
        sent.update({path.name: path.read_text() for path in folder.iterdir()}, private=private)
        return f"https://hub/{repository}"

    monkeypatch.setattr(hub, "upload", upload)
    run = saccade.load(grey).train(steps=2, display=False)
    assert run.push_to_hub("me/grey", private=True) == "https://hub/me/grey" and sent["private"]
    card = sent["README.md"]
    assert (
        float(sent["weight.txt"]) == 0.75 and "# grey" in card and "| level | 0.75 |" in card and '"steps": 2' in card
    )


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("def evaluate(", "def evaluates(", "has no evaluate; a recipe offers Settings, PRESETS, policies, train"),
        ("PRESETS = {", "PRESETS = {} and {", "has no preset in PRESETS"),
        ('"large": replace', '"large": lambda: replace', "has a preset 'large' that is no Settings"),
        ("def sample(", "sample = 3\ndef samples(", "has a sample that is no function"),
        ("PRESETS", "Preset", "has no PRESETS"),
    ],
)
def test_a_recipe_that_lacks_a_part_is_one_line(grey, tmp_path, old, new, line):
    source = (tmp_path / "grey.py").read_text()
    assert old in source
    (tmp_path / "grey.py").write_text(source.replace(old, new))
    with pytest.raises(ValueError, match=line):
        saccade.load(grey)


def test_stages_are_read_by_their_names(grey):
    run = saccade.load(grey).train(steps=2, first_steps=3, out="r", display=False)
    assert [line["step"] for line in run.metrics("first")] == [1, 2, 3]
