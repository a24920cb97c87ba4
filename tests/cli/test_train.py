"""Runs from the command line: begun, resumed, interrupted, refused, evaluated, drawn from, exported, reported."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as limits
from hypothesis import strategies as st

from saccade import catalog
from saccade.cli.output import known, with_interval
from saccade.cli.parsing import parse
from saccade.config import flat, restore_settings
from saccade.training.files import plain

GREY = ("train", "./grey.py")


def test_train_tells_what_came_of_it(saccade, tmp_path):
    completed = saccade(*GREY, "--out", "r", "--share", "0.25", "--names", "x", "y")
    assert (
        completed.status == 0
        and "+0.822" in completed.out
        and "r/report.html" in completed.out
        and (tmp_path / "r/report.html").is_file()
    )
    config = json.loads((tmp_path / "r/config.json").read_text())
    assert (
        config["preset"] == "tiny" and config["settings"]["names"] == ["x", "y"] and config["settings"]["share"] == 0.25
    )
    assert config["file"] == str(tmp_path / "grey.py")


def test_json_is_the_last_line_and_folders_are_new(saccade):
    first, second = (
        json.loads(saccade(*GREY, "--preset", "tiny", "--steps", "2", "--json").out.splitlines()[-1]) for _ in "ab"
    )
    assert set(first) == {"run", "steps", "seconds", "before", "after"} and first["steps"] == 2
    assert first["after"] == {"level": 0.75, "from seed": 0.75} and first["run"] != second["run"]
    assert first["run"].startswith("runs/grey/")


def test_a_preset_changes_defaults_and_nested_fields_are_flags(saccade, tmp_path):
    assert saccade(*GREY, "--preset=large", "--steps", "2", "--model", "m", "--out=r").status == 0
    settings = json.loads((tmp_path / "r/config.json").read_text())["settings"]
    assert settings["steps"] == 2 and settings["model"] == {"model": "m", "kind": "plain"}
    assert "(default: slate)" in saccade(*GREY, "--preset", "large", "--help").out


def test_a_failed_run_says_how_to_resume_and_keeps_its_settings(saccade):
    failed = saccade(*GREY, "--out", "r", "--trouble", "reward", "--frozen")
    assert failed.status == 1 and "KeyError: 'x'; resume with: " in failed.err.splitlines()[-1]
    assert saccade(*GREY, "--out", "r", "--trouble", "reward", "--frozen").status == 1  # the same line resumes it
    assert saccade(*GREY, "--out", "r").status == 1
    for words, line in [
        (("--steps", "4"), "cannot be resumed with --steps 4 instead of 6"),
        (("--no-frozen",), "cannot be resumed with --no-frozen instead of --frozen"),
        (("--kind", "fancy"), "--model.kind fancy instead of plain"),
        (("--preset", "large"), "began with --preset tiny, not large"),
    ]:
        assert line in saccade(*GREY, "--out", "r", *words).refused()
    assert "is one of grey, not of flow_grpo" in saccade("train", "flow_grpo", "--out", "r").refused()


def test_folders_that_are_no_unfinished_run_are_left_alone(saccade, tmp_path):
    assert saccade(*GREY, "--out", "r").status == 0
    assert "is finished (6 steps): give it more --steps, or name a new folder" in saccade(*GREY, "--out", "r").refused()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("long")
    assert "mine exists and is no run" in saccade(*GREY, "--out", "mine").refused()
    assert "grey.py exists and is no run" in saccade(*GREY, "--out", "grey.py").refused()
    (tmp_path / "mine" / "config.json").write_text("[1]")
    assert "is not the config of a run" in saccade(*GREY, "--out", "mine").refused()
    assert sorted(p.name for p in (tmp_path / "mine").iterdir()) == ["config.json", "thesis.txt"]
    (tmp_path / "empty").mkdir()
    assert saccade(*GREY, "--out", "empty").status == 0


def test_an_environment_that_fails_ends_any_command_in_one_line(saccade, tmp_path):
    saccade(*GREY, "--out", "r")
    source = (tmp_path / "grey.py").read_text()
    fails = "    from saccade.core import EnvironmentFailed\n    raise EnvironmentFailed(\"environment 'arm': gone\")\n"
    begun = "def evaluate(cfg: Settings, policies: Mapping[str, Level]) -> dict[str, float]:\n"
    (tmp_path / "grey.py").write_text(source.replace(begun, begun + fails))
    completed = saccade("eval", "r", "--recipe", "grey.py")
    assert (completed.status, completed.err) == (1, "saccade: environment 'arm': gone\n")
    completed = saccade(*GREY, "--out", "other")
    assert completed.status == 1 and completed.err.startswith(
        "saccade: evaluation at step 0: environment 'arm': gone; resume with: "
    )


def test_a_reward_that_judges_nothing_when_scores_are_taken_is_one_line(saccade, tmp_path):
    saccade(*GREY, "--out", "r")
    source = (tmp_path / "grey.py").read_text()
    begun = "def evaluate(cfg: Settings, policies: Mapping[str, Level]) -> dict[str, float]:\n"
    (tmp_path / "grey.py").write_text(
        source.replace(begun, f"{begun}    raise NothingJudged(\"reward 'mine': KeyError: 'x'\")\n")
    )
    completed = saccade("eval", "r", "--recipe", "grey.py")
    assert (completed.status, completed.err) == (1, "saccade: reward 'mine': KeyError: 'x'\n")
    completed = saccade(*GREY, "--out", "other")
    assert completed.status == 1 and completed.err.startswith(
        "saccade: evaluation at step 0: reward 'mine': KeyError: 'x'; resume with: "
    )


def test_values_that_cannot_be_are_refused_before_a_folder_is_made(saccade, tmp_path):
    assert "--steps must be a whole number, not 'two'" in saccade(*GREY, "--steps", "two", "--out", "r").refused()
    assert "--share must be a number, not 'half'" in saccade(*GREY, "--share", "half", "--out", "r").refused()
    assert "--steps must be 0 or more, not -1" in saccade(*GREY, "--steps", "-1", "--out", "r").refused()
    assert not (tmp_path / "r").exists()
    (tmp_path / "file").write_text("")
    assert saccade(*GREY, "--out", "file/r").refused() == "saccade: file/r: Not a directory"


def test_a_smoke_test_takes_two_steps_unless_others_are_given(saccade, tmp_path):
    for words, steps in (((), 2), (("--steps", "1"), 1)):
        assert saccade(*GREY, "--smoke", *words, "--out", f"r{steps}").status == 0
        assert json.loads((tmp_path / f"r{steps}/config.json").read_text())["settings"]["steps"] == steps


NUMBERS_THAT_CANNOT_BE = [
    ("flow_grpo", "--lr nan", "--optim.lr must be a number, not nan"),
    ("flow_grpo", "--lr 1e38", "--optim.lr must be from 0 to 1e+18, not 1e+38"),
    ("sac", "--optim.lr inf", "--optim.lr must be from 0 to 1e+18, not inf"),
    ("ppo", "--lr -1", "--optim.lr must be from 0 to 1e+18, not -1"),
    ("flow_grpo", "--noise 0", "--flow.noise must be from 0.001 to 10000, not 0"),
    ("flow_grpo", "--ema 2", "--ema must be from 0 to 1, not 2"),
    ("ppo", "--gamma 2", "--ppo.gamma must be from 0 to 1, not 2"),
    ("grpo", "--temperature nan", "--model.temperature must be a number, not nan"),
    ("grpo", "--temperature -1", "--model.temperature must be 0 or more, not -1"),
    ("flow_grpo", "--window 9 --sampling-steps 8", "a window of 9 denoising steps does not fit into 8 sampling steps"),
    ("promptrl", "--retained 20", "retained 20 is more than the 8 pictures of a group"),
    ("dmd", "--min-t -0.1", "--distillation.min-t must be from 0 to 1, not -0.1"),
    ("flow_grpo", "--group-size 0", "--group-size must be 1 or more, not 0"),
    ("flow_grpo", "--micro-decisions 0", "--micro-decisions must be 1 or more, not 0"),
    ("td3", f"--seed {1 << 63}", "--seed must be a whole number of 64 bits, not 9223372036854775808"),
]


@pytest.mark.parametrize(("recipe", "words", "line"), NUMBERS_THAT_CANNOT_BE)
def test_numbers_that_cannot_be_are_one_line_in_every_recipe(saccade, tmp_path, recipe, words, line):
    assert line in saccade("train", recipe, *words.split(), "--out", "r").refused()
    assert not (tmp_path / "r").exists()


def test_what_is_wrong_is_told_before_models_are_loaded(tmp_path):
    (tmp_path / "dogs.txt").write_text("a dog\na red cube\n")
    code = """
import sys
from saccade.cli import main
heavy = ("torch",) if sys.argv[2:] == ["extra"] else ("diffusers", "transformers", "scipy.stats")
status = main(["train", *sys.argv[1:]])
assert status == 2 and not [name for name in heavy if name in sys.modules], status
"""
    for words, told in (
        (["extra"], "'extra' after promptrl is no option"),
        (["--prompts", "none.txt", "--steps", "1"], "--task.prompts none.txt: cannot be read"),
        (["--rewards", "shaeps"], "unknown reward 'shaeps'; nearest: shapes"),
        (["--rewards", "./mine.py:f"], "reward file 'mine.py' does not exist"),
        (["--prompts", "dogs.txt"], "reward 'shapes' can judge none of 2 prompts of --prompts: it does not understand"),
    ):
        completed = subprocess.run(
            [sys.executable, "-c", code, "promptrl", *words], cwd=tmp_path, capture_output=True, text=True, check=True
        )
        assert told in completed.stderr and len(completed.stderr.splitlines()) == 1
    assert [file.name for file in tmp_path.iterdir()] == ["dogs.txt"]


def test_a_device_that_is_not_here_is_told():
    from dataclasses import dataclass

    from saccade.api.training import _refuse_impossible

    @dataclass(frozen=True)
    class Settings:
        device: str = "auto"

    for device in ("auto", "cpu", "cpu:0"):
        _refuse_impossible(Settings(device), Settings())
    for device in ("cuda:99", "cud", "ipu"):
        with pytest.raises(ValueError, match=rf"device '{device}' is not available.* \(of auto, cpu"):
            _refuse_impossible(Settings(device), Settings())


def test_a_score_is_told_with_its_interval():
    scores = {"return": 0.5, "return, standard error": 0.1, "length": 3.0}
    assert known(scores) == ["return", "length"]
    assert [with_interval(scores, name) for name in known(scores)] == ["0.500 ± 0.196", "3.000"]


def test_a_run_of_a_recipe_that_has_changed_is_not_guessed_at(saccade, tmp_path):
    saccade(*GREY, "--out", "r", "--trouble", "reward")
    source = (tmp_path / "grey.py").read_text()
    (tmp_path / "grey.py").write_text(
        source.replace("    share: float", "    shares: float").replace("cfg.share", "cfg.shares")
    )
    assert (
        "has the setting 'share', which the recipe does not; nearest: shares" in saccade(*GREY, "--out", "r").refused()
    )


def test_bad_values_are_lines_and_defects_are_tracebacks(saccade):
    completed = saccade(*GREY, "--trouble", "value", "--out", "value")
    assert completed.status == 1 and "Traceback" not in completed.err
    assert ": two lines of trouble; resume with: " in completed.err.splitlines()[-1]
    with pytest.raises(IndexError) as caught:
        saccade(*GREY, "--trouble", "bug", "--out", "bug")
    assert caught.value.__notes__[0].startswith("resume with: ")
    assert list(Path("value/checkpoints").glob("step-*")) and list(Path("bug/checkpoints").glob("step-*"))


def test_the_best_checkpoint_is_kept_and_meant_by_its_name(saccade, tmp_path):
    refused = saccade(*GREY, "--out", "r", "--keep-best", "lightness")
    line = "--keep-best lightness: no such score (of level, from seed, each with :min where less is better)"
    assert refused.status == 2 and refused.err.splitlines()[-1] == f"saccade: {line}"
    assert saccade(*GREY, "--out", "low", "--keep-best", "level:min").status == 0
    lines = [json.loads(line) for line in (tmp_path / "low/metrics.jsonl").read_text().splitlines()]
    seen = {line["step"]: line["eval/level"] for line in lines if "eval/level" in line}
    least = min(seen, key=seen.get)
    assert sorted(p.name for p in (tmp_path / "low/best").iterdir())[-1] == f"step-{least:06d}"
    completed = json.loads(saccade("eval", "low/best", "--json", "--recipe", "grey.py").out.splitlines()[-1])
    assert completed["scores"]["level"] == pytest.approx(seen[least])
    (tmp_path / "low/result.json").unlink()
    assert "began without --keep-best level" in saccade(*GREY, "--out", "low", "--keep-best", "level").refused()


def test_a_run_ends_when_no_better_score_is_to_be_waited_for(saccade, tmp_path):
    completed = saccade(*GREY, "--out", "low", "--keep-best", "level:min", "--patience", "2", "--first-steps", "3")
    assert (
        completed.status == 0
        and "after 7 steps: 2 evaluations without a better level:min; the best is low/best" in completed.out
    )
    result = json.loads((tmp_path / "low/result.json").read_text())
    assert result["steps"] == 3 + 4 and sorted(p.name for p in (tmp_path / "low/best").iterdir()) == ["step-000000"]
    assert sorted(p.name for p in (tmp_path / "low/checkpoints").iterdir())[-1] == "step-000004"
    high = saccade(*GREY, "--out", "high", "--keep-best", "level", "--patience", "1")
    assert high.status == 0 and "without a better" not in high.out
    assert json.loads((tmp_path / "high/result.json").read_text())["steps"] == 6
    refused = saccade(*GREY, "--out", "c", "--patience", "2").refused()
    assert "--patience 2 counts evaluations without a better score: name it by --keep-best SCORE" in refused
    (tmp_path / "high/result.json").unlink()
    assert "began without --patience 3" in saccade(*GREY, "--out", "high", "--patience", "3").refused()


def test_a_run_takes_the_stages_of_another(saccade, tmp_path):
    assert saccade(*GREY, "--out", "a", "--first-steps", "3", "--frozen").status == 0
    assert saccade(*GREY, "--out", "b", "--first-steps", "3", "--stages-of", "a").status == 0
    first = [(tmp_path / run / "first" / "metrics.jsonl").read_bytes() for run in "ab"]
    assert first[0] == first[1] and json.loads((tmp_path / "b/result.json").read_text())["before"]["level"] == 0.875
    refused = saccade(*GREY, "--out", "c", "--seed", "1", "--stages-of", "a").refused()
    assert "the stages of a are of seed 0; those of seed 1 are wanted" in refused and not (tmp_path / "c").exists()
    assert "there is no run in nowhere" in saccade(*GREY, "--out", "c", "--stages-of", "nowhere").refused()
    (tmp_path / "b/result.json").unlink()
    assert "began without --stages-of c" in saccade(*GREY, "--out", "b", "--stages-of", "c").refused()
    # A copy that was cut off is made again.
    (tmp_path / "d/.first.new").mkdir(parents=True)
    (tmp_path / "d/config.json").write_text((tmp_path / "b/config.json").read_text())
    assert saccade(*GREY, "--out", "d").status == 0 and not (tmp_path / "d/.first.new").exists()
    assert (tmp_path / "d/first/metrics.jsonl").read_bytes() == first[0]


def test_ctrl_c_saves_and_the_printed_line_resumes(saccade, tmp_path):
    words = [sys.executable, "-m", "saccade", *GREY, "--trouble", "wait", "--out", "r", "--seed", "7"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        while "waiting" not in process.stderr.readline():
            pass
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    again = err.splitlines()[-1].partition("interrupted after 4 steps; resume with: python -m saccade ")[2].split()
    resumed = saccade(*again, "--json")
    assert resumed.status == 0 and "step 2/" not in resumed.err
    result = json.loads(resumed.out.splitlines()[-1])
    whole = json.loads(saccade(*GREY, "--seed", "7", "--json").out.splitlines()[-1])
    assert (result["before"], result["after"], result["steps"]) == (whole["before"], whole["after"], 6)


def test_code_that_exits_and_a_reader_that_goes_never_end_a_run_in_silence(saccade, tmp_path):
    source = (tmp_path / "grey.py").read_text()
    (tmp_path / "leaves.py").write_text(
        source.replace("    level = policies(cfg)", "    raise SystemExit\n    level = policies(cfg)")
    )
    said = saccade("train", "leaves.py", "--out", "left")
    assert said.status == 1 and "code of this run called sys.exit(); resume with: " in said.err
    (tmp_path / "never.py").write_text("raise SystemExit(0)")
    assert "it tried to end the program by SystemExit: 0" in saccade("train", "never.py").refused()
    read, write = os.pipe()
    os.close(read)
    words = [sys.executable, "-m", "saccade", *GREY, "--out", "r"]
    done = subprocess.run(words, stdout=subprocess.PIPE, stderr=write, text=True, timeout=120)
    os.close(write)
    assert done.returncode == 0 and (tmp_path / "r/result.json").is_file() and "level" in done.stdout


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_before_the_run_begins_is_an_interruption_too(saccade, tmp_path, number):
    source = (tmp_path / "grey.py").read_text()
    (tmp_path / "slow.py").write_text(f"{source}\nimport sys, time\nprint('reading', flush=True)\ntime.sleep(60)\n")
    words = [sys.executable, "-m", "saccade", "train", "slow.py"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "reading\n"
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, "saccade: interrupted\n")


def test_a_process_that_dies_ends_the_run_with_one_line(tmp_path, saccade):
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    words = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        "2",
        "-m",
        "saccade",
        *GREY,
        "--out",
        "r",
    ]
    done = subprocess.run([*words, "--trouble", "die"], capture_output=True, text=True, env=environment, timeout=120)
    errors = [line for line in done.stderr.splitlines() if line.startswith("saccade: ")]
    line = "process 0: another process of this run is gone; resume with: torchrun --nproc-per-node 2 -m saccade train"
    assert done.returncode != 0 and len(errors) == 1 and line in errors[0]
    assert "was begun by 2 at once" in saccade(*GREY, "--out", "r").refused()


def test_a_finished_run_goes_on_with_more_steps_and_is_the_longer_run(saccade, tmp_path):
    """Three steps and three more are six, also where the first three were finished."""
    whole = json.loads(saccade(*GREY, "--steps", "6", "--out", "whole", "--json").out.splitlines()[-1])
    assert saccade(*GREY, "--steps", "3", "--out", "r").status == 0
    longer = json.loads(saccade(*GREY, "--steps", "6", "--out", "r", "--json").out.splitlines()[-1])
    assert (longer["before"], longer["after"], longer["steps"]) == (whole["before"], whole["after"], 6)
    assert json.loads((tmp_path / "r/config.json").read_text())["settings"]["steps"] == 6
    assert "is finished (6 steps): give it more --steps" in saccade(*GREY, "--steps", "6", "--out", "r").refused()
    assert "is finished (6 steps)" in saccade(*GREY, "--steps", "3", "--out", "r").refused()


def test_code_that_a_folder_names_is_executed_only_when_asked_for(saccade, tmp_path):
    """A recipe or a reward file in the config of a run is a file that somebody else may have chosen."""
    marker, evil = tmp_path / "ran", tmp_path / "evil.py"
    assert saccade(*GREY, "--out", "r").status == 0
    evil.write_text((tmp_path / "grey.py").read_text() + f"\nopen({str(marker)!r}, 'a').write('x')\n")
    (tmp_path / "r" / "evil.py").write_text(evil.read_text())
    config = tmp_path / "r" / "config.json"
    kept = json.loads(config.read_text())
    for place, completed in (
        (evil, ""),
        (tmp_path / "r" / "evil.py", "in the folder itself"),
        ("evil.py", "no absolute path"),
    ):
        for entry in ({"file": str(place)}, {"file": "", "recipe": str(place)}):
            config.write_text(json.dumps(kept | entry))
            for words in (("eval", "r"), ("sample", "r", "a"), ("export", "r", "x")):
                assert "executed only if you ask for it: add --recipe" in saccade(*words).refused()
                if completed:
                    assert completed in saccade(*words, "--trust").refused()
            assert saccade("report", "r").status == 0 and not marker.exists()
    config.write_text(json.dumps(kept | {"file": str(evil)}))
    assert saccade("eval", "r", "--recipe", "grey.py").status == 0 and not marker.exists()
    assert saccade("eval", "r", "--trust").status == 0 and marker.exists()
    assert "is no run: it names no recipe" in saccade("eval", "nowhere", "--trust").refused()


def test_runs_begun_in_one_second_have_folders_of_their_own(tmp_path, monkeypatch):
    from saccade import catalog

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(catalog.time, "strftime", lambda form: "now")
    names = [catalog.new_run("grey").name for _ in range(3)]
    assert names == ["now", "now-2", "now-3"] and all((tmp_path / "runs/grey" / name).is_dir() for name in names)


@pytest.mark.parametrize(
    "content", ['"settings"', "[" * 50_000, '{"settings": 3}', '{"settings": {"steps": "6"}}', "{"]
)
def test_odd_json_in_a_run_folder_is_one_line(saccade, tmp_path, content):
    assert saccade(*GREY, "--out", "r").status == 0
    for name in ("config.json", "result.json", "tables.json", "metrics.jsonl", "samples.jsonl"):
        former = (tmp_path / "r" / name).read_bytes() if (tmp_path / "r" / name).exists() else None
        (tmp_path / "r" / name).write_text(content + "\n")
        words = [("report", "r"), ("compare", "r", "r"), ("eval", "r", "--recipe", "grey.py"), (*GREY, "--out", "r")]
        for completed in (saccade(*each) for each in words):
            assert (
                completed.status in (0, 2) and "Traceback" not in completed.err and len(completed.err.splitlines()) < 20
            )
        (tmp_path / "r" / name).unlink() if former is None else (tmp_path / "r" / name).write_bytes(former)


def test_eval_sample_export_report_of_a_run(saccade, tmp_path):
    from PIL import Image

    saccade(*GREY, "--out", "r")
    assert json.loads(saccade("eval", "r", "--json", "--recipe", "grey.py").out) == {
        "scores": {"level": 0.984375, "from seed": 0.984375}
    }
    assert "0.984" in saccade("eval", "r", "--recipe", "grey.py").out
    drawn = saccade("sample", "r", "one", "two", "--count", "3", "-o", "deep/p.png", "--recipe", "grey.py")
    assert drawn.out.splitlines() == ["one → ONE", "two → TWO", "deep/p.png"]
    assert Image.open(tmp_path / "deep/p.png").size == (28, 18)
    assert (
        "the run in r has no rewriter; it has policy"
        in saccade("sample", "r", "x", "--without", "rewriter", "--recipe", "grey.py").refused()
    )
    assert (
        saccade("export", "r", "weights", "--recipe", "grey.py").status == 0
        and (tmp_path / "weights/weight.txt").read_text() == "0.984375"
    )
    assert "weights exists and is not empty" in saccade("export", "r", "weights", "--recipe", "grey.py").refused()
    saccade(*GREY, "--out", "s", "--frozen")
    assert saccade("report", "r", "s").out.strip() == "report.html" and (tmp_path / "report.html").is_file()
    assert saccade("report", "r", "-o", "x/y.html").status == 0 and (tmp_path / "x/y.html").is_file()


def test_a_run_without_a_whole_checkpoint_is_told(saccade, tmp_path):
    saccade(*GREY, "--out", "r")
    for file in tmp_path.glob("r/checkpoints/*/state.json"):
        file.write_text("{}")
    assert "no whole checkpoint" in saccade("eval", "r", "--recipe", "grey.py").refused()
    subprocess.run(["rm", "-r", str(tmp_path / "r/checkpoints")], check=True)
    assert "the run in r has no checkpoint yet" in saccade("sample", "r", "x", "--recipe", "grey.py").refused()
    assert (
        "the run in r kept no best checkpoint, as --keep-best SCORE would"
        in saccade("eval", "r/best", "--recipe", "grey.py").refused()
    )


def test_settings_survive_json():
    recipe = catalog.load(str(Path(__file__).parent.parent / "grey.py"))
    for preset in recipe.PRESETS.values():
        assert restore_settings(recipe.PRESETS["tiny"], json.loads(json.dumps(plain(preset))), "x") == preset
    assert flat(recipe.PRESETS["large"])["model.model"] == "slate"


FLAGS = st.sampled_from(
    ["--seed", "--steps", "--model", "--kind", "--names", "--frozen", "--no-frozen", "--seed=3", "--", "-x", "--a"]
)


@limits(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(FLAGS | st.text(max_size=6) | st.integers().map(str), max_size=5))
def test_no_words_break_the_parser(words):
    if {"-h", "--help"} & set(words):
        return
    recipe = catalog.load(str(Path(__file__).parent.parent / "grey.py"))
    try:
        made = parse(recipe.Settings, words, "saccade train grey", recipe.PRESETS["tiny"])
    except ValueError as error:
        assert str(error).strip()
    else:
        assert isinstance(made.seed, int) and isinstance(made.names, tuple)
