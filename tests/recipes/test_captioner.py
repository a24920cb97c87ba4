"""The captioner: a real BLIP class, small, saved to disk and loaded as any other; its loss, its prompt, its
pictures.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from saccade.recipes.driving_navigation.blip_fuseppo.captioner import Captioner, Sizes, fresh, load

WORDS = "a photo of the road left right straight".split()
TINY = Sizes(picture=16, patch=8, width=16, heads=2, layers=1, writing_layers=1)


def pictures(count: int, height: int = 12, width: int = 20) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def loud() -> Captioner:
    """Random, but with weights large enough that captions of different pictures differ."""
    words = fresh(WORDS, 5, TINY, seed=1)
    with torch.no_grad():
        for parameter in words.parameters():
            if parameter.dim() > 1:
                parameter.mul_(4)
    return words


def test_saved_and_loaded_it_says_the_same(loud, tmp_path):
    loud.export(tmp_path)
    again = load(tmp_path, length=5)
    said = loud(pictures(6))
    assert said.shape == (6, 5) and said.dtype == np.int64 and len({tuple(row) for row in said}) > 1
    assert np.array_equal(said, again(pictures(6))) and again.words(said) == loud.words(said)
    assert not any(p.requires_grad for p in again.parameters())
    other = fresh(WORDS, 5, TINY, seed=2)
    other.load_state_dict(loud.state_dict())
    assert np.array_equal(other(pictures(6)), said)
    assert np.array_equal(load(tmp_path, length=8)(pictures(6))[:, :5][said > 0], said[said > 0]), (
        "longer captions begin alike"
    )


def test_one_picture_is_told_as_among_others(loud):
    shown = pictures(4)
    assert np.array_equal(np.concatenate([loud(shown[i : i + 1]) for i in range(4)]), loud(shown))


def test_the_prompt_begins_a_caption_and_is_not_part_of_it(loud, tmp_path):
    loud.export(tmp_path)
    prompted = load(tmp_path, length=5, prompt="a photo of the")
    assert prompted.begun.tolist()[1:] == prompted.processor.tokenizer.convert_tokens_to_ids("a photo of the".split())
    pixels = prompted.pixels(pictures(3))
    begun = torch.cat([prompted.begun, torch.tensor([3])]).repeat(3, 1)
    whole = prompted.model.generate(pixels, input_ids=begun, max_new_tokens=5, do_sample=False)
    said = prompted(pictures(3))
    for row, ids in zip(said, whole[:, len(prompted.begun) :].tolist()):
        words = ids[: ids.index(3)] if 3 in ids else ids
        assert row.tolist() == words + [0] * (5 - len(words))
    assert load(tmp_path, length=5, beams=3, no_repeat=1)(pictures(2)).shape == (2, 5)


def test_the_loss_is_transformers_own_and_teaches(loud):
    words = fresh(WORDS, 5, TINY, seed=3)
    told = ["left straight road", "right", "straight road of the road"]
    total, count = words.loss(pictures(3), told)
    ids = torch.tensor([[5, *row] for row in np.pad(words.ids(told), ((0, 0), (0, 1))).tolist()])
    for row, caption in zip(ids, told):
        row[1 + len(caption.split())] = 3
    own = words.model(pixel_values=words.pixels(pictures(3)), input_ids=ids, labels=ids.masked_fill(ids == 0, -100))
    assert int(count) == 3 + 1 + 5 + 3 and float((total / count).detach()) == pytest.approx(
        float(own.loss.detach()), rel=1e-5
    )
    optimizer = torch.optim.Adam(words.parameters(), lr=1e-2)
    for _ in range(60):
        total, count = words.loss(pictures(3), told)
        optimizer.zero_grad()
        (total / count).backward()
        optimizer.step()
    assert words.words(words(pictures(3))) == told and np.array_equal(words.ids(told), words(pictures(3)))


def test_pictures_are_prepared_as_the_processor_does(loud):
    shown = np.random.default_rng(1).integers(0, 256, (2, 4, 5, 3)).astype(np.uint8).repeat(8, 1).repeat(8, 2)
    own = torch.tensor(np.stack(loud.processor.image_processor(list(shown))["pixel_values"]))
    assert (loud.pixels(shown) - own).abs().mean() < 0.02


def test_what_is_no_captioner_is_named(lm_folder, tmp_path):
    with pytest.raises(ValueError, match="its model_type is 'qwen2'; captions are written by 'blip'"):
        load(lm_folder)
    fresh(WORDS, 5, replace(TINY), seed=1).export(tmp_path)
    with pytest.raises(ValueError, match="a prompt of 1 ids and captions of 50 do not fit into its 13 places"):
        load(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"broken")
    with pytest.raises(ValueError, match="could not be loaded"):
        load(tmp_path, 5)
