"""Words of the command line: short names, switches, negative numbers, values that look like options, help."""

from __future__ import annotations

import pytest
from test_config import Settings, Two

from saccade.cli.parsing import parse, whole_option
from saccade.config import flags


def given(*words: str, kind: type = Settings):
    return parse(kind, words, "saccade train x", kind())


@pytest.mark.parametrize(
    ("word", "found"),
    [
        ("--lora-rank", "--flow.lora-rank"), ("--lora_rank=4", "--flow.lora-rank=4"),
        ("--model=a=b", "--flow.name=a=b"),
        ("--no-sharded", "--flow.no-sharded"), ("--no-flow.sharded", "--flow.no-sharded"), ("--steps", "--steps"),
        ("--flow.no-sharded", "--flow.no-sharded"), ("--stpes", "--stpes"), ("-o", "-o"), ("--", "--"), ("-1", "-1"),
        ("lora-rank", "lora-rank"), ("--flow=--lr", "--flow.name=--lr"),
    ],
)  # fmt: skip
def test_a_short_name_becomes_the_whole_one(word, found):
    assert whole_option(word, flags(Settings)) == found


def test_short_and_whole_names_set_the_same_fields():
    assert given("--lr", "0.5", "--flow", "x", "--steps=3", "--tags", "a", "b").flow.name == "x"
    assert given("--optim.lr", "0.5") == given("--lr=0.5") and given("--lr", "1e-3").optim.lr == 1e-3
    assert given("--sharded").flow.sharded and not given("--sharded", "--no-sharded").flow.sharded
    assert given("--model", "./a b").flow.name == "./a b" and given("--betas", "0.1", "0.2").optim.betas == (0.1, 0.2)


def test_negative_numbers_and_values_that_look_like_options():
    assert given("--seed", "-3").seed == -3 and given("--lr=-0.5").optim.lr == -0.5
    assert given("--model=--steps").flow.name == "--steps" and given("--model=a=b").flow.name == "a=b"
    assert given("--tags=-x").tags == ("-x",)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("--lora-rank", "4"), "'--lora-rank' may mean --flow.lora-rank, --rewriter.lora-rank: give the whole name"),
        (("--no-sharded",), "'--sharded' may mean --flow.sharded, --rewriter.sharded: give the whole name"),
        (("--model", "x"), "'--model' may mean --flow.name, --rewriter.name: give the whole name"),
        (("--lrr", "1"), "unknown option '--lrr'; nearest: --lr"),
        (("--flow.lora-rnk", "1"), "unknown option '--flow.lora-rnk'; nearest: --flow.lora-rank"),
        (("--flow.lora-rank", "x"), "--flow.lora-rank must be a whole number, not 'x'"),
        (("--lr", "x"), "--optim.lr must be a number, not 'x'"),
        (("--warmup",), "--optim.warmup needs a value"),
        (("--flow.kind", "fancie"), "--flow.kind cannot be 'fancie'; nearest: fancy (of plain, fancy)"),
    ],
)
def test_what_does_not_fit_is_one_line(words, line):
    with pytest.raises(ValueError, match=".") as error:
        given(*words, kind=Two)
    assert str(error.value) == line


def test_a_help_text_shows_no_line_break_of_its_source(capsys):
    with pytest.raises(SystemExit):
        given("--help")
    text = capsys.readouterr().out
    assert "Learning rate, which rises to this value over" in " ".join(text.replace("│", " ").split())
    assert "--flow.sharded" in text and "--flow.no-sharded" not in text and "(default: tiny)" in text
