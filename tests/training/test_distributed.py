"""Two gloo processes take the same steps as one with the same total batch (how a run ends with one: tests/cli)."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.distributed_c10d import Backend, BackendConfig
from torch.testing._internal.distributed.fake_pg import FakeStore
from toy import PROBLEMS, Toy

from saccade.algorithms.grpo import GRPO
from saccade.core import Loss
from saccade.random import seeds
from saccade.training import distributed
from saccade.training.groups import sample_groups
from saccade.training.learner import Updates
from saccade.training.loop import describe
from saccade.training.settings import AdamW

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


def grouped(backend: str) -> None:
    """A group of two processes of which this is one, that takes tensors of the devices in ``backend``."""
    dist.init_process_group(backend, store=FakeStore(), rank=0, world_size=2)


def collectives() -> None:
    """Everything that is summed or gathered in a run, from tensors on the CPU."""
    weight = nn.Parameter(torch.ones(3))
    weight.grad = torch.ones(3)
    assert distributed.any_true(True) and distributed.world() == 2
    distributed.all_sum(torch.ones(2, dtype=torch.float64))
    distributed.sum_gradients([weight, nn.Parameter(torch.ones(2))])
    rollout = sample_groups(Toy.new().rollout, PROBLEMS[:2], seeds(0, 2, "test"), 2)
    rollout.rewards["total"] = torch.ones(4)
    describe(rollout)
    GRPO(std="batch").advantage(rollout.rewards["total"], rollout.group_B)
    update = AdamW().update("toy", lambda batch: Loss(weight.sum(), torch.tensor(1.0)), [weight])
    Updates([update]).update(rollout)


def test_a_run_on_gpus_sums_tensors_of_the_cpu_too(monkeypatch):
    asked = []
    with monkeypatch.context() as gpus:
        gpus.setenv("WORLD_SIZE", "2")
        gpus.setenv("LOCAL_RANK", "0")
        gpus.setattr(torch.cuda, "is_available", lambda: True)
        gpus.setattr(torch.cuda, "set_device", lambda device: None)
        gpus.setattr(dist, "init_process_group", lambda backend, timeout: asked.append(backend))
        distributed.start()
    assert BackendConfig(Backend(asked[0])).get_device_backend_map() == {"cpu": "gloo", "cuda": "nccl"}
    for backend, refused in (("cuda:fake", True), (asked[0].replace("gloo", "fake").replace("nccl", "fake"), False)):
        grouped(backend)  # nccl takes what "cuda:fake" takes
        try:
            with pytest.raises(distributed.PeerLost) if refused else nullcontext():
                collectives()
        finally:
            distributed.stop()


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
