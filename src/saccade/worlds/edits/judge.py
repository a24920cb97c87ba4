"""Exact scores of an edited picture: was the edit carried out, is all else unchanged, is it a picture of this world.

success  1 if at every place that the edit concerns the picture shows exactly what the expected scene has there, else 0;
         one more of a kind may stand anywhere, so things are counted; words are read
keep     1 - e / E, e the mean absolute error outside the region that the edit may change, E that of unrelated scenes
quality  1 - d / D, d the distance of the picture from its parse rendered again, beyond that of right pictures
overall  (success keep quality)^(1/3)

Where only the expected picture is known, success is 1 - its distance / the source's distance, and overall is the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.ndimage import maximum_filter
from torch import Tensor

from saccade.core import Problem
from saccade.worlds.edits.rerender import rerender
from saccade.worlds.shapes import Object, parse, read_text, render
from saccade.worlds.shapes.layout import REACH
from saccade.worlds.shapes.scene import BACKGROUND
from saccade.worlds.shapes.segments import pixels

SCORES = ("success", "keep", "quality", "overall")
UNRELATED = 0.09 * 255
"""Mean absolute difference of two unrelated scenes."""
NEAR, FAR = 0.25, 0.75
"""Distances from the rendered parse, in units of its mean paint, up to which quality is 1 and from which it is 0."""
_FAINT = 0.04 * 255
"""Least mean paint that distances are divided by."""
_TOLERANCE = 0.125
"""Largest distance of a thing from its place, half a step of the grid."""
_RIM = 1 / 16
"""Width of the region around the difference of the exact pictures that an edit may change, in sides of the picture."""
_SAME = 0.5
"""Mean absolute difference below which the expected picture equals the source, and nothing can be scored."""


def score_edits(images: np.ndarray | Tensor, problems: Sequence[Problem]) -> dict[str, np.ndarray]:
    """Scores [B] in [0, 1] by the names of `SCORES`; NaN for pictures with a NaN and problems without an answer.

    ``images`` are uint8 [B, S, S, 3] or float [B, 3, S, S] in [0, 1], of any one size. ValueError for other pictures.
    """
    rgb = pixels(images)
    if len(rgb) != len(problems) or rgb.shape[1] != rgb.shape[2]:
        raise ValueError(f"{len(problems)} problems need as many square pictures, not {list(rgb.shape)}")
    found = {name: np.full(len(rgb), np.nan) for name in SCORES}
    finite = [bool(np.isfinite(picture).all()) for picture in rgb]
    answers = [p.answer if isinstance(p.answer, dict) else {} for p in problems]
    exact = [i for i, answer in enumerate(answers) if finite[i] and answer.get("after") is not None]
    if exact:
        for name, score in zip(SCORES, _exact(images[exact], rgb[exact], [answers[i] for i in exact])):
            found[name][exact] = score
    for i, answer in enumerate(answers):
        if finite[i] and answer.get("after") is None and answer.get("picture") is not None:
            found["success"][i] = found["overall"][i] = _closeness(rgb[i], problems[i])
    return found


def _exact(images: Any, rgb: np.ndarray, answers: Sequence[dict[str, Any]]) -> tuple[np.ndarray, ...]:
    objects = parse(images)
    lines = dict.fromkeys(range(len(rgb)), "")
    with_text = [i for i, answer in enumerate(answers) if answer["after"].text is not None]
    if with_text:
        lines.update(zip(with_text, read_text(images[with_text])))
    success = np.array([_carried_out(*row) for row in zip(answers, objects, lines.values())], float)
    keep, quality = _keep(rgb, answers, objects), _quality(rgb, objects)
    return success, keep, quality, np.cbrt(success * keep * quality)


def _carried_out(answer: dict[str, Any], parsed: Sequence[Object], line: str) -> bool:
    """Whether the parsed objects, or the line of text, show the result of the edit."""
    before, after = answer["before"], answer["after"]
    if after.text is not None:
        return line == after.text.string
    if answer["kind"] == "count":
        return sum(_same(thing, after.objects[0]) for thing in parsed) == len(after.objects)
    places = set(before.objects) ^ set(after.objects)
    return all(_at(place, parsed) == _at(place, after.objects) for place in places)


def _at(place: Object, things: Sequence[Object]) -> list[tuple[str, str]]:
    """Shape and colour of the things near a place."""
    return sorted((thing.shape, thing.color) for thing in things if _near(thing, place))


def _near(one: Object, other: Object) -> bool:
    return float(np.hypot(one.x - other.x, one.y - other.y)) <= _TOLERANCE


def _same(one: Object, other: Object) -> bool:
    return (one.shape, one.color) == (other.shape, other.color)


def _keep(rgb: np.ndarray, answers: Sequence[dict[str, Any]], objects: Sequence[Sequence[Object]]) -> np.ndarray:
    before, after = (render([answer[when] for answer in answers], rgb.shape[1]) for when in ("before", "after"))
    reach = int(np.ceil(_RIM * rgb.shape[1]))
    editable = maximum_filter((before != after).any(-1), (1, 2 * reach + 1, 2 * reach + 1))
    for i, (answer, parsed) in enumerate(zip(answers, objects)):
        if answer["kind"] == "count":
            editable[i] = _new_thing(answer, parsed, rgb.shape[1])
    error = np.abs(rgb - before).mean(-1)
    return np.clip(1 - (error * ~editable).sum((1, 2)) / np.maximum((~editable).sum((1, 2)), 1) / UNRELATED, 0, 1)


def _new_thing(answer: dict[str, Any], parsed: Sequence[Object], size: int) -> np.ndarray:
    """The region of the first added thing of the kind, bool [size, size]; empty if there is none."""
    old, kind = answer["before"].objects, answer["after"].objects[0]
    new = next((t for t in parsed if _same(t, kind) and not any(_near(t, present) for present in old)), None)
    if new is None:
        return np.zeros((size, size), bool)
    grid = (np.arange(size) + 0.5) / size
    return np.hypot(grid[None] - new.x, grid[:, None] - new.y) <= REACH * new.radius + _RIM


def _quality(rgb: np.ndarray, objects: Sequence[Sequence[Object]]) -> np.ndarray:
    rendered = rerender(rgb, objects).astype(np.float32)
    paint = np.maximum(np.abs(rendered - BACKGROUND).mean((1, 2, 3)), _FAINT)
    distance = np.abs(rendered - rgb).mean((1, 2, 3)) / paint
    return np.clip((FAR - distance) / (FAR - NEAR), 0, 1)


def _closeness(rgb: np.ndarray, problem: Problem) -> float:
    """1 - distance to the expected picture / distance from the source to it, at least 0; NaN if these are the same."""
    source, target = (
        _resized(picture, rgb.shape[0]) for picture in (problem.inputs.pictures[0], problem.answer["picture"])
    )
    full = np.abs(source - target).mean()
    return float(np.clip(1 - np.abs(rgb - target).mean() / full, 0, 1)) if full >= _SAME else np.nan


def _resized(picture: np.ndarray, size: int) -> np.ndarray:
    """A picture uint8 [H, W, 3] as float [size, size, 3]."""
    from PIL import Image

    if picture.shape[:2] != (size, size):
        picture = np.asarray(Image.fromarray(picture).resize((size, size), Image.Resampling.BICUBIC))
    return picture.astype(np.float32)
