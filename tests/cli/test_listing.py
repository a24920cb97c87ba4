"""What is known without any training: list, show, doctor, miniature, help, and the tables of the documentation."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
import types
from dataclasses import dataclass
from pathlib import Path

import pytest

from saccade import catalog
from saccade.cli import COMMANDS, papers
from saccade.cli.commands import doctor, miniature
from saccade.config import flags


def test_list_tells_the_63_systems_in_order(saccade):
    completed = saccade("list", "--json")
    systems = json.loads(completed.out.splitlines()[-1])
    assert completed.status == 0 and [s["number"] for s in systems] == list(range(1, 64))
    assert all(set(s) == {"number", "name", "title", "family", "state", "result"} for s in systems)
    assert len({s["name"] for s in systems}) == 63 and len({s["family"] for s in systems}) == 8
    assert {s["state"] for s in systems} <= {"not built", "built", "holds", "refuted", "undecided", "void"}
    people = saccade("list").out
    assert all(s["name"] in people for s in systems) and "flow_grpo" in people


def test_list_is_light():
    code = (
        "import sys; from saccade.cli import main; main(['list']); "
        "sys.exit(bool({'torch', 'transformers'} & set(sys.modules)))"
    )
    began = time.process_time(), time.monotonic()
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0
    assert time.monotonic() - began[1] < 15  # generous for a busy machine; about 0.5 s of work


@pytest.mark.parametrize("first", ["saccade", "saccade.cli"])
def test_threads_that_wait_sleep(first):
    """OpenMP tells its settings when torch loads it; a choice of the user stays."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("OMP_")}
    for environment, expected in ((kept, "PASSIVE"), (kept | {"OMP_WAIT_POLICY": "active"}, "ACTIVE")):
        told = subprocess.run(
            [sys.executable, "-c", f"import {first}, torch"],
            env=environment | {"OMP_DISPLAY_ENV": "true"},
            capture_output=True,
            text=True,
        )
        assert re.search(rf"OMP_WAIT_POLICY ?= ?'{expected}'", told.stderr), told.stderr


@pytest.mark.parametrize(
    ("verdict", "counted"),
    [("holds", "1 holds"), ("refuted", "1 refuted"), ("undecided", "1 undecided"), ("void", "1 void")],
)
def test_a_result_decides_the_state(saccade, monkeypatch, tmp_path, verdict, counted):
    claim = {"claim": "it wins", "origin": "paper", "least": 0.1, "margins": [0.2, None], "mean": 0.2,
             "interval": [0.1, 0.3], "verdict": verdict, "reason": "", "seeds_needed": 7}  # fmt: skip
    result = {"name": "promptrl", "verdict": verdict, "holds": None, "claims": [claim], "seeds": [0, 1], "seconds": 60,
              "date": "2026-01-01", "commit": None, "machine": {"cores": 2}, "scores": {"big": 1}}  # fmt: skip
    monkeypatch.setattr(catalog, "result_file", lambda name, first_seed=0: tmp_path / f"{name}.json")
    (tmp_path / "promptrl.json").write_text(json.dumps(result))
    first = json.loads(saccade("list", "--json", "--family", "image_generation").out)[0]
    assert first["state"] == verdict and first["result"]["claims"] == [claim] and "scores" not in first["result"]
    assert f"{counted}, 2 seeds" in " ".join(saccade("list").out.split())
    assert ("7 seeds would decide" in saccade("show", "promptrl").out) == (verdict == "undecided")
    assert "it wins" in saccade("show", "promptrl").out and "it wins" in papers.page()
    (tmp_path / "promptrl.json").write_text("{")
    assert "is not the result of a check" in saccade("list").refused()


def test_show(saccade):
    built = saccade("show", "flow_grpo").out
    assert all(field in built for field in catalog.FIELDS) and "sd35-medium" in built and "--flow.lora-rank" in built
    own = saccade("show", "./grey.py").out
    assert "a share of the way each step." in own and "slate" in own and "--share" not in own
    assert "not built" in saccade("show", "jowa").out


@pytest.mark.parametrize("name", catalog.recipes())
def test_no_two_settings_of_a_recipe_have_one_name(name):
    names = flags(catalog.load(name).Settings)
    assert len(set(names)) == len(names), sorted(n for n in names if names.count(n) > 1)


def test_every_command_has_help_and_refuses_what_it_does_not_know(saccade):
    assert saccade("--help").status == 0 and all(name in saccade("--help").out for name in COMMANDS)
    for name in COMMANDS:
        completed = saccade(name, "--help")
        assert (completed.status, completed.err) == (0, "") and completed.out.startswith(f"usage: saccade {name}")
    assert saccade().status == 2


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("lsit",), "unknown command 'lsit'; nearest: list"),
        (("list", "--jsn"), "unknown option '--jsn'; nearest: --json"),
        (("train", "flow_grpo", "--learning-rate", "1"), "unknown option '--learning-rate'; nearest: --optim.lr"),
        (("train", "flow_grpo", "--kl_coef", "1"), "unknown option '--kl_coef'; nearest: --grpo.beta"),
        (("train", "promptrl", "--learning_rate=1"), "nearest: --flow-optim.lr or --rewriter-optim.lr"),
        (("train", "flow_grpo", "--batch-size", "1"), "nearest: --prompts-per-step"),
        (("train", "flow_grpo", "--epochs", "1"), "nearest: --steps"),
        (("train", "flow_grpo", "--resume", "r"), "nearest: --out"),
        (("train", "flow_grpo", "--quux", "1"), "unknown option '--quux'; --help lists them"),
        (("show", "nope"), "unknown recipe 'nope'; saccade list shows them"),
        (("list", "--family", "image_edit"), "unknown family 'image_edit'; nearest: image_editing"),
        (("list", "extra"), "unexpected argument 'extra'"),
        (("show",), "missing NAME"),
        (("show", "promptlr"), "unknown recipe 'promptlr'; nearest: promptrl"),
        (("train", "jwoa"), "unknown recipe 'jwoa'; saccade list shows them"),
        (("train", "jowa"), "'jowa' is not built yet"),
        (("train", "--steps", "3", "flow_grpo"), "name the recipe before its options"),
        (("train", "./none.py"), "there is no recipe file './none.py'"),
        (("train", "./grey.py", "--stpes", "3"), "unknown option '--stpes'; nearest: --steps"),
        (("train", "./grey.py", "--modle=x"), "unknown option '--modle'; nearest: --model"),
        (("train", "./grey.py", "--steps", "x"), "--steps must be a whole number, not 'x'"),
        (("train", "./grey.py", "--steps"), "--steps needs a value"),
        (
            ("train", "./grey.py", "--kind", "fancie"),
            "--model.kind cannot be 'fancie'; nearest: fancy (of plain, fancy)",
        ),
        (("train", "./grey.py", "--preset", "lage"), "unknown preset 'lage'; nearest: large"),
        (("train", "./grey.py", "--logger", "tensorbord"), "nearest: tensorboard"),
        (("check", "./grey.py", "--seeds", "0"), "--seeds must be 1 or more, not 0"),
        (("check", "promptlr"), "unknown recipe 'promptlr'; nearest: promptrl"),
        (("eval", "nowhere"), "'nowhere' is no run, model folder or miniature"),
        (("eval", "./no/where"), "no such folder"),
        (("eval", "grey.py"), "a model is a folder"),
        (("sample", "nowhere", "x", "-o", "x.pgn"), "nearest: .png"),
        (("sample", "nowhere", "x", "--count", "0"), "--count must be 1 or more, not 0"),
        (("sample", "nowhere"), "missing PROMPT"),
        (("export", "nowhere", "x"), "there is no run in nowhere"),
        (("report",), "missing RUN"),
        (("report", "nowhere"), "there is no run in nowhere"),
        (("miniature", "bild"), "nearest: build (of list, build)"),
        (("miniature", "build"), "missing NAME"),
        (("miniature", "build", "sd3-shpes"), "unknown miniature 'sd3-shpes'; nearest: sd3-shapes"),
        (("miniature", "build", "sd3-shapes", "--siz", "3"), "unknown option '--siz'; nearest: --size"),
    ],
)
def test_bad_input_is_one_line_with_the_nearest_name(saccade, words, line):
    assert line in saccade(*words).refused()


def test_recipe_files_that_are_no_recipes(saccade, tmp_path):
    (tmp_path / "torn.py").write_text("def train(:\n")
    assert "line 1: " in saccade("train", "./torn.py").refused()
    (tmp_path / "raises.py").write_text("import json\n\njson.loads('{')\n")
    assert "cannot be run: JSONDecodeError" in saccade("train", "./raises.py").refused()
    (tmp_path / "empty.py").write_text('"""Nothing."""\n')
    assert "has no Settings; a recipe offers" in saccade("train", "./empty.py").refused()
    (tmp_path / "json.py").write_text((tmp_path / "grey.py").read_text().replace("CLAIMS = (", "CLAIMS_LATER = ("))
    assert "has no CLAIMS" in saccade("check", "./json.py").refused()
    assert json.loads("1") == 1 and sys.modules["json"].__file__ != str(tmp_path / "json.py")


def test_doctor_names_what_is_missing_and_how_to_get_it(saccade, monkeypatch):
    real = doctor._version
    monkeypatch.setattr(doctor, "_version", lambda name: None if name in ("peft", "wandb") else real(name))
    completed = saccade("doctor")
    assert completed.status == 1
    for word in (
        "torch",
        "cuda",
        "threads",
        "free disk",
        "fonts",
        "sd3-shapes",
        "pip install 'peft>=0.18'",
        "'saccade[wandb]'",
    ):
        assert word in completed.out
    monkeypatch.setattr(doctor, "_version", lambda name: "99.0" if name == "transformers" else real(name))
    assert re.search(r"transformers +untested +99.0; tested are \S*<5.25", saccade("doctor").out)


@dataclass(frozen=True)
class Settings:
    seed: int = 0
    width: int = 8
    """How wide."""


def test_a_miniature_is_built_beside_renamed_and_never_overwritten(saccade, monkeypatch, tmp_path):
    def build(cfg, out, progress):
        progress("part", 1, 1, 0.5)
        (out / "weights").write_text(str(cfg.width))
        if cfg.seed:
            raise ValueError("two of\nthem")
        return {"loss": 0.123456}

    fake = types.ModuleType("fake_thing", "`fake-thing`: a fake.\n\nMade of nothing.")
    fake.Settings, fake.build, fake.evaluate = Settings, build, lambda folder: {"tag one": 0.5}
    monkeypatch.setitem(sys.modules, "saccade.builders.fake_thing", fake)
    monkeypatch.setattr(miniature, "builders", lambda: {"fake-thing": "fake_thing"})
    completed = saccade("miniature", "build", "fake-thing", "--width", "4")
    folder = tmp_path / "miniatures" / "fake-thing"
    assert completed.status == 0 and (folder / "weights").read_text() == "4"
    card = (folder / "README.md").read_text()
    for part in (
        "Made of nothing.",
        "build fake-thing --seed 0 --width 4",
        "| seconds | 0 |",
        "| loss | 0.1235 |",
        "| tag one | 0.500 |",
        "commit",
    ):
        assert part in card
    assert "exists and is not empty" in saccade("miniature", "build", "fake-thing").refused()
    assert saccade("miniature", "build", "fake-thing", "--out", "x", "--seed", "1").status == 2
    assert not list(tmp_path.glob("*x*"))
    assert "fake-thing" in saccade("miniature", "list").out


def test_the_tables_of_the_documentation_are_fresh():
    root = catalog.PACKAGE.parents[1]
    readme = (root / "README.md").read_text()
    fresh = papers.with_tables(readme, root) == readme and (root / "docs" / "papers.md").read_text() == papers.page()
    assert fresh, "stale tables: python -m saccade.cli.papers"
    with pytest.raises(ValueError, match="must hold the lines"):
        papers.with_tables("# Nothing\n", root)


def test_the_command_is_a_module():
    done = subprocess.run([sys.executable, "-m", "saccade", "lsit"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (2, "saccade: unknown command 'lsit'; nearest: list\n")
    assert Path(catalog.PACKAGE / "__main__.py").is_file()


@pytest.mark.skipif(not shutil.which("bash"), reason="completion needs bash")
def test_bash_completes_commands_recipes_presets_and_settings(saccade, tmp_path):
    (tmp_path / "completion.bash").write_text(saccade("completion", "bash").out)

    def completed(*words: str) -> set[str]:
        line = " ".join(f"'{word}'" for word in words)
        asked = f"source completion.bash; COMP_WORDS=({line}); COMP_CWORD={len(words) - 1}; _saccade"
        script = asked + '; echo "${COMPREPLY[@]}"'
        return set(subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True).stdout.split())

    assert completed("saccade", "sc") == {"score"} and completed("saccade", "train", "flow_") == {"flow_grpo"}
    assert completed("saccade", "train", "flow_grpo", "--preset", "sd") == {"sd35-medium"}
    assert completed("saccade", "train", "flow_grpo", "--grpo.cl") == {"--grpo.clip", "--grpo.clip-high"}
    assert completed("saccade", "train", "sac", "--smo") == {"--smoke"}
    assert completed("saccade", "sample", "sd3") == {"sd3-shapes"}
    assert completed("saccade", "sample", "run", "--pa") == set()  # a positional is no option
    assert saccade("completion", "zsh").out.startswith("autoload") and "fish" in saccade("completion", "fish").refused()
