"""Pictures back to objects by classical vision, and their verdict against a meaning in GenEval's manner."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
from torch import Tensor

from saccade.worlds.shapes.fonts import LETTERS
from saccade.worlds.shapes.meanings import COLORS, RELATIONS, SHAPES, TAGS, Meaning
from saccade.worlds.shapes.read import line_score, lines_of, similarity
from saccade.worlds.shapes.render import coverage, render
from saccade.worlds.shapes.scene import Object, Scene
from saccade.worlds.shapes.segments import PAINTS, Segments, pixels, segment

UNKNOWN = "unknown"
"""Shape of a segment that looks like none of ours: never asked for, so always in excess."""
_ALIKE = 0.90
"""Least correlation with a template."""
_DEAD_ZONE = 0.1
"""Share of the two boxes' summed sides by which centres may differ without being apart, as in GenEval."""

_HALF = np.array([0.5])
_AREA = {shape: float(coverage(shape, _HALF, _HALF, _HALF * 0.8, _HALF * 0, 128).mean() / 0.16) for shape in SHAPES}
"""Area of each shape of radius 1."""
_AREA[UNKNOWN] = float(np.pi)
_TURN = {"circle": 1.0, "square": 0.25, "triangle": 1 / 3, "ring": 1.0, "star": 0.2, "cross": 0.25}
"""Share of a full turn after which a shape looks the same (for round ones any will do)."""


def parse(images: np.ndarray | Tensor) -> list[list[Object]]:
    """The objects of each picture; letters and black shapes appear with color "black", blots as shape "unknown".

    ``images`` are uint8 [B, H, W, 3] or float [B, 3, H, W] in [0, 1]. A picture with a NaN has no objects.
    """
    rgb = pixels(images)
    return _objects(segment(rgb), len(rgb))


def verdicts(images: np.ndarray | Tensor, meanings: Sequence[Meaning | None]) -> dict[str, np.ndarray]:
    """Scores [B] of pictures against meanings, each picture looked at once; NaN = cannot judge.

    "correct": 1 where everything asked is there and nothing else, else 0. "points": the share of what was asked, in
    [0, 1]. "ocr": see `read.ocr_score`, NaN where no text is asked.
    All are NaN where the picture holds a NaN, or the meaning is None or speaks of things outside this world.
    """
    rgb = pixels(images)
    if len(rgb) != len(meanings):
        raise ValueError(f"{len(rgb)} pictures but {len(meanings)} meanings")
    found = segment(rgb)
    objects, lines = _objects(found, len(rgb)), lines_of(found, len(rgb))
    sound = np.isfinite(rgb).all((1, 2, 3))
    scores = [
        _scores(meaning, things, line) if ok and judgeable(meaning) else (np.nan,) * 3
        for meaning, things, line, ok in zip(meanings, objects, lines, sound)
    ]
    return dict(zip(("correct", "points", "ocr"), np.array(scores, np.float64).reshape(-1, 3).T))


def geneval(images: np.ndarray | Tensor, meanings: Sequence[Meaning | None]) -> dict[str, np.ndarray]:
    """The verdicts "correct" and "points" (see `verdicts`) beside each row's "tag", "" where there is no meaning."""
    seen = verdicts(images, meanings)
    tags = np.array([meaning["tag"] if meaning else "" for meaning in meanings])
    return {"correct": seen["correct"], "points": seen["points"], "tag": tags}


def judgeable(meaning: Meaning | None) -> bool:
    """Whether a meaning speaks only of tags, shapes, colours, relations and letters of this world."""
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


def relations(one: Object, other: Object) -> set[str]:
    """Where ``one`` lies, seen from ``other``: up to two of RELATIONS, none when they are not apart."""
    offset = np.array([one.x - other.x, one.y - other.y])
    dead = _DEAD_ZONE * 2 * (one.radius + other.radius)
    offset = np.sign(offset) * np.maximum(np.abs(offset) - dead, 0)
    length = float(np.hypot(*offset))
    if length == 0:
        return set()
    x, y = offset / length
    holds = {"left of": x < -0.5, "right of": x > 0.5, "above": y < -0.5, "below": y > 0.5}
    return {name for name, true in holds.items() if true}


def _scores(meaning: Meaning, objects: list[Object], line: str) -> tuple[float, float, float]:
    """correct, points, ocr."""
    if meaning["tag"] != "text":
        points = _points(meaning, objects)
        return float(points == 1), points, np.nan
    strangers = sum(thing.color in COLORS for thing in objects)
    points = similarity(line, meaning["text"]) / (1 + strangers)
    return float(points == 1), points, line_score(line, meaning["text"])


def _points(meaning: Meaning, objects: list[Object]) -> float:
    """Mean over what is asked (counts, colours, relations), times the share of the objects that were asked for.

    ``exclude`` needs no look of its own: whatever is not included is in excess.
    """
    matched, left = _match(meaning["include"], objects)
    scores = []
    for item, group in zip(meaning["include"], matched):
        scores.append(len(group) / item["count"])
        if "color" in item:
            scores.append(sum(thing.color == item["color"] for thing in group) / item["count"])
        if "position" in item:
            relation, anchor = item["position"]
            pairs = [relation in relations(thing, other) for thing in group for other in matched[anchor]]
            scores.append(float(bool(pairs) and all(pairs)))
    wanted = sum(map(len, matched))
    return float(np.mean(scores)) * wanted / max(wanted + len(left), 1)


def _match(include: list[dict], objects: list[Object]) -> tuple[list[list[Object]], list[Object]]:
    """For each thing asked the objects that answer it (right shape; right colour first), and the objects left over."""
    left, matched = list(objects), []
    for item in include:
        fits = [thing for thing in left if thing.shape == item["class"] and thing.color in COLORS]
        fits.sort(key=lambda thing: "color" in item and thing.color != item["color"])
        matched.append(fits[: item["count"]])
        left = [thing for thing in left if not any(thing is taken for taken in matched[-1])]
    return matched, left


def _objects(found: Segments, rows: int) -> list[list[Object]]:
    patches, kind, angle = _templates()
    likeness = found.patch @ patches.T if len(found.row) else np.zeros((0, len(kind)), np.float32)
    best = likeness.argmax(1)
    alike = likeness.max(1, initial=0) >= _ALIKE
    objects: list[list[Object]] = [[] for _ in range(rows)]
    for i, row in enumerate(found.row):
        shape = SHAPES[kind[best[i]]] if alike[i] else UNKNOWN
        radius = float(np.sqrt(found.mass[i] / _AREA[shape]))
        place = (float(found.x[i]), float(found.y[i]), radius, float(angle[best[i]]))
        objects[row].append(Object(shape, PAINTS[found.paint[i]], *place))
    return objects


@cache
def _templates() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Patches [N, PATCH * PATCH] of all shapes at many angles, radii and blurs; their shapes and angles [N]."""
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng(0)
    patches, kinds, angles = [], [], []
    for radius in (3.6, 4.2, 4.8, 5.5, 6.3, 8, 11, 15):
        size = round(2.5 * radius) + 6
        for shape in SHAPES:
            steps = 4 if shape in ("circle", "ring") else 16
            turned = np.repeat(np.arange(steps) / steps * 2 * np.pi * _TURN[shape], 2)
            places = 0.5 + rng.uniform(-0.5, 0.5, (len(turned), 2)) / size
            scenes = [Scene((Object(shape, "black", x, y, radius / size, a),)) for (x, y), a in zip(places, turned)]
            sharp = render(scenes, size).astype(np.float32)
            for sigma in (0, 0.7):
                soft = gaussian_filter(sharp, (0, sigma, sigma, 0)) if sigma else sharp
                patches.append(segment(soft).patch)
                kinds.append(np.full(len(turned), SHAPES.index(shape)))
                angles.append(turned)
    return np.concatenate(patches), np.concatenate(kinds), np.concatenate(angles)
