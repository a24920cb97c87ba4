"""A check: arms and seeds as processes, scores read from their runs, claims judged, the result written down."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from saccade import catalog
from saccade.checks import arm, processes, runner
from saccade.cli import papers

CHECK = ("check", "./grey.py")


@pytest.fixture
def in_process(monkeypatch):
    """Arms without processes of their own."""

    def run_all(jobs, at_once):
        for job in jobs:
            arm.main(job.recipe, job.arm, job.seed, job.folder)

    monkeypatch.setattr(runner, "run_all", run_all)


def change(folder: Path, old: str, new: str) -> None:
    source = (folder / "grey.py").read_text()
    assert old in source
    (folder / "grey.py").write_text(source.replace(old, new))


def test_a_check_in_processes(saccade, tmp_path):
    said = saccade(*CHECK, "--seeds", "1", "--json")
    result = json.loads(said.out.splitlines()[-1])
    assert said.status == 0 and result["holds"] is True and result["seeds"] == [0]
    assert result["arms"]["left alone"]["frozen"] is True and set(result["arms"]) == {"learned", "left alone"}
    scores = result["scores"]["learned"]["0"]
    assert scores["level"] == scores["level@6"] == 0.984375 and scores["level@0"] == 0 and scores["level@2"] == 0.75
    assert scores["cost/images"] == 12 and scores["seconds"] > 0
    kept = json.loads((tmp_path / "results/grey.json").read_text())
    assert set(kept) - set(result) == {"versions", "machine", "date", "commit"} and kept["claims"] == result["claims"]
    assert (tmp_path / result["runs"] / "left-alone-0" / "config.json").is_file()
    assert "learned, seed 0" in said.err


def test_every_recipe_that_claims_something_can_be_checked(tmp_path):
    checkable = [name for name in catalog.recipes() if getattr(catalog.load(name), "CLAIMS", None)]
    assert len(checkable) > 20
    for name in checkable:
        jobs = runner.jobs_of(name, 3, tmp_path)
        arms = catalog.arms(name)
        assert len(jobs) == len({job.folder for job in jobs}) == 3 * len(arms), name
        first = {job.folder for job in jobs if job.after is None}
        assert {job.after for job in jobs if job.after} <= first, f"{name}: an arm follows one that follows another"
        assert all(hasattr(chosen.settings, "seed") for chosen in arms.values())


def test_the_longest_runs_of_the_last_check_come_first(saccade, tmp_path, in_process):
    order = lambda: [job.arm for job in runner.jobs_of("./grey.py", 2, tmp_path / "runs")]
    assert order() == ["learned", "left alone"] * 2
    saccade(*CHECK, "--seeds", "1")
    place = tmp_path / "results/grey.json"
    result = json.loads(place.read_text())
    result["scores"]["learned"]["0"]["seconds"], result["scores"]["left alone"]["0"]["seconds"] = 1.0, 2.0
    place.write_text(json.dumps(result))
    assert order() == ["left alone", "left alone", "learned", "learned"]
    del result["scores"]["learned"]
    place.write_text(json.dumps(result))
    assert order()[:2] == ["learned", "learned"], "who is not known yet may take longest"


def test_a_claim_that_fails_in_some_seeds(saccade, tmp_path, in_process):
    change(tmp_path, "least=0.9, every_seed=True", "least=0.99")
    change(tmp_path, '"from seed": value + cfg.seed / 100', '"from seed": value + cfg.seed / 100 - 0.005')
    change(tmp_path, 'arm["learned"]["level"] - arm["learned"]["level@0"]', 'arm["learned"]["from seed"]')
    said = saccade(*CHECK)
    assert said.status == 1 and "grey: does not hold" in said.out and "0.979 0.989 0.999" in said.out
    result = json.loads((tmp_path / "results/grey.json").read_text())
    assert [claim["holds"] for claim in result["claims"]] == [False, True, True] and result["holds"] is False
    assert "does not hold" in saccade("show", "./grey.py").out
    assert "| it gets nearer | does not hold | 0.989 | 0.99 | 0.979 0.989 0.999 |" in papers._measured(result)


def test_a_score_that_is_missing_or_nan(saccade, tmp_path, in_process):
    change(tmp_path, '"level": value,', '"level": value, "none": float("nan"),')
    change(tmp_path, 'arm["left alone"]["cost/images"]', 'arm["left alone"]["none"]')
    assert saccade(*CHECK, "--seeds", "2").status == 1
    result = json.loads((tmp_path / "results/grey.json").read_text())
    assert result["holds"] is None and result["claims"][2]["margins"] == [None, None]
    change(tmp_path, '["none"]', '["nothing"]')
    assert "the claim 'at the same cost' reads 'nothing'" in saccade(*CHECK, "--seeds", "1").err.splitlines()[-1]


def test_an_arm_takes_the_stages_of_another(saccade, tmp_path):
    change(tmp_path, "import Claim\n", "import Claim, WarmStartedArm\n")
    staged = (
        '"learned": WarmStartedArm("left alone", Settings(first_steps=3)), '
        '"left alone": Settings(first_steps=3, frozen=True)'
    )
    change(tmp_path, '"learned": Settings(), "left alone": replace(Settings(), frozen=True)', staged)
    said = saccade(*CHECK, "--seeds", "2", "--json")
    result = json.loads(said.out.splitlines()[-1])
    assert result["arms"]["learned"]["frozen"] is False and set(result["scores"]) == {"learned", "left alone"}
    for seed in "01":
        learned, alone = (result["scores"][arm][seed] for arm in ("learned", "left alone"))
        assert (
            learned["level@0"] == alone["level"] == 0.875
            and learned["first/cost/images"] == alone["first/cost/images"] == 6
        )
    one, other = (
        tmp_path / result["runs"] / f"{arm}-0" / "first" / "metrics.jsonl" for arm in ("learned", "left-alone")
    )
    assert one.read_bytes() == other.read_bytes()
    change(tmp_path, 'WarmStartedArm("left alone"', 'WarmStartedArm("learned"')
    assert "arm 'learned' of ./grey.py follows 'learned', which is not one of left alone" in saccade(*CHECK).refused()


def test_stages_are_shown_while_they_run(tmp_path):
    class Told:
        def __init__(self):
            self.lines = []

        def log(self, label, step, values):
            self.lines.append((label, step, values))

        def progress(self, label, step, steps):
            self.lines.append((label, step, steps))

    job, told = processes.Job("grey", "learned", 0, 6, tmp_path / "learned-0"), Told()
    (job.folder / "first").mkdir(parents=True)
    (job.folder / "first" / "metrics.jsonl").write_text('{"step": 2, "time": 1.0, "loss/level": 0.5}\n')
    job.show(told)
    assert told.lines == [("learned, seed 0, first", 2, {"loss/level": 0.5}), ("learned, seed 0, first", 2, None)]
    (job.folder / "metrics.jsonl").write_text('{"step": 1, "time": 2.0, "loss/level": 0.25}\n')
    job.show(told)
    assert told.lines[2:] == [("learned, seed 0", 1, {"loss/level": 0.25}), ("learned, seed 0", 1, 6)]


def test_an_arm_that_breaks_is_told_with_its_last_words(saccade, tmp_path):
    change(
        tmp_path,
        '{"learned": Settings(), "left alone": replace(Settings(), frozen=True)}',
        '{"odd": replace(Settings(), trouble="bug")}',
    )
    said = saccade(*CHECK, "--seeds", "1")
    line = said.err.splitlines()[-1]
    assert said.status == 1 and "arm 'odd' with seed 0 ended with status 1: IndexError" in line
    assert not (tmp_path / "results").exists() and Path(line.rpartition("log: ")[2].rstrip(")")).is_file()


def test_stages_keep_their_names_and_costs_add_up(tmp_path):
    (tmp_path / "first").mkdir()
    (tmp_path / "result.json").write_text('{"seconds": 3, "after": {"a": null}}')
    (tmp_path / "metrics.jsonl").write_text('{"step": 2, "time": 1, "eval/a": 0.5, "cost/images": 4}\n')
    (tmp_path / "first/metrics.jsonl").write_text(
        '{"step": 2, "time": 1, "eval/a": 0.7, "cost/images": 4, "cost/x": null}\n'
    )
    scores = runner.read_scores(tmp_path)
    assert math.isnan(scores.pop("a"))
    assert scores == {
        "a@2": 0.5, "first/a@2": 0.7, "cost/images": 8, "cost/x": 0,
        "first/cost/images": 4, "first/cost/x": 0, "seconds": 3,
    }  # fmt: skip


def test_names_of_arms_become_folders(tmp_path):
    assert processes.folder_of(tmp_path, "m = 2/all", 1).name == "m-2-all-1"
    assert runner.overall([]) is None
