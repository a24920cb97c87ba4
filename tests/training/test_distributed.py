"""Two gloo processes take the same steps as one with the same total batch (how a run ends with one: tests/cli)."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent.parent


def launch(script: str, *arguments: str, processes: int = 2, timeout: int = 240) -> subprocess.CompletedProcess:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable]
    if processes > 1:
        command += ["-m", "torch.distributed.run", "--nproc-per-node", str(processes), f"--master-port={port}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(HERE), *sys.path])}
    return subprocess.run(
        [*command, str(HERE / script), *arguments], capture_output=True, text=True, timeout=timeout, env=environment
    )


def weights_after(tmp_path: Path, kind: str, processes: int, *more: str) -> dict[str, torch.Tensor]:
    out = tmp_path / f"{kind}-{processes}-{len(more)}.pt"
    done = launch("distributed_worker.py", kind, str(out), *more, processes=processes)
    assert done.returncode == 0, done.stderr[-3000:]
    return torch.load(out)


@pytest.mark.parametrize("kind", ["flow", "rewriter", "flow-sharded", "flow-sharded-lora", "rewriter-sharded"])
def test_two_processes_take_the_steps_of_one(tmp_path, sd3_folder, lm_folder, kind):
    folder = str(sd3_folder if kind.startswith("flow") else lm_folder)
    one, two = (weights_after(tmp_path, kind, n, folder) for n in (1, 2))
    start = weights_after(tmp_path, kind, 1, folder, "start")
    for name in one:
        torch.testing.assert_close(two[name], one[name], atol=2e-5, rtol=1e-4)
    moved = max(float((one[name] - start[name]).abs().max()) for name in one)
    apart = max(float((one[name] - two[name]).abs().max()) for name in one)
    assert moved > 100 * apart, "the steps are far larger than what separates the two"


def test_two_updates_on_sharded_modules_are_kept_apart(tmp_path):
    one, two = (weights_after(tmp_path, "sharded", n) for n in (1, 2))
    for name in one:
        torch.testing.assert_close(two[name], one[name], atol=1e-6, rtol=1e-5)
