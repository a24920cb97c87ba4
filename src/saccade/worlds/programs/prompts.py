"""Problems of this world, sampled at random or loaded from files: a picture, and a program that draws it.

``inputs`` is a `Question` with the picture; ``answer`` holds "kind" ("program"), "code" (a reference program),
"picture" (its render, uint8 ``[size, size, 3]``) and, for programs from files, "box" (the canvas that they declare).
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

from saccade.core import Problem, Question
from saccade.models.pictures import open_picture
from saccade.models.tables import object_of, read_text
from saccade.naming import suggestion
from saccade.tools.render import Box, Refused, Request, declared_canvas, find_program, render_batch
from saccade.worlds.programs.scenes import Scene, sample_scenes
from saccade.worlds.programs.writing import write_svg
from saccade.worlds.text_files import ensure, parse_lines

TRAIN = (2, 5)
"""Smallest and largest number of visible primitives of training scenes."""
OOD = (6, 8)
"""Smallest and largest number of visible primitives of scenes that are larger than training scenes."""
TEXT = "Write an SVG program that draws this picture."
_CHUNK = 64
_SALT = 1


def sample_problems(
    count: int, seed: int, primitives: tuple[int, int] = TRAIN, split: str | None = None, size: int = 64
) -> list[Problem]:
    """``count`` problems; the first ones do not depend on the count.

    ``split`` is "train", "held_out" or None (all meanings), ``primitives`` the smallest and largest number of visible
    ones (up to 8), ``size`` the side of pictures in pixels. ValueError for an unknown split or impossible numbers.
    """
    if split not in (None, "train", "held_out"):
        raise ValueError(f"unknown split '{split}'{suggestion(split, ('train', 'held_out'))}")
    codes: list[str] = []
    for chunk in _chunks(seed, primitives):
        if len(codes) >= count:
            break
        codes += [code for scene, code in chunk if split in (None, split_of(scene))]
    requests = [Request(code, size=size) for code in codes[:count]]
    pictures = [one.picture for one in render_batch(requests)]
    return [
        _problem(i, code, picture, picture, None, "programs") for i, (code, picture) in enumerate(zip(codes, pictures))
    ]


def split_of(scene: Scene) -> str:
    """ "held_out" for a fixed fifth of all meanings, else "train".

    A meaning is the set of visible primitives with their colors, without positions, order and hidden primitives.
    """
    meaning = sorted([one.kind, one.color] for one in scene.visible)
    key = json.dumps([_SALT, meaning]).encode()
    return "held_out" if int.from_bytes(blake2b(key, digest_size=4).digest(), "big") % 5 == 0 else "train"


@dataclass(frozen=True)
class _Entry:
    """One program of a file or a folder; ``name`` says where it is."""

    code: str
    name: str
    image: str | None = None
    caption: str | None = None


def load_programs(path: str | Path, size: int = 64, captions: bool = False) -> list[Problem]:
    """Problems from a folder of ``*.svg``, or from JSON lines with the columns of SVG-Stack: "Svg", "Filename".

    A line may name an "image" (a path, relative to the file), which is then the model's input, in its original size;
    the reference is always rendered here, on the canvas that the program declares. Programs that cannot be rendered are
    left out with one warning, and so are lines whose picture cannot be read. With ``captions`` each line needs a
    "caption", which is kept in the answer. ValueError "FILE:LINE: why" for an invalid line, or if no program is left.
    """
    path = Path(path)
    entries = list(_folder(path) if path.is_dir() else _lines(path, captions))
    codes = [find_program(entry.code, "svg") for entry in entries]
    boxes = [_canvas(code) for code in codes]
    renders = render_batch([Request(code, size=size, box=box) for code, box in zip(codes, boxes)])
    found: list[Problem] = []
    flaws: list[str] = []
    for entry, code, box, render in zip(entries, codes, boxes, renders):
        try:
            ensure(render.status == "ok", render.message)
            ensure(box is not None, "it declares no canvas")
            picture = _input_picture(path, entry.image, render.picture)
        except ValueError as error:
            flaws.append(f"{entry.name}: {error}")
            continue
        problem = _problem(len(found), code, picture, render.picture, box, path.stem)
        answer = problem.answer if entry.caption is None else problem.answer | {"caption": entry.caption}
        found.append(replace(problem, answer=answer))
    if not found:
        raise ValueError(f"{path}: no program can be drawn; {flaws[0]}")
    if flaws:
        why = f"{path}: {len(flaws)} of {len(entries)} programs cannot be drawn and are left out; {flaws[0]}"
        warnings.warn(why, stacklevel=2)
    return found


def _problem(number: int, code: str, picture: Any, reference: Any, box: Box | None, source: str) -> Problem:
    answer = {"kind": "program", "code": code, "picture": reference} | ({"box": box} if box else {})
    return Problem(number, Question(TEXT, (picture,)), answer, source)


def _chunks(seed: int, primitives: tuple[int, int]) -> Iterator[list[tuple[Scene, str]]]:
    """An endless stream of scenes with their programs; each chunk has its own seed."""
    number = 0
    while True:
        rng = np.random.default_rng([seed, number])
        yield [(scene, write_svg(scene, rng)) for scene in sample_scenes(_CHUNK, rng, primitives)]
        number += 1


def _folder(path: Path) -> Iterable[_Entry]:
    """Every ``*.svg``."""
    files = sorted(path.glob("*.svg"))
    if not files:
        raise ValueError(f"{path}: no *.svg in this folder")
    return [_Entry(read_text(file), file.name) for file in files]


def _lines(path: Path, captions: bool) -> Iterable[_Entry]:
    parse = lambda line: _fields(line, captions)
    for number, fields in parse_lines(path, parse, "captions" if captions else "programs"):
        name = str(fields.get("Filename", f"{path}:{number}"))
        yield _Entry(fields["Svg"], name, fields.get("image"), fields["caption"] if captions else None)


def _fields(line: str, captions: bool) -> dict[str, Any]:
    fields = object_of(line)
    ensure(isinstance(fields.get("Svg"), str), f"{line[:40]!r} is not an object with a text 'Svg'")
    ensure(isinstance(fields.get("image", ""), str), f"image {fields.get('image')!r} must be a path")
    ensure(not captions or isinstance(fields.get("caption"), str), f"{line[:40]!r} has no text 'caption'")
    return fields


def _canvas(code: str) -> Box | None:
    try:
        return declared_canvas(code, "svg")
    except Refused:
        return None


def _input_picture(path: Path, image: str | None, rendered: Any) -> Any:
    """The picture that a line names; the rendered one if it names none."""
    if image is None:
        return rendered
    return open_picture(path.parent / image)
