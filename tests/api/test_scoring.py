"""Rewards of pictures in memory: lists of all kinds, prompts as texts and problems, functions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

import saccade
from saccade.worlds import shapes


def half(rollout):
    return rollout.outputs.mean((1, 2, 3)) / 2


def test_pictures_of_all_kinds_score_the_same(tmp_path):
    scenes, meanings = shapes.sample_scenes(1, np.random.default_rng(1), ["colors"])
    (pixels,) = [np.asarray(picture) for picture in shapes.render(scenes, 64)]
    pixels = pixels if pixels.dtype == np.uint8 else (pixels.transpose(1, 2, 0) * 255).round().astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    tensor = torch.from_numpy(pixels).movedim(-1, 0) / 255
    caption = shapes.caption(meanings[0], 0)
    listed = [tmp_path / "a.png", str(tmp_path / "a.png"), Image.fromarray(pixels), pixels, tensor]
    found = saccade.score(listed, [caption] * 4 + [saccade.Problem(0, caption, meanings[0])], ["shapes", half])
    name = f"{__name__}:half"
    assert found["mean"]["shapes"] == 1.0 and [item["image"] for item in found["items"]] == ["a.png", "a.png", 2, 3, 4]
    assert all(item[name] == pytest.approx(float(tensor.mean()) / 2, abs=1e-4) for item in found["items"])
    assert saccade.score(tmp_path, rewards="sharpness")["items"][0].keys() == {"image", "sharpness"}


def test_what_does_not_fit_is_one_line():
    black = np.zeros((8, 8, 3), np.uint8)
    for images, prompts, rewards, line in [
        ([], None, "sharpness", "no pictures to score"),
        ([black], None, [], "no reward is named"),
        ([black], ["a", "b"], "shapes", "1 pictures in the list, but 2 prompts in the list"),
        ([black], None, "shaeps", "unknown reward 'shaeps'; nearest: shapes"),
        ([np.zeros((8, 8))], None, "sharpness", r"a picture is a file, .* not ndarray \[8, 8\]"),
        ([black], None, "shapes", "reward 'shapes' scored none of 1 pictures: .*it may need prompts"),
    ]:
        with pytest.raises(ValueError, match=line):
            saccade.score(images, prompts, rewards)


def test_a_reward_that_fails_on_some_pictures_warns():
    def shy(rollout):
        if (rollout.outputs.sum((1, 2, 3)) == 0).any():
            raise OSError("dark")
        return rollout.outputs.mean((1, 2, 3))

    pictures = [np.zeros((8, 8, 3), np.uint8), np.full((8, 8, 3), 255, np.uint8)]
    with pytest.warns(UserWarning, match="failed on 1 of 2 pictures: OSError: dark"):
        found = saccade.score(pictures, rewards=shy)
    (mean,) = found["mean"].values()
    assert mean == 1.0


def test_pictures_are_read_in_batches_and_compared_as_a_whole(tmp_path, monkeypatch):
    rows = []

    def brightness(rollout):
        rows.append(len(rollout))
        return rollout.outputs.mean((1, 2, 3))

    for i in range(9):
        side = 16 if i % 3 else 8
        Image.fromarray(np.full((side, side, 3), 20 * i, np.uint8)).save(tmp_path / f"{i}.png")
    whole = saccade.score(tmp_path, rewards=[brightness, "diversity"])
    assert sorted(rows) == [3, 6]
    monkeypatch.setattr(saccade.api.scoring, "PIXELS", 600)
    rows.clear()
    assert saccade.score(tmp_path, rewards=[brightness, "diversity"]) == whole and max(rows) <= 3
