"""Clocks, counters and the machine: CPU and wall seconds, counted FLOPs, the rate of a large matrix product, peak
memory.
"""

from __future__ import annotations

import math
import os
import resource
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import torch
from torch.utils.flop_counter import FlopCounterMode


@dataclass
class Timing:
    """Seconds of every repetition of one piece of work."""

    cpu: list[float] = field(default_factory=list)
    wall: list[float] = field(default_factory=list)


def interleaved(
    works: Mapping[str, Callable[[], object]], repetitions: int
) -> tuple[dict[str, Timing], list[float], list[float]]:
    """Run all works in turn, so that whatever else the machine does falls on all alike; the order turns round each
    time.

    Returns the timings and the matmul rates of each repetition in float32 and bfloat16, in FLOP a second of CPU time.
    """
    timings: dict[str, Timing] = {name: Timing() for name in works}
    full, half = [], []
    for repetition in range(repetitions):
        full.append(matmul_rate())
        half.append(matmul_rate(dtype=torch.bfloat16))
        for name in list(works)[:: -1 if repetition % 2 else 1]:
            wall, cpu = time.perf_counter(), time.process_time()
            works[name]()
            timings[name].cpu.append(time.process_time() - cpu)
            timings[name].wall.append(time.perf_counter() - wall)
    return timings, full, half


def ratio(slow: Timing, fast: Timing) -> float:
    """How many times ``fast`` is faster in CPU time: the median over repetitions of the ratio within each."""
    return median(a / b for a, b in zip(slow.cpu, fast.cpu))


def matmul_rate(size: int = 2048, repetitions: int = 3, dtype: torch.dtype = torch.float32) -> float:
    """FLOP a second of CPU time (all threads together) of the best of a few large matrix products."""
    a, b = torch.randn(2, size, size, dtype=dtype)
    seconds = []
    for _ in range(repetitions):
        start = time.process_time()
        a @ b
        seconds.append(time.process_time() - start)
    return 2 * size**3 / min(seconds)


def flops(work: Callable[[], object]) -> int:
    """Multiplications and additions of matrix products, convolutions and attention that ``work`` carries out."""
    aten = torch.ops.aten
    # The counter knows neither attention nor fused layers on a CPU.
    unknown = {
        torch.ops.mkldnn._linear_pointwise: lambda x, w, *_, out_shape=None, **__: 2 * math.prod(x) * w[0],
        aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, *_, out_shape=None, **__: _attention(q, k, 2),
        aten._scaled_dot_product_flash_attention_for_cpu_backward: lambda _, q, k, *__, out_shape=None, **___: (
            _attention(q, k, 5)
        ),
    }
    with FlopCounterMode(display=False, custom_mapping=unknown) as counter:
        work()
    return counter.get_total_flops()


def _attention(q: tuple[int, ...], k: tuple[int, ...], products: int) -> int:
    batch, heads, queries, width = q
    return products * 2 * batch * heads * queries * k[2] * width


def peak_mb() -> float:
    """The most memory that this process has ever held, in MB."""
    return _status("VmHWM")


def resident_mb() -> float:
    """The memory that this process holds, in MB; where the system does not say, the most it has ever held."""
    return _status("VmRSS")


def _status(entry: str) -> float:
    # Linux counts a parent's memory into ru_maxrss of its child, but not into the child's own status.
    status = Path("/proc/self/status")
    if status.exists():
        return next(float(line.split()[1]) / 1024 for line in status.read_text().splitlines() if line.startswith(entry))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20 if sys.platform == "darwin" else 1 << 10)


def load() -> list[float]:
    """Load average of the machine over 1, 5 and 15 minutes."""
    return [round(x, 2) for x in os.getloadavg()]
