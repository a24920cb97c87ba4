"""A check: arms and seeds as processes, scores read from their runs, claims judged, the result written down."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from saccade import catalog
from saccade.checks import arm, processes, runner, verdicts
from saccade.checks.scores import load_problems, read_scores
from saccade.cli import papers
from saccade.core import RunFailed

CHECK = ("check", "./grey.py")


@pytest.fixture
def in_process(monkeypatch):
    """Arms without processes of their own."""

    def run_all(jobs, workers):
        for job in jobs:
            arm.main(job.recipe, job.arm, job.seed, job.folder)

    monkeypatch.setattr(runner, "run_all", run_all)


def change(folder: Path, old: str, new: str) -> None:
    source = (folder / "grey.py").read_text()
    assert old in source
    (folder / "grey.py").write_text(source.replace(old, new))


def test_a_check_in_processes(saccade, tmp_path):
    completed = saccade(*CHECK, "--seeds", "1", "--json")
    result = json.loads(completed.out.splitlines()[-1])
    assert completed.status == 1 and result["verdict"] == "undecided" and result["seeds"] == [0], (
        "one seed has no interval"
    )
    assert result["arms"]["left alone"]["frozen"] is True and set(result["arms"]) == {"learned", "left alone"}
    scores = result["scores"]["learned"]["0"]
    assert scores["level"] == scores["level@6"] == 0.984375 and scores["level@0"] == 0 and scores["level@2"] == 0.75
    assert scores["cost/images"] == 12 and scores["seconds"] > 0
    kept = json.loads((tmp_path / "results/grey.json").read_text())
    assert set(kept) - set(result) == {"versions", "machine", "date", "commit"} and kept["claims"] == result["claims"]
    assert (tmp_path / result["runs"] / "left-alone-0" / "config.json").is_file()
    assert "learned, seed 0" in completed.err


def test_every_recipe_that_claims_something_can_be_checked(tmp_path):
    checkable = [name for name in catalog.recipes() if getattr(catalog.load(name), "CLAIMS", None)]
    assert len(checkable) > 20
    for name in checkable:
        jobs = runner.jobs_of(name, range(3), tmp_path)
        arms = catalog.arms(name)
        assert len(jobs) == len({job.folder for job in jobs}) == 3 * len(arms), name
        first = {job.folder for job in jobs if job.after is None}
        assert {job.after for job in jobs if job.after} <= first, f"{name}: an arm follows one that follows another"
        assert all(hasattr(chosen.settings, "seed") for chosen in arms.values())


def test_the_longest_runs_of_the_last_check_come_first(saccade, tmp_path, in_process):
    order = lambda: [job.arm for job in runner.plan_of("./grey.py", range(2), resume=False).jobs]
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
    change(tmp_path, "least=0.9", "least=1.01")
    change(tmp_path, '"from seed": value + cfg.seed / 100', '"from seed": value + cfg.seed / 100 - 0.005')
    change(tmp_path, 'arm["learned"]["level"] - arm["learned"]["level@0"]', 'arm["learned"]["from seed"]')
    completed = saccade(*CHECK, "--seeds", "3")
    assert completed.status == 1 and "grey: undecided" in completed.out and "0.979 0.989 0.999" in completed.out
    result = json.loads((tmp_path / "results/grey.json").read_text())
    assert [claim["verdict"] for claim in result["claims"]] == ["undecided", "holds", "holds"]
    assert result["holds"] is None
    assert result["claims"][0]["interval"] == pytest.approx([0.9644, 1.0141], abs=1e-3)
    assert result["claims"][0]["seeds_needed"] == 4
    assert "undecided" in saccade("show", "./grey.py").out
    row = "| it gets nearer | paper | undecided: 4 seeds would decide | 0.989 [0.965, 1.014] | 1.01 |"
    assert row in papers._measured(result)


def test_a_score_that_is_missing_or_nan(saccade, tmp_path, in_process):
    change(tmp_path, '"level": value,', '"level": value, "none": float("nan"),')
    change(tmp_path, 'arm["left alone"]["cost/images"]', 'arm["left alone"]["none"]')
    assert saccade(*CHECK, "--seeds", "2").status == 0
    result = json.loads((tmp_path / "results/grey.json").read_text())
    assert result["holds"] is True and result["claims"][2]["margins"] == [None, None]
    assert result["claims"][2]["verdict"] == "void", "a sanity claim decides nothing"
    change(tmp_path, '["none"]', '["nothing"]')
    assert "the claim 'at the same cost' reads 'nothing'" in saccade(*CHECK, "--seeds", "1").err.splitlines()[-1]


def test_an_arm_takes_the_stages_of_another(saccade, tmp_path):
    change(tmp_path, "import Claim\n", "import Claim, WarmStartedArm\n")
    staged = (
        '"learned": WarmStartedArm("left alone", Settings(first_steps=3)), '
        '"left alone": Settings(first_steps=3, frozen=True)'
    )
    change(tmp_path, '"learned": Settings(), "left alone": replace(Settings(), frozen=True)', staged)
    completed = saccade(*CHECK, "--seeds", "2", "--json")
    result = json.loads(completed.out.splitlines()[-1])
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
    completed = saccade(*CHECK, "--seeds", "1")
    line = completed.err.splitlines()[-1]
    assert completed.status == 1 and "arm 'odd' with seed 0 ended with status 1: IndexError" in line
    assert not (tmp_path / "results").exists() and Path(line.rpartition("log: ")[2].rstrip(")")).is_file()


def test_stages_keep_their_names_and_costs_add_up(tmp_path):
    (tmp_path / "first").mkdir()
    (tmp_path / "result.json").write_text('{"seconds": 3, "after": {"a": null}}')
    (tmp_path / "metrics.jsonl").write_text('{"step": 2, "time": 1, "eval/a": 0.5, "cost/images": 4}\n')
    (tmp_path / "first/metrics.jsonl").write_text(
        '{"step": 2, "time": 1, "eval/a": 0.7, "cost/images": 4, "cost/x": null}\n'
    )
    scores = read_scores(tmp_path)
    assert math.isnan(scores.pop("a"))
    assert scores == {
        "a@2": 0.5, "first/a@2": 0.7, "cost/images": 8, "cost/x": 0,
        "first/cost/images": 4, "first/cost/x": 0, "seconds": 3,
    }  # fmt: skip


def test_names_of_arms_become_folders(tmp_path):
    assert processes.folder_of(tmp_path, "m = 2/all", 1).name == "m-2-all-1"
    assert verdicts.overall([]) is None


def test_a_check_goes_on_where_it_was_and_adds_seeds(saccade, tmp_path, monkeypatch):
    ran = []

    def run_all(jobs, workers):
        ran.append([job.label for job in jobs])
        for job in jobs if len(ran) > 1 else jobs[:-1]:
            arm.main(job.recipe, job.arm, job.seed, job.folder)
        if len(ran) == 1:
            raise RunFailed("the machine went down")

    monkeypatch.setattr(runner, "run_all", run_all)
    assert "no check of grey with the present settings" in saccade(*CHECK, "--resume").refused()
    assert saccade(*CHECK, "--seeds", "2").status == 1 and not (tmp_path / "results").exists()
    assert saccade(*CHECK, "--seeds", "2", "--resume").status == 0
    assert len(ran[0]) == 4 and ran[1] == ran[0][-1:], "what is finished is not run again"
    first = json.loads((tmp_path / "results/grey.json").read_text())
    assert saccade(*CHECK, "--seeds", "3", "--resume").status == 0
    assert sorted(ran[2]) == ["learned, seed 2", "left alone, seed 2"]
    result = json.loads((tmp_path / "results/grey.json").read_text())
    assert result["seeds"] == [0, 1, 2] and result["seconds"] > first["seconds"]
    assert result["scores"]["learned"]["0"] == first["scores"]["learned"]["0"]
    assert "2 runs, 2 at a time, about" in saccade(*CHECK, "--seeds", "1").err, "it is known how long runs take"


def test_seeds_of_ones_own_leave_the_recorded_result_alone(saccade, tmp_path, in_process):
    assert saccade(*CHECK, "--seeds", "2", "--first-seed", "1000").status == 0
    assert not (tmp_path / "results/grey.json").exists()
    assert json.loads((tmp_path / "results/grey-from-1000.json").read_text())["seeds"] == [1000, 1001]


def test_scores_of_single_problems_are_kept(saccade, tmp_path, in_process):
    change(tmp_path, '"level": value,', '"level": value + torch.linspace(-0.5, 0.5, 9),')
    change(tmp_path, "dict[str, float]:\n    value", "dict:\n    value")
    assert saccade(*CHECK, "--seeds", "2").status == 0
    kept = load_problems(tmp_path / "results/grey.npz")
    assert kept["learned"][1].keys() >= {"level", "level@0"} and len(kept["learned"][1]["level"]) == 9
    assert "from seed" not in kept["learned"][1], "what no claim reads is not kept"
    claims = json.loads((tmp_path / "results/grey.json").read_text())["claims"]
    assert claims[0]["interval"] == pytest.approx(claims[0]["t_interval"], abs=1e-4), (
        "arms and steps are paired by problems"
    )
