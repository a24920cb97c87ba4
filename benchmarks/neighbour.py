"""Seconds of a short training run of a miniature, alone and beside a process that keeps one core busy.

`import saccade` lets OpenMP's threads sleep while they wait (OMP_WAIT_POLICY=passive). The other sides are threads that
spin, which is OpenMP's default, and a single thread. Each side is a process of its own, since OpenMP reads its settings
once. On a machine that others use the load average says how alone "alone" was.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from measure import load

from saccade.checks.processes import cores
from saccade.training.provenance import commit, machine, now, versions

SIDES = {
    "sleeping (saccade)": {},
    "spinning (default of OpenMP)": {"OMP_WAIT_POLICY": "active"},
    "one thread": {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
}
NEIGHBOURS = {"alone": 0, "beside one busy process": 1, "beside as many busy processes as cores": cores()}


@contextmanager
def neighbours(count: int) -> Iterator[None]:
    """Processes that each keep one core busy."""
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()


def seconds(steps: int, settings: dict[str, str]) -> tuple[float, float]:
    """Wall and CPU seconds of a run of ``steps`` steps in a process of its own."""
    free = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "MKL_"))}
    with tempfile.TemporaryDirectory() as folder:
        words = ["-m", "saccade", "train", "promptrl", "--steps", str(steps), "--held-out-size", "8", "--json"]
        before, wall = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        subprocess.run(
            [sys.executable, *words, "--out", f"{folder}/run"],
            env=free | settings,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=True,
        )
        wall, after = time.perf_counter() - wall, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def measure(steps: int, repetitions: int) -> dict[str, Any]:
    """Medians over ``repetitions``, in which all sides take turns."""
    found: dict[str, Any] = {}
    for name, count in NEIGHBOURS.items():
        times: dict[str, list[tuple[float, float]]] = {side: [] for side in SIDES}
        before = load()
        for _ in range(repetitions):
            for side, settings in SIDES.items():
                with neighbours(count):
                    times[side].append(seconds(steps, settings))
        rows = {
            side: {"wall": round(median(w for w, _ in pairs), 1), "cpu": round(median(c for _, c in pairs), 1)}
            for side, pairs in times.items()
        }
        found[name] = {"load before": before, "seconds": rows}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/neighbour.json too")
    options = parser.parse_args()
    result = {"date": now(), "commit": commit(), "machine": machine(), "versions": versions()}
    result |= {"recipe": "promptrl", "steps": options.steps, "repetitions": options.repetitions}
    result["neighbours"] = measure(options.steps, options.repetitions)
    for name, found in result["neighbours"].items():
        for side, row in found["seconds"].items():
            print(f"{name:40s}{side:30s}wall {row['wall']:7.1f} s  cpu {row['cpu']:7.1f} s")
    if options.save:
        place = Path(__file__).parent / "results" / "neighbour.json"
        place.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
