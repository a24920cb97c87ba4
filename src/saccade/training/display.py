"""What a person sees while a run works: a live bar on a terminal, plain lines elsewhere; always on standard error."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TextIO

from saccade.training.meter import Meter

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

_QUIET_SECONDS = 10.0
_STOPPING = "stopping after this step (Ctrl-C again stops at once)"


class Lines:
    """One plain line at the start, at every evaluation, at the end, and every ten seconds."""

    def __init__(
        self, stopping: Callable[[], bool], stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic
    ):
        self._meters: dict[str, Meter] = {}
        self._stopping, self._stream, self._clock = stopping, stream, clock
        self._last = -_QUIET_SECONDS + clock()

    def log(self, label: str, step: int, values: Mapping[str, float | None]) -> None:
        meter = self._meter(label)
        meter.log(step, values)
        if any(name.startswith("eval/") for name in values):
            self._print(meter)

    def progress(self, label: str, step: int, steps: int | None) -> None:
        meter = self._meter(label)
        meter.progress(step, steps)
        if step == steps or self._stopping() or self._clock() - self._last >= _QUIET_SECONDS:
            self._print(meter)

    def close(self) -> None:
        """Nothing is held open."""

    def _meter(self, label: str) -> Meter:
        return self._meters.setdefault(label, Meter(label, self._clock))

    def _print(self, meter: Meter) -> None:
        self._last = self._clock()
        place = f"{meter.label}  step {meter.step}" + (f"/{meter.steps}" if meter.steps else "")
        parts = [place, *meter.details(), meter.left(), _STOPPING if self._stopping() else ""]
        print("  ".join(part for part in parts if part), file=self._stream or sys.stderr, flush=True)


class Live:
    """A bar a stage with its figures beneath, redrawn in place."""

    def __init__(self, stopping: Callable[[], bool], console: Console | None = None):
        from rich.console import Console

        self._meters: dict[str, Meter] = {}
        self._stopping = stopping
        self._console = console or Console(stderr=True)
        self._live: Any = None

    def log(self, label: str, step: int, values: Mapping[str, float | None]) -> None:
        self._meter(label).log(step, values)

    def progress(self, label: str, step: int, steps: int | None) -> None:
        self._meter(label).progress(step, steps)

    def close(self) -> None:
        """Leave the last figures on the screen."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _meter(self, label: str) -> Meter:
        if self._live is None:
            from rich.live import Live as Screen

            # Results on standard output belong to whoever reads the command, so only errors pass above the bar.
            self._live = Screen(
                console=self._console, get_renderable=self._render, redirect_stdout=False, refresh_per_second=4
            )
            self._live.start()
        return self._meters.setdefault(label, Meter(label))

    def _render(self) -> RenderableType:
        from rich.console import Group
        from rich.text import Text

        meters = list(self._meters.values())
        rows: list[RenderableType] = [self._bars(meters)]
        if meters:
            rows.append(Text("  ".join(meters[-1].details()), style="dim", no_wrap=True, overflow="ellipsis"))
        if self._stopping():
            rows.append(Text(_STOPPING, style="yellow", no_wrap=True, overflow="ellipsis"))
        return Group(*rows)

    def _bars(self, meters: list[Meter]) -> RenderableType:
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        grid = Table.grid(padding=(0, 2), expand=True)
        for ratio in (None, 1, None, None):
            grid.add_column(ratio=ratio, no_wrap=True)
        for m in meters:
            bar = ProgressBar(total=m.steps or 1, completed=m.step if m.steps else 0)
            grid.add_row(Text(m.label, style="bold"), bar, f"{m.step}/{m.steps}" if m.steps else str(m.step), m.left())
        return grid


class Silent:
    """Shows nothing: for the other processes of a distributed run, and for tests."""

    def log(self, label: str, step: int, values: Mapping[str, float | None]) -> None: ...

    def progress(self, label: str, step: int, steps: int | None) -> None: ...

    def close(self) -> None: ...


class Shown:
    """A display, until whoever looks at it has gone: one that cannot write is dropped, the run goes on."""

    def __init__(self, display: Live | Lines):
        self.display: Live | Lines | Silent = display

    def log(self, label: str, step: int, values: Mapping[str, float | None]) -> None:
        self._do(lambda: self.display.log(label, step, values))

    def progress(self, label: str, step: int, steps: int | None) -> None:
        self._do(lambda: self.display.progress(label, step, steps))

    def close(self) -> None:
        self._do(lambda: self.display.close())

    def _do(self, show: Callable[[], None]) -> None:
        try:
            show()
        except (OSError, ValueError):  # a closed pipe or terminal; a closed file is a ValueError
            self.display = Silent()


Display = Shown | Silent


def open_display(shown: bool, stopping: Callable[[], bool]) -> Display:
    """A live display if standard error is a terminal that can redraw, else plain lines; silent if not ``shown``.

    ``stopping`` says whether the run was asked to stop, which the display then tells.
    """
    if not shown:
        return Silent()
    if sys.stderr is None or sys.stderr.closed:
        return Silent()
    if sys.stderr.isatty():
        from rich.console import Console

        console = Console(stderr=True)
        if console.is_terminal and not console.is_dumb_terminal:
            return Shown(Live(stopping, console))
    return Shown(Lines(stopping))
