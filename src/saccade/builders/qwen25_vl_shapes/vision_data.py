"""Pictures for pretraining the vision tower, with their annotations: scenes, letters, plates, program drawings."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from saccade.builders.qwen25_vl_shapes.annotations import (
    COLOR_CLASSES,
    LETTER_CLASSES,
    SHAPE_CLASSES,
    AnnotatedPictures,
    annotate_lines,
    annotate_scenes,
    class_ids,
)
from saccade.builders.qwen25_vl_shapes.preprocessing import CELL, resized
from saccade.tools.render import Request, render_batch
from saccade.worlds import programs
from saccade.worlds.canvases import canvas as plates
from saccade.worlds.canvases.glyphs import DIGITS
from saccade.worlds.programs.primitives import SIDE, Shapes, masks
from saccade.worlds.questions.layouts import RADIUS, SceneBatch, place_objects, sample_scenes, tight_boxes
from saccade.worlds.questions.styles import render_scenes
from saccade.worlds.shapes import COLORS, SHAPES, depict, meanings_of

CANVAS = 96
"""Side of a canvas in pixels."""

MIN_LEGIBLE_SCALE = 0.75
"""Least scale of a digit relative to the canvas at which the tower is trained to read it."""

MIN_SCENE_SIDE = 40
"""Side in pixels below which the shapes of a scene of several objects are indistinguishable."""


def sample_pictures(count: int, size: int, rng: np.random.Generator) -> AnnotatedPictures:
    """Pictures of one size.

    Scenes of the world of questions, scattered and rotated objects, letters, plates near and far, and what programs
    draw.
    """
    kind = rng.random()
    if size == SIDE and kind < 0.25:
        return program_pictures(count, rng)[0]
    if kind < 0.5:
        return _letter_pictures(count, size, rng) if kind < 0.12 else _plate_pictures(count, size, rng)
    style = random_style(0.4, rng)
    if kind < 0.86 and size >= MIN_SCENE_SIDE:
        scenes = sample_scenes(count, (1, 6), rng)
        places, unit = place_objects(scenes, RADIUS, rng)
    else:
        scenes, places, unit = _scattered_scenes(count, rng)
    annotated = annotate_scenes(scenes, unit, render_scenes(scenes, places, [None] * count, size, style))
    return _rotated(annotated, int(rng.integers(4)) if style == "gravity" else 0)


def random_style(share: float, rng: np.random.Generator) -> str:
    """A random style of a batch, "gravity" with probability ``share``."""
    return "gravity" if rng.random() < share else "plain"


def _scattered_scenes(count: int, rng: np.random.Generator) -> tuple[SceneBatch, np.ndarray, np.ndarray]:
    """Up to five objects of any size anywhere; an object that overlaps another is left out."""
    most = 5
    shape, color = rng.integers(len(SHAPES), size=(count, most)), rng.integers(len(COLORS), size=(count, most))
    radius = rng.uniform(0.1, 0.3, (count, most)) * rng.uniform(0.6, 1, (count, 1))
    xy = rng.uniform(0, 1, (count, most, 2)) * (1 - 2 * radius[..., None]) + radius[..., None]
    present = np.ones((count, most), bool)
    for k in range(1, most):
        gap = np.linalg.norm(xy[:, k, None] - xy[:, :k], axis=-1) - 1.05 * (radius[:, k, None] + radius[:, :k])
        present[:, k] = ((gap > 0) | ~present[:, :k]).all(1)
    places = np.concatenate([xy, radius[..., None], rng.uniform(-0.3, 0.3, (count, most, 1))], -1)
    return SceneBatch(shape, color, np.zeros_like(shape), present), places, tight_boxes(shape, places)


def _letter_pictures(count: int, size: int, rng: np.random.Generator) -> AnnotatedPictures:
    """Pictures of one to four letters."""
    scenes = depict(meanings_of(count, rng, ["text"]), rng)
    texts = [scene.text for scene in scenes if scene.text is not None]
    nothing = np.zeros((count, 1), int)
    empty = SceneBatch(nothing, nothing, nothing, nothing > 0)
    return annotate_lines(texts, render_scenes(empty, np.zeros((count, 1, 4)), texts, size, random_style(0.3, rng)))


def _rotated(annotated: AnnotatedPictures, quarters: int) -> AnnotatedPictures:
    """The pictures rotated counterclockwise by a number of quarter turns."""
    size, boxes = annotated.pictures.shape[1], annotated.boxes
    for _ in range(quarters):
        x1, y1, x2, y2 = np.moveaxis(boxes, -1, 0)
        rotated = np.stack([y1, size - x2, y2, size - x1], -1)
        boxes = np.where((boxes[..., 2:] > boxes[..., :2]).all(-1, keepdims=True), rotated, 0.0)
    return AnnotatedPictures(
        np.rot90(annotated.pictures, quarters, (1, 2)).copy(), boxes, annotated.shape, annotated.color, annotated.letter
    )


def legible_plates(count: int, size: int, rng: np.random.Generator) -> tuple[AnnotatedPictures, list[str], list[str]]:
    """Windows of canvases in which the digit of one plate is legible, the plate's colors and the digits."""
    placed, pictures = _canvases(count, rng)
    windows = random_windows(
        placed.glyph[:, 0] + (3, 5), rng.uniform(22, min(44, size / MIN_LEGIBLE_SCALE), count), rng
    )
    colors = [plates.COLOR_NAMES[k] for k in placed.color[:, 0]]
    return plate_views(pictures, placed, windows, size), colors, [DIGITS[k] for k in placed.digit[:, 0]]


def _plate_pictures(count: int, size: int, rng: np.random.Generator) -> AnnotatedPictures:
    """Full views of canvases, or windows of them around one plate."""
    placed, pictures = _canvases(count, rng)
    windows = np.tile([0.0, 0.0, CANVAS, CANVAS], (count, 1))
    if rng.random() < 0.8:
        windows = random_windows(placed.glyph[:, 0] + (3, 5), rng.uniform(12, 52, count), rng)
    return plate_views(pictures, placed, windows, size)


def _canvases(count: int, rng: np.random.Generator) -> tuple[plates.Plates, np.ndarray]:
    """Canvases of four plates of different colors, and their pictures."""
    color = rng.random((count, len(plates.COLOR_NAMES))).argsort(1)[:, :4]
    digit = rng.integers(len(DIGITS), size=(count, 4))
    cell = rng.random((count, 16)).argsort(1)[:, :4]
    placed = plates.place_plates(color, digit, cell, CANVAS // plates.CELL, rng)
    return placed, plates.render_canvases(placed, CANVAS, rng)


def random_windows(center: np.ndarray, side: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Square windows ``[N, 4]`` of a canvas in integer pixels that contain the points ``center`` ``[N, 2]``."""
    corner = center - side[:, None] * rng.uniform(0.2, 0.8, center.shape)
    corner = np.clip(corner, 0, CANVAS - side[:, None])
    return np.rint(np.concatenate([corner, corner + side[:, None]], 1))


def plate_views(pictures: np.ndarray, placed: plates.Plates, windows: np.ndarray, size: int) -> AnnotatedPictures:
    """Windows ``[N, 4]`` of canvases resized to ``size``, with the boxes of plates and the legible digits."""
    scale, origin = size / (windows[:, 2:] - windows[:, :2])[:, None], windows[:, None, :2]
    place = lambda corner, extent: np.concatenate([(corner - origin) * scale, (corner + extent - origin) * scale], -1)
    glyph = place(placed.glyph, (6, 10))
    complete = (glyph >= -0.5).all(-1) & (glyph <= size + 0.5).all(-1) & (scale[..., 0] >= MIN_LEGIBLE_SCALE)
    letter = class_ids(DIGITS, LETTER_CLASSES)[placed.digit]
    color = class_ids(plates.COLOR_NAMES, COLOR_CLASSES)[placed.color]
    boxes = np.clip(place(placed.corner, plates.PLATE), 0, size)
    shape = np.full_like(color, 1 + SHAPE_CLASSES.index("plate"))
    pictures = np.stack([resized(picture, size, size, window) for picture, window in zip(pictures, windows.tolist())])
    return AnnotatedPictures(pictures, boxes, shape, color, np.where(complete, letter, 0))


def program_pictures(count: int, rng: np.random.Generator) -> tuple[AnnotatedPictures, list[str]]:
    """Pictures of overlapping primitives, and the programs that draw them, from the training split."""
    scenes: list[programs.Scene] = []
    while len(scenes) < count:
        scenes += [
            scene for scene in programs.sample_scenes(count, rng, programs.TRAIN) if programs.split_of(scene) == "train"
        ]
    scenes = scenes[:count]
    codes = [programs.write_svg(scene, rng) for scene in scenes]
    rendered = render_batch([Request(code, size=SIDE) for code in codes])
    pictures = np.stack([np.asarray(one.picture) for one in rendered])
    shapes, present = _primitives(scenes)
    cover = masks(shapes)[..., CELL // 2 :: CELL, CELL // 2 :: CELL].reshape(*present.shape, -1) & present[..., None]
    top = np.where(cover, np.arange(present.shape[1])[:, None], -1).max(1)
    shape = np.where(present, class_ids(programs.KINDS, SHAPE_CLASSES)[shapes.kind], 0)
    color = np.where(present, class_ids(programs.COLORS, COLOR_CLASSES)[shapes.color], 0)
    return AnnotatedPictures(pictures, _primitive_boxes(shapes), shape, color, np.zeros_like(shape), top), codes


def _primitives(scenes: Sequence[programs.Scene]) -> tuple[Shapes, np.ndarray]:
    """The visible primitives of scenes as arrays, and where there is one ``[N, K]``."""
    number = np.zeros((len(scenes), programs.TRAIN[1], 6), int)
    kind, color, present = (np.zeros(number.shape[:2], dtype) for dtype in (int, int, bool))
    for i, scene in enumerate(scenes):
        for k, one in enumerate(scene.visible):
            kind[i, k], color[i, k] = programs.KINDS.index(one.kind), programs.COLORS.index(one.color)
            number[i, k, : len(one.numbers)], present[i, k] = one.numbers, True
    return Shapes(kind, color, number), present


def _primitive_boxes(shapes: Shapes) -> np.ndarray:
    """The boxes ``[N, K, 4]`` of primitives."""
    a, b, c, d, e, f = np.moveaxis(shapes.numbers.astype(float), 2, 0)
    ways = [
        (a, b, a + c, b + d),
        (a - c, b - c, a + c, b + c),
        (a - c, b - d, a + c, b + d),
        (*np.minimum((a, b), np.minimum((c, d), (e, f))), *np.maximum((a, b), np.maximum((c, d), (e, f)))),
    ]
    return np.choose(shapes.kind[..., None], [np.stack(way, -1) for way in ways])
