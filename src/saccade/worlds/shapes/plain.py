"""Plain English of scenes: descriptions that are no wording of the world, such as "a photo of a red ring above a star".

A description is one thing, or two things joined by "and", a comma or a relation; a thing has a number or an article, a
colour or none, and a shape. Words before it, such as "a photo of", are left out.
"""

from __future__ import annotations

import re
from typing import Any

from saccade.worlds.shapes.captions import NUMBERS, plural
from saccade.worlds.shapes.meanings import COLORS, SHAPES, Meaning

_PLACES = {
    "left of": r"(?:to |on )?(?:the )?left (?:side )?of",
    "right of": r"(?:to |on )?(?:the )?right (?:side )?of",
    "above": r"above|over|on top of",
    "below": r"below|under|underneath|beneath",
}
_COUNTS = {"a": 1, "an": 1, "the": 1, **{word: n for n, word in NUMBERS.items()}, **{str(n): n for n in NUMBERS}}
_CLASSES = {shape: shape for shape in SHAPES} | {plural(shape): shape for shape in SHAPES}
_BEFORE = re.compile(r"(?:(?:an?|the) )?(?:photo|photograph|picture|image|drawing|painting|illustration) of ")
_THING = re.compile(rf"(?:({'|'.join(_COUNTS)}) )?(?:({'|'.join(COLORS)}) )?({'|'.join(_CLASSES)})")
_JOINED = re.compile(
    rf"(.+?)(?:,? (?:that is |is |are |lying |placed )?({'|'.join(_PLACES.values())}) |,? and | with | ?, )(.+)"
)


def described(text: str) -> Meaning | None:
    """The meaning of a plain description; None for any other text, and for two things that cannot be told apart."""
    plain = _BEFORE.sub("", " ".join(text.lower().split()).rstrip(" ."), count=1)
    joined = _JOINED.fullmatch(plain)
    include = [_thing(part) for part in ((joined[1], joined[3]) if joined else (plain,))]
    if None in include:
        return None
    return _related(include, joined[2]) if joined else _alone(include[0])


def _thing(text: str) -> dict[str, Any] | None:
    found = _THING.fullmatch(text)
    if found is None:
        return None
    thing = {"class": _CLASSES[found[3]], "count": _COUNTS.get(found[1], 1)}
    return thing | ({"color": found[2]} if found[2] else {})


def _alone(thing: Any) -> Meaning:
    if thing["count"] > 1:
        return {
            "tag": "counting",
            "include": [thing],
            "exclude": [{"class": thing["class"], "count": thing["count"] + 1}],
        }
    return {"tag": "colors" if "color" in thing else "single_object", "include": [thing]}


def _related(include: list[Any], place: str | None) -> Meaning | None:
    one, other = include
    if one["class"] == other["class"] and len({one.get("color"), other.get("color")} - {None}) < 2:
        return None
    if place is None:
        return {"tag": "color_attr" if "color" in {**one, **other} else "two_object", "include": include}
    relation = next(name for name, pattern in _PLACES.items() if re.fullmatch(pattern, place))
    return {"tag": "position", "include": [other, {**one, "position": [relation, 0]}]}
