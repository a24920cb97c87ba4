"""Rewards as a tool: gold pictures score 1, others less, broken files and wrong counts are told."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from saccade.core import Problem, Rollout
from saccade.rewards.image import ocr
from saccade.worlds import shapes

torch.set_num_threads(1)


@pytest.fixture
def gold(tmp_path: Path) -> Path:
    """Six rendered scenes, and a prompt file with their captions."""
    scenes, meanings = shapes.sample_scenes(6, np.random.default_rng(1), ["single_object", "colors"])
    for i, picture in enumerate(shapes.render(scenes, 64)):
        pixels = np.asarray(picture)
        pixels = pixels if pixels.dtype == np.uint8 else (pixels.transpose(1, 2, 0) * 255).round().astype(np.uint8)
        (tmp_path / "gold").mkdir(exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / "gold" / f"{i}.png")
    (tmp_path / "p.txt").write_text("\n".join(shapes.caption(meaning, 0) for meaning in meanings))
    return tmp_path / "gold"


def test_gold_pictures_score_one(saccade, gold):
    completed = saccade("score", "--reward", "shapes,shapes_strict", "--images", gold, "--prompts", "p.txt", "--json")
    result = json.loads(completed.out.splitlines()[-1])
    assert completed.status == 0 and result["mean"] == {"shapes": 1.0, "shapes_strict": 1.0}
    assert [set(item) for item in result["items"]] == [{"image", "prompt", "shapes", "shapes_strict"}] * 6
    lines = Path("p.txt").read_text().splitlines()
    Path("p.txt").write_text("\n".join([*lines[1:], lines[0]]))
    shifted = saccade("score", "--reward", "shapes_strict", "--images", gold, "--prompts", "p.txt")
    assert shifted.status == 0 and "mean" in shifted.out and "1.000\n" not in shifted.out.splitlines()[-1]


def test_pictures_alone_of_any_size_and_a_reward_of_ones_own(saccade, gold):
    Image.new("RGBA", (20, 10), "red").save(gold / "z.PNG")
    Image.new("L", (20, 10)).save(gold / "y.bmp")
    result = json.loads(saccade("score", "--reward", "sharpness,diversity", "--images", gold, "--json").out)
    assert len(result["items"]) == 8 and "prompt" not in result["items"][0] and result["items"][-1]["sharpness"] == 0
    Path("own.py").write_text("def red(rollout):\n    return rollout.outputs[:, 0].mean((1, 2))\n")
    own = json.loads(saccade("score", "--reward", "own.py:red", "--images", gold, "--json").out)
    assert own["items"][-1]["own.py:red"] == 1.0 and own["items"][-2]["own.py:red"] == 0.0


def test_a_reward_that_fails_on_some_pictures_gives_them_no_verdict(saccade, gold):
    Path("own.py").write_text(
        "def shy(r):\n    if (r.outputs.sum((1, 2, 3)) == 0).any(): raise OSError('dark')\n"
        "    return r.outputs.mean((1, 2, 3))\n"
    )
    Image.new("RGB", (64, 64)).save(gold / "a.png")
    completed = saccade("score", "--reward", "own.py:shy", "--images", gold, "--json")
    assert (
        json.loads(completed.out)["items"][-1]["own.py:shy"] is None
        and "failed on 1 of 7 pictures: OSError: dark" in completed.err
    )


def test_what_does_not_fit_is_one_line(saccade, gold):
    score = lambda reward, *rest: saccade("score", "--reward", reward, *rest).refused()
    assert "unknown reward 'shaeps'; nearest: shapes" in score("shaeps", "--images", gold)
    assert "no reward is named" in score(" , ", "--images", gold)
    assert "missing --images" in score("shapes")
    assert "there is no folder 'nowhere'" in score("sharpness", "--images", "nowhere")
    assert "no pictures in ." in score("sharpness", "--images", ".")
    assert "it may need prompts" in score("shapes", "--images", gold)
    Path("dogs.txt").write_text("a dog\n" * 6)
    reason = "reward 'shapes' scored none of 6 pictures: it does not understand the prompt 'a dog'"
    assert reason in score("shapes", "--images", gold, "--prompts", "dogs.txt")
    other = saccade("score", "--reward", "shapes,sharpness", "--images", gold, "--prompts", "dogs.txt", "--json")
    assert other.status == 0 and reason in other.err and json.loads(other.out)["mean"]["sharpness"] > 0
    assert "none.txt: cannot be read" in score("shapes", "--images", gold, "--prompts", "none.txt")
    Path("two.txt").write_text("a red circle\n\na blue ring\n")
    assert "6 pictures in" in score("shapes", "--images", gold, "--prompts", "two.txt")
    Path("bad.jsonl").write_text(
        '{"tag": "single_object", "include": [{"class": "circle", "count": 1}], "prompt": "a circle"}\n{"tag"\n'
    )
    assert "bad.jsonl:2: not JSON" in score("shapes", "--images", gold, "--prompts", "bad.jsonl")
    for name, content in [
        ("broken.png", b"\x89PNG\r\n\x1a\nrubbish"),
        ("torn.png", (gold / "0.png").read_bytes()[:90]),
    ]:
        (gold / name).write_bytes(content)
        assert f"{name}: cannot be read as a picture" in score("sharpness", "--images", gold)
        (gold / name).unlink()


@pytest.mark.parametrize(
    ("text", "target", "score"),
    [
        ("HELLO", "hello", 1),
        ("oh he llo!", "Hello", 1),
        ("", "abc", 0),
        ("hallo", "hello", 0.8),
        ("quite something else", "abc", 0),
    ],
)
def test_similarity_of_words(text, target, score):
    assert ocr.text_match(text, target) == pytest.approx(score)


def written(*words: str) -> torch.Tensor:
    from PIL import ImageDraw

    from saccade.worlds.shapes.fonts import _face

    pictures = []
    for word in words:
        picture = Image.new("RGB", (96, 96), "white")
        ImageDraw.Draw(picture).text((8, 34), word, fill="navy", font=_face("roboto").font_variant(size=24))
        pictures.append(torch.from_numpy(np.array(picture)).permute(2, 0, 1) / 255)
    return torch.stack(pictures)


def rollout(pictures: torch.Tensor, answers: list) -> Rollout:
    none = torch.zeros(len(pictures), 0)
    return Rollout(
        [Problem(i, "", a) for i, a in enumerate(answers)], {}, pictures, none, none, torch.arange(len(pictures))
    )


def test_rapidocr_reads_words_offline():
    pytest.importorskip("rapidocr")
    pytest.importorskip("onnxruntime")
    pictures = torch.cat([written("HELLO", "WORLD", "PAPER"), torch.full((2, 3, 96, 96), torch.nan)])
    answers = [{"text": "Hello"}, {"text": "sword"}, {"tag": "colors"}, {"text": "ink"}, None]
    scores = ocr.similarity(rollout(pictures, answers))
    assert (
        scores[0] == 1
        and scores[1] == pytest.approx(0.6)
        and scores[2].isnan()
        and scores[3].isnan()
        and scores[4].isnan()
    )


def test_without_rapidocr_the_install_line_is_told(saccade, gold, monkeypatch):
    import sys

    ocr._engine.cache_clear()
    monkeypatch.setitem(sys.modules, "rapidocr", None)
    with pytest.raises(ValueError, match=r"pip install 'saccade\[ocr\]'"):
        ocr.similarity(rollout(torch.zeros(1, 3, 8, 8), [{"text": "a"}]))
    Path("w.txt").write_text("\n".join(['"A"'] * 6))
    assert (
        "pip install 'saccade[ocr]'"
        in saccade("score", "--reward", "rapidocr", "--images", gold, "--prompts", "w.txt").refused()
    )
