"""Sanitizing of SVG before it is rendered: only small drawings of known elements without external references pass.

The result is written from the parsed tree, with a new root element, so the canvas that the program declares is gone.
"""

from __future__ import annotations

import re
from typing import Any

from saccade.tools.render.results import Box, Refused

CHARACTERS, ELEMENTS, SPANS, DEPTH, NUMBER = 20_000, 2_000, 100, 32, 1e5
SVG = "http://www.w3.org/2000/svg"
ALLOWED = frozenset(
    "svg g defs use title rect circle ellipse line polyline polygon path text tspan linearGradient radialGradient stop "
    "clipPath style symbol mask pattern a filter feBlend feColorMatrix feComponentTransfer feComposite feDropShadow "
    "feFlood feFuncA feFuncB feFuncG feFuncR feGaussianBlur feMerge feMergeNode feOffset".split()
)
_SILENT = frozenset(("desc", "metadata"))
"""Elements that draw nothing; they are left out, and so are those of other namespaces, which editors write."""
_XLINK = "{http://www.w3.org/1999/xlink}href"
_CANVAS = ("viewBox", "width", "height", "preserveAspectRatio", "x", "y")
_NOT_NUMERIC = frozenset(("id", "class", "href", "font-family"))
"""Attributes whose digits are not numbers."""

_NUMBER = re.compile(r"#[\w-]*|(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?")
_LONG = re.compile(r"[0-9]{6}|[0-9][eE]")
"""Matches every text with a number above NUMBER (and some others)."""
_REFERENCE = re.compile(r"url\s*\(\s*['\"]?\s*([^'\")\s]*)", re.IGNORECASE)


def sanitize(code: str, size: int, box: Box) -> bytes:
    """The program as XML that shows ``box`` on ``size`` x ``size`` pixels. `Refused` if it is not allowed."""
    root = parse_svg(code)
    for element in list(root.iter()):
        if element is not root and element.getparent() is not None and _is_silent(element):
            _remove(element)
    elements = list(root.iter())
    if len(elements) > ELEMENTS:
        raise Refused("too_large", f"{len(elements)} elements, more than {ELEMENTS}")
    spans = sum(_local(element) == "tspan" for element in elements)
    if spans > SPANS:  # resvg takes time with their square
        raise Refused("too_large", f"{spans} <tspan>, more than {SPANS}")
    names: dict[str, Any] = {}
    for element in elements:
        _check(element, names)
    _Expansion(names).measure(root, 1)
    return _framed(root, size, box)


def parse_svg(code: str) -> Any:
    """The root element of an SVG. `Refused` if it is too long, has declarations or instructions, or is no SVG."""
    if len(code) > CHARACTERS:
        raise Refused("too_large", f"{len(code)} characters, more than {CHARACTERS}")
    for opening in ("<!", "<?"):
        if opening in code:
            raise Refused("unsafe", f"{opening!r} (declarations, comments, instructions) is not allowed")
    root = parse_xml(code)
    if _local(root) != "svg":
        raise Refused("syntax", f"the root is <{_local(root)[:40]}>, not <svg>")
    return root


def parse_xml(code: str) -> Any:
    """The root element of strict XML, without network and entities. `Refused` if it is not well-formed."""
    from lxml import etree

    parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False, huge_tree=False)
    try:
        return etree.fromstring(code.encode(), parser)
    except UnicodeEncodeError as error:
        raise Refused("syntax", f"not a text: {error.reason}") from None
    except etree.XMLSyntaxError as error:
        status = "too_large" if "xcessive depth" in str(error) else "syntax"
        raise Refused(status, str(error.msg).splitlines()[0] if code.strip() else "there is no program") from None


def _local(element: Any) -> str:
    """The name of an element; in another namespace than SVG's it keeps its namespace, and so is never allowed."""
    return element.tag.removeprefix(f"{{{SVG}}}")


def _is_silent(element: Any) -> bool:
    return _local(element) in _SILENT or (element.tag.startswith("{") and not element.tag.startswith(f"{{{SVG}}}"))


def _remove(element: Any) -> None:
    """Take an element out; the text behind it stays."""
    parent, before = element.getparent(), element.getprevious()
    if element.tail and before is not None:
        before.tail = (before.tail or "") + element.tail
    elif element.tail:
        parent.text = (parent.text or "") + element.tail
    parent.remove(element)


def _check(element: Any, names: dict[str, Any]) -> None:
    """Refuse or repair one element; ``names`` collects elements by id, the first of equal ids."""
    if _local(element) not in ALLOWED:
        raise Refused("unsafe", f"element {_local(element)[:60]!r} is not allowed")
    if _local(element) == "style":
        _check_style(element.text or "")
    for name, value in element.items():
        if name == "href" or name == _XLINK:
            if not value.startswith("#"):
                raise Refused("unsafe", f"href {value[:60]!r} refers to something outside the drawing")
        elif name.startswith(("{", "on")) or (name == "id" and names.setdefault(value, element) is not element):
            del element.attrib[name]
        elif name not in _NOT_NUMERIC:
            _check_value(name, value)


def _check_style(text: str) -> None:
    """Refuse a style sheet that imports another, or hides a reference behind an escape."""
    for mark in ("@", "\\"):
        if mark in text:
            raise Refused("unsafe", f"a style sheet with {mark!r} is not allowed")
    _check_value("style", text)


def _check_value(name: str, value: str) -> None:
    for target in _REFERENCE.findall(value):
        if not target.startswith("#"):
            raise Refused("unsafe", f"{name} refers to {target[:60]!r}, outside the drawing")
    if _LONG.search(value):
        for number in _NUMBER.findall(value):
            if number[0] != "#" and float(number) > NUMBER:
                raise Refused("too_large", f"{name} has the number {number[:40]}, beyond {NUMBER:g}")


class _Expansion:
    """Size and depth of a drawing with all references resolved."""

    def __init__(self, names: dict[str, Any]) -> None:
        self._names = names
        self._known: dict[Any, tuple[int, int]] = {}
        self._open: set[Any] = set()

    def measure(self, element: Any, depth: int) -> tuple[int, int]:
        """Number of elements drawn for ``element``, and levels below it.

        `Refused` for more than ELEMENTS or DEPTH, and for circular references.
        """
        if element in self._open:
            raise Refused("unsafe", f"<{_local(element)}> refers to itself")
        if element not in self._known and depth <= DEPTH:
            self._open.add(element)
            self._known[element] = self._sum(element, depth)
            self._open.remove(element)
        count, levels = self._known.get(element, (1, 1))
        if depth + levels - 1 > DEPTH:
            raise Refused("too_large", f"more than {DEPTH} elements within one another")
        if count > ELEMENTS:
            raise Refused("too_large", f"more than {ELEMENTS} elements once <use> is followed")
        return count, levels

    def _sum(self, element: Any, depth: int) -> tuple[int, int]:
        count, levels = 1, 0
        for child, drawn in [*((child, True) for child in element), *self._references(element)]:
            size, below = self.measure(child, depth + 1)
            count, levels = count + size * drawn, max(levels, below)
        return count, levels + 1

    def _references(self, element: Any) -> list[tuple[Any, bool]]:
        """The elements that an element refers to, and whether they are drawn again (<use>) or not (paint, clip)."""
        found = []
        for name, value in element.items():
            targets = (
                [value] if name in ("href", _XLINK) else _REFERENCE.findall(value) if "url" in value.lower() else []
            )
            known = (self._names.get(target[1:]) for target in targets)
            found += [(target, _local(element) == "use") for target in known if target is not None]
        return found


def _framed(root: Any, size: int, box: Box) -> bytes:
    from lxml import etree

    for name in _CANVAS:
        root.attrib.pop(name, None)
    root.set("viewBox", " ".join(f"{v:.9g}" for v in box))
    root.set("width", str(size))
    root.set("height", str(size))
    drawing = etree.tostring(root)
    # browsers render a drawing without a namespace too
    return drawing if root.tag != "svg" else drawing.replace(b"<svg", f'<svg xmlns="{SVG}"'.encode(), 1)
