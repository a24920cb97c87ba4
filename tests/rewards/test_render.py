"""Rewards on rendered programs: the reference scores best, blank and broken ones low, and nobody gains by the
canvas.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.metrics import structural_similarity

from saccade.core import Problem, Question, Rollout
from saccade.recipes.drawing_code.rlrf.encoders import FeatureSimilarity
from saccade.rewards.render import rendering, similarity
from saccade.rewards.rubric import judge
from saccade.tools.render import Request, render, render_batch, service
from saccade.worlds import programs

REWARDS = {
    "l2": (rendering.l2, -1.0),
    "edge_l2": (rendering.EdgeL2(), -1.0),
    "structure": (rendering.structure, -1.0),
    "ssim": (rendering.ssim, -1.0),
    "foreground_iou": (rendering.foreground_iou, 0.0),
    "validity": (rendering.validity, 0.0),
}
"""Each with its lowest value."""
JUDGES = [name for name in REWARDS if name != "validity"]
BLANK = "<svg/>"


@pytest.fixture(scope="module")
def problems():
    return programs.sample_problems(24, seed=5, size=48)


def rollout(problems, outputs):
    zeros = torch.zeros(len(problems), 1)
    return Rollout(list(problems), {}, list(outputs), zeros, zeros + 1, torch.arange(len(problems)))


def codes(problems):
    return [problem.answer["code"] for problem in problems]


@pytest.mark.parametrize("name", JUDGES)
def test_the_reference_scores_best(name, problems):
    reward = REWARDS[name][0]
    gold = reward(rollout(problems, codes(problems)))
    assert torch.allclose(gold, torch.ones(len(problems)))
    others = reward(rollout(problems, codes(problems)[1:] + codes(problems)[:1]))
    moved = reward(rollout(problems, [code.replace('x="', 'x="1').replace("M", "M1") for code in codes(problems)]))
    assert (others < 0.95).all() and others.mean() < 0.6 and moved.mean() < 0.9


@pytest.mark.parametrize("name", REWARDS)
def test_what_does_not_draw_has_the_lowest_value(name, problems):
    reward, lowest = REWARDS[name]
    for text in ("", "a red circle", "<svg><rect", '<svg><image href="a.png"/></svg>', "<svg>" + "<g>" * 400):
        assert (reward(rollout(problems, [text] * len(problems))) == lowest).all()


@pytest.mark.parametrize("name", REWARDS)
def test_a_blank_picture_has_a_defined_low_score(name, problems):
    reward = REWARDS[name][0]
    blank, gold = (reward(rollout(problems, texts)) for texts in ([BLANK] * len(problems), codes(problems)))
    assert blank.isfinite().all() and (blank < gold - 0.05).all()


def test_a_constant_picture_is_only_like_itself():
    white, grey = torch.ones(1, 3, 16, 16), torch.full((1, 3, 16, 16), 0.5)
    drawn = torch.rand(1, 3, 16, 16)
    pairs = ((white, white, 1), (grey, grey, 1), (white, grey, -1), (white, drawn, -1), (drawn, grey, -1))
    for a, b, score in pairs:
        assert similarity.standardized_l2(a, b).item() == score
    flat = Problem(0, Question("?"), {"picture": np.full((32, 32, 3), 255, np.uint8)})
    for reward, _ in (REWARDS[name] for name in JUDGES):
        assert reward(rollout([flat], [BLANK])).item() == pytest.approx(1.0)


@pytest.mark.parametrize("canvas", ["0 0 4 4", "0 0 320 320", "8 8 16 16", "-9 0 32 1"])
def test_the_canvas_trick_does_not_pay(canvas, problems):
    tricked = [code.replace('viewBox="0 0 32 32"', f'viewBox="{canvas}" width="7"') for code in codes(problems)[::-1]]
    assert all(canvas in code for code in tricked)
    for reward, _ in REWARDS.values():
        assert torch.equal(reward(rollout(problems, tricked)), reward(rollout(problems, codes(problems)[::-1])))


def test_the_box_of_the_reference_is_used():
    code = '<svg viewBox="0 0 200 200"><circle cx="90" cy="80" r="60" fill="navy"/></svg>'
    picture = render(code, "svg", 48, box=(0, 0, 200, 200)).picture
    problem = Problem(0, Question("?", (picture,)), {"picture": picture, "code": code, "box": [0, 0, 200, 200]})
    assert rendering.l2(rollout([problem], [code])).item() == pytest.approx(1)


def test_standardised_l2_is_the_correlation():
    a, b = torch.rand(2, 5, 3, 20, 24, dtype=torch.float64)
    rho = torch.stack([torch.corrcoef(torch.stack([x, y]))[0, 1] for x, y in zip(a.flatten(1), b.flatten(1))])
    assert torch.allclose(similarity.standardized_l2(a, b), (2 * rho - 1).clamp(-1, 1))
    assert torch.allclose(similarity.standardized_l2(a, 0.3 * a + 0.2), torch.ones(5, dtype=torch.float64))


def test_ssim_is_scikit_images():
    a, b = np.random.default_rng(0).random((2, 4, 32, 40, 3))
    b = 0.6 * a + 0.4 * b
    settings_ = {
        "channel_axis": 2,
        "gaussian_weights": True,
        "sigma": 1.5,
        "use_sample_covariance": False,
        "data_range": 1.0,
    }
    wanted = [structural_similarity(x, y, **settings_) for x, y in zip(a, b)]
    ours = similarity.ssim(*(torch.from_numpy(x).permute(0, 3, 1, 2) for x in (a, b)))
    assert np.allclose(ours.numpy(), wanted, atol=1e-6)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([11, 16, 33]))
def test_scores_keep_their_range_and_their_sides(seed, side):
    rng = torch.Generator().manual_seed(seed)
    levels = torch.randint(1, 4, (), generator=rng)
    a, b = (torch.randint(0, 4, (2, 3, side, side), generator=rng) % levels / 3 for _ in range(2))
    for like, low, high in (
        (similarity.standardized_l2, -1, 1), (similarity.edge_l2, -1, 1), (similarity.ssim, -1, 1),
        (similarity.structure_distance, 0, 2), (similarity.foreground_iou, 0, 1), (similarity.mean_squared_error, 0, 1),
    ):  # fmt: skip
        score = like(a, b)
        assert score.isfinite().all() and (score >= low - 1e-5).all() and (score <= high + 1e-5).all()
        assert torch.allclose(score, like(b, a), atol=1e-4)


def test_structure_sees_how_far_off_a_shape_is():
    at = lambda x: f'<svg><circle cx="{x}" cy="16" r="5" fill="red"/></svg>'
    pictures = np.stack(
        [one.picture for one in render_batch([Request(at(x), size=64) for x in (8, 9, 10, 12, 16, 22)])]
    )
    batch = torch.from_numpy(pictures).permute(0, 3, 1, 2) / 255
    distance = similarity.structure_distance(batch, batch[:1].expand_as(batch))
    assert distance[0].abs() < 1e-6 and (distance.diff() > 0.02).all() and distance[1] < 0.3 < 0.9 < distance[-1]


def test_a_program_is_found_in_an_answer(problems):
    texts = [f"<think>{BLANK}</think><answer>```svg\n{code}\n``` {BLANK[:3]}</answer>" for code in codes(problems)]
    assert (rendering.l2(rollout(problems, texts)) > 0.999).all()


def test_sizes_mix_and_what_was_not_wanted_is_not_judged(problems):
    small = programs.sample_problems(3, seed=6, size=32)
    mixed = [
        problems[0],
        small[0],
        Problem(9, "draw a cat"),
        problems[1],
        small[1],
        Problem(10, Question("?"), {"text": "red"}),
    ]
    texts = [codes([problem])[0] if i not in (2, 5) else BLANK for i, problem in enumerate(mixed)]
    scores = rendering.structure(rollout(mixed, texts))
    assert scores.isnan().tolist() == [False, False, True, False, False, True]
    assert (scores[[0, 1, 3, 4]] > 0.999).all()
    assert rendering.validity(rollout(mixed, texts)).tolist() == [1, 1, 0, 1, 1, 0]


def test_a_program_is_rendered_once_for_all_rewards(problems, monkeypatch):
    sent, render_missing = [], service._render_missing
    monkeypatch.setattr(service, "_render_missing", lambda lang, new: sent.extend(new) or render_missing(lang, new))
    new = [code.replace("<svg", "<svg opacity='0.9'") for code in codes(problems)]
    attempts = rollout(problems * 2, new * 2)
    judge(attempts, {name: reward for name, (reward, _) in REWARDS.items()})
    rendering.render_status_metrics(attempts)
    assert len(sent) == len(problems) and set(attempts.rewards) == set(REWARDS)


def test_statuses_are_counted(problems):
    shares = rendering.render_status_metrics(
        rollout(problems[:4], [codes(problems)[0], BLANK, "<svg><g>", "<svg><script/></svg>"])
    )
    assert sum(shares.values()) == pytest.approx(1)
    assert {name for name, share in shares.items() if share} == {
        f"health/render_{s}" for s in ("ok", "empty", "syntax", "unsafe")
    }


def test_the_error_of_a_failure_is_that_of_a_blank_picture(problems):
    broken, blank = (rendering.error(rollout(problems, [text] * len(problems))) for text in ("", BLANK))
    assert torch.equal(broken, blank) and (blank > 0).all()
    assert rendering.error(rollout(problems, codes(problems))).abs().max() == 0


def test_a_vision_model_from_a_folder_judges(tmp_path, problems):
    from transformers import ViTConfig, ViTImageProcessorPil, ViTModel

    torch.manual_seed(0)
    ViTModel(ViTConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, image_size=32,
                       patch_size=8)).save_pretrained(tmp_path)  # fmt: skip
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    reward = FeatureSimilarity(str(tmp_path))
    gold, other = (reward(rollout(problems[:4], texts)) for texts in (codes(problems)[:4], codes(problems)[4:8]))
    assert torch.allclose(gold, torch.ones(4)) and (other < gold).all()
    assert (reward(rollout(problems[:4], [""] * 4)) == -1).all()
    (tmp_path / "nothing").mkdir()
    with pytest.raises(ValueError, match="is no image model"):
        FeatureSimilarity(str(tmp_path / "nothing")).features(torch.rand(1, 3, 8, 8))


def test_a_reference_that_is_no_square_picture_is_refused():
    problem = Problem(0, Question("?"), {"picture": np.zeros((8, 9, 3), np.uint8)})
    with pytest.raises(ValueError, match=r"uint8 \[8, 9, 3\] must be uint8 \[S, S, 3\]"):
        rendering.l2(rollout([problem], [BLANK]))
