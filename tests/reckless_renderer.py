"""A back end that does what it is told: the first word of its program is a deed. For the tests of the workers."""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from pathlib import Path

from saccade.tools.render import svg
from saccade.tools.render.results import Box, Limits, Refused

LIMITS = Limits(characters=200, seconds=1.0, cpu_seconds=0.05, memory_mb=512)
PROBE = "draw"
BOX: Box = (0.0, 0.0, 32.0, 32.0)


def renderer() -> str:
    return "reckless"


def prepare() -> None:
    svg.prepare()


def draw(code: str, size: int, background: str, box: Box) -> tuple[str, str, bytes]:
    deed, _, rest = code.partition(" ")
    _DEEDS[deed](rest)
    return "ok", rest, bytes([len(rest)]) * (3 * size * size)


def _nest(_: str) -> None:
    """No guard before resvg: its parser runs out of stack."""
    groups = 20_000
    svg.rasterize(f'<svg xmlns="{svg.guard.SVG}">{"<g>" * groups}{"</g>" * groups}</svg>'.encode(), 32, "#fff")


def _spin(_: str) -> None:
    while True:
        pass


def _hoard(_: str) -> None:
    bytearray(1 << 30)


def _once(path: str) -> None:
    """Fall the first time, stand the second; an empty file is all that a worker can leave."""
    if not Path(path).exists():
        Path(path).touch()
        os.abort()


def _call(_: str) -> None:
    """What a worker without rights may not do: reach others, become another program, gain privileges."""
    found = []
    try:
        socket.create_connection(("127.0.0.1", 9), timeout=1)
    except OSError as error:
        found.append(error.strerror or str(error))
    try:
        os.execv("/bin/true", ["true"])
    except OSError as error:
        found.append(error.strerror)
    found += [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("NoNewPrivs")]
    raise Refused("unsafe", "; ".join(found))


def _write(path: str) -> None:
    try:
        Path(path).write_bytes(b"x" * 1000)
    except OSError as error:
        raise Refused("unsafe", str(error)) from None


def _environment(_: str) -> None:
    raise Refused("syntax", " ".join(os.environ))


_DEEDS = {
    "call": _call,
    "draw": lambda _: None,
    "nest": _nest,
    "spin": _spin,
    "stop": lambda _: os.kill(os.getpid(), signal.SIGSTOP),
    "sleep": lambda _: time.sleep(60),
    "hoard": _hoard,
    "leave": lambda _: os._exit(0),
    "print": lambda _: (print("x" * 100, flush=True), os.write(1, b"junk" * 100), sys.stdout.flush()),
    "shout": lambda _: [os.write(fd, b"\xff" * 100) for fd in range(3, 8) if _writable(fd)],
    "raise": lambda _: 1 / 0,
    "once": _once,
    "write": _write,
    "environment": _environment,
}


def _writable(fd: int) -> bool:
    try:
        return os.readlink(f"/proc/self/fd/{fd}").startswith("pipe:")
    except OSError:
        return False
