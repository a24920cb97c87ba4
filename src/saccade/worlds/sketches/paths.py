"""Strokes of SVG files: lines and curves of path, polyline, polygon and line elements as polylines."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import numpy as np

from saccade.tools.render.guard import SVG, parse_xml
from saccade.tools.render.results import Refused
from saccade.worlds.sketches.strokes import Sketch

_HOLDERS = ("svg", "g", "title", "desc", "metadata", "defs", "style")
_TOKEN = re.compile(r"([a-zA-Z])|([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)")
_TAKES = {"M": 2, "L": 2, "H": 1, "V": 1, "C": 6, "S": 4, "Q": 4, "T": 2, "Z": 0}
_STEPS = np.linspace(0, 1, 9)[1:, None]
"""A curve becomes so many straight lines."""


def read_svg(text: str) -> Sketch:
    """The strokes of a drawing, in its own units. ValueError for what is no line or curve, a transform, or no stroke
    at all.
    """
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
            return list(path(element.get("d", "")))
        case "polyline" | "polygon":
            numbers = _numbers(element.get("points", ""))
            if len(numbers) < 2 or len(numbers) % 2:
                raise ValueError(f"<{name}> has {len(numbers)} coordinates")
            points = np.array(numbers, np.float32).reshape(-1, 2)
            return [np.concatenate([points, points[:1]]) if name == "polygon" else points]
        case "line":
            ends = [[element.get(k, "0") for k in pair] for pair in (("x1", "y1"), ("x2", "y2"))]
            return [np.array([[float(v) for v in end] for end in ends], np.float32)]
        case _ if name in _HOLDERS:
            return []
    raise ValueError(f"<{name[:40]}> is no stroke; strokes are path, polyline, polygon and line")


def path(d: str) -> Iterator[np.ndarray]:
    """The polylines of a path's data, each float32 ``[points, 2]``. ValueError for arcs and for what cannot be read."""
    at, start, handle, line = np.zeros(2), np.zeros(2), None, []
    for command, values in _commands(d):
        kind, away = command.upper(), (at if command.islower() else np.zeros(2))
        if kind == "M":
            if len(line) > 1:
                yield np.array(line, np.float32)
            at = start = values + away
            line, handle = [at], None
            continue
        line = line or [at]
        if kind == "Z":
            made, handle = start[None], None
        elif kind in "HV":
            axis = "HV".index(kind)
            made, handle = at[None].copy(), None
            made[0, axis] = values[0] + away[axis]
        else:
            made, handle = _curve(kind, at, values.reshape(-1, 2) + away, handle)
        line += list(made)
        at = made[-1]
    if line:
        yield np.array(line, np.float32)


def _curve(kind: str, at: np.ndarray, points: np.ndarray, handle: tuple | None) -> tuple[np.ndarray, tuple | None]:
    """Points after ``at`` up to the last of ``points``, and the handle that a smooth continuation mirrors."""
    if kind == "L":
        return points, None
    degree = 3 if kind in "CS" else 2
    if kind in "ST":
        mirrored = 2 * at - handle[1] if handle and handle[0] == degree else at
        points = np.concatenate([mirrored[None], points])
    control = np.concatenate([at[None], points])
    weights = {3: (1, 3, 3, 1), 2: (1, 2, 1)}[degree]
    basis = [w * (1 - _STEPS) ** (degree - k) * _STEPS**k for k, w in enumerate(weights)]
    return sum(b * c for b, c in zip(basis, control)), (degree, control[-2])


def _commands(d: str) -> Iterator[tuple[str, np.ndarray]]:
    """Commands with the numbers of one repetition each; moves that repeat are lines."""
    if rest := _TOKEN.sub("", d).strip(" ,\t\r\n"):
        raise ValueError(f"a path holds {rest[:20]!r}")
    parts = re.split(r"([a-df-zA-DF-Z])", d)
    if parts[0].strip():
        raise ValueError(f"a path begins with {parts[0].strip()[:20]!r}, not with a move")
    for command, text in zip(parts[1::2], parts[2::2]):
        takes, values = _TAKES.get(command.upper()), _numbers(text)
        if takes is None:
            raise ValueError(f"command {command!r} of a path is none of {' '.join(_TAKES)}")
        if (len(values) % takes if takes else len(values)) or (takes and not values):
            raise ValueError(f"command {command!r} of a path has {len(values)} numbers, not {takes} each time")
        for k in range(max(len(values) // max(takes, 1), 1)):
            again = {"M": "L", "m": "l"}.get(command, command) if k else command
            yield again, np.array(values[k * takes : (k + 1) * takes])


def _numbers(text: str) -> list[float]:
    return [float(number) for _, number in _TOKEN.findall(text) if number]
