"""Figures of a running stage for the display: reward or loss, speed over the last steps, time left, evaluation."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from saccade.naming import STANDARD_ERROR

_WINDOW = 20


@dataclass
class Meter:
    """Collects what is logged and formats it; speeds are averages over the last 20 steps reported."""

    label: str
    clock: Callable[[], float] = time.monotonic
    step: int = 0
    steps: int | None = None
    """Number of steps in total, None while unknown."""
    main: tuple[str, float] | None = None
    """Name and last value of the metric that is displayed."""
    evaluation: tuple[int, dict[str, float]] | None = None
    """Step and scores of the last evaluation."""
    images: float = 0.0
    """Number of images generated."""
    marks: deque[tuple[float, int, float]] = field(default_factory=lambda: deque(maxlen=_WINDOW))
    """Seconds, steps and images at the last reports."""

    def log(self, step: int, values: Mapping[str, float | None]) -> None:
        """Add one line of metrics; the displayed one is the total reward, else the first reward or loss logged."""
        self.step = max(self.step, step)
        known = {name: value for name, value in values.items() if value is not None}
        first = next((name for kind in ("reward/", "loss/") for name in known if name.startswith(kind)), None)
        main = "reward/total" if "reward/total" in known else self.main[0] if self.main else first
        if main is not None and main in known:
            self.main = main, known[main]
        scores = {
            name.removeprefix("eval/"): known[name]
            for name in known
            if name.startswith("eval/") and not name.endswith(STANDARD_ERROR)
        }
        self.evaluation = (step, scores) if scores else self.evaluation
        self.images += known.get("cost/images", 0.0)

    def progress(self, step: int, steps: int | None) -> None:
        """Set the number of steps done and of steps in total."""
        self.step, self.steps = step, steps
        self.marks.append((self.clock(), step, self.images))

    def details(self) -> list[str]:
        """The known figures as text."""
        found = [f"{self.main[0]} {self.main[1]:.4g}"] if self.main else []
        pace = self._pace()
        found += [_speed(*pace)] if pace else []
        if self.evaluation:
            scores = " ".join(f"{name} {value:.4g}" for name, value in self.evaluation[1].items())
            found.append(f"evaluation at {self.evaluation[0]}: {scores}")
        return found

    def left(self) -> str:
        """Time left as text, empty while unknown."""
        pace = self._pace()
        if pace is None or self.steps is None or self.step >= self.steps:
            return ""
        return f"{duration((self.steps - self.step) / pace[0])} left"

    def _pace(self) -> tuple[float, float] | None:
        """Steps and images per second over the last reports."""
        if len(self.marks) < 2:
            return None
        (t0, step0, images0), (t1, step1, images1) = self.marks[0], self.marks[-1]
        return ((step1 - step0) / (t1 - t0), (images1 - images0) / (t1 - t0)) if t1 > t0 and step1 > step0 else None


def _speed(steps: float, images: float) -> str:
    if images:
        return f"{images:.3g} images/s" if images < 100 else f"{images:.0f} images/s"
    return f"{steps:.3g} steps/s" if steps >= 1 else f"{1 / steps:.3g} s/step"


def duration(seconds: float) -> str:
    """Seconds as text of at most two units: "48 s", "12 min", "3 h 05 min"."""
    seconds = round(seconds)
    if seconds < 90:
        return f"{seconds} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"
