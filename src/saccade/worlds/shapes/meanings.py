"""Meanings of captions, sampled at random and split into training and held-out meanings."""

from __future__ import annotations

import json
from collections.abc import Sequence
from hashlib import blake2b
from typing import Any

import numpy as np

from saccade.naming import require
from saccade.worlds.shapes.fonts import LETTERS

SHAPES = ("circle", "square", "triangle", "ring", "star", "cross")

COLORS = {
    "red": (220, 30, 35),
    "orange": (250, 140, 15),
    "yellow": (250, 225, 40),
    "green": (40, 160, 60),
    "cyan": (40, 200, 220),
    "blue": (35, 70, 210),
    "purple": (130, 45, 170),
    "pink": (255, 105, 185),
}

RELATIONS = ("left of", "right of", "above", "below")

TAGS = ("single_object", "two_object", "counting", "colors", "position", "color_attr", "text")

WORDS = (
    "A I GO UP NO YES CAT DOG SUN SKY SEA RED ICE EGG FOX OWL BEE ANT COW PIG HEN BAT CAR BUS BOX CUP HAT MAP PEN KEY "
    "JAM TEA TOP WIN NEW OLD BIG HOT LOVE HOME TREE BIRD FISH STAR MOON RAIN SNOW WIND FIRE LAKE ROAD SHIP BOOK GAME "
    "PLAY OPEN STOP EXIT JAZZ QUIZ ZERO KIWI VOTE HI OK"
).split()

_SALT = 3
"""Salt of the hash that splits meanings, chosen so that every tag has meanings in both splits (there are only six
meanings "a <shape>").
"""

Meaning = dict[str, Any]
"""Meaning of a caption in GenEval's metadata format: tag, include, exclude; ``text`` for the tag "text"."""


def meanings_of(
    count: int, rng: np.random.Generator, tags: Sequence[str] = TAGS, split: str | None = None, most: int = 5
) -> list[Meaning]:
    """``count`` random meanings with uniformly random tags.

    ``split`` is "train", "held_out" or None (all meanings); ``most`` is the largest number of objects (2 to 6).
    ValueError for an unknown tag or split, an empty list of tags, or ``most`` outside 2 to 6.
    """
    for tag in tags:
        require("tag", tag, TAGS)
    if split is not None:
        require("split", split, ("train", "held_out"))
    if not tags or not 2 <= most <= 6:
        raise ValueError("tags is empty; choose at least one" if not tags else f"most is {most}; it must be 2 to 6")
    sampled: list[Meaning] = []
    while len(sampled) < count:
        meaning = _meaning(tags[int(rng.integers(len(tags)))], rng, most)
        if split in (None, split_of(meaning)):
            sampled.append(meaning)
    return sampled


def split_of(meaning: Meaning) -> str:
    """ "held_out" for a fixed fifth of all meanings, by a hash of the meaning, else "train".

    "a ring left of a star" and "a star right of a ring" are one meaning here, so no meaning is in both splits.
    """
    key = json.dumps([_SALT, meaning["tag"], _facts(meaning["include"]), meaning.get("text")])
    return "held_out" if int.from_bytes(blake2b(key.encode(), digest_size=4).digest(), "big") % 5 == 0 else "train"


def _facts(include: list[dict]) -> list[list]:
    """The named things, in an order that does not depend on which of them is named first."""
    bare = [[item["class"], item["count"], item.get("color")] for item in include]
    relation = next((item["position"][0] for item in include if "position" in item), None)
    if relation is None:
        return sorted(bare, key=str)
    mirrored = {"right of": "left of", "below": "above"}
    ordered = bare if relation in mirrored else bare[::-1]
    return [*ordered, [mirrored.get(relation, relation)]]


def _meaning(tag: str, rng: np.random.Generator, most: int) -> Meaning:
    first, second = (str(s) for s in rng.choice(SHAPES, 2, replace=False))
    color, other = (str(c) for c in rng.choice(list(COLORS), 2, replace=False))
    if tag == "text":
        return {"tag": tag, "include": [], "text": _word(rng)}
    if tag == "counting":
        number = int(rng.integers(2, most + 1))
        paint = {"color": color} if rng.random() < 0.5 else {}
        include = [{"class": first, "count": number, **paint}]
        return {"tag": tag, "include": include, "exclude": [{"class": first, "count": number + 1}]}
    relation = str(rng.choice(RELATIONS))
    include = {
        "single_object": [{"class": first, "count": 1}],
        "two_object": [{"class": first, "count": 1}, {"class": second, "count": 1}],
        "colors": [{"class": first, "count": 1, "color": color}],
        "position": [{"class": first, "count": 1}, {"class": second, "count": 1, "position": [relation, 0]}],
        "color_attr": [{"class": first, "count": 1, "color": color}, {"class": second, "count": 1, "color": other}],
    }[tag]
    return {"tag": tag, "include": include}


def _word(rng: np.random.Generator) -> str:
    if rng.random() < 0.6:
        return str(rng.choice(WORDS))
    return "".join(rng.choice(list(LETTERS), rng.integers(1, 5)))
