"""Scenery: pictures that the tower is shown while it learns to see, with what they show. Scenes, letters, plates,
paintings.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from saccade.builders.qwen25_vl_shapes.shown import CELL, resized
from saccade.builders.qwen25_vl_shapes.views import GLYPHS, PAINTS, THINGS, Views, counted, views_of, views_of_lines
from saccade.tools.render import Request, render_batch
from saccade.worlds import programs
from saccade.worlds.canvases import canvas as plates
from saccade.worlds.canvases.glyphs import DIGITS
from saccade.worlds.programs.primitives import SIDE, Shapes, masks
from saccade.worlds.questions.layouts import RADIUS, Crowd, boxes, crowd, settle
from saccade.worlds.questions.styles import draw
from saccade.worlds.shapes import COLORS, SHAPES, depict, meanings_of

CANVAS = 96

LEGIBLE = 0.75
"""Least size of a digit on a plate, as a share of the canvas's own pixels, at which the tower is asked to read it."""

LEAST_SCENE = 40
"""Pixels of a side below which the shapes of a crowded scene cannot be told apart."""


def scenery(count: int, size: int, rng: np.random.Generator) -> Views:
    """Pictures of one size: scenes of the world of questions, scattered and turned ones, letters, plates near and
    far, and what programs draw.
    """
    kind = rng.random()
    if size == SIDE and kind < 0.25:
        return paintings(count, rng)[0]
    if kind < 0.5:
        return _lines(count, size, rng) if kind < 0.12 else _plates(count, size, rng)
    looks = style(0.4, rng)
    if kind < 0.86 and size >= LEAST_SCENE:
        things = crowd(count, (1, 6), rng)
        places, unit = settle(things, RADIUS, rng)
    else:
        things, places, unit = _scattered(count, rng)
    views = views_of(things, unit, draw(things, places, [None] * count, size, looks))
    return _turned(views, int(rng.integers(4)) if looks == "gravity" else 0)


def style(share: float, rng: np.random.Generator) -> str:
    """How a batch is drawn; a share of them with light and ground."""
    return "gravity" if rng.random() < share else "plain"


def _scattered(count: int, rng: np.random.Generator) -> tuple[Crowd, np.ndarray, np.ndarray]:
    """Up to four objects of any size anywhere; where one lies on another it is left out."""
    most = 5
    shape, color = rng.integers(len(SHAPES), size=(count, most)), rng.integers(len(COLORS), size=(count, most))
    radius = rng.uniform(0.1, 0.3, (count, most)) * rng.uniform(0.6, 1, (count, 1))
    xy = rng.uniform(0, 1, (count, most, 2)) * (1 - 2 * radius[..., None]) + radius[..., None]
    here = np.ones((count, most), bool)
    for k in range(1, most):
        gap = np.linalg.norm(xy[:, k, None] - xy[:, :k], axis=-1) - 1.05 * (radius[:, k, None] + radius[:, :k])
        here[:, k] = ((gap > 0) | ~here[:, :k]).all(1)
    places = np.concatenate([xy, radius[..., None], rng.uniform(-0.3, 0.3, (count, most, 1))], -1)
    return Crowd(shape, color, np.zeros_like(shape), here), places, boxes(shape, places)


def _lines(count: int, size: int, rng: np.random.Generator) -> Views:
    """One to four letters."""
    texts = [scene.text for scene in depict(meanings_of(count, rng, ["text"]), rng)]
    nothing = np.zeros((count, 1), int)
    empty = Crowd(nothing, nothing, nothing, nothing > 0)
    return views_of_lines(texts, draw(empty, np.zeros((count, 1, 4)), texts, size, style(0.3, rng)))


def _turned(views: Views, quarters: int) -> Views:
    """The same, turned counter-clockwise by quarters."""
    size, found = views.pictures.shape[1], views.boxes
    for _ in range(quarters):
        x1, y1, x2, y2 = np.moveaxis(found, -1, 0)
        turned = np.stack([y1, size - x2, y2, size - x1], -1)
        found = np.where((found[..., 2:] > found[..., :2]).all(-1, keepdims=True), turned, 0.0)
    return Views(np.rot90(views.pictures, quarters, (1, 2)).copy(), found, views.shape, views.color, views.letter)


def plates_near(count: int, size: int, rng: np.random.Generator) -> tuple[Views, list[str], list[str]]:
    """Windows of canvases in which the digit of one plate can be read, the plate's color and the digit."""
    laid, drawn = _canvases(count, rng)
    windows = windows_at(laid.glyph[:, 0] + (3, 5), rng.uniform(22, min(44, size / LEGIBLE), count), rng)
    colors = [plates.PAINTS[k] for k in laid.color[:, 0]]
    return glance(drawn, laid, windows, size), colors, [DIGITS[k] for k in laid.digit[:, 0]]


def _plates(count: int, size: int, rng: np.random.Generator) -> Views:
    """Canvases of plates as a first glance shows them, or windows of them around one plate."""
    laid, drawn = _canvases(count, rng)
    windows = np.tile([0.0, 0.0, CANVAS, CANVAS], (count, 1))
    if rng.random() < 0.8:
        windows = windows_at(laid.glyph[:, 0] + (3, 5), rng.uniform(12, 52, count), rng)
    return glance(drawn, laid, windows, size)


def _canvases(count: int, rng: np.random.Generator) -> tuple[plates.Plates, np.ndarray]:
    """Canvases of four plates of different colors."""
    color, digit = rng.random((count, len(plates.PAINTS))).argsort(1)[:, :4], rng.integers(len(DIGITS), size=(count, 4))
    cell = rng.random((count, 16)).argsort(1)[:, :4]
    laid = plates.lay(color, digit, cell, CANVAS // plates.CELL, rng)
    return laid, plates.draw(laid, CANVAS, rng)


def windows_at(centre: np.ndarray, side: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Square windows [N, 4] of a canvas in whole pixels, with the points ``centre`` [N, 2] somewhere inside."""
    corner = centre - side[:, None] * rng.uniform(0.2, 0.8, centre.shape)
    corner = np.clip(corner, 0, CANVAS - side[:, None])
    return np.rint(np.concatenate([corner, corner + side[:, None]], 1))


def glance(drawn: np.ndarray, laid: plates.Plates, windows: np.ndarray, size: int) -> Views:
    """Windows [N, 4] of canvases resized to ``size``, with the plates' boxes and the digits that can be read there."""
    scale, origin = size / (windows[:, 2:] - windows[:, :2])[:, None], windows[:, None, :2]
    place = lambda corner, extent: np.concatenate([(corner - origin) * scale, (corner + extent - origin) * scale], -1)
    glyph = place(laid.glyph, (6, 10))
    whole = (glyph >= -0.5).all(-1) & (glyph <= size + 0.5).all(-1) & (scale[..., 0] >= LEGIBLE)
    letter, color = counted(DIGITS, GLYPHS)[laid.digit], counted(plates.PAINTS, PAINTS)[laid.color]
    found = np.clip(place(laid.corner, plates.PLATE), 0, size)
    shape = np.full_like(color, 1 + THINGS.index("plate"))
    pictures = np.stack([resized(picture, size, size, window) for picture, window in zip(drawn, windows.tolist())])
    return Views(pictures, found, shape, color, np.where(whole, letter, 0))


def paintings(count: int, rng: np.random.Generator) -> tuple[Views, list[str]]:
    """Pictures of primitives one over another, and programs that draw them, in meanings that are for training."""
    scenes: list[programs.Scene] = []
    while len(scenes) < count:
        scenes += [
            scene for scene in programs.sample_scenes(count, rng, programs.TRAIN) if programs.split_of(scene) == "train"
        ]
    scenes = scenes[:count]
    codes = [programs.write_svg(scene, rng) for scene in scenes]
    pictures = np.stack([one.picture for one in render_batch([Request(code, size=SIDE) for code in codes])])
    shapes, here = _primitives(scenes)
    cover = masks(shapes)[..., CELL // 2 :: CELL, CELL // 2 :: CELL].reshape(*here.shape, -1) & here[..., None]
    top = np.where(cover, np.arange(here.shape[1])[:, None], -1).max(1)
    thing = np.where(here, counted(programs.KINDS, THINGS)[shapes.kind], 0)
    paint = np.where(here, counted(programs.COLORS, PAINTS)[shapes.color], 0)
    return Views(pictures, _extents(shapes), thing, paint, np.zeros_like(thing), top), codes


def _primitives(scenes: Sequence[programs.Scene]) -> tuple[Shapes, np.ndarray]:
    """What is seen of scenes as arrays, and where there is any [N, K]."""
    number = np.zeros((len(scenes), programs.TRAIN[1], 6), int)
    kind, color, here = (np.zeros(number.shape[:2], dtype) for dtype in (int, int, bool))
    for i, scene in enumerate(scenes):
        for k, one in enumerate(scene.visible):
            kind[i, k], color[i, k] = programs.KINDS.index(one.kind), programs.COLORS.index(one.color)
            number[i, k, : len(one.numbers)], here[i, k] = one.numbers, True
    return Shapes(kind, color, number), here


def _extents(shapes: Shapes) -> np.ndarray:
    """The boxes [N, K, 4] of primitives."""
    a, b, c, d, e, f = np.moveaxis(shapes.numbers.astype(float), 2, 0)
    ways = [
        (a, b, a + c, b + d),
        (a - c, b - c, a + c, b + c),
        (a - c, b - d, a + c, b + d),
        (*np.minimum((a, b), np.minimum((c, d), (e, f))), *np.maximum((a, b), np.maximum((c, d), (e, f)))),
    ]
    return np.choose(shapes.kind[..., None], [np.stack(way, -1) for way in ways])
