"""Captions of meanings in many wordings, and the meanings of such captions."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

from saccade.naming import require
from saccade.worlds.shapes.meanings import COLORS, RELATIONS, SHAPES, TAGS, Meaning
from saccade.worlds.shapes.wordings import RELATION_PHRASES, TEMPLATES

WORDINGS = tuple(range(12))
TRAIN_WORDINGS = WORDINGS[:8]
HELD_OUT_WORDINGS = WORDINGS[8:]
NUMBERS = {1: "one", 2: "two", 3: "three", 4: "four", 5: "five", 6: "six"}
_TERSE = (0, 1, 2, 3, 8, 9)


def style(wording: int) -> str:
    """ "terse" or "descriptive". ValueError for an unknown wording."""
    _check(wording)
    return "terse" if wording in _TERSE else "descriptive"


def caption(meaning: Meaning, wording: int) -> str:
    """The prompt for a picture of this meaning. ValueError for an unknown wording or tag."""
    _check(wording)
    template = TEMPLATES[_kind(meaning)][wording]
    return re.sub(r"\{(\w+)\}", lambda slot: _fill(slot[1], meaning), template).replace(" ,", ",").replace(" :", ":")


def interpret(text: str) -> Meaning | None:
    """The meaning of a caption in one of the wordings; None for any other text."""
    plain = " ".join(text.split())
    for kind, pattern in _patterns():
        match = pattern.fullmatch(plain)
        if match:
            return _meaning(kind, match.groupdict())
    return None


def vocabulary() -> list[str]:
    """All words of all captions, sorted; the quoted words that appear in pictures are left out."""
    text = " ".join(pattern.pattern for _, pattern in _patterns())
    return sorted(set(re.findall(r"[a-z]{2,}|\ba\b|\d", re.sub(r"\(\?P<\w+>|\[A-Z\]\{1,4\}|\\", " ", text))))


def plural(shape: str) -> str:
    """circle -> circles, cross -> crosses."""
    return shape + ("es" if shape.endswith("s") else "s")


def _check(wording: int) -> None:
    if wording not in WORDINGS:
        raise ValueError(f"unknown wording {wording!r}; known: 0 to {WORDINGS[-1]}")


def _kind(meaning: Meaning) -> str:
    tag = meaning["tag"]
    require("tag", tag, TAGS)
    return "counting_color" if tag == "counting" and "color" in meaning["include"][0] else tag


def _fill(slot: str, meaning: Meaning) -> str:
    if slot == "w":
        return meaning["text"]
    if slot.startswith("rel"):
        return RELATION_PHRASES[slot][meaning["include"][1]["position"][0]]
    item = meaning["include"][int(slot[1:] or 0)]
    words = {"s": item["class"], "p": plural(item["class"]), "c": item.get("color", "")}
    words |= {"a": _article(words["c"]), "n": NUMBERS.get(item["count"]), "d": str(item["count"])}
    return words[slot[0]]


def _article(color: str) -> str:
    return f"{'an' if color[:1] in 'aeiou' else 'a'} {color}"


def _forms(slot: str) -> dict[str, Any]:
    """Every text that can fill a slot, with its meaning."""
    if slot.startswith("rel"):
        return {RELATION_PHRASES[slot][relation]: relation for relation in RELATIONS}
    return {
        "s": {shape: shape for shape in SHAPES},
        "p": {plural(shape): shape for shape in SHAPES},
        "c": {color: color for color in COLORS},
        "a": {_article(color): color for color in COLORS},
        "n": {word: number for number, word in NUMBERS.items() if number > 1},
        "d": {str(number): number for number in NUMBERS if number > 1},
    }[slot[0]]


@cache
def _patterns() -> list[tuple[str, re.Pattern[str]]]:
    return [(kind, _pattern(template)) for kind, templates in TEMPLATES.items() for template in templates]


def _pattern(template: str) -> re.Pattern[str]:
    def group(slot: re.Match[str]) -> str:
        options = "[A-Z]{1,4}" if slot[1] == "w" else "|".join(_forms(slot[1]))
        return f"(?P<{slot[1]}>{options})"

    return re.compile(re.sub(r"\{(\w+)\}", group, template).replace(" ,", ",").replace(" :", ":"))


def _meaning(kind: str, slots: dict[str, str]) -> Meaning | None:
    if kind == "text":
        return {"tag": "text", "include": [], "text": slots["w"]}
    known = {slot: _forms(slot)[text] for slot, text in slots.items()}
    pick = lambda letters, suffix: next((known[k + suffix] for k in letters if k + suffix in known), None)
    include: list[dict[str, Any]] = []
    for suffix in ("0", "1") if "s0" in known else ("",):
        item = {"class": pick("sp", suffix), "count": pick("nd", suffix) or 1}
        color = pick("ca", suffix)
        include.append({**item, "color": color} if color else item)
    relation = next((known[k] for k in known if k.startswith("rel")), None)
    if relation:
        include[1]["position"] = [relation, 0]
    if len(include) > 1 and include[0]["class"] == include[1]["class"]:
        return None
    meaning: Meaning = {"tag": kind.removesuffix("_color"), "include": include}
    if meaning["tag"] == "counting":
        meaning["exclude"] = [{"class": include[0]["class"], "count": include[0]["count"] + 1}]
    return meaning
