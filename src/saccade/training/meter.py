"""The figures of a working stage: reward or loss, speed over the last steps, time left, last evaluation."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from saccade.training.folder import ERROR

_WINDOW = 20


@dataclass
class Meter:
    """Takes note of what is logged and says it in words; speeds are over the last 20 steps reported."""

    label: str
    clock: Callable[[], float] = time.monotonic
    step: int = 0
    steps: int | None = None
    main: tuple[str, float] | None = None
    evaluation: tuple[int, dict[str, float]] | None = None
    images: float = 0.0
    marks: deque[tuple[float, int, float]] = field(default_factory=lambda: deque(maxlen=_WINDOW))

    def log(self, step: int, values: Mapping[str, float | None]) -> None:
        """Take note of one line of metrics; shown is the total reward, or the first reward or loss met."""
        self.step = max(self.step, step)
        known = {name: value for name, value in values.items() if value is not None}
        met = (
            self.main[0]
            if self.main
            else next((n for kind in ("reward/", "loss/") for n in known if n.startswith(kind)), None)
        )
        main = "reward/total" if "reward/total" in known else met
        if main in known:
            self.main = main, known[main]
        scores = {
            name.removeprefix("eval/"): known[name]
            for name in known
            if name.startswith("eval/") and not name.endswith(ERROR)
        }
        self.evaluation = (step, scores) if scores else self.evaluation
        self.images += known.get("cost/images", known.get("cost/attempts", 0))

    def progress(self, step: int, steps: int | None) -> None:
        """Take note of the steps done and of the steps to do."""
        self.step, self.steps = step, steps
        self.marks.append((self.clock(), step, self.images))

    def details(self) -> list[str]:
        """The figures in words, those that are known."""
        found = [f"{self.main[0]} {self.main[1]:.4g}"] if self.main else []
        found += [self._speed()] if self._pace() else []
        if self.evaluation:
            scores = " ".join(f"{name} {value:.4g}" for name, value in self.evaluation[1].items())
            found.append(f"evaluation at {self.evaluation[0]}: {scores}")
        return found

    def left(self) -> str:
        """Time left in words, empty while unknown."""
        if not self._pace() or self.steps is None or self.step >= self.steps:
            return ""
        return f"{duration((self.steps - self.step) / self._pace()[0])} left"

    def _speed(self) -> str:
        steps, images = self._pace()
        if images:
            return f"{images:.3g} images/s" if images < 100 else f"{images:.0f} images/s"
        return f"{steps:.3g} steps/s" if steps >= 1 else f"{1 / steps:.3g} s/step"

    def _pace(self) -> tuple[float, float] | None:
        """Steps and images a second over the last marks."""
        if len(self.marks) < 2:
            return None
        (t0, step0, images0), (t1, step1, images1) = self.marks[0], self.marks[-1]
        return ((step1 - step0) / (t1 - t0), (images1 - images0) / (t1 - t0)) if t1 > t0 and step1 > step0 else None


def duration(seconds: float) -> str:
    """Seconds in words of two units at most: "48 s", "12 min", "3 h 05 min"."""
    whole = round(seconds)
    if whole < 90:
        return f"{whole} s"
    minutes = round(whole / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"
