"""Pictures against what an edit asked for: was it carried out, is the rest as it was, is it a picture of this world.

success  at every place that the edit is about, the picture shows what the expected scene has there and nothing else; a
         thing more may stand anywhere, so things are counted; words are read: 1 or 0
keep     1 - e / E, e the mean absolute error outside what the edit may change, E that of two unrelated scenes
quality  1 - d / D, d the distance of the picture from its own parse painted again, beyond that of right pictures
overall  (success keep quality)^(1/3)

Where only the expected picture is known, success is 1 - its distance / the source's distance, and overall the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.ndimage import maximum_filter
from torch import Tensor

from saccade.core import Problem
from saccade.worlds.edits.redraw import nearest
from saccade.worlds.shapes import Object, parse, read_text, render
from saccade.worlds.shapes.layout import REACH
from saccade.worlds.shapes.scene import BACKGROUND
from saccade.worlds.shapes.segments import pixels

VERDICTS = ("success", "keep", "quality", "overall")
UNRELATED = 0.09 * 255
"""Mean absolute difference of two unrelated scenes."""
NEAR, FAR = 0.25, 0.75
"""Distances from the parse, in the mean paint of what was parsed: up to the first all is well, from the second on
nothing.
"""
_FAINT = 0.04 * 255
"""Mean paint below which a picture counts as if it had that much."""
_SLACK = 0.125
"""How far from its place a thing may be: half a step of the grid."""
_RIM = 1 / 16
"""How far an edit may reach beyond what differs between the exact pictures, as a share of the side."""
_SAME = 0.5
"""Mean absolute difference below which an expected picture is the source itself, and nothing can be judged."""


def verdicts(images: np.ndarray | Tensor, problems: Sequence[Problem]) -> dict[str, np.ndarray]:
    """Scores [B] in [0, 1] by the names of `VERDICTS`; NaN where the picture holds a NaN or nothing is known to compare
    with.

    ``images`` are uint8 [B, S, S, 3] or float [B, 3, S, S] in [0, 1], of any one size. ValueError for other pictures.
    """
    rgb = pixels(images)
    if len(rgb) != len(problems) or rgb.shape[1] != rgb.shape[2]:
        raise ValueError(f"{len(problems)} problems need as many square pictures, not {list(rgb.shape)}")
    scores = {name: np.full(len(rgb), np.nan) for name in VERDICTS}
    sound = np.isfinite(rgb).all((1, 2, 3))
    known = [p.answer if isinstance(p.answer, dict) else {} for p in problems]
    exact = [i for i, answer in enumerate(known) if sound[i] and answer.get("after") is not None]
    if exact:
        for name, score in zip(VERDICTS, _exact(images[exact], rgb[exact], [known[i] for i in exact])):
            scores[name][exact] = score
    for i, answer in enumerate(known):
        if sound[i] and answer.get("after") is None and answer.get("picture") is not None:
            scores["success"][i] = scores["overall"][i] = _closeness(rgb[i], problems[i])
    return scores


def _exact(images: Any, rgb: np.ndarray, answers: Sequence[dict[str, Any]]) -> tuple[np.ndarray, ...]:
    objects = parse(images)
    lines = dict.fromkeys(range(len(rgb)), "")
    written = [i for i, answer in enumerate(answers) if answer["after"].text is not None]
    if written:
        lines.update(zip(written, read_text(images[written])))
    success = np.array([_carried_out(*row) for row in zip(answers, objects, lines.values())], float)
    keep, quality = _kept(rgb, answers, objects), _quality(rgb, objects)
    return success, keep, quality, np.cbrt(success * keep * quality)


def _carried_out(answer: dict[str, Any], seen: Sequence[Object], line: str) -> bool:
    before, after = answer["before"], answer["after"]
    if after.text is not None:
        return line == after.text.string
    if answer["kind"] == "count":
        return sum(_same(thing, after.objects[0]) for thing in seen) == len(after.objects)
    places = set(before.objects) ^ set(after.objects)
    return all(_found(place, seen) == _found(place, after.objects) for place in places)


def _found(place: Object, things: Sequence[Object]) -> list[tuple[str, str]]:
    """What stands at a place."""
    return sorted((thing.shape, thing.color) for thing in things if _near(thing, place))


def _near(one: Object, other: Object) -> bool:
    return float(np.hypot(one.x - other.x, one.y - other.y)) <= _SLACK


def _same(one: Object, other: Object) -> bool:
    return (one.shape, one.color) == (other.shape, other.color)


def _kept(rgb: np.ndarray, answers: Sequence[dict[str, Any]], objects: Sequence[Sequence[Object]]) -> np.ndarray:
    before, after = (render([answer[when] for answer in answers], rgb.shape[1]) for when in ("before", "after"))
    reach = int(np.ceil(_RIM * rgb.shape[1]))
    free = maximum_filter((before != after).any(-1), (1, 2 * reach + 1, 2 * reach + 1))
    for i, (answer, seen) in enumerate(zip(answers, objects)):
        if answer["kind"] == "count":
            free[i] = _newcomer(answer, seen, rgb.shape[1])
    error = np.abs(rgb - before).mean(-1)
    return np.clip(1 - (error * ~free).sum((1, 2)) / np.maximum((~free).sum((1, 2)), 1) / UNRELATED, 0, 1)


def _newcomer(answer: dict[str, Any], seen: Sequence[Object], size: int) -> np.ndarray:
    """Where a thing of the kind stands that was not there before [size, size]; nowhere, if there is none."""
    old, kind = answer["before"].objects, answer["after"].objects[0]
    new = next((t for t in seen if _same(t, kind) and not any(_near(t, known) for known in old)), None)
    if new is None:
        return np.zeros((size, size), bool)
    grid = (np.arange(size) + 0.5) / size
    return np.hypot(grid[None] - new.x, grid[:, None] - new.y) <= REACH * new.radius + _RIM


def _quality(rgb: np.ndarray, objects: Sequence[Sequence[Object]]) -> np.ndarray:
    drawn = nearest(rgb, objects).astype(np.float32)
    paint = np.maximum(np.abs(drawn - BACKGROUND).mean((1, 2, 3)), _FAINT)
    distance = np.abs(drawn - rgb).mean((1, 2, 3)) / paint
    return np.clip((FAR - distance) / (FAR - NEAR), 0, 1)


def _closeness(rgb: np.ndarray, problem: Problem) -> float:
    """How much of the way from the source to the expected picture was gone, 0 for none or away from it."""
    source, target = (
        _sized(picture, rgb.shape[0]) for picture in (problem.inputs.pictures[0], problem.answer["picture"])
    )
    whole = np.abs(source - target).mean()
    return float(np.clip(1 - np.abs(rgb - target).mean() / whole, 0, 1)) if whole >= _SAME else np.nan


def _sized(picture: np.ndarray, size: int) -> np.ndarray:
    """A picture uint8 [H, W, 3] as float [size, size, 3]."""
    from PIL import Image

    if picture.shape[:2] != (size, size):
        picture = np.asarray(Image.fromarray(picture).resize((size, size), Image.Resampling.BICUBIC))
    return picture.astype(np.float32)
