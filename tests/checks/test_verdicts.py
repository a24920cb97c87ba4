"""Verdicts: intervals over seeds and problems, their size and power by simulation, nulls, preconditions, curves."""

from __future__ import annotations

import math

import numpy as np
import pytest

from saccade.checks.verdicts import Estimate, judge, overall, seeds_needed, weak
from saccade.math.intervals import count_for, power, student
from saccade.training.claims import Claim, Precondition, area, curve, level, steps_to

AHEAD = Claim(
    "a is ahead of b", lambda arm: arm["a"]["x"] - arm["b"]["x"], tolerance="the null is not of interest here"
)


def simulated(rng, effect=0.0, seeds=5, problems=60, shared=False):
    """A check of two arms with the same problems, where ``a`` is ahead by ``effect``."""
    difficulty, results, arrays = rng.normal(0, 0.3, problems), {"a": {}, "b": {}}, {"a": {}, "b": {}}
    for seed in range(seeds):
        hard = difficulty if shared else rng.normal(0, 0.3, problems)
        for arm, ahead, slope in (("a", effect, 1.0), ("b", 0.0, 0.5)):
            x = 0.5 + ahead + slope * hard + rng.normal(0, 0.4, problems) + rng.normal(0, 0.02)
            results[arm][seed], arrays[arm][seed] = {"x": float(x.mean())}, {"x": x}
    return results, arrays


@pytest.mark.parametrize("shared", [False, True])
def test_at_no_effect_at_most_one_in_twenty_checks_holds(shared, monkeypatch):
    monkeypatch.setattr("saccade.checks.verdicts.RESAMPLES", 100)
    rng = np.random.default_rng(0)
    found = [judge(AHEAD, *simulated(rng, shared=shared))["verdict"] for _ in range(1000)]
    assert found.count("holds") <= 50 and found.count("refuted") <= 50


def test_problems_shared_by_seeds_widen_the_interval_and_paired_arms_narrow_it():
    rng = np.random.default_rng(1)
    naive, whole = [], []
    for _ in range(200):
        results, arrays = simulated(rng, shared=True)
        naive.append(judge(AHEAD, results)["verdict"])
        whole.append(judge(AHEAD, results, {arm: arrays[arm] for arm in arrays})["verdict"])
    assert naive.count("undecided") < whole.count("undecided"), "seeds alone do not see that the problems are few"


def test_the_promised_power_is_reached():
    rng, needed = np.random.default_rng(2), count_for(0.05, 0.04)
    assert needed == 8 and power(0.05, 0.04, needed) >= 0.8 > power(0.05, 0.04, needed - 1)
    margins = rng.normal(0.05, 0.04, (2000, needed))
    seen = [mean - half > 0 for mean, half in map(student, margins)]
    assert np.mean(seen) == pytest.approx(power(0.05, 0.04, needed), abs=0.03)


def by_seed(**arms):
    """Results of a check from lists of values: arm -> seed -> {"x": value}."""
    return {arm: {s: {"x": v, "x@0": 0.0} for s, v in enumerate(values)} for arm, values in arms.items()}


def test_the_four_verdicts():
    wins = Claim("a is ahead", lambda arm: arm["a"]["x"] - arm["b"]["x"])
    verdict = lambda a: judge(wins, by_seed(a=a, b=[0.0] * len(a)))["verdict"]
    assert verdict([0.3, 0.31, 0.32]) == "holds" and verdict([-0.3, -0.31, -0.32]) == "refuted"
    assert verdict([0.3, 0.31, -0.5]) == "undecided" and verdict([0.3, math.nan, 0.3]) == "void"
    one = judge(wins, by_seed(a=[0.3], b=[0.0]))
    assert (one["verdict"], one["interval"], one["reason"]) == ("undecided", None, "one seed gives no interval")
    found = judge(wins, by_seed(a=[0.1, 0.2, 0.0], b=[0.0] * 3))
    assert found["interval"] == pytest.approx([0.1 - 0.2484, 0.1 + 0.2484], abs=1e-3)
    assert found["seeds_needed"] == 7 and found["t_interval"] == found["interval"]


def test_a_claim_that_is_true_without_learning_is_void_and_as_a_gain_it_is_not():
    results = {"a": {s: {"x": 0.5 + s / 100, "x@0": 0.4 + s / 100} for s in range(3)}}
    results["b"] = {s: {"x": 0.2, "x@0": 0.2} for s in range(3)}
    margin = lambda arm: arm["a"]["x"] - arm["b"]["x"]
    void = judge(Claim("a is better", margin), results)
    assert void["verdict"] == "void" and "before training" in void["reason"] and void["nulls"]["before training"] > 0.2
    gained = Claim("a gains", lambda arm: margin(arm) - (arm["a"]["x@0"] - arm["b"]["x@0"]))
    assert judge(gained, results)["verdict"] == "holds"
    assert judge(Claim("a is not worse", margin, tolerance="a reason"), results)["verdict"] == "holds"
    untrained = Claim("a is better", lambda arm: arm["a"]["x"] - 0.3, nulls={"a constant": lambda arm: 0.1})
    assert judge(untrained, results)["reason"].startswith("true of what learned nothing (a constant)")


def test_a_claim_whose_precondition_fails_was_not_tested():
    moves = Precondition("the reference arm gains 0.08", lambda arm: arm["b"]["x"] - arm["b"]["x@0"] - 0.08)
    found = judge(
        Claim("a is ahead", lambda arm: arm["a"]["x"] - arm["b"]["x"], requires=(moves,)), by_seed(a=[1, 1], b=[0, 0])
    )
    assert found["verdict"] == "void" and "the reference arm gains 0.08 (short by 0.08)" in found["reason"]
    assert found["preconditions"] == [{"text": moves.text, "mean": pytest.approx(-0.08), "holds": False}]


def test_the_state_of_a_system_is_that_of_its_paper_claims():
    of = lambda origin, verdict: {"origin": origin, "verdict": verdict}
    assert overall([of("paper", "holds"), of("sanity", "refuted"), of("design", "undecided")]) == "holds"
    assert overall([of("paper", "holds"), of("paper", "void"), of("paper", "undecided")]) == "undecided"
    assert overall([of("paper", "undecided"), of("paper", "refuted")]) == "refuted"
    assert overall([of("design", "holds")]) == "holds" and overall([]) is None


def test_a_design_that_cannot_see_its_effect_is_told():
    claim = Claim("a is ahead", lambda arm: 0.0, effect=0.02)
    reason = weak(claim, [0.0, 0.04, 0.08], seeds=3)
    assert reason and "probability of 0.0" in reason and "34 seeds would be enough" in reason
    assert weak(claim, [0.02, 0.021, 0.022], seeds=3) is None and weak(claim, [0.1], seeds=3) is None
    assert seeds_needed(Estimate([0.1, 0.1], 0.1, math.inf, math.inf), 0.0) is None


def test_a_claim_that_reads_what_is_missing_says_so():
    with pytest.raises(ValueError, match="the claim 'a is ahead of b' reads 'x'"):
        judge(AHEAD, {"a": {0: {}}, "b": {0: {}}})


def test_curves():
    scores = {"x@0": 0.0, "x@10": 0.5, "x@30": 0.7, "x": 0.7, "x, strict@0": 9.0}
    assert curve(scores, "x") == [(0, 0.0), (10, 0.5), (30, 0.7)]
    assert area(scores, "x") == pytest.approx((10 * 0.25 + 20 * 0.6) / 30)
    assert steps_to(scores, "x", 0.6) == pytest.approx(20) and steps_to(scores, "x", 0.0) == 0
    assert steps_to(scores, "x", 0.8) == 60, "twice the last step for one that never arrives"
    with pytest.raises(ValueError, match="has no curve"):
        area({"x@0": 1.0}, "x")


def test_who_began_elsewhere_is_judged_by_where_it_ended():
    other = {"return@0": -1000.0, "return": 0.0}
    assert level({"return@0": -500.0, "return": -40.0}, other, "return", within=0.05) == 10.0
    assert level({"return@0": -5000.0, "return": -60.0}, other, "return", within=0.05) == -10.0
    worse = {"return@0": 0.0, "return": -100.0}
    assert level({"return": -101.0}, worse, "return", within=0.5) == -1.0, "a loss of the other's is no tolerance"
