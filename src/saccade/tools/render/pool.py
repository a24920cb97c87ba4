"""Persistent workers that share a batch, replaced when a program crashes one.

Every new worker first renders a program that is known to be good, so a later failure is caused by its program.
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
from typing import cast

from saccade.tools.render.results import BackEnd, RendererBroken
from saccade.tools.render.workers import IDLE, Answer, Job, Worker

_PROBE = -2
"""The number of the program that is known to be good."""
_START_SECONDS = 60.0
_GRACE_SECONDS = 1.0
"""Time after a worker's own alarm at which it is killed from here."""


class Pool:
    """At most ``max_workers`` workers of one back end (the name of a module), as many as a batch can use.

    Batches of several threads are rendered one after another.
    """

    def __init__(self, back_end: str, max_workers: int) -> None:
        self._name, self._max_workers = back_end, max_workers
        self._module = cast(BackEnd, import_module(back_end))
        self._workers: list[Worker] = []
        self._selector = selectors.PollSelector()
        self._lock = threading.Lock()
        self._owner = os.getpid()
        self._broken: RendererBroken | None = None
        atexit.register(self.close)

    def run(self, jobs: Sequence[Job]) -> list[Answer]:
        """One answer for each job, in their order.

        `RendererBroken`, in this call and all later ones, if a new worker cannot render the probe.
        """
        with self._lock:
            if self._broken:
                raise self._broken
            try:
                return self._run(jobs)
            except BaseException as error:
                self._broken = error if isinstance(error, RendererBroken) else None
                self.close()  # otherwise late answers would be taken for those of the next batch
                raise

    def pids(self) -> list[int]:
        """The process ids of all workers."""
        return [worker.pid for worker in self._workers]

    def close(self) -> None:
        """Stop all workers; the next batch starts new ones. It does nothing in a process forked from the owner."""
        if os.getpid() == self._owner:
            while self._workers:
                self._stop(self._workers[-1])

    def _run(self, jobs: Sequence[Job]) -> list[Answer]:
        while len(self._workers) < min(len(jobs), self._max_workers):
            self._start()
        answers: dict[int, Answer] = {}
        waiting, retried = deque(range(len(jobs))), set()
        reserved: dict[Worker, int] = {}  # a program that crashed a worker is tried again in the new one
        while len(answers) < len(jobs):
            self._assign(jobs, waiting, reserved)
            for number, answer, replacement in self._collect():
                if number == _PROBE:
                    self._check(answer)
                elif replacement and number >= 0 and number not in retried and not answer.deterministic:
                    retried.add(number)
                    reserved[replacement] = number
                elif number >= 0:
                    answers[number] = answer
        return [answers[number] for number in range(len(jobs))]

    def _assign(self, jobs: Sequence[Job], waiting: deque[int], reserved: dict[Worker, int]) -> None:
        for worker in self._workers:
            if worker.number == IDLE and (worker in reserved or waiting):
                number = reserved.pop(worker) if worker in reserved else waiting.popleft()
                worker.submit(number, jobs[number], self._module.LIMITS.seconds + _GRACE_SECONDS)

    def _collect(self) -> Iterator[tuple[int, Answer, Worker | None]]:
        """New answers: the number of the program, its answer, and the new worker if the old one was stopped."""
        deadlines = [worker.deadline for worker in self._workers if worker.number != IDLE]
        self._selector.select(max(0.0, min(deadlines) - time.monotonic()) + 0.01)
        for worker in list(self._workers):
            number = worker.number
            try:
                answer = worker.poll()
            except EOFError:
                answer = self._stop(worker)
                yield number, answer, self._start()
            else:
                if answer:
                    yield number, answer, None

    def _start(self) -> Worker:
        worker = Worker(self._name)
        self._workers.append(worker)
        self._selector.register(worker.pipe, selectors.EVENT_READ)
        probe = {"code": self._module.PROBE, "size": 32, "background": "#fff", "box": self._module.BOX}
        worker.submit(_PROBE, probe, _START_SECONDS)
        return worker

    def _stop(self, worker: Worker) -> Answer:
        self._workers.remove(worker)
        self._selector.unregister(worker.pipe)
        return worker.close()

    def _check(self, answer: Answer) -> None:
        if answer.status != "ok":
            raise RendererBroken(f"a new worker cannot render the probe ({answer.status}: {answer.message})")
