"""Problems of this world: random ones, or those of a file (GenEval's JSONL, or plain text with one prompt a line)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from saccade.core import Problem
from saccade.models.tables import object_of
from saccade.worlds.shapes.captions import TRAIN_WORDINGS, caption, interpret
from saccade.worlds.shapes.meanings import TAGS, Meaning, meanings_of
from saccade.worlds.shapes.plain import described
from saccade.worlds.text_files import ensure, parse_lines, text_of


def sample_problems(
    count: int,
    seed: int,
    tags: Sequence[str] = TAGS,
    wordings: Sequence[int] = TRAIN_WORDINGS,
    split: str | None = None,
    most: int = 5,
) -> list[Problem]:
    """``count`` random problems: ``inputs`` is a caption, ``answer`` its meaning, ``source`` is "shapes/<tag>".

    The answer has an entry "wording" too. ``split`` is "train", "held_out" or None (all meanings), ``most`` the largest
    number of objects to count. ValueError for unknown tags, wordings or splits.
    """
    rng = np.random.default_rng(seed)
    meanings = meanings_of(count, rng, tags, split, most)
    chosen = rng.choice(np.asarray(wordings), count).tolist() if len(wordings) else []
    if len(chosen) < count:
        raise ValueError("wordings is empty; choose at least one of 0 to 11")
    return [
        Problem(i, caption(meaning, wording), {**meaning, "wording": wording}, f"shapes/{meaning['tag']}")
        for i, (meaning, wording) in enumerate(zip(meanings, chosen))
    ]


def load_prompts(path: str | Path) -> list[Problem]:
    """Problems from a file; ``source`` is the file's stem, with the tag of the problem where there is one.

    ``*.jsonl`` holds GenEval's metadata, one object a line: tag, include, exclude, prompt. Anything else is plain text:
    a target in double quotes makes a text problem, a caption in one of our wordings or in plain English
    (`plain.described`) has its meaning, others None. A JSON line with a prompt but neither tag nor include is read as
    its prompt alone would be, and its other entries are added to the answer, for rewards of the user's own.
    ValueError "FILE:LINE: why" for a line that does not fit, or when the file holds no prompt or is no text.
    """
    path = Path(path).expanduser()
    found = parse_lines(path, _metadata if path.suffix == ".jsonl" else plain_prompt, "prompts")
    source = lambda answer: f"{path.stem}/{answer['tag']}" if answer and "tag" in answer else path.stem
    return [Problem(i, prompt, answer, source(answer)) for i, (_, (prompt, answer)) in enumerate(found)]


def plain_prompt(line: str) -> tuple[str, Meaning | None]:
    """A prompt and its meaning: a caption's, a text to write where one is quoted, None for any other prompt."""
    meaning = interpret(line) or described(line)
    quoted = re.search(r'["“]([^"”]*[^"”\s][^"”]*)["”]', line)
    if meaning is None and quoted:
        meaning = {"tag": "text", "include": [], "text": quoted[1].strip()}
    return line, meaning


def _metadata(line: str) -> tuple[str, Meaning | None]:
    entry = object_of(line)
    if not {"tag", "include"} & set(entry):
        prompt, meaning = plain_prompt(text_of(entry, "prompt"))
        others = {name: value for name, value in entry.items() if name != "prompt"}
        return prompt, {**others, **(meaning or {})} or None
    for name in ("tag", "prompt"):
        text_of(entry, name)
    given = {name: entry[name] for name in ("include", "exclude", "text") if name in entry}
    meaning = {"tag": entry["tag"], "include": [], **given}
    if meaning["tag"] == "text":
        word = meaning.get("text")
        ensure(isinstance(word, str) and word.strip() != "", f"text {word!r} must be the word to write")
    else:
        ensure(bool(meaning["include"]), "include must name at least one thing")
    for name in ("include", "exclude"):
        things = meaning.get(name, [])
        ensure(isinstance(things, list), f"{name} {things!r} must be a list")
        for at, thing in enumerate(things):
            _check(thing, f"{name}[{at}]", at)
    return entry["prompt"], meaning


def _check(thing: Any, where: str, at: int) -> None:
    """Check one thing of include or exclude; a relation may refer only to a thing named before it."""
    ensure(isinstance(thing, dict), f"{where} {thing!r} must be an object with class and count")
    ensure(isinstance(thing.get("class"), str), f"{where} has class {thing.get('class')!r}, a text is needed")
    count = thing.get("count")
    ensure(type(count) is int and count > 0, f"{where} has count {count!r}, a positive whole number is needed")
    ensure(isinstance(thing.get("color", ""), str), f"{where} has color {thing.get('color')!r}, a text is needed")
    if "position" in thing:
        relation = thing["position"]
        valid = isinstance(relation, list) and len(relation) == 2 and isinstance(relation[0], str)
        valid = valid and type(relation[1]) is int and 0 <= relation[1] < at
        ensure(valid, f"{where} has position {relation!r}, a relation and the number of an earlier thing are needed")
