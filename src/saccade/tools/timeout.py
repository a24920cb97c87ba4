"""A limit on how long a piece of work may take.

In the main thread an alarm ends it; code that never returns to Python cannot be ended so, nor can anything in another
thread, or where an alarm was set by somebody else.
"""

from __future__ import annotations

import math
import signal
import threading
import time
from typing import Any


class Late(Exception):
    """Work took longer than it may; the message says how long that is."""


class limited:
    """Ends what is inside with Late after so many seconds. Not to be nested."""

    def __init__(self, seconds: float):
        self.seconds = seconds

    def __enter__(self) -> None:
        _WATCH.begin(time.monotonic() + self.seconds)

    def __exit__(self, kind: type | None, error: BaseException | None, trace: Any) -> None:
        _WATCH.end()
        if isinstance(error, Late):
            raise Late(f"took longer than its patience of {self.seconds:.3g} s") from None


class _Watch:
    """An alarm that outlasts many short pieces of work: when it rings it looks whether the present one has gone on too
    long.

    Setting an alarm costs as much as a step of a small environment; noting the time until which work may last does not.
    """

    def __init__(self) -> None:
        self.until, self.rings, self.former = 0.0, math.inf, None

    def begin(self, until: float) -> None:
        """Work begins that may last until then."""
        if threading.current_thread() is threading.main_thread():
            self.until = until
            if until < self.rings:
                self._set(until)

    def end(self) -> None:
        """The work is done."""
        if threading.current_thread() is threading.main_thread():
            self.until = 0.0

    def _set(self, rings: float) -> None:
        if hasattr(signal, "setitimer") and (self.former is not None or not signal.getitimer(signal.ITIMER_REAL)[0]):
            former = signal.signal(signal.SIGALRM, self._ring)
            self.rings, self.former = rings, former if self.former is None else self.former
            # An alarm of less than a microsecond would never ring.
            signal.setitimer(signal.ITIMER_REAL, max(rings - time.monotonic(), 1e-3))

    def _ring(self, *_: Any) -> None:
        if time.monotonic() < self.until:
            return self._set(self.until)
        signal.signal(signal.SIGALRM, self.former)
        self.rings, self.former = math.inf, None
        if self.until:
            raise Late


_WATCH = _Watch()
