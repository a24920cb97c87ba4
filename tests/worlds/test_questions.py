"""The world of questions: answers hold in what the judge of shapes reads off the picture, boxes are tight, files
honest.
"""

import json
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from saccade.core import Problem
from saccade.worlds.questions import (
    HELD_OUT_SKILLS,
    NO_BOXES,
    SKILLS,
    STYLES,
    WORDINGS,
    box_text,
    load_questions,
    pictures,
    sample_problems,
    vocabulary,
)
from saccade.worlds.questions.layouts import COLOR_NAMES, place_objects, sample_scenes
from saccade.worlds.questions.styles import background, render_scenes
from saccade.worlds.shapes import COLORS, SHAPES, Object, Scene, parse, read_text, render
from saccade.worlds.shapes.captions import plural
from saccade.worlds.shapes.judge import relations
from saccade.worlds.splits import CELLS, wordings_of

SINGULAR = {**{plural(shape): shape for shape in SHAPES}, **{shape: shape for shape in SHAPES}}
SIDES = {"left of": "left", "right of": "right", "above": "above", "below": "below"}


def image(problem: Problem) -> np.ndarray:
    return problem.inputs.pictures[0]


def cell(thing: Object) -> str:
    return CELLS[3 * int(thing.y * 3) + int(thing.x * 3)]


def named(text: str, visible: list[Object]) -> list[Object]:
    """The objects that have the shapes and the colour of a text, whatever words stand around them."""
    words = re.findall(r"\w+", text)
    shapes = {SINGULAR[word] for word in words if word in SINGULAR} or set(SHAPES)
    colors = {word for word in words if word in COLORS} or set(COLORS)
    return [thing for thing in visible if thing.shape in shapes and thing.color in colors]


def only(text: str, visible: list[Object]) -> Object:
    (thing,) = named(text, visible)
    return thing


def read_answer(problem: Problem, visible: list[Object]) -> str:
    """The answer to a question in words, from what is visible in the picture."""
    text, skill = problem.inputs.text, problem.source
    if skill == "count":
        return str(len(named(text, visible)))
    if skill in ("color", "shape"):
        return getattr(only(text, visible), skill)
    if skill in ("color_at", "shape_at"):
        place = max((name for name in CELLS if name in text), key=len)
        (thing,) = [thing for thing in visible if cell(thing) == place]
        return getattr(thing, skill.removesuffix("_at"))
    if skill == "position":
        return cell(only(text, visible))
    if skill == "verdict":
        return "yes" if named(text, visible) else "no"
    if skill == "caption":
        return ", ".join(f"{o.color} {o.shape}" for o in sorted(visible, key=lambda o: CELLS.index(cell(o))))
    if skill == "verdict_relation":
        one, way, other = re.search(
            r"the (\w+ \w+) (?:is )?(left of|right of|above|below) the (\w+ \w+)", text, re.I
        ).groups()
        return "yes" if {way} == relations(only(one, visible), only(other, visible)) else "no"
    other = re.search(r"(?:from|below) the (\w+ \w+)", text)[1]
    (way,) = relations(only(text.replace(other, ""), visible), only(other, visible))
    return SIDES[way]


def read_targets(problem: Problem, visible: list[Object]) -> list[Object]:
    """The objects that a question wants boxes of."""
    related = re.search(r"the (\w+) (left of|right of|above|below) the (\w+ \w+)", problem.inputs.text)
    if related is None:
        return named(problem.inputs.text, visible)
    anchor = only(related[3], visible)
    return [thing for thing in named(related[1], visible) if related[2] in relations(thing, anchor)]


@pytest.mark.parametrize("split", ["train", "held_out"])
def test_answers_in_words_hold_in_the_picture(split: str) -> None:
    worded = [skill for skill in SKILLS if skill not in ("grounding", "detection")]
    drawn = sample_problems(600, 1, worded, split)
    visible = parse(np.stack([image(problem) for problem in drawn]))
    for problem, things in zip(drawn, visible):
        if problem.source == "text":
            assert read_text(image(problem)[None]) == [problem.answer["text"]]
        else:
            told = re.sub(r" and |, ", ", ", re.sub(r"\ban? ", "", problem.answer["text"]))
            assert read_answer(problem, things) == told, problem.inputs.text


@pytest.mark.parametrize("skill", ["grounding", "detection", *HELD_OUT_SKILLS])
def test_boxes_hold_what_was_asked_for(skill: str) -> None:
    drawn = sample_problems(300, 2, [skill], objects=(3, 6))
    for problem, visible in zip(drawn, parse(np.stack([image(problem) for problem in drawn]))):
        wanted = sorted(read_targets(problem, visible), key=lambda o: CELLS.index(cell(o)))
        assert problem.answer["kind"] == "boxes" and problem.answer["labels"] == [thing.shape for thing in wanted]
        for (x1, y1, x2, y2), thing in zip(problem.answer["boxes"], wanted, strict=True):
            assert x1 < thing.x * 64 < x2 and y1 < thing.y * 64 < y2
        if skill.startswith("grounding"):
            assert problem.answer["text"] == box_text(problem.answer["boxes"][0]) and len(wanted) == 1
            rivals = named(re.sub(r" (left of|right of|above|below) .*", "", problem.inputs.text), visible)
            assert (len(rivals) > 1) == (skill == "grounding_relation")
        elif wanted:
            told = json.loads(problem.answer["text"])
            assert [item["bbox_2d"] for item in told] == problem.answer["boxes"]
            assert [item["label"] for item in told] == problem.answer["labels"]
        else:
            assert problem.answer["text"] == NO_BOXES


@pytest.mark.parametrize("style, contrast", [("plain", 60), ("gravity", 35)])
@pytest.mark.parametrize("size", [48, 64, 160])
def test_boxes_are_tight(size: int, style: str, contrast: int) -> None:
    off = []
    for problem in sample_problems(200, 3, ["grounding"], objects=(1, 9), size=size, style=style):
        painted = np.abs(image(problem).astype(int) - background(size, style)).max(-1) > contrast
        x1, y1, x2, y2 = map(int, problem.answer["boxes"][0])
        left, top = (int((a + b) / 2 * 3 / size) for a, b in ((x1, x2), (y1, y2)))
        edge = [round(k * size / 3) for k in range(4)]
        ys, xs = np.nonzero(painted[edge[top] : edge[top + 1], edge[left] : edge[left + 1]])
        ys, xs = ys + edge[top], xs + edge[left]
        off.append(np.abs([xs.min() - x1, ys.min() - y1, xs.max() + 1 - x2, ys.max() + 1 - y2]))
    assert np.max(off) <= 2 and np.mean(np.array(off) > 1) < 0.01 and np.mean(off) < 0.35


def test_plain_pictures_are_those_of_the_world_of_shapes() -> None:
    rng = np.random.default_rng(4)
    things = sample_scenes(60, (1, 9), rng)
    places, _ = place_objects(things, (0.06, 0.13), rng)
    scenes = [
        Scene(tuple(Object(SHAPES[s], COLOR_NAMES[c], *map(float, p)) for s, c, h, p in zip(*row) if h))
        for row in zip(things.shape, things.color, things.present, places)
    ]
    assert np.abs(render_scenes(things, places, [None] * 60, 64).astype(int) - render(scenes, 64)).max() <= 1


def test_styles_change_the_pictures_alone() -> None:
    plain, gravity = (sample_problems(80, 5, size=48, style=style) for style in STYLES)
    for one, other in zip(plain, gravity):
        assert (one.inputs.text, one.answer, one.source) == (other.inputs.text, other.answer, other.source)
        assert (image(one) != image(other)).any()
    empty = background(48, "gravity").astype(int)
    for turn in (1, 2, 3):
        assert np.abs(empty - np.rot90(empty, turn)).mean() > 10
    corners = [empty[y : y + 16, x : x + 16] for y in (0, 16, 32) for x in (0, 16, 32)]
    assert min(np.abs(a - b).mean() for i, a in enumerate(corners) for b in corners[:i]) > 4


@pytest.mark.parametrize(
    "skill, answers",
    [
        ("verdict", 2),
        ("verdict_relation", 2),
        ("count", 6),
        ("relation", 4),
        ("position", 9),
        ("color", 8),
        ("color_at", 8),
        ("shape", 6),
        ("shape_at", 6),
    ],
)
def test_no_answer_is_more_frequent_than_another(skill: str, answers: int) -> None:
    told = Counter(problem.answer["text"] for problem in sample_problems(720, 6, [skill], size=34))
    assert set(told.values()) == {720 // answers} and len(told) == answers
    if skill.startswith("verdict"):
        number = {
            answer: np.mean(
                [
                    (np.abs(image(p).astype(int) - 230).max(-1) > 60).mean()
                    for p in sample_problems(400, 7, [skill])
                    if p.answer["text"] == answer
                ]
            )
            for answer in ("yes", "no")
        }
        assert number["yes"] == pytest.approx(number["no"], rel=0.1)


def test_detections_have_none_to_four_targets_and_skills_equal_parts() -> None:
    many = Counter(len(problem.answer["boxes"]) for problem in sample_problems(500, 8, ["detection"]))
    assert many == dict.fromkeys(range(5), 100)
    assert set(Counter(problem.source for problem in sample_problems(130, 9)).values()) == {10}
    assert not set(HELD_OUT_SKILLS) & set(SKILLS)


def test_splits_share_neither_wordings_nor_pictures() -> None:
    for skill, wordings in WORDINGS.items():
        train, held_out = (set(wordings_of(wordings, split)) for split in ("train", "held_out"))
        assert len(wordings) == 6 and len(train) == 4 and len(held_out) == 2 and not train & held_out, skill
    drawn = {split: sample_problems(150, 10, split=split) for split in ("train", "held_out")}
    visible = {split: {image(p).tobytes() for p in some if p.source != "text"} for split, some in drawn.items()}
    assert not visible["train"] & visible["held_out"]
    words = lambda split: {
        word for w in WORDINGS.values() for text in wordings_of(w, split) for word in re.findall(r"\w+", text)
    }
    assert words("held_out") <= words("train"), "what is kept back is a way to ask, not a word"


def test_the_seed_decides() -> None:
    same = lambda a, b: (
        [(p.inputs.text, p.answer, image(p).tobytes()) for p in a]
        == [(p.inputs.text, p.answer, image(p).tobytes()) for p in b]
    )
    assert same(sample_problems(40, 11), sample_problems(40, 11)) and not same(
        sample_problems(40, 11), sample_problems(40, 12)
    )
    assert np.array_equal(pictures(5, 1), pictures(5, 1)) and pictures(5, 1).shape == (5, 48, 48, 3)
    assert sample_problems(0, 1) == [] and len(sample_problems(1, 1)) == 1
    assert [p.id for p in sample_problems(20, 1)] == list(range(20))


def test_vocabulary_has_every_word() -> None:
    drawn = [
        p
        for split in ("train", "held_out")
        for p in sample_problems(600, 13, [*SKILLS, *HELD_OUT_SKILLS], split, size=34)
    ]
    texts = [p.inputs.text for p in drawn] + [
        p.answer["text"] for p in drawn if p.source != "text" and p.answer["kind"] != "boxes"
    ]
    assert set(re.findall(r"\w+", " ".join(texts))) <= set(vocabulary()) and len(vocabulary()) < 130


def test_boxes_can_be_written_in_a_displayed_picture() -> None:
    for problem in sample_problems(50, 14, ["grounding"], displayed=32):
        assert (np.array(json.loads(problem.answer["text"])) * 2 == problem.answer["boxes"][0]).all()


@pytest.mark.parametrize(
    "settings, why",
    [
        ({"skills": ["colour"]}, "unknown skill 'colour'; nearest: color"),
        ({"skills": []}, "no skill is chosen; known: count"),
        ({"split": "test"}, "unknown split 'test' "),
        ({"style": "plan"}, "unknown style 'plan'; nearest: plain"),
        ({"size": 16}, "size is 16; objects of radius 0.095 need 32"),
        ({"objects": (0, 3)}, "objects are (0, 3)"),
        ({"objects": (4, 2)}, "objects are (4, 2)"),
        ({"objects": (1, 2), "skills": ["grounding_relation"]}, "skill 'grounding_relation' needs scenes of 3 objects"),
        ({"radius": (0.1, 0.3)}, "radius is (0.1, 0.3); the least and greatest lie between 0 and 0.132"),
        ({"displayed": 4}, "displayed is 4; boxes of such objects need 11"),
    ],
)
def test_what_the_world_does_not_know_is_named(settings: dict, why: str) -> None:
    with pytest.raises(ValueError, match=re.escape(why)):
        sample_problems(4, 0, **settings)


def lines(path: Path, *entries: object) -> Path:
    Image.fromarray(np.full((20, 30, 3), 7, np.uint8)).save(path.parent / "a.png")
    path.write_text("\n".join(e if isinstance(e, str) else json.dumps(e) for e in entries))
    return path


def conversation(value: object, image: object = "a.png", question: str = "<image>Where is the dog?") -> dict:
    return {"image": image, "conversations": [{"from": "human", "value": question}, {"from": "gpt", "value": value}]}


def test_conversations_and_records_come_in(tmp_path: Path) -> None:
    fenced = '```json\n[{"bbox_2d": [1, 2, 3, 4], "label": "dog"}]\n```'
    path = lines(
        tmp_path / "refs.jsonl",
        conversation("[1, 2.5, 29, 20]"),
        "",
        conversation("<answer> None </answer>"),
        conversation(fenced),
        conversation([1, 2, 9, 9]),
        {"images": ["a.png", "a.png"], "question": "How many?", "answer": 3, "source": "pairs"},
        {"image": "a.png", "question": "Which?", "answer": "B", "kind": "choice", "boxes": [[0, 0, 5, 5]]},
    )
    loaded = load_questions(path)
    first, nothing, listed, plain, pair, choice = list(loaded)
    assert len(loaded) == 6 and [p.id for p in loaded] == list(range(6))
    assert (
        first.inputs.text == "Where is the dog?"
        and first.source == "refs"
        and first.inputs.pictures[0].shape == (20, 30, 3)
    )
    assert first.answer == {"text": "[1, 2.5, 29, 20]", "kind": "boxes", "boxes": [[1, 2.5, 29, 20]], "labels": [""]}
    assert nothing.answer == {"text": "None", "kind": "boxes", "boxes": [], "labels": []}
    assert (
        listed.answer["boxes"] == [[1, 2, 3, 4]]
        and listed.answer["labels"] == ["dog"]
        and plain.answer["boxes"] == [[1, 2, 9, 9]]
    )
    assert pair.answer == {"text": "3", "kind": "number"} and len(pair.inputs.pictures) == 2 and pair.source == "pairs"
    assert choice.answer == {"text": "B", "kind": "choice", "boxes": [[0, 0, 5, 5]], "labels": [""]}
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "q.jsonl").write_text(json.dumps({"image": "a.png", "question": "x", "answer": "None"}))
    (other,) = list(load_questions(tmp_path / "sub" / "q.jsonl", images=tmp_path))
    assert other.answer == {"text": "None", "kind": "word"}


@pytest.mark.parametrize(
    "line, why",
    [
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("7", "'7' is not an object"),
        ({"image": "a.png", "question": "x"}, "answer missing"),
        ({"image": "a.png", "question": " ", "answer": "y"}, "question ' ' is empty"),
        ({"image": "a.png", "question": 3, "answer": "y"}, "question 3 must be a text"),
        ({"image": "a.png", "question": "x", "answer": True}, "answer True must be"),
        ({"image": "a.png", "question": "x", "answer": ""}, "answer '' is empty"),
        ({"image": "a.png", "question": "x", "answer": "y", "source": 1}, "source 1 must be a text"),
        ({"image": "a.png", "question": "x", "answer": "y", "kind": "boxes"}, "answer 'y' holds no boxes"),
        ({"image": "a.png", "question": "x", "answer": "y", "boxes": 3}, "boxes 3 and labels None must be lists"),
        (
            {"image": "a.png", "question": "x", "answer": "y", "boxes": [[1, 2, 3, 4]], "labels": []},
            "1 boxes but 0 labels",
        ),
        ({"question": "x", "answer": "y"}, "image None must be a path"),
        ({"images": [], "question": "x", "answer": "y"}, "image [] must be a path"),
        ({"image": "b.png", "question": "x", "answer": "y"}, "b.png' does not exist"),
        ({"image": "a.png", "conversations": [{"from": "gpt", "value": "x"}]}, "conversations must be"),
        ({"image": "a.png", "conversations": "x"}, "conversations must be"),
        (conversation("[1,2,3,4]", ["a.png", "a.png"]), "1 marks <image> for 2 pictures"),
        (conversation("[9,2,3,4]"), "box [9, 2, 3, 4] is empty"),
        (conversation("[0.1,0.2,0.3,0.4]"), "must be in pixels of its picture"),
        (conversation('[{"bbox_2d": [1, 2, 3], "label": "a"}]'), "box [1, 2, 3] must be four numbers"),
        (conversation('[{"bbox_2d": [1, 2, 3, 4], "label": 5}]'), "labels [5] must be texts"),
        (conversation("[1, 2, 1e999, 4]"), None),
    ],
)
def test_bad_lines_give_their_number(tmp_path: Path, line: object, why: str | None) -> None:
    path = lines(tmp_path / "bad.jsonl", conversation("[1,2,3,4]"), line)
    if why is None:
        assert load_questions(path)[1].answer["kind"] == "word"
        return
    with pytest.raises(ValueError) as caught:
        load_questions(path)
    assert str(caught.value).startswith(f"{path}:2: ") and why in str(caught.value) and "\n" not in str(caught.value)


def test_damaged_pictures_and_files_are_named(tmp_path: Path) -> None:
    path = lines(tmp_path / "q.jsonl", conversation("[1,2,99,4]"), conversation("[1,2,3,4]", "torn.png"))
    (tmp_path / "torn.png").write_bytes((tmp_path / "a.png").read_bytes()[:50])
    loaded = load_questions(path)
    for index, why in ((0, "lies outside its picture of 30 x 20 pixels"), (1, "torn.png: cannot be read as a picture")):
        with pytest.raises(ValueError, match=f"{path}:{index + 1}: .*{why}"):
            loaded[index]
    (tmp_path / "empty.jsonl").write_text("\n\n")
    (tmp_path / "binary.jsonl").write_bytes(b"\xff\xfe\x00")
    for name in ("empty.jsonl", "binary.jsonl", "missing.jsonl"):
        with pytest.raises(ValueError, match=name):
            load_questions(tmp_path / name)


def test_a_list_of_texts_is_several_right_answers(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "q.jsonl").write_text(
        json.dumps({"image": "a.png", "question": "Color?", "answer": ["red", "crimson"]})
    )
    answer = load_questions(tmp_path / "q.jsonl")[0].answer
    assert answer["text"] == "red" and answer["others"] == ["crimson"]
