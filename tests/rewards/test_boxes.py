"""Boxes against boxes, boxes out of text, rewards on them: COCO's numbers, VLM-R1's, gold, near misses and garbage."""

from __future__ import annotations

import json
import time
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from saccade.core import Problem, Question, Rollout
from saccade.math.boxes import area, average_precision, iou, match
from saccade.math.frames import Frame
from saccade.models.language.prompts import PerRow
from saccade.rewards.boxes import BoxFormat, BoxOverlap, DetectionPrecision, MatchedBoxes
from saccade.rewards.rubric import ask
from saccade.rewards.text.parsing import ParsedBox, parse_boxes

REWARDS = {
    "rec": BoxOverlap(),
    "od_ap": DetectionPrecision(),
    "od_ap50": DetectionPrecision(thresholds=(0.5,)),
    "od_length": DetectionPrecision(by_count=True),
    "weighted_sum": MatchedBoxes(),
    "named": MatchedBoxes(labels=0.5),
}
SHIFTS = 10 * torch.arange(12)[:, None] * torch.tensor([1, 0, 1, 0]) + torch.tensor([0, 0, 8, 8])


def boxes_of(*rows) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float64).reshape(-1, 4)


def rollout_of(texts: list, *answers) -> Rollout:
    """One row a text; the answers are repeated over them."""
    n = len(texts)
    problems = [Problem(i, Question("where?"), answers[i % len(answers)]) for i in range(n)]
    return Rollout(problems, {}, texts, torch.zeros(n, 1), torch.ones(n, 1), torch.arange(n))


def written(found, labels=None) -> str:
    labels = labels or [None] * len(found)
    items = [{"bbox_2d": list(b)} | ({"label": name} if name else {}) for b, name in zip(found, labels)]
    return f"<think>there</think>\n<answer>\n```json\n{json.dumps(items, indent=1)}\n```\n</answer>"


# -- boxes against boxes --------------------------------------------------------------------------------------------


def test_overlap_of_known_pairs_and_of_empty_boxes():
    a = boxes_of((10, 10, 20, 20), (0, 0, 0, 0), (20, 20, 10, 10), (5, 5, 5, 30))
    b = boxes_of((15, 10, 25, 20), (10, 10, 20, 20), (0, 0, 0, 0))
    torch.testing.assert_close(iou(a, b)[0], torch.tensor([1 / 3, 1, 0], dtype=torch.float64))
    assert (iou(a, b)[1:] == 0).all() and area(a).tolist() == [100, 0, 0, 0]
    assert float(iou(boxes_of((0, 0, 1, 1)), boxes_of((0.9, 0, 1.9, 1)))) == pytest.approx(0.1 / 1.9), (
        "thin overlaps count"
    )
    assert iou(boxes_of(), b).shape == (0, 3) and iou(a.expand(2, 4, 4), b.expand(2, 3, 4)).shape == (2, 4, 3)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(*[st.floats(-1e200, 1e200)] * 4), min_size=1, max_size=6))
def test_overlap_is_symmetric_and_between_0_and_1_for_any_numbers(rows):
    overlap = iou(boxes_of(*rows), boxes_of(*rows))
    assert ((overlap >= 0) & (overlap <= 1)).all()
    torch.testing.assert_close(overlap, overlap.T)


def test_greedy_matching_takes_the_largest_overlap_first_and_each_box_once():
    overlap = torch.tensor([[0.9, 0.8, 0.0], [0.95, 0.6, 0.0], [0.0, 0.7, 0.4]])
    assert match(overlap).tolist() == [1, 0, -1]
    assert match(overlap, threshold=0.85).tolist() == [-1, 0, -1]
    batch = torch.stack([overlap, overlap.flip(0), torch.zeros(3, 3)])
    assert match(batch).tolist() == [[1, 0, -1], [-1, 0, 1], [-1, -1, -1]]
    assert match(torch.zeros(2, 3), threshold=0.0).tolist() == [-1, -1], "what does not touch is never matched"
    assert match(torch.zeros(2, 0)).tolist() == [-1, -1] and match(torch.zeros(0, 2)).shape == (0,)
    assert match(torch.full((2, 2), 0.7)).tolist() == [0, 1], "of equals the first"


def precision(predictions, targets, names=None, wanted=None, **kwargs) -> float:
    overlap = iou(
        torch.as_tensor(predictions).double().reshape(-1, 4), torch.as_tensor(targets).double().reshape(-1, 4)
    )
    zeros = lambda overlap, dim: [0] * overlap.shape[dim]
    labels = torch.tensor(names or zeros(overlap, 0)).long(), torch.tensor(wanted or zeros(overlap, 1)).long()
    return float(average_precision(overlap, *labels, **kwargs))


def test_average_precision_of_pictures_that_can_be_counted():
    two, far = SHIFTS[:2], SHIFTS[8:9]
    half = 51 / 101  # recalls 0 … .50 of 101
    assert precision(two, two) == 1
    assert precision(two[:1], two) == pytest.approx(half)
    assert precision(torch.cat([two, far]), two) == 1, (
        "a spurious box that comes late costs nothing: the hacking channel"
    )
    assert precision(torch.cat([far, two]), two) == pytest.approx(2 / 3), "one that comes first does"
    assert precision(torch.cat([two[:1], far, two[1:]]), two) == pytest.approx(half + (1 - half) * 2 / 3)
    assert precision(torch.cat([two[:1], two[:1], two[1:]]), two) == pytest.approx(half + (1 - half) * 2 / 3), (
        "so do doubles"
    )
    assert precision(far, two) == 0 and precision(boxes_of(), two) == 0
    assert precision(boxes_of((0, 0, 10, 8)), boxes_of((0, 0, 10, 10))) == pytest.approx(0.7), (
        "overlap .8 passes 7 of 10"
    )
    assert precision(boxes_of((0, 0, 10, 8)), boxes_of((0, 0, 10, 10)), thresholds=(0.5,)) == 1
    assert precision(two, two, names=[0, 1], wanted=[0, 1]) == 1
    assert precision(two, two, names=[1, 0], wanted=[0, 1]) == 0
    assert precision(two, two, names=[0, -1], wanted=[0, 1]) == 0.5, "a label that no target has counts for nothing"
    assert precision(SHIFTS[:7], torch.cat([SHIFTS] + [SHIFTS + 200])[:20], thresholds=(0.5,)) == pytest.approx(
        36 / 101
    )


COCO = [  # predictions with their labels, targets with theirs, AP@[.5:.95], AP50
    (
        [(6, 3, 20, 16), (24, 4, 40, 19), (5, 2, 22, 17), (23, 5, 38, 20), (40, 30, 52, 41)],
        [0, 1, 0, 0, 1],
        [(5, 3, 20, 17), (24, 5, 39, 20), (41, 29, 52, 42)],
        [0, 1, 1],
        0.7252475247524752,
        1.0,
    ),
    (
        [(0, 0, 10, 10), (30, 30, 40, 40), (1, 1, 11, 11), (12, 0, 22, 10), (13, 1, 24, 10), (50, 50, 60, 60)],
        [0] * 6,
        [(0, 0, 10, 11), (12, 0, 23, 10), (30, 32, 40, 42), (49, 49, 60, 60)],
        [0] * 4,
        0.5699669966996699,
        0.8556105610561057,
    ),
    (
        [(10, 10, 20, 20), (15, 10, 25, 20), (40, 40, 50, 60)],
        [2, 0, 1],
        [(10, 10, 21, 20), (40, 42, 50, 60), (14, 10, 25, 20), (0, 0, 8, 8)],
        [2, 1, 0, 0],
        0.7514851485148514,
        0.8349834983498348,
    ),
]


@pytest.mark.parametrize("predictions, names, targets, wanted, everything, at_half", COCO)
def test_average_precision_is_that_of_the_coco_tools(predictions, names, targets, wanted, everything, at_half):
    """Values of pycocotools 2.0.11, all scores 1."""
    predictions, targets = boxes_of(*predictions), boxes_of(*targets)
    assert precision(predictions, targets, names, wanted) == pytest.approx(everything, abs=1e-9)
    assert precision(predictions, targets, names, wanted, thresholds=(0.5,)) == pytest.approx(at_half, abs=1e-9)


# -- boxes out of text ----------------------------------------------------------------------------------------------

ONE, TWO = ParsedBox((1.0, 2.0, 3.0, 4.0), "red"), ParsedBox((-5.0, 0.5, 600.0, 80.0), "")


@pytest.mark.parametrize(
    "text, expected",
    [
        ('{"bbox_2d": [1, 2, 3, 4], "label": "red"}', [ONE]),
        ('[{"label": "red", "bbox_2d": [1.0, 2, 3e0, 4.]}, {"bbox_2d": [-5, .5, 600, 80]}]', [ONE, TWO]),
        ("[1, 2, 3, 4]", [ParsedBox(ONE.corners)]),
        ("[[1,2,3,4],\n [-5, 0.5, 600, 80,]]", [ParsedBox(ONE.corners), TWO]),
        ("<think>[9, 9, 9, 9]</think> <answer>It is at [1, 2, 3, 4].</answer> [8, 8, 8, 8]", [ParsedBox(ONE.corners)]),
        ('```json\n[{"bbox_2d": [1, 2, 3, 4], "label": "red"},]\n```', [ONE]),
        ("{'bbox_2d': [1, 2, 3, 4], 'label': 'red'}", [ONE]),
        ("bbox_2d: [1, 2, 3, 4]", [ParsedBox(ONE.corners)]),
        ("{bbox_2d: [1, 2, 3, 4], label: 'red'}", [ONE]),
        ('{"objects": [{"bbox_2d": [1, 2, 3, 4], "label": "red"}]}', [ONE]),
        ('[{"bbox_2d": [1, 2, 3, 4], "label": "red"}, {"bbox_2d": [7, 7, 9', [ONE]),
        ('[{"bbox_2d": [1, 2, 3, 4], "label": "red"}, {"bbox_2d": [-5, 0.5, 600, 80], "lab', [ONE, TWO]),
        ('[{"bbox_2d": [1, 2, 3], "label": "red"}, [1, 2, 3, 4, 5], {"point": [1, 2, 3, 4]}]', None),
        *(
            (text, [ParsedBox(ONE.corners)])
            for text in (
                '{"bbox_2d": ["1", 2, 3, 4]}',
                '{"bbox": [1, 2, 3, 4]}',
                '{"box_2d": "[1, 2, 3, 4]"}',
                "{'Position': [1, 2, 3, 4], 'Confidence': 0.9}",
                "<|box_start|>(1,2),(3,4)<|box_end|>",
                '{"bbox_2d": [[1, 2], [3, 4]]}',
                '{"old_bbox_2d": [9, 9, 10, 10], "bbox_2d": [1, 2, 3, 4]}',
                "\uff3b\uff11\uff0c\uff12\uff0c\uff13\uff0c\uff14\uff3d",
                "[\u0661, \u0662, \u0663, \u0664]",
            )
        ),
        ('{"bbox_2d": [[1, 2, 3, 4], [-5, 0.5, 600, 80]]}', [ParsedBox(ONE.corners), TWO]),
        ('{"bbox_2d": [1, 2, 3, 4], "sub_label": "x", "label": "red"}', [ONE]),
        ('{"bbox_2d": [1, 2, 3, 4], "attributes": {"label": "big"}, "label": "red"}', [ONE]),
        ("[true, 1, 2, 3] [NaN, 1, 2, 3] [1e999, 1, 2, 3]", None),
        *((nothing, []) for nothing in ("None", "none.", " null", '"None"', "[]", "[ ]", "```json\n[]\n```")),
        ("<think>0</think><answer>None</answer>", []),
        *((garbage, None) for garbage in ("", "  ", "no idea", "[[", "{}", "<answer>", "<answer></answer>")),
        *((cut, None) for cut in ("<answer>[1,2,3,4]", "<think>[1,2,3,4]")),
    ],
)
def test_boxes_are_read_from_every_form_and_from_nothing_else(text, expected):
    assert parse_boxes(text) == expected


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.tuples(*[st.floats(-1e4, 1e4)] * 4), st.text()), min_size=1, max_size=5), st.booleans())
def test_what_json_writes_is_read_back_whatever_the_labels(items, ascii_only):
    text = json.dumps([{"bbox_2d": list(box), "label": label} for box, label in items], ensure_ascii=ascii_only)
    assert (
        parse_boxes(f"<think>hm</think><answer>{text}</answer>") == [ParsedBox(*item) for item in items] or "<" in text
    )


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet='[]{}",:\\.1e+- \nNonebbox_2dlabel<>/answerthink') | st.text())
def test_no_text_breaks_the_reader(text):
    found = parse_boxes(text)
    assert found is None or all(isinstance(box, ParsedBox) for box in found)


@pytest.mark.parametrize(
    "seed", ["[", "{", '{"', '{"\\"', "[1,", "[[1,2,3,4", '{"bbox_2d":[', '{"label":"', "<answer>", "1"]
)
def test_the_reader_is_quick_on_long_garbage(seed):
    start = time.process_time()
    parse_boxes(seed * (8000 // len(seed)))
    assert time.process_time() - start < 1


# -- rewards --------------------------------------------------------------------------------------------------------

TRUTH = {"boxes": [[10, 10, 30, 30], [40, 12, 60, 28.5]], "labels": ["square", "Red Ring"]}


@pytest.mark.parametrize("name", REWARDS)
def test_gold_scores_1_a_near_miss_less_and_far_away_nothing(name):
    gold = written(TRUTH["boxes"], TRUTH["labels"])
    close = written([[11, 12, 31, 30], [42, 12, 60, 30]], TRUTH["labels"])
    far = written([[0, 0, 5, 5], [61, 61, 64, 64]], TRUTH["labels"])
    scores = REWARDS[name](rollout_of([gold, close, far], TRUTH)).tolist()
    assert scores[0] == 1 and (0.5 < scores[1] < 1 or name == "od_ap50") and scores[2] == 0
    assert REWARDS[name](rollout_of(["None", "[]", gold], {"boxes": []})).tolist() == [1, 1, 0], (
        "nothing is there to be found"
    )
    assert REWARDS[name](rollout_of(["None"], TRUTH)).tolist() == [0]


@pytest.mark.parametrize("name", [*REWARDS, "format"])
def test_garbage_scores_0_and_only_missing_targets_give_nan(name):
    reward = REWARDS.get(name, BoxFormat())
    garbage = ["", "<answer>", "[[[[", "{}", "x" * 9000, None, 7, "[1,2,3,4]"]
    garbage += ["[0, 0, 0, 0]", "[9, 9, 2, 2]", "[-1e300, -1e300, 1e300, 1e300]"]
    for truth in (TRUTH, {"boxes": []}):
        values, error = ask(reward, rollout_of(garbage, truth))
        assert error is None and values.max() <= 1e-3 and values.min() >= 0
    unjudged = reward(rollout_of(["[1, 2, 3, 4]"] * 3, None, "red", {"text": "red"}))
    assert unjudged.isnan().all() or name == "format"


@settings(max_examples=60, deadline=None)
@given(st.text(), st.lists(st.tuples(*[st.floats(-100, 100)] * 4), max_size=4), st.sampled_from(sorted(REWARDS)))
def test_every_text_gets_a_number_between_0_and_1(text, found, name):
    labelled = written(found, [text[:5] or "x"] * len(found))
    values, error = ask(REWARDS[name], rollout_of([text, text + written(found), labelled], TRUTH))
    assert error is None and ((values >= 0) & (values <= 1)).all()


def test_golden_values_of_the_matched_boxes():
    """Two targets, three boxes: overlaps .8 (right label) and .6 (wrong label), one spurious."""
    truth = {"boxes": [[0, 0, 10, 10], [20, 0, 30, 10]], "labels": ["a", "b"]}
    text = written([[0, 0, 10, 8], [20, 0, 30, 6], [50, 50, 60, 60]], ["a", "x", "a"])
    score = lambda reward: float(reward(rollout_of([text], truth)))
    assert score(MatchedBoxes(position=1, completeness=0)) == pytest.approx(0.4)
    assert score(MatchedBoxes(position=0, completeness=1)) == pytest.approx(0.8333, abs=5e-5)
    assert score(MatchedBoxes(position=0, completeness=0, labels=1)) == 0.5
    assert score(MatchedBoxes()) == pytest.approx(0.53)
    for nameless in ({}, {"labels": ["", ""]}):
        unnamed = rollout_of([text], {"boxes": truth["boxes"]} | nameless)
        assert float(MatchedBoxes(position=1, completeness=0)(unnamed)) == pytest.approx(0.7), "no labels are asked for"


def test_a_box_without_a_label_is_what_was_asked_for_where_that_is_one_thing():
    bare = written(TRUTH["boxes"])
    one, two = (TRUTH | {"labels": labels} for labels in (["square"] * 2, ["square", "ring"]))
    assert (
        float(DetectionPrecision()(rollout_of([bare], one))) == 1
        and float(DetectionPrecision()(rollout_of([bare], two))) == 0
    )
    assert float(DetectionPrecision()(rollout_of([written(TRUTH["boxes"], ["ring"] * 2)], one))) == 0


def test_golden_value_of_odlength():
    """Precision .6 with two targets and five boxes: .24; nothing is taken from too few boxes."""
    truth = {"boxes": [[0, 0, 10, 10], [20, 0, 30, 10]]}
    text = written([[0, 0, 10, 7.6], [20, 0, 30, 7.6], *[[50 + k, 50, 60 + k, 60] for k in range(3)]])
    assert float(DetectionPrecision()(rollout_of([text], truth))) == pytest.approx(0.6)
    assert float(DetectionPrecision(by_count=True)(rollout_of([text], truth))) == pytest.approx(0.24)
    one = rollout_of(["[0, 0, 10, 10]"], truth)
    assert float(DetectionPrecision(thresholds=(0.5,), by_count=True)(one)) == pytest.approx(51 / 101)


def test_the_first_box_counts_and_the_nearest_target():
    truth = {"boxes": [[50, 50, 60, 60], [10, 10, 20, 20]]}
    rollout = rollout_of(["[15, 10, 25, 20]", "[[90, 90, 99, 99], [10, 10, 20, 20]]"], truth)
    torch.testing.assert_close(BoxOverlap()(rollout), torch.tensor([1 / 3, 0]))


@pytest.mark.parametrize("name", REWARDS)
def test_boxes_are_written_in_the_picture_that_was_shown(name):
    """A picture of 100 x 50 is shown as 84 x 56: x and y are carried back by their own factors."""
    shown = [Frame(100, 50, i).displayed(84, 56) for i in range(2)]
    carried = [[x1 * 0.84, y1 * 1.12, x2 * 0.84, y2 * 1.12] for x1, y1, x2, y2 in TRUTH["boxes"]]
    rollout = rollout_of([written(carried, TRUTH["labels"]), written(TRUTH["boxes"], TRUTH["labels"])], TRUTH)
    with_frames = replace(REWARDS[name], frames=lambda rollout: [shown[p.id] for p in rollout.problems])(rollout)
    rollout.extras["frames_B"] = PerRow(
        tuple((frame, frame.original) for frame in shown)
    )  # the second is another picture
    scores = REWARDS[name](rollout)
    assert torch.equal(scores, with_frames) and torch.equal(
        REWARDS[name](rollout.rows(torch.tensor([1, 0]))), scores.flip(0)
    )
    assert float(scores[0]) == pytest.approx(1) and (float(scores[1]) < 0.95 or name == "od_ap50")
    rollout.extras["frames_B"] = PerRow(((), ()))
    assert float(REWARDS[name](rollout)[1]) == 1, "a row without a picture of its own is written in the targets' pixels"


def test_the_form_of_an_answer_with_boxes():
    think = "<think>two\nof them</think>"
    right = [f"{think}\n<answer>{x}</answer>" for x in ('{"bbox_2d": [1, 2, 3, 4]}', "[1.5, 2, 3, 4]", "None")]
    wrong = ["[1, 2, 3, 4]", "<answer>[1, 2, 3, 4]</answer>", f"{think}<answer>[1, 2, 3]</answer>"]
    wrong += [f"{right[0]} ok", right[0] * 2]
    assert (
        BoxFormat()(rollout_of(right, TRUTH)).tolist() == [1] * 3
        and BoxFormat()(rollout_of(wrong, TRUTH)).tolist() == [0] * 5
    )


def test_labels_that_do_not_fit_the_targets_are_an_error():
    values, error = ask(
        DetectionPrecision(), rollout_of(["[1, 2, 3, 4]"], {"boxes": [[1, 2, 3, 4]], "labels": ["a", "b"]})
    )
    assert values.isnan().all() and str(error) == "1 target boxes have 2 labels"


@pytest.mark.parametrize("part", ['{"', '"\\', "[1,", "(1,2),", "{", '{"a":', "9" * 9, "[" + " " * 9, "'a"])
def test_boxes_are_read_in_time_linear_in_the_text(part):
    began = time.perf_counter()
    parse_boxes(part * (50_000 // len(part)))
    assert time.perf_counter() - began < 5


@given(st.text("{}[]()\"':,.-1 2bbox_label\\", max_size=60))
def test_any_text_is_read_as_boxes_or_not(text):
    found = parse_boxes(text)
    assert found is None or all(len(box.corners) == 4 and isinstance(box.label, str) for box in found)
