"""A run remembers what it was told, survives kills and full disks, and minds its manners with signals and streams."""

from __future__ import annotations

import errno
import io
import json
import math
import os
import shlex
import signal
import subprocess
import sys
import textwrap
import threading
import time
from dataclasses import dataclass

import pytest
import torch
from PIL import Image

from saccade.core import RunFailed
from saccade.training import checkpoint, files
from saccade.training import folder as on_disk
from saccade.training.display import Lines, Live, Shown, Silent, open_display
from saccade.training.meter import Meter, duration
from saccade.training.provenance import fingerprint, versions
from saccade.training.run import Run

torch.set_num_threads(1)


@dataclass(frozen=True)
class Settings:
    lr: float = 0.1
    widths: tuple[int, ...] = (4, 8)


CONFIG = {"recipe": "points", "preset": "tiny", "settings": Settings(), "seed": 0, "command": "saccade train points"}


def start(folder, **options) -> Run:
    return Run.start(folder, CONFIG, display=False, **options)


def lines(folder, name="metrics.jsonl"):
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def test_the_folder_holds_what_was_told(tmp_path):
    run = start(tmp_path / "r")
    run.log(
        1, {"reward/a": torch.tensor(0.5, dtype=torch.bfloat16), "health/x": float("nan"), "health/y": math.inf, "n": 3}
    )
    pixels = torch.zeros(3, 4, 6, dtype=torch.float64)
    pixels[0, 0, 0], pixels[1, 0, 1], pixels[2, 0, 2] = 7.0, float("nan"), 0.5
    run.samples(1, "held-out", [{"prompt": "<b>", "image": pixels, "score": torch.tensor([0.25])}])
    run.table("fit", ["a", "b"], [[1, torch.tensor(2.5)], ["x", float("nan")]])
    run.table("fit", ["a"], [[1]])
    run.table("more", ["c"], [[None]])
    result = run.finish({"before": {"a": 0.1}, "after": {"a": torch.tensor(0.5)}})
    (line,) = lines(run.folder)
    assert {**line, "time": 0} == {"step": 1, "time": 0, "reward/a": 0.5, "health/x": None, "health/y": None, "n": 3}
    (sample,) = lines(run.folder, "samples.jsonl")
    assert sample == {
        "step": 1, "set": "held-out",
        "items": [{"prompt": "<b>", "image": "samples/held-out/000001-00.png", "score": 0.25}],
    }  # fmt: skip
    picture = Image.open(run.folder / sample["items"][0]["image"])
    assert picture.size == (6, 4) and [picture.getpixel((x, 0)) for x in range(3)] == [
        (255, 0, 0),
        (0, 0, 0),
        (0, 0, 128),
    ]
    assert json.loads((run.folder / "tables.json").read_text()) == {
        "fit": {"columns": ["a"], "rows": [[1]]}, "more": {"columns": ["c"], "rows": [[None]]},
    }  # fmt: skip
    assert json.loads((run.folder / "result.json").read_text()) == result
    assert result["after"] == {"a": 0.5} and result["steps"] == 1 and result["run"] == str(run.folder)
    assert not list(run.folder.rglob(".*"))


def test_config_says_where_numbers_come_from(tmp_path):
    config = json.loads((start(tmp_path / "r").folder / "config.json").read_text())
    told = {"command", "versions", "commit", "machine", "processes", "started"}
    assert {"recipe", "preset", "settings", "seed", *told} == set(config)
    assert set(config["versions"]) == {"python", "torch", "diffusers", "transformers", "saccade"}
    assert (
        config["versions"]["torch"] == torch.__version__.split("+")[0]
        or config["versions"]["torch"] == torch.__version__
    )
    assert config["settings"] == {"lr": 0.1, "widths": [4, 8]} and config["machine"]["cores"] >= 1
    assert config["commit"] is None or len(config["commit"].removesuffix("-dirty")) == 40


@pytest.mark.parametrize(
    "act, message",
    [
        (lambda run: run.log(1, {"a": "high"}), "metric a must be one number, not 'high'"),
        (lambda run: run.log(1, {"a": torch.ones(2)}), r"metric a must be one number, not 'tensor"),
        (lambda run: run.log(1, {"step": 1}), "cannot be named 'step'"),
        (lambda run: run.samples(1, "../up", []), r"sample set '../up' .* nearest that can is 'up'"),
        (
            lambda run: run.samples(1, "a", [{"prompt": "", "image": torch.zeros(4, 4)}]),
            r"must be \[3, H, W\], not \[4, 4\]",
        ),
        (lambda run: run.table("t", ["a"], [[1, 2]]), "table 't' has 1 columns, but one row has 2"),
        (lambda run: run.stage("samples"), "stage 'samples' .* is taken"),
        (lambda run: run.stage(".."), "nearest that can is 'main'"),
        (lambda run: [run.stage("x"), run.stage("x")], "stage 'x' .* is taken"),
        (lambda run: Run.start(run.folder, CONFIG), "exists and is not empty"),
        (lambda run: Run.resume(run.folder.parent / "rr"), r"there is no run in .*rr; nearest: .*/r$"),
    ],
)
def test_bad_input_is_one_line(tmp_path, act, message):
    with start(tmp_path / "r") as run, pytest.raises(ValueError, match=message) as caught:
        act(run)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.rglob("*.jsonl"))


class Counter:
    """A part with state, that shows whether it was restored."""

    def __init__(self, value: int = 0):
        self.value = value

    def state_dict(self):
        return {"value": self.value, "tensor": torch.full((3,), self.value)}

    def load_state_dict(self, state):
        self.value = int(state["tensor"][0])


def test_resume_takes_records_back_to_the_checkpoint(tmp_path):
    with start(tmp_path / "r") as run:
        part = Counter()
        for step in (1, 2, 3):
            part.value = step * 10
            run.log(step, {"reward/a": step})
            run.samples(step, "s", [{"prompt": "p", "image": torch.rand(3, 2, 2)}])
            if step == 2:
                run.save(step, {"part": part})
    for name in ("metrics.jsonl", "samples.jsonl"):
        with (tmp_path / "r" / name).open("a") as file:
            file.write('{"step": 4, "rew')
    with Run.resume(tmp_path / "r", display=False) as run:
        assert [x["step"] for x in lines(run.folder)] == [1, 2, 3]
        part = Counter()
        assert run.load({"part": part}) == 2 and part.value == 20 and run.steps == 2
        assert run.seconds >= lines(run.folder)[-1]["time"]
        run.log(3, {"reward/a": 33})
    assert [(x["step"], x["reward/a"]) for x in lines(run.folder)] == [(1, 1), (2, 2), (3, 33)]
    assert [x["step"] for x in lines(run.folder, "samples.jsonl")] == [1, 2]
    assert len(on_disk.config(run.folder)["resumed"]) == 1


def test_resume_without_a_checkpoint_begins_afresh_and_a_changed_recipe_is_refused(tmp_path):
    with start(tmp_path / "r") as run:
        run.log(0, {"eval/a": 0})
        assert run.load({"part": Counter()}) == 0 and len(lines(run.folder)) == 1
    with Run.resume(tmp_path / "r", display=False) as run:
        assert lines(run.folder) == []
        run.save(1, {"part": Counter(1)})
    with (
        Run.resume(tmp_path / "r", display=False) as run,
        pytest.raises(ValueError, match="holds part, but this run has critic, part"),
    ):
        run.load({"part": Counter(), "critic": Counter()})


def test_stages_are_runs_inside_the_run(tmp_path):
    with start(tmp_path / "r") as run:
        first = run.stage("warm-up")
        first.log(5, {"reward/a": 1})
        first.save(5, {"part": Counter(5)})
        assert first.finish({"after": {}})["steps"] == 5
        run.stage("main").log(2, {"reward/a": 2})
        assert run.steps == 7 and run.stage("third").resume_command == f"saccade train points --out {run.folder}"
    with Run.resume(tmp_path / "r", display=False) as run:
        assert run.stage("warm-up").load({"part": Counter()}) == 5
        run.stage("main")
    assert len(lines(run.folder / "warm-up")) == 1 and lines(run.folder / "main") == []
    assert on_disk.config(run.folder / "main")["stage"] == "main"


def test_other_processes_are_silent_but_load(tmp_path, monkeypatch):
    with start(tmp_path / "r") as run:
        run.save(1, {"part": Counter(9)})
    before = sorted(p for p in tmp_path.rglob("*"))
    monkeypatch.setenv("RANK", "1")
    for other in (Run.start(tmp_path / "r", CONFIG), Run.resume(tmp_path / "r")):
        part = Counter()
        assert other.load({"part": part}) == 1 and part.value == 9
        other.log(2, {"a": 1})
        other.samples(2, "s", [])
        other.table("t", [], [])
        other.progress(2, 3)
        assert other.save(2, {"part": part}).name == "step-000002"
        other.stage("x").log(1, {"a": 1})
        other.finish({})
    assert sorted(p for p in tmp_path.rglob("*")) == before


def test_a_full_disk_ends_the_run_with_one_line(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with start(tmp_path / "r") as run:
        run.save(1, {"part": Counter(1)})
        monkeypatch.setattr(checkpoint, "save_file", full)
        with pytest.raises(
            RunFailed,
            match=rf"^cannot write .*step-000002: No space left on device; resume with: {run.resume_command}$",
        ):
            run.save(2, {"part": Counter(2)})
        monkeypatch.setattr(files, "append", full)
        with pytest.raises(
            RunFailed,
            match=r"^cannot write in .*r: No space left on device; resume with: saccade train points --out .*r$",
        ):
            run.log(2, {"a": 1})
    assert checkpoint.latest(tmp_path / "r" / "checkpoints").name == "step-000001"


def test_a_line_without_room_leaves_nothing_and_is_told(tmp_path, monkeypatch):
    """A disk that is nearly full takes a part of a line and says so only the next time."""
    path = tmp_path / "m.jsonl"
    files.append(path, {"step": 1})
    room = [5]

    class Nearly(io.FileIO):
        def write(self, content):
            if not room[0]:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            taken, room[0] = content[: room[0]], 0
            return super().write(taken)

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left"):
        patch.setattr(type(path), "open", lambda self, mode, buffering: Nearly(self, mode))
        files.append(path, {"step": 2})
    files.append(path, {"step": 3})
    assert [record["step"] for record in files.records(path)] == [1, 3]


@pytest.mark.parametrize(
    "line", ["null", "[]", '{"step": null}', '{"step": 1e999}', '{"step": NaN}', '{"step": 2, "a": "x"}', "[" * 100_000]
)
def test_an_odd_line_is_named(tmp_path, line):
    (tmp_path / "m.jsonl").write_text(f'{{"step": 1}}\n{line}\n')
    with pytest.raises(ValueError, match=r"m.jsonl line 2 is not a record"):
        files.records(tmp_path / "m.jsonl")


@pytest.mark.parametrize(
    "change",
    [{"settings": None, "seed": "0"}, {"data": {"a": "../../b"}}, {"data": [1]}, {"resumed": "x"}, {"versions": 3}],
)
def test_an_odd_config_is_one_line(tmp_path, change):
    start(tmp_path / "r").close()
    path = tmp_path / "r" / "config.json"
    for content in (json.dumps(json.loads(path.read_text()) | change), "[" * 100_000, '"settings"', "\udcff"):
        path.write_bytes(content.encode(errors="surrogateescape"))
        with pytest.raises(ValueError, match=r"^[^\n]*config.json is not the config of a run[^\n]*$"):
            Run.resume(tmp_path / "r", display=False)


def test_one_process_at_a_time_trains_in_a_folder(tmp_path):
    """Whoever comes second is told in one line, while the first works and no longer; helpers do not hold the folder."""
    with start(tmp_path / "r") as run:
        run.save(1, {"part": Counter(1)})
        with pytest.raises(ValueError, match=r"^another process is training in .*r: wait until it ends"):
            Run.resume(tmp_path / "r", display=False)
        ready, tell = os.pipe()
        child = os.fork()
        if not child:
            os.write(tell, b".")
            time.sleep(60)
            os._exit(0)
        os.read(ready, 1)
    try:
        with Run.resume(tmp_path / "r", display=False):
            script = "import sys; from saccade.training.lock import FolderLock; FolderLock(sys.argv[1])"
            second = subprocess.run([sys.executable, "-c", script, run.folder], capture_output=True, text=True)
            assert "ValueError: another process is training in" in second.stderr
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert not list(tmp_path.rglob(".*"))


def test_a_kill_before_the_first_config_lets_the_run_and_its_stage_begin(tmp_path):
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / ".config.json.new").write_text('{"reci')
    with start(tmp_path / "r") as run:
        (run.folder / "first").mkdir()
        (run.folder / "first" / ".config.json.new").touch()
        run.stage("first").log(1, {"a": 1})
    assert not list(tmp_path.rglob(".*"))


def test_lines_lost_below_a_checkpoint_are_noticed_and_more_are_cut(tmp_path):
    with start(tmp_path / "r") as run:
        for step in (1, 2):
            run.log(step, {"a": step})
            run.save(step, {"part": Counter(step)})
        run.log(2, {"eval/a": 1})
    path = tmp_path / "r" / "metrics.jsonl"
    whole = path.read_bytes().splitlines(keepends=True)
    with Run.resume(tmp_path / "r", display=False) as run:
        assert run.load({"part": Counter()}) == 2 and path.read_bytes() == b"".join(whole[:2])
    path.write_bytes(whole[0])
    told = pytest.warns(UserWarning, match=r"metrics.jsonl has 1 of the 2 lines .* going back to step-000001")
    with told, Run.resume(tmp_path / "r", display=False) as run:
        assert run.load({"part": Counter()}) == 1
    path.unlink()
    with pytest.raises(ValueError, match=r"metrics.jsonl has 0 of the 2 lines"):
        Run.resume(tmp_path / "r", display=False)


def test_lines_are_on_the_disk_before_the_checkpoint_that_counts_them(tmp_path, monkeypatch):
    done = []
    sync, write = files.sync, checkpoint.write
    monkeypatch.setattr(files, "sync", lambda path: done.append(path.name) or sync(path))
    monkeypatch.setattr(checkpoint, "write", lambda *a, **k: done.append("checkpoint") or write(*a, **k))
    with start(tmp_path / "r") as run:
        run.log(1, {"a": 1})
        run.samples(1, "s", [])
        done.clear()
        run.save(1, {"part": Counter(1)})
    assert done[:4] == ["metrics.jsonl", "samples.jsonl", "r", "checkpoint"]


def test_what_has_changed_since_a_run_began_is_told(tmp_path):
    (tmp_path / "mine.py").write_text("first")
    code = {str(tmp_path / "mine.py"): fingerprint(tmp_path / "mine.py")}
    with Run.start(tmp_path / "r", CONFIG | {"code": code, "versions": {"torch": "1.0"}}, display=False):
        (tmp_path / "mine.py").write_text("second")
    with pytest.warns(UserWarning) as told:
        Run.resume(tmp_path / "r", display=False).close()
    assert [str(each.message).partition(" goes on with ")[2] for each in told] == [
        f"torch {versions()['torch']}, not 1.0",
        f"another {tmp_path / 'mine.py'} than it began with",
    ]


def test_as_many_processes_resume_a_run_as_began_it(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    start(tmp_path / "r").close()
    monkeypatch.delenv("WORLD_SIZE")
    with pytest.raises(ValueError, match=r"begun by 2 at once.*must be 2$"):
        Run.resume(tmp_path / "r", display=False)


def test_the_line_to_resume_quotes_paths(tmp_path):
    with Run.start(tmp_path / "a b's", CONFIG, display=False) as run:
        assert shlex.split(run.resume_command) == ["saccade", "train", "points", "--out", str(run.folder)]
    with Run.start(tmp_path / "c", CONFIG | {"command": "saccade train points '--out=a b'"}, display=False) as run:
        assert run.resume_command == "saccade train points '--out=a b'"


def test_a_broken_line_in_the_middle_is_named(tmp_path):
    path = tmp_path / "m.jsonl"
    path.write_text('{"step": 1}\n{"step\n{"step": 3}\n{"step": 4')
    with pytest.raises(ValueError, match=r"m.jsonl line 2 is not a record: '\{\"step'$"):
        files.records(path)


def test_signals_stop_after_the_step_then_at_once_and_are_given_back(tmp_path):
    former = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    for first in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        with start(tmp_path / first.name) as run:
            inner = run.stage("inner")
            assert not run.stop
            os.kill(os.getpid(), first)
            assert run.stop and inner.stop
            os.kill(os.getpid(), signal.SIGTERM)
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGINT)
            inner.finish({})
            assert signal.getsignal(signal.SIGINT) != former[0]
        assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == former


def test_a_display_that_nobody_sees_is_dropped_and_the_run_goes_on(tmp_path, monkeypatch):
    class Gone(io.StringIO):
        def write(self, text):
            raise BrokenPipeError

    monkeypatch.setattr(sys, "stderr", Gone())
    with Run.start(tmp_path / "r", CONFIG) as run:
        for step in range(1, 3):
            run.log(step, {"eval/a": 0.5})
            run.progress(step, 2)
    assert len(lines(run.folder)) == 2
    closed = io.StringIO()
    closed.close()
    monkeypatch.setattr(sys, "stderr", closed)
    Run.start(tmp_path / "closed", CONFIG).finish({})


def test_a_callback_that_exits_is_an_error_of_the_callback(tmp_path):
    def ends(step, values, run):
        sys.exit()

    with (
        pytest.raises(RunFailed, match="callback 'ends' at step 1: SystemExit"),
        start(tmp_path / "r", callbacks=[ends]) as run,
    ):
        run.log(1, {"a": 1.0})


def test_a_run_in_another_thread_leaves_signals_alone(tmp_path):
    former, seen = signal.getsignal(signal.SIGINT), []
    thread = threading.Thread(
        target=lambda: seen.append((start(tmp_path / "r").close(), signal.getsignal(signal.SIGINT)))
    )
    thread.start()
    thread.join()
    assert seen == [(None, former)]


def test_a_forked_helper_still_dies_of_the_signal(tmp_path):
    with start(tmp_path / "r"):
        child = os.fork()
        if not child:
            time.sleep(30)
            os._exit(0)
        time.sleep(0.05)
        os.kill(child, signal.SIGTERM)
        assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGTERM


def test_metrics_survive_a_kill_in_a_real_process(tmp_path):
    script = """
        import sys
        from pathlib import Path
        from saccade.training.run import Run
        run = Run.start(Path(sys.argv[1]), {"recipe": "points"})
        print("result", flush=True)
        for step in range(10**9):
            run.log(step, {"reward/a": step})
            run.progress(step, 10**9)
    """
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script), str(tmp_path / "r")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout.readline() == b"result\n"
        time.sleep(0.3)
        process.kill()
        out, err = process.communicate()
    assert out == b"" and err.startswith(b"points  step 0/1000000000  reward/a 0\n")
    steps = [record["step"] for record in files.records(tmp_path / "r" / "metrics.jsonl")]
    assert steps == list(range(len(steps))) and len(steps) > 10


class Clock:
    """A clock that the test turns."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_the_meter_knows_speed_and_time_left():
    meter = Meter("main", clock := Clock())
    for step in range(1, 31):
        clock.now += 2
        meter.log(step, {"loss/x": 1.0, "reward/points": step / 100, "reward/other": 9.0, "cost/images": 64})
        meter.progress(step, 130)
    meter.log(30, {"eval/train": 0.5, "eval/paraphrase": None})
    assert (
        meter.details() == ["reward/points 0.3", "32 images/s", "evaluation at 30: train 0.5"]
        and meter.left() == "3 min left"
    )
    assert [duration(s) for s in (0.4, 48, 720, 11_100)] == ["0 s", "48 s", "12 min", "3 h 05 min"]


def test_plain_lines_are_few_and_hold_every_evaluation():
    stream, clock, flag = io.StringIO(), Clock(), []
    display = Lines(lambda: bool(flag), stream, clock)
    for step in range(1, 101):
        clock.now += 1
        display.log(
            "main", step, {"reward/points": 0.5, "cost/images": 8} | ({"eval/train": 0.25} if step == 42 else {})
        )
        display.progress("main", step, 100)
    printed = stream.getvalue().splitlines()
    assert 10 <= len(printed) <= 14 and printed[-1].startswith("main  step 100/100  reward/points 0.5  8 images/s")
    assert any("step 42/100" in line and "evaluation at 42: train 0.25" in line for line in printed)
    flag.append(1)
    display.progress("main", 100, 200)
    assert "stopping after this step" in stream.getvalue().splitlines()[-1]


@pytest.mark.parametrize("width", [40, 100])
def test_the_live_display_fits_its_terminal(width):
    from rich.console import Console

    console = Console(file=(screen := io.StringIO()), force_terminal=True, width=width, legacy_windows=False)
    display = Live(lambda: True, console)
    for label in ("warm-up", "[bold]main"):
        display.log(label, 5, {"reward/points": 0.612, "eval/train": 0.52, "eval/[red]hostile": 0.1})
        display.progress(label, 5, 20)
    console.print(display._render())
    display.close()
    shown = screen.getvalue()
    for words in ("warm-up", "[bold]main", "5/20", "reward/points 0.612", "stopping"):
        assert words in shown, words


def test_no_terminal_means_lines_and_no_display_means_silence(capfd):
    assert isinstance(open_display(True, bool), Shown) and isinstance(open_display(False, bool), Silent)
    open_display(True, bool).progress("main", 1, 2)
    out, err = capfd.readouterr()
    assert out == "" and err.startswith("main  step 1/2")
