"""Rendering hostile programs: nothing is read, fetched or brought down, and the same program always gives the same
picture.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from saccade.tools.render import (
    RendererBroken,
    Request,
    declared_canvas,
    find_program,
    guard,
    render,
    render_batch,
    sandbox,
)
from saccade.tools.render.cache import Cache
from saccade.tools.render.pool import Pool
from saccade.tools.render.results import Render

OPEN = '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="0 0 32 32">'
RECT = '<rect x="4" y="4" width="12" height="12" fill="red"/>'


def svg(body: str) -> str:
    return f"{OPEN}{body}</svg>"


def bomb(levels: int, width: int) -> str:
    groups = (f'<g id="g{i + 1}">' + f'<use xlink:href="#g{i}"/>' * width + "</g>" for i in range(levels))
    return svg(f'<g id="g0">{RECT}</g>' + "".join(groups))


def chain(links: int) -> str:
    """Groups within groups through <use>, none of them deep as written."""
    link = lambda i: f'<g id="g{i}">' + "<g>" * 20 + f'<use href="#g{i + 1}"/>' + "</g>" * 20 + "</g>"
    return svg("".join(link(i) for i in range(links)) + f'<g id="g{links}">{RECT}</g>')


ATTACKS = {
    "empty string": ("", "syntax"),
    "blank": ("  \n", "syntax"),
    "no program": ("I cannot draw that.", "syntax"),
    "other root": ("<html><svg/></html>", "syntax"),
    "truncated": (svg(RECT)[:-20], "syntax"),
    "null character": (svg(RECT) + "\0", "syntax"),
    "half a surrogate pair": ("\ud800" + svg(RECT), "syntax"),
    "unknown entity": (svg("&boom;"), "syntax"),
    "invalid attribute": (svg(RECT + '<circle cx="a" r="many"/>'), "ok"),
    "invalid path": (svg(RECT + '<path d="M0 0 L 9 nowhere"/>'), "ok"),
    "nothing drawn": (svg("<g/>"), "empty"),
    "everything outside": (svg('<rect x="99" width="5" height="5"/>'), "empty"),
    "white on white": (svg('<rect width="32" height="32" fill="#ffffff"/>'), "empty"),
    "31 levels": (svg("<g>" * 30 + RECT + "</g>" * 30), "ok"),
    "32 levels and the root": (svg("<g>" * 31 + RECT + "</g>" * 31), "too_large"),
    "300 levels": (svg("<g>" * 300 + "</g>" * 300), "too_large"),
    "2,800 levels": ("<svg>" + "<g>" * 2_800 + "</g>" * 2_800 + "</svg>", "too_large"),
    "unclosed levels": (OPEN + "<g>" * 3_000, "too_large"),
    "use bomb": (bomb(7, 10), "too_large"),
    "use chain": (chain(20), "too_large"),
    "use of itself": (svg('<g id="a"><use href="#a"/></g>'), "unsafe"),
    "use of nothing": (svg(RECT + '<use href="#none"/>'), "ok"),
    "clip chain": (svg("".join(f'<clipPath id="c{i}" clip-path="url(#c{i + 1})"/>' for i in range(99))), "too_large"),
    "gradient chain": (svg("".join(f'<linearGradient id="c{i}" href="#c{i + 1}"/>' for i in range(99))), "too_large"),
    "entity bomb": ('<!DOCTYPE svg [<!ENTITY a "ha"><!ENTITY b "&a;&a;">]>' + svg("&b;"), "unsafe"),
    "external entity": ('<!DOCTYPE svg [<!ENTITY a SYSTEM "file:///etc/passwd">]>' + svg("<text>&a;</text>"), "unsafe"),
    "instruction": ('<?xml-stylesheet href="http://127.0.0.1/"?>' + svg(RECT), "unsafe"),
    "comment": (svg(f"<!-- {RECT} -->"), "unsafe"),
    "image by path": (svg('<image href="/etc/hostname" width="9" height="9"/>'), "unsafe"),
    "image by url": (svg('<image xlink:href="file:///etc/hostname" width="9" height="9"/>'), "unsafe"),
    "image inside": (svg('<image href="data:image/png;base64,AAAA"/>'), "unsafe"),
    "use of a file": (svg('<use href="other.svg#a"/>'), "unsafe"),
    "paint of a file": (svg('<rect width="9" height="9" fill="url(other.svg#a)"/>'), "unsafe"),
    "paint in a style": (svg("<rect width='9' height='9' style='fill : URL( \"http://127.0.0.1/#a\" )'/>"), "unsafe"),
    "script": (svg("<script>alert(1)</script>" + RECT), "unsafe"),
    "style sheet": (svg("<style>@import url(http://127.0.0.1/)</style>" + RECT), "unsafe"),
    "foreign object": (svg("<foreignObject><p/></foreignObject>"), "unsafe"),
    "other vocabulary": (svg('<x:rect xmlns:x="urn:x"/>'), "empty"),
    "imported style": (svg("<style>@import url(http://x/a.css);</style>" + RECT), "unsafe"),
    "escaped style": (svg("<style>rect{fill:\\75rl(http://x)}</style>" + RECT), "unsafe"),
    "style from outside": (svg("<style>rect{fill:url(http://x#a)}</style>" + RECT), "unsafe"),
    "picture in a filter": (svg('<filter id="f"><feImage href="file:///etc/passwd"/></filter>' + RECT), "unsafe"),
    "huge blur": (svg('<filter id="f"><feGaussianBlur stdDeviation="9999"/></filter>'), "empty"),
    "tiny pattern": (svg('<pattern id="p" width=".0001" height=".0001"/>'), "empty"),
    "event handler": (svg(RECT.replace("/>", ' onload="fetch(1)"/>')), "ok"),
    "endless dashes": (svg(RECT + '<path d="M0 0L32 32" stroke="red" stroke-dasharray="0.00001"/>'), "ok"),
    "nested scales": (svg('<g transform="scale(99999)">' * 28 + RECT + "</g>" * 28 + RECT), "ok"),
    "number too large": (svg('<rect width="100001" height="9"/>'), "too_large"),
    "canvas of 1,000,000": (f'<svg width="1000000" height="1000000">{RECT}</svg>', "too_large"),
    "infinite number": (svg('<path d="M0 0L1e999 9"/>'), "too_large"),
    "number in a style": (svg('<rect width="9" height="9" style="stroke-width:1e6"/>'), "too_large"),
    "color is no number": (svg('<rect width="9" height="9" fill="#999999" id="a1e99"/>'), "ok"),
    "20,001 characters": (svg(RECT + " " * 20_001)[:20_001], "too_large"),
    "2,001 elements": (svg("<g/>" * 2_000), "too_large"),
    "a twin's id": (svg('<g id="a"><rect id="a" width="9" height="9"/></g><use href="#a"/>'), "ok"),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_has_its_status(name):
    code, status = ATTACKS[name]
    result = render(code, "svg", 32)
    assert (result.status, result.message != "") == (status, status != "ok"), result.message
    assert (result.picture is not None) == (status in ("ok", "empty"))
    assert "\n" not in result.message and result.ms < 2000


def test_the_programs_canvas_changes_nothing():
    plain = render(svg(RECT), "svg", 32).picture
    for canvas_ in ('viewBox="0 0 4 4"', 'width="99999" height="3"', 'viewBox="8 8 9 2" preserveAspectRatio="none"',
                    'x="9" y="9"', 'style="width:1px;height:9px"', ""):  # fmt: skip
        code = f'<svg xmlns="http://www.w3.org/2000/svg" {canvas_}>{RECT}</svg>'
        assert (render(code, "svg", 32).picture == plain).all(), canvas_
    assert (render(f"<svg>{RECT}</svg>", "svg", 32).picture == plain).all(), "a browser needs no namespace either"


def test_the_box_is_the_requests_own():
    half = render(svg('<rect width="8" height="16" fill="red"/>'), "svg", 32, box=(0, 0, 16, 16)).picture
    assert (half[:, :16] == (255, 0, 0)).all() and (half[:, 16:] == 255).all()
    wide = render(svg('<rect width="32" height="16" fill="red"/>'), "svg", 32, "#000000", (0, 0, 32, 16)).picture
    assert (wide[8:24] == (255, 0, 0)).all() and not wide[:8].any() and not wide[24:].any(), "centred, aspect kept"


@pytest.mark.parametrize("family", ["", "Arial", "serif", "Nowhere, monospace"])
def test_text_is_visible_in_any_family(family):
    word = f'<text x="2" y="22" font-size="16" font-family="{family}">Hig</text>'
    assert (render(svg(word), "svg", 64).picture < 128).all(-1).sum() > 100


def test_no_file_is_read(tmp_path):
    secret = tmp_path / "secret.png"
    Image.new("RGB", (32, 32), (1, 254, 77)).save(secret)
    (tmp_path / "secret.svg").write_text(svg('<rect id="a" width="32" height="32" fill="#01fe4d"/>'))
    places = [f"{scheme}{path}" for path in (secret, tmp_path / "secret.svg") for scheme in ("", "file://", "file:")]
    forms = (
        '<image {0}="{1}" width="32" height="32"/>',
        '<use {0}="{1}#a"/>',
        '<rect width="32" height="32" fill="url({1}#a)"/>',
    )
    codes = [svg(form.format(name, place)) for form in forms for name in ("href", "xlink:href") for place in places]
    codes += [
        svg(f'<g xml:base="{tmp_path}/"><use href="secret.svg#a"/></g>'),
        f'<svg xml:base="{secret}">{RECT}</svg>',
    ]
    for result in render_batch([Request(code, size=32) for code in codes]):
        assert result.picture is None or not (result.picture == (1, 254, 77)).all(-1).any()


def test_nothing_is_fetched():
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        place = f"http://127.0.0.1:{server.getsockname()[1]}/a.png"
        bodies = (
            f'<image href="{place}" width="9" height="9"/>',
            f'<use href="{place}#a"/>',
            f'<rect style="fill:url({place})"/>',
        )
        prologs = (f'<!DOCTYPE svg SYSTEM "{place}">', f'<?xml-stylesheet href="{place}"?>', "")
        render_batch([Request(prolog + svg(body), size=32) for prolog in prologs for body in bodies])
        with pytest.raises(BlockingIOError):
            server.accept()


GROUP = '<g id="a"><circle cx="9" cy="9" r="4" fill="#00f"/></g>'
GOOD = svg(f'{RECT}{GROUP}<path d="M1 2L9 9A3 3 0 1 1 5 5Z"/><text>Hi</text>')
PIECES = (
    RECT,
    "<g>",
    "</g>",
    "</svg>",
    OPEN,
    '<use href="#a"/>',
    ' id="b"',
    "&#0;",
    "&lt;",
    "9" * 400,
    "-",
    "NaN",
    "\x01",
    "]]>",
    '"',
    "<",
    ">",
    "ÿ",
    "<image/>",
    ' transform="scale(0)"',
    "<!---->",
)
NAMES = (*sorted(guard.ALLOWED), *("g", "rect", "circle", "path", "use", "text") * 4, "image")
VALUES = (
    *map(str, range(2, 20)),
    "0",
    "-1",
    "1e-38",
    "1e5",
    "-99999",
    "NaN",
    "",
    "50%",
    "9in",
    "red",
    "none",
    "url(#a)",
    "url(#b)",
    "#a",
    "#b",
    "evenodd",
    "scale(0)",
    "matrix(1 1 1 1 1 1)",
    "rotate(9e4)",
    "scale(99999 1e-9)",
    "userSpaceOnUse",
    "0 0 1 1",
    "1 0.001 3",
    "a",
    "M0 0L9 9 1e5 3A.01 9e4 7 1 1 9 9Z",
    "M1 1C1 1 1 1 1 1h9999v-1e-9z",
    "m0 0q1 1 99999 9t3 3",
    "3,4 5,6 9,1",
    "fill:red;opacity:.5",
    "stroke:#00f;stroke-width:1e5",
    "round",
    "italic",
)
ATTRIBUTES = (
    "x",
    "y",
    "width",
    "height",
    "cx",
    "cy",
    "r",
    "rx",
    "ry",
    "d",
    "points",
    "fill",
    "stroke",
    "stroke-width",
    "transform",
    "stroke-dasharray",
    "stroke-dashoffset",
    "clip-path",
    "href",
    "id",
    "style",
    "opacity",
    "offset",
    "viewBox",
    "font-size",
    "gradientUnits",
    "gradientTransform",
    "clipPathUnits",
    "stroke-linecap",
    "x1",
    "x2",
    "fill-rule",
    "display",
    "letter-spacing",
)


def mutant(rng: random.Random) -> str:
    """A good program with a few edits."""
    code = GOOD
    for _ in range(rng.randint(1, 3)):
        a, b = rng.randrange(len(code) + 1), rng.randrange(len(code) + 1)
        code = rng.choice((
            code[:a] + rng.choice(PIECES) + code[a:],
            code[:a] + code[a + 9 :],
            code[:b] + code[a : a + 40] + code[b:],
            code[:a] + chr(rng.randrange(32, 127)) + code[a + 1 :],
        ))  # fmt: skip
    return code


def monster(rng: random.Random, depth: int = 0) -> str:
    """A well-formed tree of allowed elements with attributes where they do not belong."""
    name = rng.choice(NAMES) if depth else "svg"
    likely = {
        name: str(rng.randrange(20)) for name in ("x", "cy", "width", "height", "r", "d", "fill") if rng.random() < 0.5
    }
    odd = {rng.choice(ATTRIBUTES): rng.choice(VALUES) for _ in range(rng.randint(0, 4))}
    attributes = likely | odd if depth else {}
    if "href" in attributes:
        attributes["href"] = rng.choice(("#a", "#b", "#none"))
    inside = "".join(monster(rng, depth + 1) for _ in range(rng.randint(0, 4) if depth < 4 else 0))
    return f"<{name} {' '.join(f'{k}={v!r}' for k, v in attributes.items())}>{inside or 'Hi'}</{name}>"


def test_ten_thousand_mutants_do_no_harm():
    rng = random.Random(0)
    for make, wanted in ((mutant, ("ok", "syntax", "unsafe")), (monster, ("ok", "empty", "unsafe"))):
        results = render_batch([Request(make(rng), size=16) for _ in range(5_000)])
        found = Counter(one.status for one in results)
        assert not {"crash", "timeout"} & set(found), found
        assert min(found[status] for status in wanted) > 100, found


@pytest.fixture
def reckless():
    pool = Pool("reckless_renderer", 2)
    yield lambda *codes: pool.run(
        [{"code": code, "size": 4, "background": "#fff", "box": (0, 0, 1, 1)} for code in codes]
    )
    workers = pool.pids()
    pool.close()
    assert not any(Path(f"/proc/{pid}").exists() for pid in workers), "no zombies"


def test_a_worker_that_falls_is_replaced(reckless):
    answers = reckless("draw a", "nest", "draw bb", "leave", "draw ccc")
    assert [one.status for one in answers] == ["ok", "crash", "ok", "crash", "ok"]
    assert [len(one.pixels) and one.pixels[0] for one in answers] == [1, 0, 2, 0, 3], (
        "every answer is of its own program"
    )
    assert "SIGSEGV" in answers[1].message and "status 0" in answers[3].message
    assert reckless("draw again")[0].status == "ok"


def test_a_worker_that_hangs_is_replaced(reckless):
    start = time.monotonic()
    answers = reckless("sleep", "draw a", "spin", "draw bb", "stop")
    assert [one.status for one in answers] == ["timeout", "ok", "timeout", "ok", "timeout"]
    assert time.monotonic() - start < 20
    assert (answers[0].deterministic, answers[2].deterministic) == (False, True), "CPU seconds are the program's own"


def test_what_a_worker_may_not_do(reckless, tmp_path, monkeypatch):
    monkeypatch.setenv("SECRET_KEY", "x")
    words = reckless("hoard", "print", "shout", "raise", f"write {tmp_path / 'a'}", "environment", "draw a")
    assert [one.status for one in words] == ["too_large", "ok", "crash", "crash", "unsafe", "syntax", "ok"]
    assert "SECRET_KEY" not in words[5].message and "ZeroDivisionError" in words[3].message
    assert not (tmp_path / "a").exists() or not (tmp_path / "a").read_bytes()


@pytest.mark.skipif(sandbox.offered() != sandbox.PARTS, reason="this system does not let a process give up its rights")
def test_a_worker_has_no_network_no_programs_and_no_privileges(reckless):
    (answer,) = reckless("call")
    assert "Connection refused" not in answer.message and "NoNewPrivs:\t1" in answer.message, answer
    assert answer.message.count("Operation not permitted") == 2, answer


def test_many_spans_are_refused_before_they_are_drawn():
    spans = "<tspan>a</tspan>" * 1100
    one = render(svg(f'<text x="1" y="20">{spans}</text>'), "svg", 32)
    assert (one.status, one.message) == ("too_large", "1100 <tspan>, more than 100")


def test_a_fall_that_is_not_the_programs_fault_is_forgiven(reckless, tmp_path):
    assert [one.status for one in reckless(f"once {tmp_path / 'a'}", "draw a")] == ["ok", "ok"]


def test_a_renderer_that_cannot_draw_stops_the_run(tmp_path, monkeypatch):
    (tmp_path / "broken_renderer.py").write_text(
        "from reckless_renderer import *\ndef prepare():\n    raise ImportError('no such library')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    pool = Pool("broken_renderer", 2)
    for _ in range(2):
        with pytest.raises(RendererBroken, match="ImportError: no such library"):
            pool.run([{"code": "draw", "size": 4, "background": "#fff", "box": (0, 0, 1, 1)}])
    assert not pool.pids()


def test_threads_take_turns(reckless):
    found = {}
    ask = lambda n: found.update({n: [one.pixels[0] for one in reckless(*["draw " + "x" * n] * 5)]})
    threads = [threading.Thread(target=ask, args=(n,)) for n in range(1, 5)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert found == {n: [n] * 5 for n in range(1, 5)}


PARENT = """
import os, sys, time
from saccade.tools.render import render
from saccade.tools.render import service
code = sys.argv[1]
one = render(code, "svg", 32)
if sys.argv[2] == "fork" and os.fork() == 0:
    two = render(code.replace("red", "blue"), "svg", 32)  # workers of its own
    assert two.status == "ok" and service._pool(os.getpid(), "svg").pids() != service._pool(os.getppid(), "svg").pids()
    time.sleep(60)
if sys.argv[2] == "fork":
    time.sleep(1.0)
    assert render(code.replace("red", "green"), "svg", 32).status == "ok"
print("torch" in sys.modules, one.picture.tobytes().hex(), *service._pool(os.getpid(), "svg").pids(), flush=True)
if sys.argv[2] != "end":
    time.sleep(60)
"""


def parent(way: str) -> tuple[subprocess.Popen, list[str]]:
    command = [sys.executable, "-c", PARENT, svg(RECT), way]
    env = os.environ | {"PYTHONPATH": ":".join(sys.path)}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env, start_new_session=True)
    return process, process.stdout.readline().split()


@pytest.mark.parametrize("way", ["end", "killed", "fork"])
def test_workers_end_with_their_parent(way):
    process, (torch_, pixels, *pids) = parent(way)
    try:
        assert torch_ == "False" and pids
        assert bytes.fromhex(pixels) == render(svg(RECT), "svg", 32).picture.tobytes(), "same bytes in two processes"
        if way != "end":
            process.kill()
        process.wait(20)
        until = time.monotonic() + 20
        while any(Path(f"/proc/{pid}").exists() for pid in pids) and time.monotonic() < until:
            time.sleep(0.05)
        assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.stdout.close()


def test_a_program_is_drawn_once():
    codes = [svg(f'<rect x="{i}" width="3" height="3"/>') for i in (1, 2, 1)]
    first, second, third = render_batch([Request(code, size=24) for code in codes])
    assert first is third and first is not second and not first.picture.flags.writeable
    assert render(codes[0], "svg", 24) is first
    assert render(codes[0], "svg", 25) is not first and render(codes[0], "svg", 24, "#eee") is not first
    assert first.hash == hashlib.sha256(codes[0].encode()).hexdigest() and "resvg" in first.renderer


def test_the_cache_forgets_the_oldest():
    cache = Cache(3 * (1024 + 300))
    entry = Render(np.zeros((10, 10, 3), np.uint8), "ok", "", 0.0, "", "")
    for key in "abc":
        cache.put(key, entry)
    assert cache.get("a") is entry
    cache.put("d", entry)
    assert [cache.get(key) is not None for key in "abcd"] == [True, False, True, True]


@pytest.mark.parametrize(("given", "words"), [
    (("x", "svgg"), "unknown language 'svgg'; nearest: svg"),
    ((b"x", "svg"), "a program must be a text, not bytes"),
    (("x", "svg", 0), "size is 0"),
    (("x", "svg", 8, "white"), "background 'white' must be"),
    (("x", "svg", 8, "#fff", (0, 0, 0, 9)), "box"),
])  # fmt: skip
def test_a_request_without_sense_is_refused(given, words):
    with pytest.raises(ValueError, match=words):
        Request(*given)


@pytest.mark.parametrize(("text", "code"), [
    ("Here:\n```svg\n<svg><g/></svg>\n```\nDone.", "<svg><g/></svg>"),
    ("<svg>1</svg> or better <svg >2</svg>", "<svg >2</svg>"),
    ("<svg>a<svg>b</svg></svg>", "<svg>a<svg>b</svg></svg>"),
    ("so <svg><rect", "<svg><rect"),
    ('<?xml version="1.0"?>\n<!DOCTYPE svg PUBLIC "a" "b">\n<svg><!-- <svg> --></svg>', "<svg></svg>"),
    (" no drawing ", "no drawing"),
    ("</svg></svg><svg>", "<svg>"),
])  # fmt: skip
def test_a_program_is_found_in_a_text(text, code):
    assert find_program(text, "svg") == code


def test_finding_takes_no_longer_than_reading():
    start = time.process_time()
    for piece in ("<!--", "<svg", "</svg ", "<svg></svg>", "<!---->"):
        find_program(piece * 20_000, "svg")
    assert time.process_time() - start < 2


def test_the_canvas_of_a_program():
    assert declared_canvas('<svg viewBox="0,0 24 , 12"/>', "svg") == (0, 0, 24, 12)
    assert declared_canvas('<svg width="24px" height="12"/>', "svg") == (0, 0, 24, 12)


@pytest.mark.parametrize(
    "body",
    [
        '<style>.a{fill:red}</style><rect class="a" width="9" height="9"/>',
        "<desc>d</desc><metadata/>" + RECT,
        f'<symbol id="s">{RECT}</symbol><use href="#s"/>',
        f'<mask id="m"><rect width="32" height="32" fill="#fff"/></mask><g mask="url(#m)">{RECT}</g>',
        f'<pattern id="p" width=".5" height=".5">{RECT}</pattern><rect width="32" height="32" fill="url(#p)"/>',
        f'<filter id="f"><feGaussianBlur stdDeviation="1"/></filter><g filter="url(#f)">{RECT}</g>',
        f'<a href="#x">{RECT}</a>',
        f'<n:namedview xmlns:n="urn:n"/>{RECT}',
    ],
)
def test_what_drawing_programs_write_is_drawn(body):
    assert render(svg(body), "svg", 32).status == "ok"


@pytest.mark.parametrize("words", ["{}\nThe <svg> element ends with </svg>.", "Here is the `<svg>`:\n```svg\n{}\n```"])
def test_words_that_speak_of_svg_are_no_program(words):
    assert find_program(words.format(svg(RECT)), "svg") == svg(RECT)
