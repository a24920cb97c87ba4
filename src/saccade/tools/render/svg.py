"""The back end of SVG: resvg, behind the guard, with one bundled font for all font families."""

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

LIMITS = Limits(characters=guard.CHARACTERS, seconds=5.0, cpu_seconds=0.2, memory_mb=1024)
BOX: Box = (0.0, 0.0, 32.0, 32.0)
"""The canvas of the world of programs."""
PROBE = '<svg xmlns="http://www.w3.org/2000/svg"><rect x="8" y="8" width="16" height="16" fill="red"/></svg>'

_TAG = re.compile(r"<svg\b|</svg\s*>")
_DRAWING = re.compile(r"<svg\b(?=[^<>]*+>\s*+<)(?![^<>]*/>)|</svg\s*>")
"""The beginning of a drawing with content, not a word that speaks of <svg>; or the end of one."""
_FONT = ("font_roboto", "Roboto-Regular.ttf", "Roboto")
_FAMILIES = ("font", "serif", "sans_serif", "cursive", "fantasy", "monospace")


@cache
def renderer() -> str:
    """The version of resvg-py, which determines that of resvg, and the font. ValueError if they are not installed."""
    try:
        version("lxml")
        return f"resvg-py {version('resvg-py')}, {_FONT[1]}"
    except PackageNotFoundError:
        raise ValueError("rendering SVG needs packages: pip install resvg-py lxml") from None


def find_program(text: str) -> str:
    """The last complete outermost <svg>…</svg> of a text, else all from the last <svg on, else the text.

    Comments are left out: they draw nothing, and the guard would refuse them.
    """
    plain = _without_comments(text)
    complete, begun = _outermost(plain, _DRAWING)
    if complete is None and begun is None:
        complete, begun = _outermost(plain, _TAG)
    return complete or plain[begun or 0 :].strip()


def _outermost(text: str, tags: re.Pattern[str]) -> tuple[str | None, int | None]:
    """The last complete outermost <svg>…</svg> by these tags, and where one begins that does not end."""
    start, depth, last = None, 0, None
    for tag in tags.finditer(text):
        opens = tag[0] == "<svg"
        start = tag.start() if opens and depth == 0 else start
        depth = max(depth + (1 if opens else -1), 0)
        if not opens and depth == 0 and start is not None:
            last, start = text[start : tag.end()], None
    return last, start


def _without_comments(text: str) -> str:
    # a regular expression would take quadratic time on comments without an end
    kept, rest = "", text
    while True:
        before, _, inside = rest.partition("<!--")
        _, closed, after = inside.partition("-->")
        if not closed:
            return kept + rest
        kept, rest = kept + before, after


def declared_canvas(code: str) -> Box:
    """The viewBox of a program, else its width and height. `Refused` if it has neither."""
    root = guard.parse_xml(code)
    declared = root.get("viewBox") or f"0 0 {root.get('width')} {root.get('height')}"
    try:
        left, top, width, height = (float(v.removesuffix("px")) for v in re.split(r"[\s,]+", declared.strip()))
    except ValueError:
        raise Refused("syntax", f"the canvas {declared[:60]!r} is not four numbers") from None
    if not (math.isfinite(left + top) and 0 < width < math.inf and 0 < height < math.inf):
        raise Refused("syntax", f"the canvas {declared[:60]!r} is not a rectangle")
    return left, top, width, height


def prepare() -> None:
    """Import what rendering needs; called in a worker, before it is confined."""
    import lxml.etree  # noqa: F401
    import resvg_py  # noqa: F401
    from PIL import ImageColor, PngImagePlugin  # noqa: F401

    _font()


def draw(code: str, size: int, background: str, box: Box) -> tuple[str, str, bytes]:
    """Status, message and the pixels as RGB bytes, row by row. `Refused` if the guard or resvg rejects the program."""
    xml = guard.sanitize(code, size, box)
    try:
        return read_png(rasterize(xml, size, background), background)
    except ValueError as error:
        raise Refused("syntax", str(error).splitlines()[0]) from None


def rasterize(xml: bytes, size: int, background: str) -> bytes:
    """A PNG of ``size`` x ``size`` pixels of an SVG. ValueError if resvg cannot read it."""
    import resvg_py

    # loading the font takes longer than rendering a small picture
    fonts = {"font_files": [_font()], **{f"{kind}_family": _FONT[2] for kind in _FAMILIES}} if b"<text" in xml else {}
    return resvg_py.svg_to_bytes(
        svg_string=xml.decode(), background=background, skip_system_fonts=True, width=size, height=size, **fonts
    )


def read_png(png: bytes, background: str) -> tuple[str, str, bytes]:
    """Status, message and RGB bytes of a PNG; a picture of only the background color is "empty"."""
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
