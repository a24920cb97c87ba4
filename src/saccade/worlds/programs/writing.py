"""Scenes as SVG: as short as it can be said, or as long-winded as files in the wild."""

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
_IDLE = (' stroke="none"', ' opacity="1"')
"""Attributes that change nothing."""
_OFTEN = 0.3
"""How often each idle attribute, and a group of its own, is written."""


def concise(scene: Scene) -> str:
    """What can be seen, and nothing that need not be said."""
    return HEAD + "".join(_element(one) for one in scene.visible) + TAIL


def verbose(scene: Scene, rng: np.random.Generator) -> str:
    """The same picture with the hidden primitives, idle attributes, and groups of one."""
    luck = rng.random((len(scene.painted), 3)) < _OFTEN
    parts = []
    for one, (group, *idle) in zip(scene.painted, luck.tolist()):
        element = _element(one, "".join(text for text, use in zip(_IDLE, idle) if use))
        parts.append(f"<g>{element}</g>" if group else element)
    return HEAD + "".join(parts) + TAIL


def vocabulary() -> list[str]:
    """The pieces that all programs of this world can be cut into, for a tokenizer: as long as they can be between
    two numbers.
    """
    opened = [f'<{kind} {names[0]}="' for kind, names in _NAMES.items()]
    following = sorted({f'" {name}="' for names in _NAMES.values() for name in names[1:]})
    idle = [f'"{text[:-1]}' for text in _IDLE]
    ends = ['" fill="', 'Z" fill="', *idle, '"/>']
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


def _element(one: Primitive, idle: str = "") -> str:
    if one.kind == "triangle":
        a, b, c, d, e, f = one.numbers
        return f'<path d="M{a} {b}L{c} {d}L{e} {f}Z" fill="{one.color}"{idle}/>'
    places = "".join(f' {name}="{number}"' for name, number in zip(_NAMES[one.kind], one.numbers))
    return f'<{one.kind}{places} fill="{one.color}"{idle}/>'
