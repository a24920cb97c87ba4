"""A time limit for a block of code.

An alarm interrupts the block. It works in the main thread only, not for native code that never returns to Python, and
not if another alarm is set already.
"""

from __future__ import annotations

import math
import signal
import threading
import time
from typing import Any

_AGAIN_SECONDS = 1.0
"""Time after which a block that swallowed the alarm is interrupted again."""


class TimedOut(Exception):
    """A block took longer than its limit, which the message names in seconds."""


class Overdue(BaseException):
    """Raised by the alarm within a block; no `Exception`, so that a block that retries on every error ends too."""


class time_limit:
    """A context manager that raises `TimedOut` in its block after ``seconds``. It cannot be nested."""

    def __init__(self, seconds: float):
        self.seconds = seconds

    def __enter__(self) -> None:
        _ALARM.begin(time.monotonic() + self.seconds)

    def __exit__(self, kind: type | None, error: BaseException | None, trace: Any) -> None:
        _ALARM.end()
        if isinstance(error, Overdue):
            raise TimedOut(f"took longer than its patience of {self.seconds:.3g} s") from None


class _Alarm:
    """One alarm for many short blocks: when it goes off it checks whether the current block has passed its deadline.

    Setting an alarm costs as much as a step of a small environment; storing the deadline of a block does not.
    """

    def __init__(self) -> None:
        self.deadline, self.due = 0.0, math.inf
        self.former: Any = None

    def begin(self, deadline: float) -> None:
        """Begin a block that may last until ``deadline``."""
        if threading.current_thread() is threading.main_thread():
            self.deadline = deadline
            if deadline < self.due:
                self._set(deadline)

    def end(self) -> None:
        """End the block."""
        if threading.current_thread() is threading.main_thread():
            self.deadline = 0.0

    def _set(self, due: float) -> None:
        if hasattr(signal, "setitimer") and (self.former is not None or not signal.getitimer(signal.ITIMER_REAL)[0]):
            former = signal.signal(signal.SIGALRM, self._handle)
            self.due, self.former = due, former if self.former is None else self.former
            # An alarm of less than a microsecond would never go off.
            signal.setitimer(signal.ITIMER_REAL, max(due - time.monotonic(), 1e-3))

    def _handle(self, *_: Any) -> None:
        if time.monotonic() < self.deadline:
            return self._set(self.deadline)
        if self.deadline:
            self._set(time.monotonic() + _AGAIN_SECONDS)  # a block may swallow it
            raise Overdue
        signal.signal(signal.SIGALRM, self.former)
        self.due, self.former = math.inf, None


_ALARM = _Alarm()
