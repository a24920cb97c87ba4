"""What an environment may not do: raise, hang, or return what nobody can learn from."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from gymnasium import spaces

from saccade.core import EnvironmentFailed
from saccade.models.locate import first_line


class Flaw(Exception):
    """What an environment returned cannot be learned from; the message says what."""


class guarded:
    """Turns any error inside, and more than ``patience`` seconds of work, into EnvironmentFailed beginning with ``where()``.

    In the main thread an alarm ends the wait (code that never returns to Python cannot be ended so); elsewhere, and where
    an alarm is set already, slowness is found afterwards.
    """

    def __init__(self, where: Callable[[], str], patience: float):
        self.where, self.patience = where, patience

    def __enter__(self) -> None:
        self.began = time.monotonic()
        _WATCH.begin(self.began + self.patience)

    def __exit__(self, kind: type | None, error: BaseException | None, trace: Any) -> None:
        _WATCH.end()
        if isinstance(error, (Flaw, _Late)):
            raise EnvironmentFailed(f"{self.where()}: {error if isinstance(error, Flaw) else self._slow()}") from error
        if isinstance(error, Exception):
            raise EnvironmentFailed(f"{self.where()}: {type(error).__name__}: {first_line(error)}") from error
        if error is None and time.monotonic() - self.began > self.patience:
            raise EnvironmentFailed(f"{self.where()}: {self._slow()}")

    def _slow(self) -> str:
        return f"took longer than its patience of {self.patience:g} s"


class _Late(Exception):
    """The alarm rang."""


class _Watch:
    """An alarm that outlasts many short pieces of work: when it rings it looks whether the present one has gone on too long.

    Setting an alarm costs as much as a step of a small environment; noting the time until which work may last does not.
    """

    def __init__(self) -> None:
        self.until, self.rings, self.former = 0.0, math.inf, None

    def begin(self, until: float) -> None:
        """Work begins that may last until then; only in the main thread can it be ended."""
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
            raise _Late


_WATCH = _Watch()


def shown(seen: Any, space: spaces.Dict) -> dict[str, np.ndarray]:
    """What an environment shows, by the names of ``space``, each an array of its shape. Flaw where it is not as declared."""
    if not isinstance(seen, Mapping):
        raise Flaw(f"shows a {type(seen).__name__} where a dict was declared")
    return {name: _as_declared(name, seen, part) for name, part in space.spaces.items()}


def _as_declared(name: str, seen: Mapping[str, Any], space: spaces.Space) -> np.ndarray:
    if name not in seen:
        raise Flaw(f"observation {name!r} is missing")
    value = np.asarray(seen[name])
    if value.dtype == space.dtype and value.shape == space.shape:
        return _finite(name, value)
    if value.shape != space.shape:
        raise Flaw(f"observation {name!r} has shape {value.shape}, declared was {space.shape}")
    if not np.can_cast(value.dtype, space.dtype, "same_kind"):
        raise Flaw(f"observation {name!r} is {value.dtype}, declared was {space.dtype}")
    return _finite(name, value)


def _finite(name: str, value: np.ndarray) -> np.ndarray:
    if value.dtype.kind == "f" and not np.isfinite(value).all():
        raise Flaw(f"observation {name!r} is not finite")
    return value


def verdict(reward: Any, terminated: Any, truncated: Any) -> tuple[float, bool, bool]:
    """The three as plain values. Flaw for a reward that is no finite number, or an end that is neither true nor false."""
    if np.ndim(reward) or not isinstance(reward, (int, float, np.number, np.bool_, np.ndarray)):
        raise Flaw(f"the reward is {reward!r}, not a number")
    if not np.isfinite(reward):
        raise Flaw(f"the reward is {float(reward)}")
    for name, end in (("terminated", terminated), ("truncated", truncated)):
        if not isinstance(end, (bool, np.bool_)):
            raise Flaw(f"{name} is {end!r}, neither true nor false")
    return float(reward), bool(terminated), bool(truncated)
