"""The arms and seeds of a check as processes of one thread each, as many at once as there are cores, with their
progress.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from saccade.core import RunFailed
from saccade.training import files
from saccade.training.display import Display, open_display

_POLL_SECONDS = 0.3
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")


@dataclass
class Job:
    """One arm with one seed: a run in ``folder``, beside which its log lies."""

    recipe: str
    arm: str
    seed: int
    steps: int | None
    """Number of training steps, where the settings give it."""
    folder: Path
    after: Path | None = None
    """Folder of the run whose stages this one takes; it starts when that run has ended."""
    shown: dict[Path, int] = field(default_factory=dict, init=False)
    """Number of lines of each file of metrics that the display was given."""

    @property
    def label(self) -> str:
        return f"{self.arm}, seed {self.seed}"

    @property
    def log(self) -> Path:
        return self.folder.with_name(self.folder.name + ".log")

    @property
    def finished(self) -> bool:
        """Whether the run has written its result."""
        return is_finished(self.folder)

    def start(self) -> subprocess.Popen:
        """Begin the process; what it prints goes to the log."""
        words = [sys.executable, "-m", "saccade.checks.arm", self.recipe, self.arm, str(self.seed), str(self.folder)]
        with self.log.open("ab") as log:
            return subprocess.Popen(words, stdout=log, stderr=log, env=os.environ | _ONE_THREAD)

    def show(self, display: Display) -> None:
        """Give the display what the run and its stages have logged since the last call."""
        for file in (*self.folder.glob("*/metrics.jsonl"), self.folder / "metrics.jsonl"):
            of_run = file.parent == self.folder
            label, records = self.label if of_run else f"{self.label}, {file.parent.name}", files.records(file)
            shown, self.shown[file] = self.shown.get(file, 0), len(records)
            for record in records[shown:]:
                display.log(label, record["step"], {k: v for k, v in record.items() if k not in ("step", "time")})
            if len(records) > shown:
                display.progress(label, records[-1]["step"], self.steps if of_run else None)

    def ended(self, process: subprocess.Popen) -> bool:
        """Whether the process is done. RunFailed with the last line of its log if it did not end well."""
        status = process.poll()
        if status:
            lines = self.log.read_text(errors="replace").strip().splitlines() or ["it printed nothing"]
            raise RunFailed(
                f"arm '{self.arm}' with seed {self.seed} ended with status {status}: {lines[-1]} (log: {self.log})"
            )
        return status == 0


def is_finished(folder: Path) -> bool:
    """Whether the run in a folder has written its result."""
    return (folder / "result.json").is_file()


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def folder_of(parent: Path, arm: str, seed: int) -> Path:
    """Folder of an arm's run: the arm's name, without signs that a folder cannot have, and the seed."""
    return parent / f"{re.sub(r'[^A-Za-z0-9_.+-]+', '-', arm)}-{seed}"


def run_all(jobs: Sequence[Job], workers: int) -> None:
    """Run all jobs, ``workers`` at a time. RunFailed as soon as one fails; the others are then ended too."""
    waiting, done = list(jobs), set()
    running: list[tuple[Job, subprocess.Popen]] = []
    display = open_display(True, lambda: False)
    # SIGTERM ends the check's runs too, as Ctrl-C does.
    former = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        while waiting or running:
            ready = [job for job in waiting if job.after is None or job.after in done or is_finished(job.after)]
            for job in ready[: workers - len(running)]:
                waiting.remove(job)
                running.append((job, job.start()))
            time.sleep(_POLL_SECONDS)
            for job, process in list(running):
                ended = job.ended(process)
                job.show(display)
                if ended:
                    running.remove((job, process))
                    done.add(job.folder)
                    display.progress("runs", len(done), len(jobs))
    finally:
        for _, process in running:
            if process.poll() is None:
                process.kill()
                process.wait()
        signal.signal(signal.SIGTERM, former)
        display.close()
