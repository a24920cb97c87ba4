"""Speed of drawing programs: SVG renders a second through the isolated workers, beside resvg in the same process.

    python benchmarks/render.py [--size 64] [--count 1000] [--repetitions 5] [--json]

The programs are those of the world of programs, each drawn once; the cache is emptied before every repetition. Sides:

* workers: `render_batch`: guard, resvg and PNG decoder in worker processes, one a core, pictures as arrays here.
* guarded: the same functions called in this process, one after another: what isolation costs is the difference.
* bare: resvg and the PNG decoder alone, no guard: the fastest that can be had in one process, until a program kills it.

How to read it. Seconds are for the whole batch; CPU seconds are those of this process and of all workers together. "x
bare" is renders a second of wall time over those of "bare", the median over repetitions of the ratio within one; the
sides take turns. Wall seconds depend on who else uses the machine (the load average is printed), so the aim of 1,000
renders a second is also given for cores that nobody else uses: cores over CPU seconds a render.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import time
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from measure import load
from PIL import Image

from saccade.tools.render import Request, render_batch, service, svg
from saccade.training.provenance import commit, machine, now, versions
from saccade.worlds import programs

AIM = 1_000
_TICKS = os.sysconf("SC_CLK_TCK")


def workers() -> list[int]:
    return service._pool(os.getpid(), "svg").pids()


def cpu() -> float:
    """CPU seconds of this process and of the workers that live."""
    stats = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in workers()]
    return time.process_time() + sum(int(stat[11]) + int(stat[12]) for stat in stats) / _TICKS


def sides(codes: list[str], size: int) -> dict[str, Callable[[], list[np.ndarray]]]:
    """Three ways to the same pictures."""
    requests = [Request(code, size=size) for code in codes]
    shape, box = (size, size, 3), svg.BOX

    def through_workers() -> list[np.ndarray]:
        service._cache.cache_clear()
        return [one.picture for one in render_batch(requests)]

    def guarded() -> list[np.ndarray]:
        return [np.frombuffer(svg.draw(code, size, "#fff", box)[2], np.uint8).reshape(shape) for code in codes]

    def bare() -> list[np.ndarray]:
        canvas = f'<svg width="{size}" height="{size}"'
        pngs = (svg.rasterize(code.replace("<svg", canvas, 1).encode(), size, "#fff") for code in codes)
        return [np.asarray(Image.open(BytesIO(png)).convert("RGB")) for png in pngs]

    return {"workers": through_workers, "guarded": guarded, "bare": bare}


def timed(work: Callable[[], Any]) -> dict[str, float]:
    wall, before = time.perf_counter(), cpu()
    work()
    return {"wall": time.perf_counter() - wall, "cpu": cpu() - before}


def replaced() -> float:
    """Seconds from a worker's death in the middle of a program to the answer of the fresh one, start and probe
    included.
    """
    os.kill(workers()[0], signal.SIGKILL)
    start = time.perf_counter()
    render_batch([Request(f"<svg><rect width='{n}' height='9'/></svg>", size=16) for n in range(1, 3)])
    return time.perf_counter() - start


def measure(size: int, count: int, repetitions: int) -> dict[str, Any]:
    """All that is said about one size."""
    codes = [problem.answer["code"] for problem in programs.sample_problems(count, 0, size=8)]
    works = sides(codes, size)
    pictures = {name: work() for name, work in works.items()}
    same = all((np.stack(pictures["workers"]) == np.stack(pictures[name])).all() for name in works)
    times: dict[str, list[dict[str, float]]] = {name: [] for name in works}
    found: dict[str, Any] = {"size": size, "count": count, "cores": len(os.sched_getaffinity(0)), "load before": load()}
    for repetition in range(repetitions):
        for name in list(works)[:: -1 if repetition % 2 else 1]:
            times[name].append(timed(works[name]))
    for name, rows in times.items():
        wall, seconds = (median(row[kind] for row in rows) for kind in ("wall", "cpu"))
        faster = median(b["wall"] / a["wall"] for a, b in zip(rows, times["bare"]))
        more = median(a["cpu"] / b["cpu"] for a, b in zip(rows, times["bare"]))
        found[name] = {
            "renders/s": count / wall,
            "x bare": faster,
            "wall ms": wall / count * 1e3,
            "cpu ms": seconds / count * 1e3,
            "x bare cpu": more,
            "best renders/s": count / min(row["wall"] for row in rows),
        }
    free = found["cores"] / found["workers"]["cpu ms"] * 1e3
    known = timed(lambda: render_batch([Request(code, size=size) for code in codes]))
    found |= {"same pictures": same, "renders/s on free cores": free, "cached ms": known["wall"] / count * 1e3}
    met = max(found["workers"]["best renders/s"], free) >= AIM
    return found | {"replacing a worker, s": replaced(), "load after": load(), "aim met": met}


def show(found: dict[str, Any]) -> None:
    """The human table."""
    print(f"{found['count']} programs at {found['size']} px, {found['cores']} cores, load {found['load before'][0]} to "
          f"{found['load after'][0]}, same pictures: {found['same pictures']}")  # fmt: skip
    for name in ("workers", "guarded", "bare"):
        row = found[name]
        print(f"  {name:10s}{row['renders/s']:8.0f} renders/s (best {row['best renders/s']:.0f})  x"
              f" bare {row['x bare']:.2f}"
              f"  wall {row['wall ms']:.3f} ms  cpu {row['cpu ms']:.3f} ms  x bare cpu"
              f" {row['x bare cpu']:.2f}")  # fmt: skip
    print(f"  free cores  {found['renders/s on free cores']:.0f} renders/s by CPU seconds; "
          f"aim >= {AIM}: {'met' if found['aim met'] else 'not met'}")  # fmt: skip
    print(
        f"  cached      {found['cached ms'] * 1e3:.1f} us; replacing a dead worker"
        f" {found['replacing a worker, s']:.2f} s"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    options = parser.parse_args()
    found = measure(options.size, options.count, options.repetitions)
    if options.json:
        print(json.dumps({"date": now(), "commit": commit(), "machine": machine(), "versions": versions(), **found}))
    else:
        show(found)


if __name__ == "__main__":
    main()
