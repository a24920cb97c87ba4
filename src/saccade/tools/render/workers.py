"""The parent's side of one worker: a process that renders one program at a time.

It is a new process, not a fork: no thread, lock, weight or key of the trainer exists in it. Only JSON of bounded length
and the expected number of pixels are accepted from it.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from saccade.tools.render.child import ANSWER, REQUEST
from saccade.tools.render.results import STATUSES

_MAIN = "from saccade.tools.render.child import main; main()"
_PASSED_VARIABLES = ("PATH", "LD_LIBRARY_PATH", "PYTHONHOME")
_MAX_JSON_BYTES = 4096
IDLE = -1
"""The number of no program."""

Job = dict[str, Any]
"""The arguments of a back end's ``draw``: code, size, background, box."""


@dataclass(frozen=True)
class Answer:
    """The result of a program: RGB bytes for "ok" and "empty", else none.

    ``deterministic``: the result would be the same on any machine, however busy.
    """

    status: str
    message: str
    ms: float
    pixels: bytes = b""
    deterministic: bool = False


class Worker:
    """One process, and the number of the program that it renders."""

    def __init__(self, back_end: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", _MAIN, back_end, str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            cwd="/",
            env=_environment(),
            start_new_session=True,
        )
        self.pid = self._process.pid
        assert self._process.stdin and self._process.stdout  # both are pipes
        self._pipes = self._process.stdin, self._process.stdout
        self.pipe = self._process.stdout.fileno()
        os.set_blocking(self.pipe, False)
        self.number, self.deadline, self._submitted = IDLE, 0.0, 0.0
        self._buffer, self._pixel_bytes = bytearray(), 0

    def submit(self, number: int, job: Job, seconds: float) -> None:
        """Send a program to the worker; if the worker is dead, `poll` will tell."""
        self.number, self._submitted = number, time.monotonic()
        self.deadline = self._submitted + seconds
        self._pixel_bytes = 3 * job["size"] ** 2
        request = json.dumps(job).encode()
        data = memoryview(REQUEST.pack(len(request)) + request)
        with suppress(BrokenPipeError):
            while data:
                data = data[os.write(self._pipes[0].fileno(), data) :]

    def poll(self) -> Answer | None:
        """The answer once it is complete, else None; EOFError if the worker has ended, is late or sent invalid data."""
        try:
            part = os.read(self.pipe, 1 << 20)
        except BlockingIOError:
            if self.is_late():
                raise EOFError from None
            return None
        if not part or self.number == IDLE:
            raise EOFError
        self._buffer += part
        answer = self._parse()
        if answer:
            self._buffer.clear()
            self.number = IDLE
        return answer

    def is_late(self) -> bool:
        """Whether it has rendered a program for longer than allowed."""
        return self.number != IDLE and time.monotonic() > self.deadline

    def close(self) -> Answer:
        """Kill the worker and all its children, and wait for it; returns the result of its program."""
        late, ms = self.is_late(), (time.monotonic() - self._submitted) * 1e3
        # a process that has ended keeps its id, and its exit signal, until it is waited for
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        for pipe in self._pipes:
            pipe.close()
        code = self._process.wait()
        if late or -code in (signal.SIGALRM, signal.SIGPROF):
            return Answer("timeout", "it took too long", ms, deterministic=-code == signal.SIGPROF)
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"status {code}"
        return Answer("crash", f"its worker ended with {how}", ms)

    def _parse(self) -> Answer | None:
        if len(self._buffer) < ANSWER.size:
            return None
        json_bytes, pixel_bytes = ANSWER.unpack_from(self._buffer)
        if json_bytes > _MAX_JSON_BYTES or pixel_bytes not in (0, self._pixel_bytes):
            raise EOFError
        start, end = ANSWER.size + json_bytes, ANSWER.size + json_bytes + pixel_bytes
        if len(self._buffer) < end:
            return None
        try:
            fields = json.loads(self._buffer[ANSWER.size : start])
            pixels = bytes(self._buffer[start:end])
            answer = Answer(fields["status"], str(fields["message"]), float(fields["ms"]), pixels)
        except (ValueError, KeyError, TypeError):
            raise EOFError from None
        if answer.status not in STATUSES or (answer.status in ("ok", "empty")) != bool(pixels):
            raise EOFError
        return answer


def _environment() -> dict[str, str]:
    """The paths of modules, and no other variable of the parent."""
    passed = {name: os.environ[name] for name in _PASSED_VARIABLES if name in os.environ}
    return passed | {"PYTHONPATH": os.pathsep.join(os.path.abspath(place) for place in sys.path)}
