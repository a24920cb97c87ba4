"""Loggers receive what a run logs; TensorBoard for real, the two others through stand-ins for their packages."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from saccade.training.loggers import open_loggers
from saccade.training.run import Run

CONFIG = {"recipe": "points", "settings": {"lr": 0.1}, "command": "saccade train points"}
ITEMS = [{"prompt": "a red ring", "image": torch.rand(3, 8, 8), "text": "one ring, red", "score": torch.tensor(0.5)}]


CLIP = {
    "prompt": "episode 1",
    "clip": np.arange(3 * 8 * 8 * 3, dtype=np.uint8).reshape(3, 8, 8, 3),
    "note": "2 steps",
    "score": 1.0,
}


def test_tensorboard_holds_scalars_and_pictures(tmp_path):
    pytest.importorskip("tensorboard")
    with Run.start(tmp_path / "r", CONFIG, loggers=["tensorboard"], display=False) as run:
        run.log(1, {"reward/points": 0.25, "health/none": float("nan")})
        run.stage("second").log(1, {"reward/points": torch.tensor(0.5)})
        run.samples(1, "held-out", [*ITEMS, CLIP])
    assert _scalars(tmp_path / "r") == [(1, 0.25)]
    assert _scalars(tmp_path / "r" / "second") == [(1, 0.5)]
    assert _events(tmp_path / "r").Tags()["images"] == ["samples/held-out/00", "samples/held-out/01"]
    assert "health/none" not in _events(tmp_path / "r").Tags()["scalars"]


def test_tensorboard_forgets_what_lies_past_the_checkpoint(tmp_path):
    pytest.importorskip("tensorboard")
    net = torch.nn.Linear(1, 1)
    with Run.start(tmp_path / "r", CONFIG, loggers=["tensorboard"], display=False) as run:
        for step in (1, 2, 3):
            run.log(step, {"reward/points": step})
            if step == 2:
                run.save(2, {"net": net})
    with Run.resume(tmp_path / "r", loggers=["tensorboard"], display=False) as run:
        assert run.load({"net": net}) == 2
        run.log(3, {"reward/points": 30})
    assert _scalars(tmp_path / "r") == [(1, 1.0), (2, 2.0), (3, 30.0)]


def _events(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return EventAccumulator(str(folder / "tensorboard")).Reload()


def _scalars(folder):
    return [(e.step, e.value) for e in _events(folder).Scalars("reward/points")]


class _Package(ModuleType):
    """A stand-in that writes down the calls of ``init`` and of the run that it returns."""

    def __init__(self, name: str):
        super().__init__(name)
        self.calls: list[tuple] = []
        self.Image = lambda array, caption: (array.shape, str(array.dtype), caption)
        self.Video = lambda clip, caption, format="": (_gif(clip), caption, format)

    def init(self, **options):
        print("a package that talks")
        self.calls.append(("init", options))
        write = lambda verb: lambda *a, **k: self.calls.append((verb, *a, k))
        self.finish = write("finish")
        return SimpleNamespace(log=write("log"), finish=write("finish"), define_metric=write("define_metric"))


def _gif(clip):
    with Image.open(clip) as opened:
        return opened.format, opened.n_frames


def test_trackio(tmp_path, monkeypatch, capsys):
    fake = _Package("trackio")
    monkeypatch.setitem(sys.modules, "trackio", fake)
    _exercise(tmp_path / "2025-01-01", "trackio")
    (_, first), log, image, staged, finish = fake.calls
    assert (first["project"], first["group"], first["name"], first["resume"]) == (
        "saccade",
        "points",
        "points-2025-01-01",
        "allow",
    )
    assert log == ("log", {"reward/a": 0.5}, {"step": 3})
    pictures = {"samples/held-out/00": ((8, 8, 3), "uint8", "a red ring | one ring, red | 0.5")}
    assert image[1:] == (pictures | {"samples/held-out/01": (("GIF", 3), "episode 1 | 2 steps | 1", "")}, {"step": 3})
    assert staged == ("log", {"refine/reward/a": 1.0}, {"step": 1}) and finish[0] == "finish"
    assert capsys.readouterr() == ("", "a package that talks\n")


def test_wandb(tmp_path, monkeypatch):
    fake = _Package("wandb")
    monkeypatch.setitem(sys.modules, "wandb", fake)
    _exercise(tmp_path / "12:30", "wandb")
    (_, options), define, log, image, staged, finish = fake.calls
    assert (
        options["id"] == "points-12-30" and options["dir"] == str(tmp_path / "12:30") and options["resume"] == "allow"
    )
    assert options["config"]["settings"] == {"lr": 0.1}
    assert define == ("define_metric", "*", {"step_metric": "step"})
    assert log == ("log", {"reward/a": 0.5, "step": 3}, {})
    assert staged == ("log", {"refine/reward/a": 1.0, "step": 1}, {}) and finish[0] == "finish"
    pictures = [
        ((8, 8, 3), "uint8", "a red ring | one ring, red | 0.5"),
        (("GIF", 3), "episode 1 | 2 steps | 1", "gif"),
    ]
    assert image[1] == {"samples/held-out": pictures, "step": 3}


def _exercise(folder, name):
    with Run.start(folder, CONFIG, loggers=[name], display=False) as run:
        run.log(3, {"reward/a": 0.5, "reward/b": float("inf")})
        run.samples(3, "held-out", [*ITEMS, CLIP])
        run.stage("refine").log(1, {"reward/a": 1.0})


def test_an_absent_package_and_an_unknown_name_are_one_line_and_leave_no_folder(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(
        ValueError, match=r"^the logger 'wandb' needs a package: pip install 'saccade\[wandb\]' \(.*wandb.*\)$"
    ):
        Run.start(tmp_path / "r", CONFIG, loggers=["wandb"])
    with pytest.raises(ValueError, match=r"^there is no logger 'Tensorbord'; nearest: tensorboard[^\n]*$"):
        Run.start(tmp_path / "r", CONFIG, loggers=["Tensorbord"])
    assert not (tmp_path / "r").exists() and open_loggers([], tmp_path, {}) == []
