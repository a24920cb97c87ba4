"""The captioner of BLIP-FusePPO: saving and loading, its loss, its prompt, its pictures."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from saccade.recipes.driving_navigation.blip_fuseppo.captioner import (
    BlipSizes,
    Captioner,
    build_captioner,
    load_captioner,
)

WORDS = "a photo of the road left right straight".split()
TINY = BlipSizes(picture=16, patch=8, width=16, heads=2, vision_layers=1, text_layers=1)


def pictures(count: int, height: int = 12, width: int = 20) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def varied() -> Captioner:
    """Random, but with weights large enough that captions of different pictures differ."""
    words = build_captioner(WORDS, 5, TINY, seed=1)
    with torch.no_grad():
        for parameter in words.parameters():
            if parameter.dim() > 1:
                parameter.mul_(4)
    return words


def test_a_saved_and_loaded_captioner_writes_the_same_captions(varied, tmp_path):
    varied.export(tmp_path)
    again = load_captioner(tmp_path, length=5)
    ids = varied(pictures(6))
    assert ids.shape == (6, 5) and ids.dtype == np.int64 and len({tuple(row) for row in ids}) > 1
    assert np.array_equal(ids, again(pictures(6))) and again.decode(ids) == varied.decode(ids)
    assert not any(p.requires_grad for p in again.parameters())
    other = build_captioner(WORDS, 5, TINY, seed=2)
    other.load_state_dict(varied.state_dict())
    assert np.array_equal(other(pictures(6)), ids)
    assert np.array_equal(load_captioner(tmp_path, length=8)(pictures(6))[:, :5][ids > 0], ids[ids > 0]), (
        "longer captions begin alike"
    )


def test_a_caption_does_not_depend_on_the_batch(varied):
    shown = pictures(4)
    assert np.array_equal(np.concatenate([varied(shown[i : i + 1]) for i in range(4)]), varied(shown))


def test_the_prompt_begins_captions_and_is_not_among_their_ids(varied, tmp_path):
    varied.export(tmp_path)
    prompted = load_captioner(tmp_path, length=5, prompt="a photo of the")
    tokenizer = prompted.processor.tokenizer
    assert prompted.prefix_ids.tolist()[1:] == tokenizer.convert_tokens_to_ids("a photo of the".split())
    pixels = prompted.pixels(pictures(3))
    prefix = torch.cat([prompted.prefix_ids, torch.tensor([3])]).repeat(3, 1)
    whole = prompted.model.generate(pixels, input_ids=prefix, max_new_tokens=5, do_sample=False)
    ids = prompted(pictures(3))
    for row, generated in zip(ids, whole[:, len(prompted.prefix_ids) :].tolist()):
        words = generated[: generated.index(3)] if 3 in generated else generated
        assert row.tolist() == words + [0] * (5 - len(words))
    assert load_captioner(tmp_path, length=5, num_beams=3, no_repeat_ngram_size=1)(pictures(2)).shape == (2, 5)


def test_the_loss_is_that_of_transformers_and_trains(varied):
    words = build_captioner(WORDS, 5, TINY, seed=3)
    captions = ["left straight road", "right", "straight road of the road"]
    total, count = words.loss(pictures(3), captions)
    ids = torch.tensor([[5, *row] for row in np.pad(words.encode(captions), ((0, 0), (0, 1))).tolist()])
    for row, caption in zip(ids, captions):
        row[1 + len(caption.split())] = 3
    own = words.model(pixel_values=words.pixels(pictures(3)), input_ids=ids, labels=ids.masked_fill(ids == 0, -100))
    assert int(count) == 3 + 1 + 5 + 3 and float((total / count).detach()) == pytest.approx(
        float(own.loss.detach()), rel=1e-5
    )
    optimizer = torch.optim.Adam(words.parameters(), lr=1e-2)
    for _ in range(60):
        total, count = words.loss(pictures(3), captions)
        optimizer.zero_grad()
        (total / count).backward()
        optimizer.step()
    assert words.decode(words(pictures(3))) == captions and np.array_equal(words.encode(captions), words(pictures(3)))


def test_pictures_are_preprocessed_as_by_the_processor(varied):
    shown = np.random.default_rng(1).integers(0, 256, (2, 4, 5, 3)).astype(np.uint8).repeat(8, 1).repeat(8, 2)
    own = torch.tensor(np.stack(varied.processor.image_processor(list(shown))["pixel_values"]))
    assert (varied.pixels(shown) - own).abs().mean() < 0.02


def test_models_that_are_no_captioner_are_refused(lm_folder, tmp_path):
    with pytest.raises(ValueError, match="its model_type is 'qwen2'; captions are written by 'blip'"):
        load_captioner(lm_folder)
    build_captioner(WORDS, 5, replace(TINY), seed=1).export(tmp_path)
    with pytest.raises(ValueError, match="a prompt of 1 ids and captions of 50 exceed its 13 positions"):
        load_captioner(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"broken")
    with pytest.raises(ValueError, match="could not be loaded"):
        load_captioner(tmp_path, 5)
