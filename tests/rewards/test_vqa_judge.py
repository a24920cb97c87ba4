"""The VQA judge: its pictures and tokens, its gradients, its agreement with the truth."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import tiny_vision
import torch

from saccade.core import Problem, Question, Rollout
from saccade.models.loading import MINIATURES
from saccade.models.vision.differentiable import ImagePreprocessor
from saccade.models.vision.encoder import VisionEncoder, vision_parameters
from saccade.rewards.learned.vqa_judge import VQAJudge, YesNoLikelihood, answer_tokens, load_judge
from saccade.worlds import edits, questions

needs_miniature = pytest.mark.skipif(
    not (MINIATURES / "qwen2.5-vl-shapes").is_dir(), reason="qwen2.5-vl-shapes is not built here"
)
ASKED = ("Is there a red ring?", "Do you see a blue star, yes or no?")


def tensor(picture: np.ndarray) -> torch.Tensor:
    return torch.tensor(picture).permute(2, 0, 1) / 255


def conversation(text: str, *pictures: np.ndarray) -> list[dict]:
    return [
        {
            "role": "user",
            "content": [*({"type": "image", "image": p} for p in pictures), {"type": "text", "text": text}],
        }
    ]


def official_log_odds(judge: YesNoLikelihood, text: str, *pictures: np.ndarray) -> float:
    """The log-odds by the official processor and an ordinary forward pass."""
    passage, model = judge.language.encode_prompt(conversation(text, *pictures)), judge.language.model
    marks = (passage.ids_L == model.config.image_token_id).long()[None]
    ids = passage.ids_L[None]
    with torch.no_grad():
        out = model(
            input_ids=ids, attention_mask=torch.ones_like(ids), mm_token_type_ids=marks, **passage.images.inputs
        ).logits[0, -1]
    return float(out[judge.yes].logsumexp(0) - out[judge.no].logsumexp(0))


def rollout(problems: list[Problem], pictures: torch.Tensor) -> Rollout:
    nothing = torch.zeros(len(problems), 0)
    return Rollout(problems, {}, pictures, nothing, nothing, torch.arange(len(problems)))


@pytest.mark.parametrize("std", [0.5, 0.27])
@pytest.mark.parametrize(("patch", "least", "most"), [(4, 32**2, 64**2), (14, 56**2, 16 * 28**2)])
def test_patches_are_those_of_the_official_processor(patch, least, most, std):
    """Where nothing is resized the same, else within about one grey level: the official one rounds between its two
    passes.
    """
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    official = Qwen2VLImageProcessorPil(
        patch_size=patch,
        merge_size=2,
        min_pixels=least,
        max_pixels=most,
        image_mean=[0.4, 0.5, 0.5],
        image_std=[std] * 3,
    )
    named = SimpleNamespace(
        processor=SimpleNamespace(image_processor=official), model=SimpleNamespace(name_or_path="it")
    )
    preparation = ImagePreprocessor.from_model(named)
    photograph = edits.photographs.sample_problems(1, 0, size=120)[0].inputs.pictures[0]
    for height, width in ((12, 12), (32, 32), (56, 112), (40, 57), (120, 90)):
        for picture in (photograph[:height, :width], tiny_vision.picture(height, width)):
            made = official([picture], return_tensors="pt")
            patches, grid = preparation.patches(tensor(picture)[None])
            assert grid.tolist() == made["image_grid_thw"].tolist()
            gap = (patches[0] - made["pixel_values"]).abs().max() * std
            resized = preparation.resized(height, width) != (height, width)
            assert gap < (0.0045 if resized else 1e-6), (height, width, float(gap))


@pytest.mark.parametrize("kind", ["qwen25", "qwen3"])
def test_any_model_of_the_kind_has_the_log_odds_of_an_ordinary_forward_pass(kind, tmp_path):
    language = tiny_vision.language(kind, tmp_path)
    judge = YesNoLikelihood(
        language,
        ImagePreprocessor.from_model(language),
        VisionEncoder(language.model, list(vision_parameters(language.model))),
        [7, 9],
        [11],
    )
    large, small = tiny_vision.picture(24, 16, 1), tiny_vision.picture(16, 16, 2)
    rows = [
        ("a red circle", (small,)),
        ("the word", (small,)),
        ("a star", (large, small)),
        ("a longer text, a green star", (large,)),
    ]
    once = {id(picture): tensor(picture) for picture in (large, small)}
    pictures = [tuple(once[id(p)] for p in shown) for _, shown in rows]
    with torch.no_grad():
        together = judge.log_odds(pictures, [text for text, _ in rows])
    assert together.tolist() == pytest.approx(
        [official_log_odds(judge, text, *shown) for text, shown in rows], abs=2e-3
    )
    pixels = pictures[0][0].clone().requires_grad_()
    judge.log_odds([(pixels,)] * 2, ["a ring", "a star"]).sum().backward()
    assert pixels.grad.abs().max() > 0 and all(p.grad is None for p in language.model.parameters())


def test_models_of_another_kind_are_refused(tmp_path):
    with pytest.raises(ValueError, match="not of the Qwen2-VL kind"):
        ImagePreprocessor.from_model(tiny_vision.language("llava", tmp_path / "llava"))
    with pytest.raises(ValueError, match="no token is 'yes'"):
        VQAJudge(model=str(tiny_vision.saved("qwen25", tmp_path / "qwen"))).log_odds([(torch.zeros(3, 8, 8),)], ["a"])
    with pytest.raises(ValueError, match="has no {} for the question"):
        VQAJudge(template="yes or no?")
    with pytest.raises(ValueError, match="at least one question"):
        VQAJudge().log_odds([], [])


def test_every_spelling_of_an_answer_in_one_token_counts():
    known = {"yes": [1], "Yes": [2, 3], " yes": [4], " Yes": [5], "no": [6, 7], "No": [8], " no": [8], " No": [9, 9]}
    words = SimpleNamespace(
        tokenizer=lambda text, add_special_tokens: {"input_ids": known[text]}, model=SimpleNamespace(name_or_path="m")
    )
    assert answer_tokens("yes", words) == [1, 4, 5] and answer_tokens("no", words) == [8]


@needs_miniature
def test_the_miniature_has_the_log_odds_of_an_ordinary_forward_pass():
    judge, vqa = load_judge("qwen2.5-vl-shapes"), VQAJudge(device="cpu")
    assert [judge.language.tokenizer.decode(t) for t in judge.yes + judge.no].count("yes") == 1 and len(judge.yes) >= 2
    small, plain, large = (tiny_vision.picture(side, side, side) // 64 * 64 for side in (20, 32, 48))
    rows = [(small,), (plain,), (plain, large)]
    with torch.no_grad():
        log_odds = vqa.log_odds([tuple(map(tensor, shown)) for shown in rows for _ in ASKED], ASKED * 3)
    assert log_odds.tolist() == pytest.approx(
        [official_log_odds(judge, text, *shown) for shown in rows for text in ASKED], abs=5e-2
    )
    assert log_odds[2:].tolist() == pytest.approx(
        [official_log_odds(judge, text, *shown) for shown in rows[1:] for text in ASKED], abs=1e-3
    )


@needs_miniature
def test_gradients_are_those_of_finite_differences():
    vqa = VQAJudge(precision="float64", device="cpu")
    for side in (32, 20):  # shown as it is, and enlarged
        picture = tensor(tiny_vision.picture(side, side)).double() * 0.6 + 0.2
        picture.requires_grad_()
        vqa.log_odds([(picture,)], ASKED[:1]).sum().backward()
        step = torch.randn(picture.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 3e-4
        with torch.no_grad():
            up, down = (vqa.log_odds([(picture + sign * step,)], ASKED[:1]) for sign in (1, -1))
        assert float(picture.grad.flatten() @ step.flatten()) == pytest.approx(float(up - down) / 2, rel=5e-3)


@needs_miniature
def test_as_a_reward_and_as_a_gradient_of_a_rollout():
    made = edits.sample_problems(8, 0, kinds=("recolor", "add", "remove", "replace"))
    gold, idle = (
        torch.stack([tensor(p) for p in ps])
        for ps in ([p.answer["picture"] for p in made], [p.inputs.pictures[0] for p in made])
    )
    made[3] = Problem(3, made[3].inputs, {"questions": ()})
    vqa = VQAJudge(device="cpu")
    scores, sources = vqa(rollout(made, gold)), vqa(rollout(made, idle))
    assert scores[3].isnan() and sources[3].isnan() and vqa.loglikelihood(rollout(made, gold))[3] == 0
    assert scores.nanmean() > sources.nanmean() + 0.1
    each = [
        VQAJudge(device="cpu").log_odds([(gold[0],)], [q])[0] * (1 if answer == "yes" else -1)
        for q, answer, _ in made[0].answer["questions"]
    ]
    assert float(scores[0]) == pytest.approx(float(torch.stack(each).sigmoid().mean()), abs=1e-4)
    only = replace(vqa, about=("edit",))(rollout(made, idle))
    assert only.nanmean() < replace(vqa, about=("keep",))(rollout(made, idle)).nanmean()
    pixels = idle.clone().requires_grad_()
    vqa.loglikelihood(rollout(made, pixels)).sum().backward()
    assert (pixels.grad.flatten(1).abs().amax(1) > 0).tolist() == [i != 3 for i in range(8)]
    better = (idle + 0.02 * pixels.grad.sign()).clamp(0, 1)
    assert vqa.loglikelihood(rollout(made, better)).sum() > vqa.loglikelihood(rollout(made, idle)).sum()


@needs_miniature
def test_the_source_is_shown_first_where_pictures_are_compared():
    picture, source = tiny_vision.picture(32, 32, 1), tiny_vision.picture(32, 32, 2)
    problem = Problem(0, Question("Make it red.", (source,)), {"questions": ((ASKED[0], "yes", "edit"),)})
    vqa = VQAJudge(compare=True, device="cpu", template="{} yes or no?")
    score = vqa(rollout([problem], tensor(picture)[None]))
    judge = load_judge("qwen2.5-vl-shapes")
    assert float(score.logit()) == pytest.approx(
        official_log_odds(judge, f"{ASKED[0]} yes or no?", source, picture), abs=1e-3
    )
    assert vqa(rollout([Problem(0, problem.inputs)], tensor(picture)[None])).isnan().all()


@needs_miniature
def test_it_agrees_with_the_truth_about_what_is_there():
    asked_ = questions.sample_problems(100, 5, ("verdict",), size=48)
    with torch.no_grad():
        log_odds = VQAJudge(device="cpu").log_odds(
            [(tensor(p.inputs.pictures[0]),) for p in asked_], [p.inputs.text for p in asked_]
        )
    assert ((log_odds > 0) == torch.tensor([p.answer["text"] == "yes" for p in asked_])).float().mean() > 0.75
