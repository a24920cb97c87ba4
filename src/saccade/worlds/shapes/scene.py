"""Scenes (objects and text), and random scenes of given meanings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from saccade.worlds.shapes import fonts
from saccade.worlds.shapes.layout import place
from saccade.worlds.shapes.meanings import COLORS, SHAPES, TAGS, Meaning, meanings_of

__all__ = ["COLORS", "SHAPES", "SIZES", "TAGS", "Meaning", "Object", "Scene", "Text", "depict", "sample_scenes"]

BACKGROUND = (230, 230, 230)
INK = {"black": (20, 20, 25)}
SIZES = {"tiny": 0.12, "small": 0.15, "large": 0.2}


@dataclass(frozen=True)
class Object:
    """One shape in unit coordinates (x right, y down); ``angle`` in radians, clockwise."""

    shape: str
    color: str
    x: float
    y: float
    radius: float
    angle: float = 0.0


@dataclass(frozen=True)
class Text:
    """One line of capital letters centred at (x, y); ``height`` is the cap height; all in unit coordinates."""

    string: str
    font: str
    x: float
    y: float
    height: float
    color: str = "black"


@dataclass(frozen=True)
class Scene:
    """The content of a picture: objects in the order in which they are painted, then the text."""

    objects: tuple[Object, ...] = ()
    text: Text | None = None


def sample_scenes(
    count: int, rng: np.random.Generator, tags: Sequence[str] = TAGS, split: str | None = None, most: int = 5
) -> tuple[list[Scene], list[Meaning]]:
    """``count`` random meanings, and for each a scene that satisfies it and shows nothing else.

    Arguments and errors are those of `meanings_of`.
    """
    meanings = meanings_of(count, rng, tags, split, most)
    return depict(meanings, rng), meanings


def depict(meanings: Sequence[Meaning], rng: np.random.Generator) -> list[Scene]:
    """A random scene of each meaning: what the meaning leaves open is sampled, nothing is added."""
    things = [_things(meaning, rng) for meaning in meanings]
    radii = np.zeros((len(meanings), max([1, *map(len, things)])))
    for row, listed in zip(radii, things):
        row[: len(listed)] = _radii(len(listed), rng)
    xy = place(radii, [_relation(meaning) for meaning in meanings], rng)
    angles = rng.uniform(-0.2, 0.2, radii.shape)
    return [
        Scene(
            tuple(
                Object(*thing, *map(float, (x, y, r, a)))
                for thing, (x, y), r, a in zip(things[i], xy[i], radii[i], angles[i])
            ),
            _text(meaning["text"], rng) if "text" in meaning else None,
        )
        for i, meaning in enumerate(meanings)
    ]


def _things(meaning: Meaning, rng: np.random.Generator) -> list[tuple[str, str]]:
    things = []
    for item in meaning["include"]:
        color = item.get("color") or str(rng.choice(list(COLORS)))
        things += [(item["class"], color)] * item["count"]
    return things


def _radii(number: int, rng: np.random.Generator) -> np.ndarray:
    if number > 2:
        return np.full(number, SIZES["tiny"])
    return np.where(rng.random(number) < 0.5, SIZES["large"], SIZES["small"])


def _relation(meaning: Meaning) -> str | None:
    return next((item["position"][0] for item in meaning["include"] if "position" in item), None)


def _text(string: str, rng: np.random.Generator) -> Text:
    font = str(rng.choice(fonts.FONTS))
    wide = fonts.width(string, font)
    height = min(0.42, 0.88 / wide) * rng.uniform(0.92, 1.0)
    room = (1 - wide * height) / 2 - 0.04
    x, y = 0.5 + rng.uniform(-1, 1, 2) * (min(0.1, max(room, 0)), 0.15)
    return Text(string, font, float(x), float(y), float(height))
