"""The worker's side: one process that renders program after program and holds no secrets.

Its arguments are the back end's module and the parent's process id. Requests come through standard input, answers leave
through the original standard output. A program that runs too long is ended by the kernel, whatever it is doing and
whether the parent still lives; an idle worker ends with its parent. Only what rendering needs is imported, so that a
worker starts in a fraction of a second.
"""

from __future__ import annotations

import json
import os
import resource
import select
import signal
import struct
import sys
import time
from importlib import import_module
from typing import Any, cast

from saccade.tools.render import sandbox
from saccade.tools.render.results import BackEnd, Limits, Refused

REQUEST = struct.Struct("!I")
"""Length of a request, a JSON object."""
ANSWER = struct.Struct("!II")
"""Lengths of an answer's JSON object and of its pixels."""
_IDLE_SECONDS = 2.0


def main() -> None:
    """Answer requests until there are no more, or the parent has ended."""
    sandbox.enter()  # before anything else, while there is one thread
    back_end = cast(BackEnd, import_module(sys.argv[1]))
    parent = int(sys.argv[2])
    answers = _private_output()
    failure = _prepare(back_end)
    while (request := _next(parent)) is not None:
        _send(answers, *(failure or _answer(back_end, request)))


def _private_output() -> int:
    """The pipe of answers, moved to where output of libraries cannot reach it."""
    pipe = os.dup(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return pipe


def _prepare(back_end: BackEnd) -> tuple[dict[str, Any], bytes] | None:
    try:
        back_end.prepare()
        _confine(back_end.LIMITS)
        return None
    except Exception as error:
        return {"status": "crash", "message": f"{type(error).__name__}: {error}", "ms": 0.0}, b""


def _confine(limits: Limits) -> None:
    for kind, amount in (
        (resource.RLIMIT_AS, limits.memory_mb << 20),
        (resource.RLIMIT_FSIZE, limits.file_mb << 20),
        (resource.RLIMIT_NOFILE, limits.open_files),
        (resource.RLIMIT_NPROC, limits.processes),
        (resource.RLIMIT_CORE, 0),
    ):
        hard = resource.getrlimit(kind)[1]
        amount = amount if hard == resource.RLIM_INFINITY else min(amount, hard)
        resource.setrlimit(kind, (amount, amount))
    for alarm in (signal.SIGALRM, signal.SIGPROF):
        signal.signal(alarm, signal.SIG_DFL)


def _next(parent: int) -> dict[str, Any] | None:
    # a process forked from the parent may hold the pipe open after its end, so the pipe's end is not enough
    while not select.select([0], [], [], _IDLE_SECONDS)[0]:
        if os.getppid() != parent:
            return None
    head = _read(REQUEST.size)
    return json.loads(_read(*REQUEST.unpack(head))) if head else None


def _read(length: int) -> bytes:
    parts = []
    while length:
        part = os.read(0, length)
        if not part:
            return b""
        parts.append(part)
        length -= len(part)
    return b"".join(parts)


def _answer(back_end: BackEnd, request: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
    signal.setitimer(signal.ITIMER_REAL, back_end.LIMITS.seconds)
    signal.setitimer(signal.ITIMER_PROF, back_end.LIMITS.cpu_seconds)
    start, pixels = time.perf_counter(), b""
    try:
        status, message, pixels = back_end.draw(**request)
    except Refused as refusal:
        status, message = refusal.status, refusal.message
    except MemoryError:
        status, message = "too_large", "out of memory"
    except BaseException as error:  # a panic of a native library is not an Exception
        status, message = "crash", f"{type(error).__name__}: {error}"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.setitimer(signal.ITIMER_PROF, 0)
    return {"status": status, "message": message[:300], "ms": (time.perf_counter() - start) * 1e3}, pixels


def _send(pipe: int, fields: dict[str, Any], pixels: bytes) -> None:
    encoded = json.dumps(fields).encode()
    data = memoryview(ANSWER.pack(len(encoded), len(pixels)) + encoded + pixels)
    while data:
        data = data[os.write(pipe, data) :]
