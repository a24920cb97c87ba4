"""The worker's side: one process that draws program after program and holds nothing worth taking.

Its arguments are the back end's module and the parent's process id. Requests come through standard input, answers leave
through what was standard output. A program that runs too long is ended by the kernel, whatever it is doing and whether
the parent still lives; an idle worker ends with its parent. Imports only what draws: it starts in a fraction of a
second and knows no weights.
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
from typing import Any

from saccade.tools.render.results import Limits, Refused

REQUEST = struct.Struct("!I")
"""Length of a request, a JSON object."""
ANSWER = struct.Struct("!II")
"""Lengths of an answer's JSON object and of its pixels."""
_IDLE_SECONDS = 2.0


def main() -> None:
    """Answer requests until there are no more, or nobody to ask them."""
    back_end, parent = import_module(sys.argv[1]), int(sys.argv[2])
    answers = _private_output()
    trouble = _prepare(back_end)
    while (request := _next(parent)) is not None:
        _send(answers, *(trouble or _answer(back_end, request)))


def _private_output() -> int:
    """The pipe of answers, where no library's print can reach it."""
    pipe = os.dup(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return pipe


def _prepare(back_end: Any) -> tuple[dict[str, Any], bytes] | None:
    try:
        back_end.prepare()
        _confine(back_end.LIMITS)
        return None
    except Exception as error:
        return {"status": "crash", "message": f"{type(error).__name__}: {error}", "ms": 0.0}, b""


def _confine(limits: Limits) -> None:
    for what, amount in (
        (resource.RLIMIT_AS, limits.memory_mb << 20),
        (resource.RLIMIT_FSIZE, limits.file_mb << 20),
        (resource.RLIMIT_NOFILE, limits.open_files),
        (resource.RLIMIT_NPROC, limits.processes),
        (resource.RLIMIT_CORE, 0),
    ):
        most = resource.getrlimit(what)[1]
        amount = amount if most == resource.RLIM_INFINITY else min(amount, most)
        resource.setrlimit(what, (amount, amount))
    for alarm in (signal.SIGALRM, signal.SIGPROF):
        signal.signal(alarm, signal.SIG_DFL)


def _next(parent: int) -> dict[str, Any] | None:
    # a process forked from the parent may hold the pipe open after its end, so the pipe's end alone says too little
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


def _answer(back_end: Any, request: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
    signal.setitimer(signal.ITIMER_REAL, back_end.LIMITS.seconds)
    signal.setitimer(signal.ITIMER_PROF, back_end.LIMITS.cpu_seconds)
    start, pixels = time.perf_counter(), b""
    try:
        status, message, pixels = back_end.draw(**request)
    except Refused as refusal:
        status, message = refusal.status, refusal.message
    except MemoryError:
        status, message = "too_large", "out of memory"
    except BaseException as error:  # a panic of a native library is no Exception
        status, message = "crash", f"{type(error).__name__}: {error}"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.setitimer(signal.ITIMER_PROF, 0)
    return {"status": status, "message": message[:300], "ms": (time.perf_counter() - start) * 1e3}, pixels


def _send(pipe: int, said: dict[str, Any], pixels: bytes) -> None:
    words = json.dumps(said).encode()
    data = memoryview(ANSWER.pack(len(words), len(pixels)) + words + pixels)
    while data:
        data = data[os.write(pipe, data) :]
