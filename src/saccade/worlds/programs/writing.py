"""Scenes as SVG programs, as redundant as files from the web."""

from __future__ import annotations

import numpy as np

from saccade.worlds.programs.primitives import COLORS, SIDE, Primitive
from saccade.worlds.programs.scenes import Scene

HEAD = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {SIDE} {SIDE}">'
TAIL = "</svg>"
_NAMES = {
    "rect": ("x", "y", "width", "height"),
    "circle": ("cx", "cy", "r"),
    "ellipse": ("cx", "cy", "rx", "ry"),
}
_REDUNDANT = (' stroke="none"', ' opacity="1"')
"""Attributes that change nothing."""
_REDUNDANCY = 0.3
"""Probability of each redundant attribute, and of a group around an element."""


def write_svg(scene: Scene, rng: np.random.Generator) -> str:
    """A program that draws a scene, with its hidden primitives, redundant attributes, and groups of one element."""
    redundant = rng.random((len(scene.painted), 3)) < _REDUNDANCY
    parts = []
    for one, (group, *attributes) in zip(scene.painted, redundant.tolist()):
        element = _element(one, "".join(text for text, use in zip(_REDUNDANT, attributes) if use))
        parts.append(f"<g>{element}</g>" if group else element)
    return HEAD + "".join(parts) + TAIL


def vocabulary() -> list[str]:
    """The longest tokens that all programs of this world consist of, for a tokenizer."""
    opened = [f'<{kind} {names[0]}="' for kind, names in _NAMES.items()]
    following = sorted({f'" {name}="' for names in _NAMES.values() for name in names[1:]})
    redundant = [f'"{text[:-1]}' for text in _REDUNDANT]
    ends = ['" fill="', 'Z" fill="', *redundant, '"/>']
    return [
        HEAD,
        TAIL,
        "<g>",
        "</g>",
        '<path d="M',
        "L",
        " ",
        *opened,
        *following,
        *ends,
        *COLORS,
        *map(str, range(SIDE)),
    ]


def _element(one: Primitive, attributes: str = "") -> str:
    if one.kind == "triangle":
        a, b, c, d, e, f = one.numbers
        return f'<path d="M{a} {b}L{c} {d}L{e} {f}Z" fill="{one.color}"{attributes}/>'
    numbers = "".join(f' {name}="{number}"' for name, number in zip(_NAMES[one.kind], one.numbers))
    return f'<{one.kind}{numbers} fill="{one.color}"{attributes}/>'
