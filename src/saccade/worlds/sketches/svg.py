"""Polylines of the path, polyline, polygon and line elements of SVG files."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import numpy as np

from saccade.tools.render.guard import SVG, parse_xml
from saccade.tools.render.results import Refused
from saccade.worlds.sketches.strokes import Sketch

Handle = tuple[int, np.ndarray]
"""Degree of a curve and its last control point."""

_CONTAINERS = ("svg", "g", "title", "desc", "metadata", "defs", "style")
_TOKEN = re.compile(r"([a-zA-Z])|([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)")
_ARGUMENTS = {"M": 2, "L": 2, "H": 1, "V": 1, "C": 6, "S": 4, "Q": 4, "T": 2, "Z": 0}
_CURVE_POINTS = np.linspace(0, 1, 9)[1:, None]
"""Parameters of the points of a curve's polyline after its first."""


def sketch_from_svg(text: str) -> Sketch:
    """The strokes of an SVG drawing, in its units. ValueError for other shapes, for transforms, and without strokes."""
    try:
        root = parse_xml(text)
    except Refused as error:
        raise ValueError(str(error)) from None
    strokes = tuple(s for element in root.iter() if isinstance(element.tag, str) for s in _strokes(element))
    if not strokes:
        raise ValueError("no stroke in this drawing")
    return Sketch(strokes)


def _strokes(element: Any) -> list[np.ndarray]:
    name = element.tag.removeprefix(f"{{{SVG}}}")
    if element.get("transform"):
        raise ValueError(f"<{name}> has a transform; apply it to the strokes first")
    match name:
        case "path":
            return list(path_polylines(element.get("d", "")))
        case "polyline" | "polygon":
            numbers = _numbers(element.get("points", ""))
            if len(numbers) < 2 or len(numbers) % 2:
                raise ValueError(f"<{name}> has {len(numbers)} coordinates")
            points = np.array(numbers, np.float32).reshape(-1, 2)
            return [np.concatenate([points, points[:1]]) if name == "polygon" else points]
        case "line":
            ends = [[element.get(name, "0") for name in pair] for pair in (("x1", "y1"), ("x2", "y2"))]
            return [np.array([[float(v) for v in end] for end in ends], np.float32)]
        case _ if name in _CONTAINERS:
            return []
    raise ValueError(f"<{name[:40]}> is no stroke; strokes are path, polyline, polygon and line")


def path_polylines(d: str) -> Iterator[np.ndarray]:
    """The polylines of a path's data, each float32 ``[points, 2]``. ValueError for arcs and for malformed data."""
    at, start = np.zeros(2), np.zeros(2)
    handle: Handle | None = None
    line: list[np.ndarray] = []
    for command, values in _commands(d):
        kind, origin = command.upper(), (at if command.islower() else np.zeros(2))
        if kind == "M":
            if len(line) > 1:
                yield np.array(line, np.float32)
            at = start = values + origin
            line, handle = [at], None
            continue
        line = line or [at]
        if kind == "Z":
            points, handle = start[None], None
        elif kind in "HV":
            axis = "HV".index(kind)
            points, handle = at[None].copy(), None
            points[0, axis] = values[0] + origin[axis]
        else:
            points, handle = _curve(kind, at, values.reshape(-1, 2) + origin, handle)
        line += list(points)
        at = points[-1]
    if line:
        yield np.array(line, np.float32)


def _curve(kind: str, at: np.ndarray, points: np.ndarray, handle: Handle | None) -> tuple[np.ndarray, Handle | None]:
    """Points after ``at`` up to the last of ``points``, and the handle that a smooth continuation reflects."""
    if kind == "L":
        return points, None
    degree = 3 if kind in "CS" else 2
    if kind in "ST":
        reflected = 2 * at - handle[1] if handle and handle[0] == degree else at
        points = np.concatenate([reflected[None], points])
    control = np.concatenate([at[None], points])
    weights = {3: (1, 3, 3, 1), 2: (1, 2, 1)}[degree]
    basis = [w * (1 - _CURVE_POINTS) ** (degree - k) * _CURVE_POINTS**k for k, w in enumerate(weights)]
    return np.sum([b * c for b, c in zip(basis, control)], 0), (degree, control[-2])


def _commands(d: str) -> Iterator[tuple[str, np.ndarray]]:
    """Commands with the numbers of one repetition each; repeated moves are lines."""
    if rest := _TOKEN.sub("", d).strip(" ,\t\r\n"):
        raise ValueError(f"a path contains {rest[:20]!r}")
    parts = re.split(r"([a-df-zA-DF-Z])", d)
    if parts[0].strip():
        raise ValueError(f"a path begins with {parts[0].strip()[:20]!r}, not with a move")
    for command, text in zip(parts[1::2], parts[2::2]):
        count, values = _ARGUMENTS.get(command.upper()), _numbers(text)
        if count is None:
            raise ValueError(f"command {command!r} of a path is none of {' '.join(_ARGUMENTS)}")
        if (len(values) % count if count else len(values)) or (count and not values):
            raise ValueError(f"command {command!r} of a path has {len(values)} numbers, not a multiple of {count}")
        for k in range(max(len(values) // max(count, 1), 1)):
            repeated = {"M": "L", "m": "l"}.get(command, command) if k else command
            yield repeated, np.array(values[k * count : (k + 1) * count])


def _numbers(text: str) -> list[float]:
    return [float(number) for _, number in _TOKEN.findall(text) if number]
