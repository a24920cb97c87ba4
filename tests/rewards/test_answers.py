"""Short answers and lengths: golden values of the sheets, gold answers, near misses, garbage."""

from __future__ import annotations

import math
import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from saccade.core import Problem, Question, Rollout
from saccade.rewards.rubric import NothingJudged, ask, judge
from saccade.rewards.text.answers import Answer, Numeric, choice, exact, positions, similar, think_answer, yes_no
from saccade.rewards.text.length import CosineLength, Overlong, Repetition
from saccade.rewards.text.parsing import (
    edit_distance,
    follows_think_format,
    parse_answer,
    parse_boxes,
    parse_letter,
    parse_number,
)
from saccade.rewards.text.reference import RelativeLength

COMPARISONS = {
    "exact": exact,
    "numeric": Numeric(),
    "choice": choice,
    "yes_no": yes_no,
    "similar": similar,
    "positions": positions,
}
nan = math.nan


def rollout_of(texts: list, answer: object = None, lengths: list[float] | None = None) -> Rollout:
    n = len(texts)
    problems = [Problem(i, Question("what?"), answer) for i in range(n)]
    extras = {"length_B": torch.tensor(lengths or [1.0] * n)}
    return Rollout(problems, {}, texts, torch.zeros(n, 1), torch.ones(n, 1), torch.arange(n), extras=extras)


GOLD = [
    (
        "exact",
        "red",
        ["red", " red\n", "<answer> red </answer>", "<think>blue?</think>red"],
        ["Red", "red.", "blue", "red blue"],
    ),
    ("exact", "90", ["90"], ["90 degrees", "90.0", "180"]),
    (
        "numeric",
        "7",
        ["7", "7.0", "+7", "there are 7 apples", "7.", "7e0", "07", "\uff17", "\u0667", "\u096d", "$\\boxed{7}$"],
        ["8", "-7", "7 or 8", "seven", "x7", "7/1", "\u22127", "\u20137", "- 7", "$-\\,7$", "7\u00b2", "77\u00bd"],
    ),
    ("numeric", "-7", ["\u22127", "\uff0d7", "- 7", "= - 7", "$-\\,7$", "it is -7"], ["7", "Answer - 7", "3-7"]),
    ("numeric", "1000", ["1,000", "1\u202f000", "1{,}000", "1\u00a0000", "1\\,000"], ["1 000", "1, 000"]),
    ("numeric", "-1,234.5", ["-1234.5", "-1,234.5 $"], ["1234.5", "1,234", "-1,2345"]),
    (
        "choice",
        "B",
        ["B", "b", "(B)", "B.", "B) red", "**B**", "The answer is B.", "(b) a red ring", "I think B"],
        ["A", "A and B", "B: A or C"],
    ),
    ("choice", "D", ["d", "I say D"], ["A B C D", "Dad", "red", "(A) red (D) blue", "(A)(B)(C)(D)"]),
    ("choice", "(c)", ["C"], ["D"]),
    (
        "choice",
        "A",
        ["A because I see it", "The answer is A.", "answer: (a)", "$\\boxed{A}$", "\uff21", "**A** or so", "A. A dog"],
        [
            "A dog",
            "A cat sits on a mat.",
            "A. B. C. D.",
            "(A) or (B)",
            "A)B)",
            "A: wrong, so B",
            "answer is A or B",
            "I",
        ],
    ),
    ("yes_no", "Yes", ["yes", "Yes, it is.", "YES"], ["no", "yes and no", "maybe", "yesterday"]),
    ("yes_no", "no", ["No."], ["yes", "nothing", "not"]),
    ("similar", "kitten", ["kitten"], ["sitting", "", "kitte"]),
    (
        "positions",
        "2,4,1,3",
        ["2,4,1,3", "2, 4,1,3", " 2 ,4 , 1,\n3"],
        ["2,4,3,1", "2,4,1", "2,4,1,3,3", "2413", "2;4;1;3"],
    ),
]


@pytest.mark.parametrize("name, truth, right, wrong", GOLD)
def test_gold_scores_1_and_all_else_less(name, truth, right, wrong):
    reward, answer = Answer(COMPARISONS[name]), {"text": truth}
    assert reward(rollout_of([truth, *right], answer)).tolist() == [1] * (len(right) + 1)
    scores = reward(rollout_of(wrong, answer))
    assert (scores < 1).all() and (scores >= 0).all()


def test_golden_values():
    score = lambda compare, written, true: float(Answer(compare)(rollout_of([written], {"text": true})))
    assert score(positions, "2,4,3,1", "2,4,1,3") == 0.5
    assert score(positions, "2, 4,1,3", "2,4,1,3") == 1
    assert score(positions, "2,4,1", "2,4,1,3") == 0.75 and score(positions, "2,4,1,3,9", "2,4,1,3") == pytest.approx(
        0.8
    )
    assert score(exact, "90 degrees", "90") == 0
    assert score(similar, "sitting", "kitten") == pytest.approx(1 - 3 / 7)
    assert score(Numeric(relative=0.05), "104.9", "100") == 1 and score(Numeric(relative=0.05), "105.1", "100") == 0
    assert score(Numeric(absolute=0.5), "3.5", "3") == 1 and score(Numeric(absolute=0.5), "3.6", "3") == 0


def test_tags_are_asked_for_or_not():
    texts = ["red", "<answer>red</answer>", "<think>red</think>", "<think>no</think> red", "<answer>red", "<think>red"]
    assert Answer(exact)(rollout_of(texts, {"text": "red"})).tolist() == [1, 1, 0, 1, 0, 0]
    assert Answer(exact, require_tags=True)(rollout_of(texts, {"text": "red"})).tolist() == [0, 1, 0, 0, 0, 0]
    assert parse_answer("<think><answer>blue</answer></think><answer>red</answer>") == "red"


@pytest.mark.parametrize("name", COMPARISONS)
def test_a_true_answer_of_another_form_gives_nan_and_is_reported(name):
    others = [None, "red", {}, {"text": ""}, {"text": 3}, {"boxes": []}]
    others += [{"text": "?"}] * (name not in ("exact", "similar")) + [{"text": "1,x"}] * (name == "positions")
    for answer in others:
        assert Answer(COMPARISONS[name])(rollout_of(["red", "7", "B"], answer)).isnan().all(), answer
    with pytest.raises(NothingJudged, match="returned NaN or infinity for every sample"):
        judge(rollout_of(["7"], {"boxes": []}), {name: Answer(COMPARISONS[name])})


@settings(max_examples=150, deadline=None)
@given(st.text() | st.text(alphabet="<>/answerthink 0123456789.,-+eEABCyesno()") | st.none() | st.integers())
def test_any_text_gets_a_score(text):
    for (name, truth, *_), tagged in ((row, tagged) for row in GOLD for tagged in (True, False)):
        values, error = ask(Answer(COMPARISONS[name], tagged), rollout_of([text], {"text": truth}))
        assert error is None and 0 <= float(values) <= 1
    for reward in (think_answer, Repetition(), Repetition(1, parse_boxes)):
        values, error = ask(reward, rollout_of([text]))
        assert error is None and -1 < float(values) <= 1


@pytest.mark.parametrize(
    "text", ["9" * 5000, "1e99999", "-" * 9000, "<think>" * 3000, "(" * 9000, "9," * 4000, "\x00\ud800"]
)
def test_hostile_answers_are_wrong_answers(text):
    for name, truth, *_ in GOLD:
        values, error = ask(Answer(COMPARISONS[name]), rollout_of([text], {"text": truth}))
        assert error is None and 0 <= float(values) < 0.5, name


def test_the_form_is_thoughts_then_an_answer_and_nothing_else():
    right = ["<think>a\nb</think><answer>c\nd</answer>", "\n<think>a</think>\n\n<answer>c</answer> "]
    wrong = [
        "<answer>c</answer>",
        "<think>a</think>c",
        "<think>a</think><answer>c",
        "<think> </think><answer>c</answer>",
        "<think>a</think><answer></answer>",
        "so <think>a</think><answer>c</answer>",
        "<think>a</think><answer>c</answer>!",
        "<think>a</think><think>b</think><answer>c</answer>",
        "<think>a</think><answer>c<answer>d</answer>",
        "<answer>c</answer><think>a</think>",
        "<think>a</think> hm <answer>c</answer>",
        "",
    ]
    assert think_answer(rollout_of(right + wrong)).tolist() == [1] * len(right) + [0] * len(wrong)
    assert not follows_think_format("<think>" * 20000)


# -- lengths --------------------------------------------------------------------------------------------------------


def test_golden_values_of_the_cosine_with_both_branches():
    lengths = [0.0, 512, 1024, 5000]
    of = lambda score: CosineLength(lambda rollout: torch.full((4,), score))(rollout_of([""] * 4, lengths=lengths))
    for right in (1.0, 0.7):
        torch.testing.assert_close(of(right), torch.tensor([1.0, 0.75, 0.5, 0.5]))
    for wrong in (0.0, 0.69):
        torch.testing.assert_close(of(wrong), torch.tensor([-0.5, -0.25, 0.0, 0.0]))
    assert of(nan).isnan().all(), "no score, no bonus"


def test_golden_values_of_the_soft_overlong_punishment():
    values = Overlong(longest=20480, cache=4096)(rollout_of([""] * 5, lengths=[10, 16384, 18432, 20480, 30000]))
    torch.testing.assert_close(values, torch.tensor([0.0, 0.0, -0.5, -1.0, -1.0]))
    with pytest.raises(ValueError, match="cache 9 is outside 1 … 8"):
        Overlong(longest=8, cache=9)


def test_repetition_of_words_and_of_boxes():
    texts = ["a b c d e f g", "a b " * 6, "to be or not to be or not", "short", ""]
    expected = [0, 2 / 7 - 1, 0, 0, 0]
    torch.testing.assert_close(Repetition()(rollout_of(texts)), torch.tensor(expected))
    torch.testing.assert_close(Repetition(2)(rollout_of(texts[2:3])), torch.tensor([4 / 7 - 1]))
    box = lambda label: f'{{"bbox_2d": [1,2,3,4], "label": "{label}"}}'
    twice = f"[{box('a')}, {box('a')}, {box('b')}]"
    torch.testing.assert_close(
        Repetition(1, parse_boxes)(rollout_of([twice, "None", "?"])), torch.tensor([2 / 3 - 1, 0, 0])
    )


def test_golden_values_of_the_length_against_a_reference():
    rollout = rollout_of(
        ["x" * n for n in (0, 50, 100, 150, 400)] + ["<answer>" + "x" * 100 + "</answer>"], {"code": "y" * 100}
    )
    torch.testing.assert_close(RelativeLength()(rollout), torch.tensor([1, 1, 0.75, 0, -1, 0.75]))
    words = RelativeLength(str.split)
    torch.testing.assert_close(words(rollout_of(["a b c"], {"code": "a bb"})), torch.tensor([0.0]))
    assert RelativeLength()(rollout_of(["x"], {"text": "red"})).isnan().all()


@given(st.text(max_size=40), st.text(max_size=40))
def test_the_edit_distance_is_that_of_the_table(a, b):
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        diagonal, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (x != y))
    assert edit_distance(a, b) == row[-1]
    assert edit_distance(a[:3], a[:3]) == 0


@pytest.mark.parametrize("part", ["1,", "-", "A ", "answer is ", "(", "\\", "9", "1\u202f000", "- ", "answer is A or "])
def test_numbers_and_letters_are_read_in_time_linear_in_the_text(part):
    text, began = part * (200_000 // len(part)), time.perf_counter()
    parse_number(text), parse_letter(text)
    assert time.perf_counter() - began < 5


def test_long_texts_are_compared_in_a_fraction_of_a_second():
    began = time.perf_counter()
    assert edit_distance("abc <>/=" * 500, "=/>< cba" * 500) > 0
    assert time.perf_counter() - began < 1


def test_any_of_several_right_answers_is_right():
    answer = {"text": "red", "others": ["crimson", "scarlet"]}
    assert Answer(exact)(rollout_of(["scarlet", "red", "blue"], answer)).tolist() == [1, 1, 0]
    assert Answer(Numeric())(rollout_of(["12"], {"text": "twelve", "others": ["12"]})).tolist() == [1]
    assert math.isnan(Answer(choice)(rollout_of(["A"], {"text": "red", "others": ["blue"]})).item())


def test_tags_that_are_never_closed_take_no_longer_than_reading():
    start = time.monotonic()
    for text in ("<answer>" * 100_000, "<think>" * 100_000, "<answer></think>" * 50_000):
        assert parse_answer(text) is None
    assert parse_answer("<answer> a <answer> b </answer> </answer>") == "a <answer> b"
    assert time.monotonic() - start < 1
