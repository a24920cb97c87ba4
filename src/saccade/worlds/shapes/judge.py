"""The exact judge: objects of a picture by classical vision, scored against a meaning as in GenEval (2310.11513)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from saccade.rewards.image.ocr import text_match, text_similarity
from saccade.worlds.shapes.fonts import LETTERS
from saccade.worlds.shapes.meanings import COLORS, RELATIONS, SHAPES, TAGS, Meaning
from saccade.worlds.shapes.ocr import read_segments
from saccade.worlds.shapes.render import coverage
from saccade.worlds.shapes.scene import Object
from saccade.worlds.shapes.segments import PAINTS, Segments, pixels, segment_with_unions
from saccade.worlds.shapes.templates import shape_templates

UNKNOWN = "unknown"
"""Shape of a segment that matches no template: never requested, so always in excess."""
_MIN_CORRELATION = 0.90
"""Least correlation of a segment with the template of its shape."""
_DEAD_ZONE = 0.1
"""Offset of two centres, as a share of the summed sides of their boxes, up to which no relation holds (GenEval)."""

_HALF = np.array([0.5])
_AREA = {shape: float(coverage(shape, _HALF, _HALF, _HALF * 0.8, _HALF * 0, 128).mean() / 0.16) for shape in SHAPES}
"""Area of each shape of radius 1."""
_AREA[UNKNOWN] = float(np.pi)


def parse(images: np.ndarray | Tensor) -> list[list[Object]]:
    """The objects of each picture; letters and black shapes have the color "black", other blobs the shape "unknown".

    ``images`` are uint8 ``[B, H, W, 3]`` or float ``[B, 3, H, W]`` in [0, 1]; ValueError for anything else. A picture
    with a NaN has no objects.
    """
    rgb = pixels(images)
    return _objects(*segment_with_unions(rgb), len(rgb))


def score_pictures(images: np.ndarray | Tensor, meanings: Sequence[Meaning | None]) -> dict[str, np.ndarray]:
    """Scores ``[B]`` of pictures against meanings; NaN = cannot judge.

    "correct": 1 where everything requested is present and nothing else, else 0. "points": the share of the request that
    is present, in [0, 1]. "ocr": `text_match` of the text read and the text requested, NaN where none is requested.
    All are NaN where the picture has a NaN, or the meaning is None or names things outside this world. ValueError for
    different numbers of pictures and meanings.
    """
    rgb = pixels(images)
    if len(rgb) != len(meanings):
        raise ValueError(f"{len(rgb)} pictures but {len(meanings)} meanings")
    segments, unions = segment_with_unions(rgb)
    objects, lines = _objects(segments, unions, len(rgb)), read_segments(segments, len(rgb))
    finite = np.asarray(np.isfinite(rgb).all((1, 2, 3)))
    scores = [
        _scores(meaning, things, line) if ok and meaning is not None and judgeable(meaning) else (np.nan,) * 3
        for meaning, things, line, ok in zip(meanings, objects, lines, finite)
    ]
    return dict(zip(("correct", "points", "ocr"), np.array(scores, np.float64).reshape(-1, 3).T))


def judgeable(meaning: Meaning | None) -> bool:
    """Whether a meaning names only tags, shapes, colours, relations and letters of this world."""
    if meaning is None or meaning["tag"] not in TAGS:
        return False
    if meaning["tag"] == "text":
        word = meaning["text"].replace(" ", "").upper()
        return word != "" and set(word) <= set(LETTERS)
    return all(
        item["class"] in SHAPES
        and item.get("color", "red") in COLORS
        and item.get("position", ["above"])[0] in RELATIONS
        for item in [*meaning["include"], *meaning.get("exclude", ())]
    )


def unjudged(meaning: Meaning | None) -> str:
    """Why a meaning cannot be judged, in words; "" for one that can."""
    if judgeable(meaning):
        return ""
    if meaning is not None and meaning["tag"] == "text":
        return f"the words to draw must consist of the letters {LETTERS}"
    return f"it reads counts, colors and places of these alone: {', '.join(SHAPES)}; in {', '.join(COLORS)}"


def relations(one: Object, other: Object) -> set[str]:
    """Relations of ``one`` to ``other``: up to two of RELATIONS, none where their centres are too close.

    As published, the offset less the dead zone is divided by the length of the whole offset.
    """
    offset = np.array([one.x - other.x, one.y - other.y])
    dead_zone = _DEAD_ZONE * 2 * (one.radius + other.radius)
    left = np.sign(offset) * np.maximum(np.abs(offset) - dead_zone, 0)
    if not left.any():
        return set()
    x, y = left / float(np.hypot(*offset))
    holds = {"left of": x < -0.5, "right of": x > 0.5, "above": y < -0.5, "below": y > 0.5}
    return {name for name, true in holds.items() if true}


def _scores(meaning: Meaning, objects: list[Object], line: str) -> tuple[float, float, float]:
    """The scores "correct", "points" and "ocr" of one picture."""
    if meaning["tag"] != "text":
        points = _points(meaning, objects)
        return float(points == 1), points, np.nan
    excess = sum(thing.color in COLORS for thing in objects)
    points = text_similarity(line, meaning["text"]) / (1 + excess)
    return float(points == 1), points, text_match(line, meaning["text"])


def _points(meaning: Meaning, objects: list[Object]) -> float:
    """Mean score of the requested counts, colours and relations, times the share of the objects that were requested.

    ``exclude`` needs no check: whatever is not included is in excess.
    """
    matched, excess = _match(meaning["include"], objects)
    scores = []
    for item, group in zip(meaning["include"], matched):
        scores.append(len(group) / item["count"])
        if "color" in item:
            scores.append(sum(thing.color == item["color"] for thing in group) / item["count"])
        if "position" in item:
            relation, anchor = item["position"]
            pairs = [relation in relations(thing, other) for thing in group for other in matched[anchor]]
            scores.append(float(bool(pairs) and all(pairs)))
    requested = sum(map(len, matched))
    return float(np.mean(scores)) * requested / max(requested + len(excess), 1)


def _match(include: list[dict], objects: list[Object]) -> tuple[list[list[Object]], list[Object]]:
    """The objects that answer each requested thing (same shape, requested colour first), and the objects in excess."""
    excess, matched = list(objects), []
    for item in include:
        fits = [thing for thing in excess if thing.shape == item["class"] and thing.color in COLORS]
        fits.sort(key=lambda thing: "color" in item and thing.color != item["color"])
        matched.append(fits[: item["count"]])
        excess = [thing for thing in excess if not any(thing is taken for taken in matched[-1])]
    return matched, excess


def _objects(segments: Segments, unions: Segments, rows: int) -> list[list[Object]]:
    """The objects of each picture: segments, or the union of those that touch where it is more of a shape than one."""
    shape, angle, match = _shapes(segments)
    union_shape, union_angle, union_match = _shapes(unions)
    inside = segments.union >= 0
    worst = np.ones(len(unions.row))
    np.minimum.at(worst, segments.union[inside], match[inside])
    united = (union_shape >= 0) & (union_match > worst)
    objects: list[list[Object]] = [[] for _ in range(rows)]
    for i in np.flatnonzero(~np.append(united, False)[segments.union]).tolist():
        objects[segments.row[i]].append(_object(segments, i, shape[i], angle[i]))
    for i in np.flatnonzero(united).tolist():
        objects[unions.row[i]].append(_object(unions, i, union_shape[i], union_angle[i]))
    return objects


def _shapes(segments: Segments) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of the template nearest to each segment: the index of its shape in SHAPES (-1 = too far), angle, correlation."""
    patches, kind, angle = shape_templates()
    correlation = segments.patch @ patches.T if len(segments.row) else np.zeros((0, len(kind)), np.float32)
    best, match = correlation.argmax(1), correlation.max(1, initial=0)
    return np.where(match >= _MIN_CORRELATION, kind[best], -1), angle[best], match


def _object(segments: Segments, i: int, shape: int, angle: float) -> Object:
    name = SHAPES[shape] if shape >= 0 else UNKNOWN
    radius = float(np.sqrt(segments.mass[i] / _AREA[name]))
    return Object(name, PAINTS[segments.paint[i]], float(segments.x[i]), float(segments.y[i]), radius, float(angle))
