"""The parent's side of one worker: a process that draws one program at a time.

It is a plain new process, not a fork: no thread, lock, weight or key of the trainer exists in it. Only JSON of bounded
length and pixels of the expected number are taken from it.
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
_KEPT = ("PATH", "LD_LIBRARY_PATH", "PYTHONHOME")
_MOST_WORDS = 4096
IDLE = -1
"""The number of no program."""

Job = dict[str, Any]
"""The arguments of a back end's ``draw``: code, size, background, box."""


@dataclass(frozen=True)
class Answer:
    """What a worker, or its end, says of a program: RGB bytes for "ok" and "empty", else none.

    ``sure``: it would end so on any machine, however busy.
    """

    status: str
    message: str
    ms: float
    pixels: bytes = b""
    sure: bool = False


class Worker:
    """One process, and the number of the program that it is drawing."""

    def __init__(self, back_end: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", _MAIN, back_end, str(os.getpid())],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0,
            cwd="/", env=_environment(), start_new_session=True,
        )  # fmt: skip
        self.pid = self._process.pid
        self.pipe = self._process.stdout.fileno()
        os.set_blocking(self.pipe, False)
        self.number, self.deadline, self._given = IDLE, 0.0, 0.0
        self._heard, self._pixels = bytearray(), 0

    def give(self, number: int, job: Job, seconds: float) -> None:
        """Have a program drawn; whether the worker still lives is seen when its answer is collected."""
        self.number, self._given = number, time.monotonic()
        self.deadline = self._given + seconds
        self._pixels = 3 * job["size"] ** 2
        words = json.dumps(job).encode()
        data = memoryview(REQUEST.pack(len(words)) + words)
        with suppress(BrokenPipeError):
            while data:
                data = data[os.write(self._process.stdin.fileno(), data) :]

    def collect(self) -> Answer | None:
        """The answer once it is whole, None before; EOFError if the worker has ended, is late or talks nonsense."""
        try:
            part = os.read(self.pipe, 1 << 20)
        except BlockingIOError:
            if self.late():
                raise EOFError from None
            return None
        if not part or self.number == IDLE:
            raise EOFError
        self._heard += part
        answer = self._read()
        if answer:
            self._heard.clear()
            self.number = IDLE
        return answer

    def late(self) -> bool:
        """Whether it draws a program for longer than it may."""
        return self.number != IDLE and time.monotonic() > self.deadline

    def close(self) -> Answer:
        """End the worker and all it started, and wait for it; says what became of its program."""
        late, ms = self.late(), (time.monotonic() - self._given) * 1e3
        # a worker that has ended keeps its id, and its own signal, until it is waited for
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        for pipe in (self._process.stdin, self._process.stdout):
            pipe.close()
        code = self._process.wait()
        if late or -code in (signal.SIGALRM, signal.SIGPROF):
            return Answer("timeout", "it took too long", ms, sure=-code == signal.SIGPROF)
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"status {code}"
        return Answer("crash", f"its worker ended with {how}", ms)

    def _read(self) -> Answer | None:
        if len(self._heard) < ANSWER.size:
            return None
        words, pixels = ANSWER.unpack_from(self._heard)
        if words > _MOST_WORDS or pixels not in (0, self._pixels):
            raise EOFError
        start, end = ANSWER.size + words, ANSWER.size + words + pixels
        if len(self._heard) < end:
            return None
        try:
            said = json.loads(self._heard[ANSWER.size : start])
            answer = Answer(said["status"], str(said["message"]), float(said["ms"]), bytes(self._heard[start:end]))
        except (ValueError, KeyError, TypeError):
            raise EOFError from None
        if answer.status not in STATUSES or (answer.status in ("ok", "empty")) != bool(pixels):
            raise EOFError
        return answer


def _environment() -> dict[str, str]:
    """The way to the modules, and nothing else that the parent knows."""
    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
    return kept | {"PYTHONPATH": os.pathsep.join(os.path.abspath(place) for place in sys.path)}
