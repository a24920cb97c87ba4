"""Ctrl-C with manners: the first one asks the run to stop after its step, the second stops it at once."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType
from typing import Any


class Interrupts:
    """Listens to SIGINT, SIGTERM and SIGHUP between ``install`` and ``restore``; ``requested`` tells that one came.

    Only the main thread may listen. A signal that the process was told to ignore stays ignored.
    """

    def __init__(self) -> None:
        self.requested = False
        self._process = os.getpid()
        self._former: dict[int, Any] = {}

    def install(self) -> None:
        """Begin to listen."""
        if threading.current_thread() is not threading.main_thread():
            return
        for number in (signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)):
            former = signal.getsignal(number)
            if former not in (None, signal.SIG_IGN):
                self._former[number] = former
                signal.signal(number, self._hear)

    def restore(self) -> None:
        """Give the signals back to whoever had them."""
        if threading.current_thread() is threading.main_thread():
            for number, former in self._former.items():
                signal.signal(number, former)
            self._former = {}

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:  # a forked helper process must still die of the signal
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.requested = True
