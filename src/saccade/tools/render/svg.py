"""SVG through resvg, behind the guard, with one bundled font for whatever family is asked for."""

from __future__ import annotations

import io
import math
import re
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from saccade.tools.render import guard
from saccade.tools.render.results import Box, Limits, Refused

LIMITS = Limits(characters=guard.CHARACTERS, seconds=5.0, cpu_seconds=1.0, memory_mb=1024)
BOX: Box = (0.0, 0.0, 32.0, 32.0)
"""The canvas of the world of programs."""
PROBE = '<svg xmlns="http://www.w3.org/2000/svg"><rect x="8" y="8" width="16" height="16" fill="red"/></svg>'

_EDGE = re.compile(r"<svg\b|</svg\s*>")
_FONT = ("font_roboto", "Roboto-Regular.ttf", "Roboto")
_FAMILIES = ("font", "serif", "sans_serif", "cursive", "fantasy", "monospace")


@cache
def renderer() -> str:
    """Who draws: the version of resvg-py, which fixes that of resvg, and the font. ValueError if it cannot."""
    try:
        version("lxml")
        return f"resvg-py {version('resvg-py')}, {_FONT[1]}"
    except PackageNotFoundError:
        raise ValueError("drawing SVG needs packages: pip install resvg-py lxml") from None


def find(text: str) -> str:
    """The program in a text: its last complete outermost <svg>…</svg>, else all from the last one begun, else the text.

    Comments are left out: they draw nothing, and the guard would refuse them.
    """
    bare = _without_comments(text)
    begun, depth, last = None, 0, None
    for edge in _EDGE.finditer(bare):
        opens = edge[0] == "<svg"
        begun = edge.start() if opens and depth == 0 else begun
        depth = max(depth + (1 if opens else -1), 0)
        if not opens and depth == 0 and begun is not None:
            last, begun = bare[begun : edge.end()], None
    return last or (bare[begun:] if begun is not None else bare).strip()


def _without_comments(text: str) -> str:
    # a pattern would look for the end of every comment that has none, again and again
    kept, rest = "", text
    while True:
        before, opened, inside = rest.partition("<!--")
        _, closed, after = inside.partition("-->")
        if not closed:
            return kept + rest
        kept, rest = kept + before, after


def canvas(code: str) -> Box:
    """The box that a program itself asks for: its viewBox, else its width and height. `Refused` if it names neither."""
    root = guard.parse(code)
    asked = root.get("viewBox") or f"0 0 {root.get('width')} {root.get('height')}"
    try:
        left, top, width, height = (float(v.removesuffix("px")) for v in re.split(r"[\s,]+", asked.strip()))
    except ValueError:
        raise Refused("syntax", f"the canvas {asked[:60]!r} is not four numbers") from None
    if not (math.isfinite(left + top) and 0 < width < math.inf and 0 < height < math.inf):
        raise Refused("syntax", f"the canvas {asked[:60]!r} is not a rectangle")
    return left, top, width, height


def prepare() -> None:
    """Import what draws; in a worker, before it is confined."""
    import lxml.etree  # noqa: F401
    import resvg_py  # noqa: F401
    from PIL import ImageColor, PngImagePlugin  # noqa: F401

    _font()


def draw(code: str, size: int, background: str, box: Box) -> tuple[str, str, bytes]:
    """Status, message and the pixels as RGB bytes, row by row. `Refused` if the guard or resvg will not have it."""
    xml = guard.clean(code, size, box)
    try:
        return see(rasterise(xml, size, background), background)
    except ValueError as error:
        raise Refused("syntax", str(error).splitlines()[0]) from None


def rasterise(xml: bytes, size: int, background: str) -> bytes:
    """A drawing with a canvas of ``size`` x ``size`` as PNG. ValueError if resvg cannot read it."""
    import resvg_py

    # reading the font takes longer than drawing a small picture
    fonts = {"font_files": [_font()], **{f"{kind}_family": _FONT[2] for kind in _FAMILIES}} if b"<text" in xml else {}
    return resvg_py.svg_to_bytes(
        svg_string=xml.decode(), background=background, skip_system_fonts=True, width=size, height=size, **fonts
    )


def see(png: bytes, background: str) -> tuple[str, str, bytes]:
    """A PNG as status, message and RGB bytes; a picture in nothing but its background is empty."""
    from PIL import ImageColor, PngImagePlugin

    picture = PngImagePlugin.PngImageFile(io.BytesIO(png)).convert("RGB")
    colors = picture.getcolors(1)
    blank = colors is not None and colors[0][1] == ImageColor.getrgb(background)
    return "empty" if blank else "ok", "nothing can be seen" if blank else "", picture.tobytes()


@cache
def _font() -> str:
    module, name, _ = _FONT
    spec = find_spec(module)
    if spec is None or spec.origin is None:
        raise ValueError(f"the font {name} needs a package: pip install {module.replace('_', '-')}")
    return str(Path(spec.origin).parent / "files" / name)
