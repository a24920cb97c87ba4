"""A box carried between the displayed picture, the original and crops of crops stays where it is; strangers never
mix.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saccade.math.frames import Affine, Box, Frame

SIDE = st.integers(1, 600)
SHARE = st.floats(0, 1)


@st.composite
def families(draw) -> list[Frame]:
    """An original and up to four frames, each displayed or cropped from any one before."""
    frames = [Frame(draw(SIDE), draw(SIDE), "cat.png")]
    for _ in range(draw(st.integers(1, 4))):
        parent = draw(st.sampled_from(frames))
        if draw(st.booleans()):
            frames.append(parent.displayed(draw(SIDE), draw(SIDE)))
        else:
            frames.append(parent.crop(draw(boxes(parent))))
    return frames


@st.composite
def boxes(draw, frame: Frame) -> Box:
    """A box inside a frame, at least a hundredth of a pixel wide and high."""

    def span(size: int) -> tuple[float, float]:
        a, b = sorted((draw(SHARE) * size, draw(SHARE) * size))
        return (a, b) if b - a > 0.01 else (max(a - 0.01, 0), max(a - 0.01, 0) + 0.01)

    (x1, x2), (y1, y2) = span(frame.width), span(frame.height)
    return Box(x1, y1, x2, y2, frame)


def near(a, b, frame: Frame) -> bool:
    return np.allclose(a, b, rtol=0, atol=1e-6 * max(frame.width, frame.height))


@settings(max_examples=100, deadline=None)
@given(st.data(), families())
def test_a_box_goes_anywhere_and_back_by_any_way(data, frames):
    start, by, end = (data.draw(st.sampled_from(frames)) for _ in range(3))
    box = data.draw(boxes(start))
    original = box.into(box.frame.original)
    assert near(original.into(start).corners, box.corners, start)
    assert near(box.into(by).into(end).into(start).corners, box.corners, start)
    direct, detour = box.into(end).into(original.frame), box.into(by).into(end).into(original.frame)
    assert near(direct.corners, detour.corners, original.frame)
    assert start.to(by).then(by.to(end)).then(end.to(start))(3.0, 5.0) == pytest.approx((3.0, 5.0), abs=1e-4)


@settings(max_examples=100, deadline=None)
@given(st.data(), families())
def test_a_crop_shows_the_box_it_was_cut_for_and_adds_less_than_a_pixel_a_side(data, frames):
    parent = data.draw(st.sampled_from(frames))
    box = data.draw(boxes(parent))
    crop = parent.crop(box)
    whole = Box(*crop.bounds, crop).into(parent)
    assert whole.valid and whole.contains(box)
    assert all(abs(a - b) < 1 for a, b in zip(whole.corners, box.corners))
    inside = box.into(crop)
    assert inside.valid and inside.clipped().corners == pytest.approx(inside.corners, abs=1e-5)


@settings(max_examples=100, deadline=None)
@given(st.data(), families())
def test_what_a_box_contains_it_contains_in_every_frame(data, frames):
    frame, other = data.draw(st.sampled_from(frames)), data.draw(st.sampled_from(frames))
    box = data.draw(boxes(frame))
    x, y = (box.x2 - box.x1) * data.draw(SHARE) / 2, (box.y2 - box.y1) * data.draw(SHARE) / 2
    inner = Box(box.x1 + x, box.y1 + y, box.x2 - x, box.y2 - y, frame)
    assert box.contains(inner)
    outer, inner = box.into(other), inner.into(other)
    assert outer.x1 <= inner.x1 and outer.y1 <= inner.y1 and inner.x2 <= outer.x2 and inner.y2 <= outer.y2


def test_x_and_y_are_scaled_apart():
    """A processor rounds 100 x 50 to 112 x 56 or 84 x 56: the second has another shape."""
    original = Frame(100, 50, "photo")
    displayed = original.displayed(84, 56)
    assert Box(42, 28, 84, 56, displayed).into(original).corners == pytest.approx((50, 25, 100, 50))
    assert displayed.to(original) == Affine(100 / 84, 50 / 56, 0, 0)


def test_crops_of_crops_are_the_pixels_they_say():
    pixels = np.arange(60 * 80).reshape(60, 80)
    original = Frame.of(pixels, "numbers")
    assert (original.width, original.height, original.kind) == (80, 60, "original")
    shown = original.displayed(40, 20)  # x halved, y a third
    first = original.crop(Box(10, 5, 30, 15, shown))
    assert first.window == (20, 15, 60, 45) and first.kind == "crop" and first.original is original
    second = first.crop(Box(1.2, 2.7, 9.5, 10.0, first))
    assert second.window == (1, 2, 10, 10)
    assert np.array_equal(pixels[first.slices][second.slices], pixels[17:25, 21:30])
    closer = second.displayed(90, 80)  # the second crop, ten times as large
    assert Box(0, 0, 10, 10, closer).into(original).corners == pytest.approx((21, 17, 22, 18))


@pytest.mark.parametrize(
    "corners",
    [
        (5, 5, 5, 9),
        (9, 5, 5, 9),
        (-1, 0, 5, 5),
        (0, 0, 65, 5),
        (70, 50, 90, 60),
        (math.nan, 0, 5, 5),
        (0, 0, math.inf, 5),
    ],
)
def test_a_box_that_shows_nothing_of_the_picture_is_not_valid_and_not_cut(corners):
    frame = Frame(64, 48, 0)
    box = Box(*corners, frame)
    assert not box.valid
    with pytest.raises(ValueError, match=r"cannot be cut from 64 x 48 pixels; nearest: \("):
        frame.crop(box)


@settings(max_examples=200, deadline=None)
@given(st.tuples(*[st.floats(allow_nan=True, allow_infinity=True)] * 4))
def test_clipping_leaves_what_is_inside_and_never_raises(corners):
    box = Box(*corners, Frame(64, 48, 0))
    inside = box.clipped()
    assert inside.clipped() == inside or any(map(math.isnan, corners))
    if inside.valid:
        assert inside.area <= 64 * 48 and box.contains(inside)
    if box.valid:
        assert inside.area == pytest.approx(box.area, abs=1e-3)
    assert box.area >= 0 or math.isnan(box.area)


def test_pictures_of_one_size_are_still_strangers():
    a, b = Frame(64, 64, ("question", 1)), Frame(64, 64, ("question", 2))
    with pytest.raises(
        ValueError, match=r"picture \('question', 1\) \(64 x 64\) has no place in picture \('question', 2\)"
    ):
        Box(0, 0, 8, 8, a.displayed(32, 32)).into(b)
    with pytest.raises(ValueError, match="has no place"):
        Box(0, 0, 8, 8, a).contains(Box(0, 0, 8, 8, b))
    assert Box(0, 0, 8, 8, a).into(Frame(64, 64, ("question", 1))) == Box(0, 0, 8, 8, a), "frames compare by value"


def test_a_frame_without_pixels_or_without_its_parent_is_refused():
    with pytest.raises(ValueError, match="0 x 4 pixels shows nothing"):
        Frame(0, 4, 0)
    with pytest.raises(ValueError, match="kind 'crop' is made by"):
        Frame(4, 4, 0, "crop")
