"""Persistent workers that share a batch, replaced when a program takes one down.

Every fresh worker first draws a program that is known to be good, so a failure after that is the program's.
"""

from __future__ import annotations

import atexit
import os
import selectors
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from importlib import import_module

from saccade.tools.render.results import RendererBroken
from saccade.tools.render.workers import IDLE, Answer, Job, Worker

_GREETING = -2
"""The number of the program that is known to be good."""
_START_SECONDS = 60.0
_GRACE_SECONDS = 1.0
"""What a worker may overrun its own alarm by before it is ended from here."""


class Pool:
    """Workers of one back end (a module's name): as many as a batch can use, at most ``most``. Threads take turns."""

    def __init__(self, back_end: str, most: int) -> None:
        self._name, self._module, self._most = back_end, import_module(back_end), most
        self._workers: list[Worker] = []
        self._ears = selectors.PollSelector()
        self._turn = threading.Lock()
        self._owner = os.getpid()
        self._broken: RendererBroken | None = None
        atexit.register(self.close)

    def run(self, jobs: Sequence[Job]) -> list[Answer]:
        """One answer for each job, in their order. `RendererBroken`, from then on, if a fresh worker fails the
        probe.
        """
        with self._turn:
            if self._broken:
                raise self._broken
            try:
                return self._run(jobs)
            except BaseException as error:
                self._broken = error if isinstance(error, RendererBroken) else None
                self.close()  # what is still under way would be taken for an answer of the next batch
                raise

    def pids(self) -> list[int]:
        """The processes of all workers."""
        return [worker.pid for worker in self._workers]

    def close(self) -> None:
        """End all workers; the next batch starts new ones. A process forked from the owner leaves them alone."""
        if os.getpid() == self._owner:
            while self._workers:
                self._dismiss(self._workers[-1])

    def _run(self, jobs: Sequence[Job]) -> list[Answer]:
        while len(self._workers) < min(len(jobs), self._most):
            self._hire()
        answers: dict[int, Answer] = {}
        waiting, retried = deque(range(len(jobs))), set()
        reserved: dict[Worker, int] = {}  # a program that took a worker down is tried again in the fresh one
        while len(answers) < len(jobs):
            self._assign(jobs, waiting, reserved)
            for number, answer, fresh in self._collected():
                if number == _GREETING:
                    self._check(answer)
                elif fresh and number >= 0 and number not in retried and not answer.sure:
                    retried.add(number)
                    reserved[fresh] = number
                elif number >= 0:
                    answers[number] = answer
        return [answers[number] for number in range(len(jobs))]

    def _assign(self, jobs: Sequence[Job], waiting: deque[int], reserved: dict[Worker, int]) -> None:
        for worker in self._workers:
            if worker.number == IDLE and (worker in reserved or waiting):
                number = reserved.pop(worker) if worker in reserved else waiting.popleft()
                worker.give(number, jobs[number], self._module.LIMITS.seconds + _GRACE_SECONDS)

    def _collected(self) -> Iterator[tuple[int, Answer, Worker | None]]:
        """What has been answered: the program's number, the answer, and the new worker if the old one had to go."""
        deadlines = [worker.deadline for worker in self._workers if worker.number != IDLE]
        self._ears.select(max(0.0, min(deadlines) - time.monotonic()) + 0.01)
        for worker in list(self._workers):
            number = worker.number
            try:
                answer = worker.collect()
            except EOFError:
                answer = self._dismiss(worker)
                yield number, answer, self._hire()
            else:
                if answer:
                    yield number, answer, None

    def _hire(self) -> Worker:
        worker = Worker(self._name)
        self._workers.append(worker)
        self._ears.register(worker.pipe, selectors.EVENT_READ)
        probe = {"code": self._module.PROBE, "size": 32, "background": "#fff", "box": self._module.BOX}
        worker.give(_GREETING, probe, _START_SECONDS)
        return worker

    def _dismiss(self, worker: Worker) -> Answer:
        self._workers.remove(worker)
        self._ears.unregister(worker.pipe)
        return worker.close()

    def _check(self, answer: Answer) -> None:
        if answer.status != "ok":
            raise RendererBroken(f"a fresh worker cannot draw the probe ({answer.status}: {answer.message})")
