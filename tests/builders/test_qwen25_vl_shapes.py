"""The miniature that sees: real classes, pictures as its processor shows them, rows that are worth separate ones, a
card.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from saccade.models.loading import MINIATURES

FOLDER = MINIATURES / "qwen2.5-vl-shapes"
pytestmark = pytest.mark.skipif(not (FOLDER / "config.json").is_file(), reason="qwen2.5-vl-shapes is not built here")


@pytest.fixture(scope="module")
def language():
    from saccade.models.language.model import load_language_model

    return load_language_model(FOLDER)


def pictures(*sizes: tuple[int, int]) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(256, size=(*size, 3), dtype=np.uint8) for size in sizes]


def test_a_third_party_loads_it_with_plain_transformers():
    from transformers import AutoImageProcessor, AutoModelForImageTextToText, AutoTokenizer

    model = AutoModelForImageTextToText.from_pretrained(FOLDER)
    assert type(model).__name__ == "Qwen2_5_VLForConditionalGeneration"
    assert 1.5e6 <= sum(p.numel() for p in model.parameters()) <= 4e6
    assert model.dtype == torch.float16
    tokenizer = AutoTokenizer.from_pretrained(FOLDER)
    assert len(tokenizer) == model.config.text_config.vocab_size
    for text in (
        "[12,20,30,64]",
        '[{"bbox_2d":[1,2,33,48],"label":"ring"}]',
        "Localizer is the red star?",
        '<path d="M12 3L4 5Z"/>',
    ):
        ids = tokenizer(text)["input_ids"]
        assert tokenizer.decode(ids) == text
    assert len(tokenizer("[12,20,30,64]")["input_ids"]) == 9, "numbers are single tokens"
    images = AutoImageProcessor.from_pretrained(FOLDER)
    grids = images(pictures((64, 64), (24, 24), (96, 96), (10, 30)), return_tensors="pt")["image_grid_thw"]
    assert grids[:3].tolist() == [[1, 16, 16], [1, 8, 8], [1, 16, 16]]
    assert grids[3, 2] > grids[3, 1], "a wide picture stays wide"


def test_a_conversation_holds_several_pictures_of_different_sizes(language):
    shown = [{"type": "image", "image": picture} for picture in pictures((48, 48), (24, 40))]
    passage = language.encode_prompt(
        [{"role": "user", "content": [*shown, {"type": "text", "text": "What color is the ring?"}]}]
    )
    pad = language.tokenizer.convert_tokens_to_ids("<|image_pad|>")
    assert int((passage.ids_L == pad).sum()) == passage.images.tokens
    assert (passage.frames[0].width, passage.frames[0].height) == (48, 48)


def test_training_pictures_equal_those_of_the_processor(language):
    from saccade.builders.qwen25_vl_shapes.preprocessing import displayed, patches

    for picture in pictures((64, 64), (48, 48), (30, 34), (96, 96)):
        theirs = language.processor.image_processor([picture], return_tensors="pt")["pixel_values"]
        torch.testing.assert_close(patches(displayed(picture)[None])[0], theirs, atol=1e-5, rtol=0)


def test_questions_packed_into_one_row_equal_separate_rows(language):
    from saccade.builders.qwen25_vl_shapes import packing
    from saccade.builders.qwen25_vl_shapes.preprocessing import patches

    (picture,) = pictures((48, 48))
    pairs = [("What color is the ring?", "red"), ("Find the star.", "[1,2,30,40]")]
    packed = packing.pack(language.tokenizer, [packing.questions_about(picture, pairs)])
    alone = []
    with torch.no_grad():
        joined = packing.states(language.model, packed, packing.features(language.model.model.visual, packed.pictures))
        for pair in pairs:
            one = packing.pack(language.tokenizer, [packing.questions_about(picture, [pair])])
            states = language.model.model(
                input_ids=one.ids_BL,
                pixel_values=patches(picture[None])[0],
                image_grid_thw=torch.tensor([[1, 12, 12]]),
                mm_token_type_ids=one.is_image_BL.long(),
            ).last_hidden_state
            alone.append(states[one.weight_BL > 0])
    torch.testing.assert_close(joined[packed.weight_BL > 0], torch.cat(alone), atol=1e-4, rtol=1e-4)


def test_names_in_a_question_get_the_box_of_the_only_object_that_has_them(language):
    from saccade.builders.qwen25_vl_shapes import packing
    from saccade.builders.qwen25_vl_shapes.annotations import AnnotatedPictures
    from saccade.builders.qwen25_vl_shapes.localizer import Localizer
    from saccade.worlds.shapes import COLORS, SHAPES

    red, blue = (1 + list(COLORS).index(name) for name in ("red", "blue"))
    ring, star = (1 + SHAPES.index(name) for name in ("ring", "star"))
    boxes = np.array([[[1, 2, 10, 12], [30, 3, 44, 15], [5, 30, 20, 44]]], float)
    views = AnnotatedPictures(
        np.stack(pictures((48, 48))),
        boxes,
        np.array([[ring, star, star]]),
        np.array([[red, blue, blue]]),
        np.zeros((1, 3), int),
    )
    pairs = [("Is the red ring left of the blue star?", "yes"), ("Find the star.", "red ring")]
    localizer = Localizer(language.model, language.tokenizer)
    packed = packing.pack(language.tokenizer, [packing.questions_about(views.pictures[0], pairs)])
    row, last, box = localizer.named_boxes(packed, views)
    assert row.tolist() == [0] and box.tolist() == [[1, 2, 10, 12]], (
        "two blue stars are nobody's name, answers are not asked"
    )
    assert language.tokenizer.decode(packed.ids_BL[0, last]) == " ring"
    with torch.no_grad():
        packing.states(language.model, packed, packing.features(language.model.model.visual, packed.pictures))
        at_cells, at_names = localizer.loss(packed, views, views.cells())
    localizer.close()
    assert at_cells > 0 and at_names > 0 and not language.model.model.language_model.layers[1]._forward_hooks


def test_cells_are_annotated_with_what_a_program_draws_there():
    from PIL import ImageColor

    from saccade.builders.qwen25_vl_shapes.annotations import COLOR_CLASSES
    from saccade.builders.qwen25_vl_shapes.vision_data import program_pictures
    from saccade.tools.render import render

    seen, codes = program_pictures(8, np.random.default_rng(3))
    cells = seen.cells()
    for i, code in enumerate(codes):
        np.testing.assert_array_equal(render(code, "svg", 32).picture, seen.pictures[i])
        here = cells["occupied"][i].view(4, 4)
        middle = seen.pictures[i][4::8, 4::8]
        assert (middle[~here.numpy()] > 100).all(), "where nothing is said to be seen most of the ground is white"
        for y, x in here.nonzero().tolist():
            color = COLOR_CLASSES[cells["color"][i].view(4, 4)[y, x] - 1]
            paint = np.array(ImageColor.getrgb(color))
            assert abs(paint - middle[y, x]).max() < 130, (code, y, x)
    boxes = seen.boxes[seen.shape > 0]
    assert ((boxes[:, 2:] > boxes[:, :2]).all()) and boxes.min() >= 0 and boxes.max() <= 32


def test_the_base_has_room_above_it_and_ground_below():
    """Better than chance where it must be, and not yet right where reinforcement learning is to help."""
    from saccade.builders.qwen25_vl_shapes.evaluation import held_out_scores

    found = held_out_scores(FOLDER, count=32)
    assert found["verdict"] > 0.5 and found["color_at"] > 0.3, found
    assert found["grounding"] < 0.9, found


def test_it_has_a_card_and_is_small():
    card = (FOLDER / "README.md").read_text().lower()
    for word in ("saccade miniature build", "seed", "commit"):
        assert word in card, word
    assert sum(f.stat().st_size for f in FOLDER.rglob("*") if f.is_file()) < 12e6
