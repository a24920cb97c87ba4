"""A run remembers: settings, metrics, samples, tables, checkpoints and the result, in one folder.

Figures of a step are logged under the number of steps done, the same number that ``save`` is given; ``cost/…`` are the
amounts of that one step. After a kill, ``resume`` and ``load`` take the folder back to its last whole checkpoint.
"""

from __future__ import annotations

import math
import os
import shlex
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from saccade.core import RunFailed, Stateful
from saccade.models.sharding import full_tensors
from saccade.naming import STANDARD_ERROR, suggestion
from saccade.training import checkpoint, distributed, files, video
from saccade.training import folder as on_disk
from saccade.training.display import open_display
from saccade.training.interrupts import Interrupts
from saccade.training.lock import FolderLock
from saccade.training.loggers import Logger, check, open_loggers
from saccade.training.provenance import differences, now, processes, provenance

Callback = Callable[[int, Mapping[str, Any], "Run"], Any]
"""A function that is called with the step, the metrics and the run after each line of metrics."""


class Run:
    """A run's folder, display, loggers and signals, from ``start`` or ``resume`` to ``finish`` or ``close``.

    Of several processes only the first (environment RANK) writes and shows anything; the others offer the same methods,
    so that callers need not ask for a rank. As a context manager a run closes itself in every case.
    """

    def __init__(
        self,
        folder: Path,
        config: dict[str, Any],
        resumed: bool,
        loggers: Sequence[str],
        display: bool,
        outer: Run | None,
        callbacks: Sequence[Callback] = (),
        lock: FolderLock | None = None,
    ):
        """Open a folder that exists; callers use ``start``, ``resume`` and ``stage``."""
        self.folder, self.config = folder, config
        self._writes, self._outer, self._lock = _writes(), outer, lock
        self._stages: dict[str, Run] = {}
        self._callbacks: Sequence[Callback] = outer._callbacks if outer else callbacks
        self._begun, self._steps = time.monotonic(), 0
        self._due: Callable[[int], bool] = lambda step: True
        self.settled = False  # whether training ended early because no better score is expected
        last = self._latest() if resumed else None
        if resumed:
            self._cut(math.inf if last else -1)
        reached = checkpoint.step_of(last) if last else 0
        of_run = outer._loggers if outer else []
        self._loggers: list[Logger] = [logger.stage(folder.name, folder, reached) for logger in of_run]
        if self._writes:
            self._loggers += open_loggers(loggers, folder, config, reached)
        self._interrupts = outer._interrupts if outer else Interrupts()
        self._display = outer._display if outer else open_display(display and self._writes, lambda: self.stop)
        self._label = str(config.get("stage") or config.get("recipe") or folder.name)
        if outer is None:
            self._interrupts.install()

    @classmethod
    def start(
        cls,
        folder: Path,
        config: Mapping[str, Any],
        loggers: Sequence[str] = (),
        display: bool = True,
        stages_of: Path | None = None,
        callbacks: Sequence[Callback] = (),
    ) -> Run:
        """Begin a run in a folder that is new or empty (else ValueError) and write its config.json.

        ``config`` holds recipe, preset, settings and seed; command, versions, commit, machine and time are added to it.
        ``callbacks`` are called with (step, metrics, run) after each line of metrics, those of stages included.
        ``stages_of`` is a run of the same recipe and seed (else ValueError) whose stages this one takes as they are.
        ValueError where another process works in the folder.
        """
        check(loggers)
        taken = {} if stages_of is None else {"stages_of": str(on_disk.with_stages(stages_of, config))}
        complete = files.plain({**provenance(), **config, **taken})
        if not _writes():
            return cls(folder, complete, False, loggers, display, None, callbacks)
        on_disk.refuse_taken(folder)
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(folder) as lock:
            on_disk.begin(folder, complete)
            return cls(folder, complete, False, loggers, display, None, callbacks, lock)

    @classmethod
    def resume(
        cls,
        folder: Path,
        loggers: Sequence[str] = (),
        display: bool = True,
        callbacks: Sequence[Callback] = (),
        settings: Mapping[str, Any] | None = None,
    ) -> Run:
        """Continue the run in ``folder`` (ValueError if there is none); ``load`` then restores the last checkpoint.

        ``settings`` take the place of its own: those of a run that goes on for longer, whose result, if it was
        finished, is removed. Time and machine of the resumption are added to its config.json, and what has changed
        since the run began is told in a warning. ValueError where another process works in the folder, and where more
        or fewer processes than now began the run.
        """
        check(loggers)
        config = on_disk.config(folder)
        if (began := config.get("processes") or 1) != processes():
            raise ValueError(
                f"the run in {folder} was begun by {began} at once, and its figures would be others with {processes()}:"
                f" processes that resume it must be {began}"
            )
        if not _writes():
            return cls(folder, config, True, loggers, display, None, callbacks)
        with _locked(folder) as lock:
            if settings is not None:
                (folder / "result.json").unlink(missing_ok=True)
                config["settings"] = files.plain(settings)
            here = provenance()
            for line in differences(config, here):
                warnings.warn(f"the run in {folder} goes on with {line}", stacklevel=2)
            config["resumed"] = [*(config.get("resumed") or []), here]
            on_disk.write_config(folder, config)
            return cls(folder, config, True, loggers, display, None, callbacks, lock)

    def stage(self, name: str) -> Run:
        """A run inside this one, in ``<run>/<name>``, with the same signals, display and loggers.

        A stage that an earlier process began, or the run whose stages this one takes, is resumed.
        """
        if on_disk.folder_name(name, "stage") in {*self._stages, *on_disk.RESERVED}:
            raise ValueError(f"stage {name!r} of {self.folder} is taken: give each stage a name of its own")
        folder = self.folder / name
        if self._writes and "stages_of" in self.config:
            on_disk.copy_stage(Path(self.config["stages_of"]) / name, folder)
        distributed.gather([name])  # no process looks into the folder before it is complete
        resumed = (folder / "config.json").exists()
        config = on_disk.config(folder) if resumed else {**self.config, "stage": name, "started": now()}
        if self._writes and not resumed:
            on_disk.begin(folder, config)
        self._stages[name] = Run(folder, config, resumed, (), False, self)
        return self._stages[name]

    @property
    def writes(self) -> bool:
        """Whether this process is the one that writes the run's folder."""
        return self._writes

    @property
    def stop(self) -> bool:
        """Whether Ctrl-C, SIGTERM or SIGHUP came: the loop ends after its step, saves, and raises ``Interrupted``."""
        return self._interrupts.requested

    @property
    def seconds(self) -> float:
        """Seconds that this run has worked, those before a resume included."""
        return time.monotonic() - self._begun

    @property
    def steps(self) -> int:
        """Steps done, those of the stages included."""
        return self._steps + sum(stage.steps for stage in self._stages.values())

    @property
    def resume_command(self) -> str:
        """The command line, or the line of Python, that resumes this run."""
        if self._outer:
            return self._outer.resume_command
        if "resume" in self.config:
            return str(self.config["resume"])
        command = str([self.config, *(self.config.get("resumed") or [])][-1]["command"])
        named = any(word == "--out" or word.startswith("--out=") for word in shlex.split(command))
        return command if named else f"{command} --out {shlex.quote(str(self.folder))}"

    def log(self, step: int, values: Mapping[str, Any]) -> None:
        """Add one line to metrics.jsonl, for loggers, display and callbacks too.

        NaN becomes null, a tensor of one element a number. RunFailed with the callback's error if one raises.
        """
        if not {"step", "time"}.isdisjoint(values):
            raise ValueError("a metric cannot be named 'step' or 'time': every line has these already")
        numbers = {name: files.number(name, value) for name, value in values.items()}
        self._steps = max(self._steps, step)
        if self._writes:
            with self._saying_how_to_resume():
                on_disk.metrics(self.folder, {"step": step, "time": round(self.seconds, 3), **numbers})
            self._display.log(self._label, step, numbers)
        for logger in self._loggers:
            logger.log(step, {name: value for name, value in numbers.items() if value is not None})
        for callback in self._callbacks if self._writes else ():
            try:
                callback(step, numbers, self)
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # sys.exit in a callback is an error of the callback
                name = getattr(callback, "__name__", type(callback).__name__)
                raise RunFailed(f"callback '{name}' at step {step}: {type(error).__name__}: {error}") from error

    def problem_scores(self, step: int, scores: Mapping[str, Tensor]) -> None:
        """Keep the scores of single held-out problems, each ``[P]``, in problem_scores.jsonl."""
        if self._writes:
            with self._saying_how_to_resume():
                on_disk.problem_scores(self.folder, step, scores)

    def samples(self, step: int, name: str, items: Sequence[Mapping[str, Any]]) -> None:
        """Log samples of the set ``name``: items with a prompt and an image [3, H, W] in [0, 1], a clip or turns.

        Everything else is optional. ``score`` is a number; ``boxes`` lie in the image; ``text`` is what a model wrote
        for the prompt; ``source`` is the picture that the prompt asks to edit; ``target`` is the right result of an
        edit, or of a program, which is then the ``text``. ``turns`` are a conversation in place of one picture, each
        with who, text, trained? and pictures?, these again with image and boxes?. A box has corners [x1, y1, x2, y2] in
        pixels of its image, label? and kind? ("predicted" or "true"). ``clip`` is an episode, uint8 [T, H, W, 3], which
        is stored small (`training.video`); ``path`` are its places [T, 2] in the plane, ``note`` is its outcome in
        words. A clip without an image is shown as a strip of a few frames. A set that is logged with the same prompts
        and noise at several steps is shown before (its first step) and after (its last).
        """
        on_disk.folder_name(name, "sample set")
        if self._writes:
            with self._saying_how_to_resume():
                on_disk.samples(self.folder, step, name, items)
        pictured = [{**item, "image": found[-1]} for item in items if self._loggers and (found := _pictures(item))]
        for logger in self._loggers:
            logger.images(step, f"samples/{name}", pictured)

    def show(self, step: int) -> Callable[[str, Sequence[Mapping[str, Any]]], None]:
        """The function that logs samples under this step, for parts that know nothing of steps."""
        return partial(self.samples, step)

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Keep a table under its title in tables.json; the same title again replaces it."""
        if self._writes:
            with self._saying_how_to_resume():
                on_disk.table(self.folder, title, columns, rows)

    def keep_best(self, step: int, scores: Mapping[str, float], state: Mapping[str, Stateful]) -> bool:
        """Write a checkpoint to ``best`` where the score that the config's "keep_best" names is the best so far.

        True once the config's "patience" evaluations in a row brought nothing better; stages have all their steps.
        ValueError, with the nearest name, if there is no such score; a stage may have others.
        """
        name, _, least = str(self.config.get("keep_best", "")).partition(":")
        if not name or (self._outer and name not in scores):
            return False
        if name not in scores or least not in ("", "min"):
            known = [score for score in scores if not score.endswith(STANDARD_ERROR)]
            advice = f"{suggestion(name, known)} (of {', '.join(known)}, each with :min where less is better)"
            raise ValueError(f"--keep-best {self.config['keep_best']}: no such score{advice}")
        sign = -1 if least else 1
        lines = files.records(self.folder / "metrics.jsonl") if self._writes else []
        key = f"eval/{name}"
        before = [sign * line[key] for line in lines if line["step"] < step and line.get(key) is not None]
        values = [value if value == value else -math.inf for value in (*before, sign * scores[name])]
        since = len(values) - 1 - values.index(max(values))
        if distributed.any_true(self._writes and not since):
            self.save(step, state, "best")
        patience = 0 if self._outer else self.config.get("patience", 0)
        self.settled = distributed.any_true(self._writes and bool(patience) and since >= patience)
        return self.settled

    def keep_checkpoints(self, due: Callable[[int], bool]) -> None:
        """Say after how many steps a checkpoint is due; any other one, which an interruption or an error asked for,
        makes way for the next, so that a resumed run comes to keep the checkpoints of one never interrupted.
        """
        self._due = due

    def save(self, step: int, state: Mapping[str, Stateful], folder: str = "checkpoints") -> Path:
        """Write a checkpoint after ``step`` steps; every process must call it, since gathering a state may need all.

        What was logged before is on the disk by then.
        """
        gathered = {name: full_tensors(part.state_dict()) for name, part in state.items()}
        self._steps = max(self._steps, step)
        place = self.folder / folder
        if not self._writes:
            return checkpoint.path_of(place, step)
        with self._saying_how_to_resume():
            lines = on_disk.sync_lines(self.folder, step)
            return checkpoint.write(place, step, gathered, lines, passing=not self._due(step))

    def load(self, state: Mapping[str, Stateful]) -> int:
        """Restore the newest whole checkpoint and return its step, 0 if there is none; records past it are cut.

        A checkpoint of other parts than ``state`` names is a ValueError: a part that kept its first weights in silence
        would make a different run.
        """
        path = self._latest()
        if path is None:
            return 0
        step, saved = checkpoint.read(path)
        if set(saved) != set(state):
            raise ValueError(f"{path} holds {', '.join(sorted(saved))}, but this run has {', '.join(sorted(state))}")
        for name, part in state.items():
            part.load_state_dict(saved[name])
        self._cut(step, checkpoint.lines_of(path))
        self._steps = step
        return step

    def progress(self, step: int, steps: int | None) -> None:
        """Tell the display that ``step`` of ``steps`` steps are done."""
        self._steps = max(self._steps, step)
        self._display.progress(self._label, step, steps)

    def finish(self, result: Mapping[str, Any]) -> dict[str, Any]:
        """Write result.json (run, steps, seconds, then ``result``), close the run, and return what was written."""
        written = files.plain(
            {"run": str(self.folder), "steps": self.steps, "seconds": round(self.seconds, 3), **result}
        )
        if self._writes:
            with self._saying_how_to_resume():
                files.replace(self.folder / "result.json", written)
        self.close()
        return written

    def close(self) -> None:
        """Close the loggers; the outermost run also closes the display and restores signals. May be called twice."""
        for stage in self._stages.values():
            stage.close()
        for logger in self._loggers:
            logger.finish()
        self._loggers = []
        if self._outer is None:
            self._display.close()
            self._interrupts.restore()
            if self._lock:
                self._lock.release()

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _latest(self) -> Path | None:
        """The newest whole checkpoint below which no line is missing."""
        return checkpoint.latest(self.folder / "checkpoints", partial(on_disk.lost, self.folder))

    def _cut(self, step: float, lines: Mapping[str, int] | None = None) -> None:
        """Take the records back to ``step`` and their number then, and the clock to the last of them."""
        if self._writes:
            self._begun = time.monotonic() - on_disk.cut(self.folder, step, lines)

    @contextmanager
    def _saying_how_to_resume(self) -> Iterator[None]:
        """A full or failing disk ends the run with one line."""
        try:
            yield
        except OSError as error:
            line = f"cannot write in {self.folder}: {error.strerror}" if error.strerror else error
            raise RunFailed(f"{line}; resume with: {self.resume_command}") from error


@contextmanager
def _locked(folder: Path) -> Iterator[FolderLock]:
    """The lock of a folder, which is given back if the run cannot be opened."""
    lock = FolderLock(folder)
    try:
        yield lock
    except BaseException:
        lock.release()
        raise


def _writes() -> bool:
    return int(os.environ.get("RANK") or 0) == 0


def _pictures(item: Mapping[str, Any]) -> list[Any]:
    """The pictures of a sample: its own, its clip's strip, or those of its conversation."""
    shown = [picture for turn in item.get("turns", ()) for picture in turn.get("pictures", ())]
    if "image" in item:
        return [item["image"]]
    return [video.thumbnails(item["clip"])] if item.get("clip") is not None else [picture["image"] for picture in shown]
