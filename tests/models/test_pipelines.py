"""Every family of diffusers pipelines: samples of the plain pipeline, replay, updates, checkpoint, export, a command.

`scripts/models_page.py` makes docs/models.md of what these tests say.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_pipelines
import torch

from saccade.algorithms.grpo import GRPO
from saccade.core import Problem, Question
from saccade.policies.flow import FlowModel, FlowPolicy, build_flow_policy
from saccade.random import seeds

TEXTS = ["a red ring", "two blue squares and a long word: extraordinarily", "a red ring"]
SEEDS = seeds(0, 3, "test")
STEPS, GUIDANCE = 4, 3.0


@dataclass
class Family:
    """A tiny pipeline of one family on disk."""

    name: str
    folder: Path

    def policy(self, **changes: Any) -> FlowPolicy:
        model = dict(name=str(self.folder), size=tiny_pipelines.SIZE, sampling_steps=STEPS, guidance=GUIDANCE)
        policy = build_flow_policy(FlowModel(**model | changes), stochastic=(0, 1, 2))
        with torch.no_grad():  # LoRA must not be the identity
            for p in policy.trained if changes.get("lora_rank") else []:
                p.add_(0.02 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())))
        return policy

    @cached_property
    def picture(self) -> np.ndarray:
        return np.random.default_rng(0).integers(0, 255, (tiny_pipelines.SIZE,) * 2 + (3,), dtype=np.uint8)

    def problems(self, policy: FlowPolicy) -> list[Problem]:
        edits = policy.backbone.edits
        return [Problem(i, Question(text, (self.picture,)) if edits else text) for i, text in enumerate(TEXTS)]


@pytest.fixture(scope="module")
def families(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Family]:
    made: dict[str, Family] = {}

    def family(name: str) -> Family:
        if name in tiny_pipelines.NEEDS:
            pytest.importorskip(tiny_pipelines.NEEDS[name])
        if name not in made:
            made[name] = Family(name, tiny_pipelines.saved(name, tmp_path_factory.mktemp("pipeline")))
        return made[name]

    return family


@pytest.fixture(autouse=True)
def small_sources(monkeypatch: pytest.MonkeyPatch) -> None:
    """Editors of Qwen-Image resize a source picture to a megapixel; here to the size of the others."""
    from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit

    edge = tiny_pipelines.SIZE
    monkeypatch.setattr(pipeline_qwenimage_edit, "calculate_dimensions", lambda area, ratio: (edge, edge, None))


def samples_are_those_of_the_plain_pipeline(family: Family, tmp_path: Path) -> None:
    """Pictures of the same noise in steps without noise, for prompts of several lengths."""
    policy = family.policy().greedy()
    ours = policy.rollout(family.problems(policy), SEEDS).outputs
    policy.export(tmp_path / "out")
    theirs = _plain(tmp_path / "out", family.problems(policy), policy.latent_noise(SEEDS, "start"))
    spread = (theirs[0] - theirs[1]).abs().max()
    assert spread > 0 and (ours - theirs).abs().max() < 2e-4 * spread


def replay_is_rollout(family: Family, tmp_path: Path) -> None:
    """Log-probabilities of stored steps, also of a row alone and of a part of the steps."""
    policy = family.policy(lora_rank=2)
    rollout = policy.rollout(family.problems(policy), SEEDS)
    assert (policy.likelihood(rollout).logp_BT - rollout.logp_BT).abs().max() < 2e-5
    part = rollout.rows(torch.tensor([1])).columns(slice(1, 3))
    assert (policy.likelihood(part).logp_BT - part.logp_BT).abs().max() < 2e-5
    alone = policy.rollout(part.problems, SEEDS[1:2])
    torch.testing.assert_close(alone.outputs[0], rollout.outputs[1], atol=1e-4, rtol=0)


def update(family: Family, rank: int) -> None:
    """A step along the policy gradient makes the favoured samples likelier."""
    policy = replace(family.policy(lora_rank=rank), grad_through_uncond=True)
    rollout = policy.rollout(family.problems(policy), SEEDS)
    rollout.advantage_BT = rollout.broadcast(torch.tensor([1.0, -1.0, 0.5]))
    loss = GRPO(clip=0.5).loss(policy)
    first = loss(rollout)
    first.total.backward()
    slopes = [p.grad for p in policy.trained if p.grad is not None]
    assert all(slope.isfinite().all() for slope in slopes) and sum(s.square().sum() for s in slopes) > 0
    norm = float(sum(s.square().sum() for s in slopes)) ** 0.5
    rate = 1e-3 / norm
    with torch.no_grad():
        for p in policy.trained:
            if p.grad is not None:
                p.sub_(rate * p.grad)
    # The loss falls as the gradient says, which it would not if a part of the network had none.
    assert float(loss(rollout).total - first.total) == pytest.approx(-1e-3 * norm, rel=0.2)


def lora(family: Family, tmp_path: Path) -> None:
    update(family, rank=2)


def full(family: Family, tmp_path: Path) -> None:
    update(family, rank=0)


def export_opens_with_from_pretrained(family: Family, tmp_path: Path) -> None:
    """Trained weights travel: the folder alone draws as the policy does, and has the policy's arguments beside it."""
    policy = family.policy(lora_rank=2)
    problems = family.problems(policy)[:1]
    policy.export(tmp_path / "out")
    ours = policy.greedy().rollout(problems, SEEDS[:1]).outputs
    theirs = _plain(tmp_path / "out", problems, policy.latent_noise(SEEDS[:1], "start"))
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)
    state = replace(policy).state_dict()
    again = family.policy(lora_rank=2)
    again.load_state_dict(state)
    assert torch.equal(again.greedy().rollout(problems, SEEDS[:1]).outputs, ours)


def flow_grpo_takes_a_step(family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """By the command, with a reward of one's own."""
    from saccade import cli

    (tmp_path / "mine.py").write_text("def bright(rollout):\n    return rollout.outputs.flatten(1).mean(1)\n")
    monkeypatch.chdir(tmp_path)
    words = ["--model", family.folder, "--size", tiny_pipelines.SIZE, "--sampling-steps", 3, "--steps", 1]
    words += ["--prompts-per-step", 1, "--group-size", 2, "--rewards", "mine.py:bright", "--held-out-size", 1]
    status = cli.main(["train", "flow_grpo", *map(str, words), "--out", "run", "--json"])
    said = capsys.readouterr()
    assert status == 0, said.err
    assert json.loads(said.out.splitlines()[-1])["steps"] == 1
    line = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[1])
    assert line["health/flow_replay_gap"] < 1e-4


CHECKS = {
    "samples": samples_are_those_of_the_plain_pipeline,
    "replay": replay_is_rollout,
    "LoRA": lora,
    "full": full,
    "export": export_opens_with_from_pretrained,
    "flow_grpo": flow_grpo_takes_a_step,
}
QUICK = ("SD 1.5", "SDXL", "SD 3.5, dynamic shift", "Qwen-Image", "Z-Image")


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[] if n in QUICK else [pytest.mark.slow]) for n in tiny_pipelines.PIPELINES]
)
def test_family(families, name, check, tmp_path, monkeypatch, capsys):
    if check == "flow_grpo" and name in tiny_pipelines.EDITORS:
        pytest.skip("flow_grpo draws from texts alone")
    more = {"monkeypatch": monkeypatch, "capsys": capsys} if check == "flow_grpo" else {}
    CHECKS[check](families(name), tmp_path, **more)


def _plain(folder: Path, problems: list[Problem], noise: torch.Tensor) -> torch.Tensor:
    """Pictures of the plain pipeline in ``folder``, one prompt a call, with the arguments beside it."""
    from diffusers import DiffusionPipeline
    from PIL import Image

    pipe = DiffusionPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    arguments = json.loads((folder / "sampling.json").read_text())
    prepare = pipe.prepare_latents
    parts = []
    for problem, x in zip(problems, noise):

        def prepared(*args: Any, x: torch.Tensor = x, **kwargs: Any) -> Any:
            made = prepare(*args, **kwargs)
            drawn = made[0] if isinstance(made, tuple) else made
            latents = tiny_pipelines.as_latents(pipe, x[None], drawn)
            return (latents, *made[1:]) if isinstance(made, tuple) else latents

        pipe.prepare_latents = prepared
        question = problem.inputs if isinstance(problem.inputs, Question) else Question(problem.inputs)
        images = {"image": Image.fromarray(question.pictures[0])} if question.pictures else {}
        parts.append(pipe(prompt=question.text, output_type="pt", return_dict=False, **images, **arguments)[0])
    return torch.cat(parts).float()
