"""What an environment may not do: raise, hang, or return what nobody can learn from."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
from gymnasium import spaces

from saccade.core import EnvironmentFailed
from saccade.models.locate import first_line


class Flaw(Exception):
    """What an environment returned cannot be learned from; the message says what."""


@contextmanager
def guarded(where: Callable[[], str], patience: float) -> Iterator[None]:
    """Turns any error inside, and more than ``patience`` seconds of work, into EnvironmentFailed beginning with ``where()``.

    In the main thread an alarm ends the wait (code that never returns to Python cannot be ended so); elsewhere, and where
    an alarm is set already, slowness is found afterwards.
    """
    began = time.monotonic()
    try:
        with _alarm(patience):
            yield
    except Flaw as flaw:
        raise EnvironmentFailed(f"{where()}: {flaw}") from flaw
    except Exception as error:
        raise EnvironmentFailed(f"{where()}: {type(error).__name__}: {first_line(error)}") from error
    if time.monotonic() - began > patience:
        raise EnvironmentFailed(f"{where()}: took longer than its patience of {patience:g} s")


@contextmanager
def _alarm(seconds: float) -> Iterator[None]:
    main = threading.current_thread() is threading.main_thread()
    if not main or not hasattr(signal, "setitimer") or signal.getitimer(signal.ITIMER_REAL)[0]:
        yield
        return

    def ring(*_: Any) -> None:
        raise Flaw(f"took longer than its patience of {seconds:g} s")

    former = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, former)


def shown(seen: Any, space: spaces.Dict) -> dict[str, np.ndarray]:
    """What an environment shows, by the names of ``space``, each an array of its shape. Flaw where it is not as declared."""
    if not isinstance(seen, Mapping):
        raise Flaw(f"shows a {type(seen).__name__} where a dict was declared")
    return {name: _as_declared(name, seen, part) for name, part in space.spaces.items()}


def _as_declared(name: str, seen: Mapping[str, Any], space: spaces.Space) -> np.ndarray:
    if name not in seen:
        raise Flaw(f"observation {name!r} is missing")
    value = np.asarray(seen[name])
    if value.shape != space.shape:
        raise Flaw(f"observation {name!r} has shape {value.shape}, declared was {space.shape}")
    if not np.can_cast(value.dtype, space.dtype, "same_kind"):
        raise Flaw(f"observation {name!r} is {value.dtype}, declared was {space.dtype}")
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
