"""Grey: a grey level learns to be right.

paper: None; a recipe for tests, of the same parts as real ones.
idea: One weight moves towards the level that is asked for,
    a share of the way each step.
claims: It gets nearer; a frozen one does not.
differs: It costs nothing.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from saccade.core import NothingJudged, Problem, Rollout
from saccade.training.claims import Claim
from saccade.training.loop import fit
from saccade.training.run import Run
from saccade.training.settings import Schedule


@dataclass(frozen=True)
class Model:
    """What is trained."""

    model: str = "grey"
    """Name of the level."""
    kind: Literal["plain", "fancy"] = "plain"
    """Which kind of grey."""


@dataclass(frozen=True)
class Settings:
    """Grey; the defaults are quick."""

    model: Model = Model()
    seed: int = 0
    """Seed of everything."""
    steps: int = 6
    """Training steps."""
    share: float = 0.5
    """Share of the way that a step takes."""
    names: tuple[str, ...] = ("a", "b")
    """Words without meaning."""
    frozen: bool = False
    """Whether nothing is learned."""
    first_steps: int = 0
    """Training steps of a stage before."""
    trouble: str = ""
    """What goes wrong at step 3: reward, value, bug, die, wait."""


PRESETS = {"tiny": Settings(), "large": replace(Settings(), steps=50, model=Model(model="slate"))}


class Level:
    """A policy with one weight."""

    def __init__(self) -> None:
        self.weight = nn.Parameter(torch.zeros(1))

    def state_dict(self) -> dict[str, Tensor]:
        return {"weight": self.weight.detach().clone()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self.weight.data.copy_(state["weight"])

    def export(self, folder: Path) -> None:
        (Path(folder) / "weight.txt").write_text(str(self.weight.item()))


@dataclass
class Learner:
    cfg: Settings
    level: Level

    def update(self, batch: Rollout) -> dict[str, float]:
        if not self.cfg.frozen:
            self.level.weight.data.lerp_(torch.ones(1), self.cfg.share)
        return {"loss/level": 1 - self.level.weight.item()}

    def state_dict(self) -> dict:
        return {}

    def load_state_dict(self, state: dict) -> None: ...


def policies(cfg: Settings) -> dict[str, Level]:
    return {"policy": Level()}


def train(cfg: Settings, run: Run) -> dict[str, dict[str, float]]:
    level = policies(cfg)["policy"]
    if cfg.first_steps:
        first, learner = run.stage("first"), Learner(Settings(), level)
        schedule = Schedule(cfg.first_steps, save_every=2)
        fit(lambda step: seen(level), learner, first, schedule, state={"policy": level})

    def feed(step: int) -> Rollout:
        if step == 3:
            trouble(cfg.trouble)
        return seen(level)

    return fit(
        feed, Learner(cfg, level), run, Schedule(cfg.steps, evaluate_every=2, save_every=2), state={"policy": level},
        evaluate=lambda step: evaluate(cfg, {"policy": level}),
    )  # fmt: skip


def seen(level: Level) -> Rollout:
    image, none = level.weight.detach().expand(2, 3, 8, 8).clone(), torch.zeros(2, 0)
    rollout = Rollout([Problem(0, "grey")] * 2, {}, image, none, none, torch.zeros(2, dtype=torch.long))
    rollout.rewards["total"] = image.mean((1, 2, 3))
    return rollout


def trouble(kind: str) -> None:
    if kind == "reward":
        raise NothingJudged("reward 'total' judged none of 2 samples: KeyError: 'x'")
    if kind == "value":
        raise ValueError("two lines\nof trouble")
    if kind == "bug":
        [][1]
    if kind == "die" and os.environ.get("RANK") == "1":
        os.kill(os.getpid(), 9)
    if kind == "wait":
        print("waiting", file=sys.stderr, flush=True)
        time.sleep(0.5)


def evaluate(cfg: Settings, policies: Mapping[str, Level]) -> dict[str, float]:
    value = policies["policy"].weight.item()
    return {"level": value, "from seed": value + cfg.seed / 100}


def sample(cfg: Settings, policies: Mapping[str, Level], prompts: Sequence[str], seeds: Tensor) -> list[dict]:
    level = policies["policy"].weight.detach()
    return [{"prompt": p, "text": p.upper(), "image": level.expand(3, 8, 8)} for p in prompts]


ARMS = {"learned": Settings(), "left alone": replace(Settings(), frozen=True)}
CLAIMS = (
    Claim("it gets nearer", lambda arm: arm["learned"]["level"] - arm["learned"]["level@0"], least=0.9),
    Claim("what is frozen does not", lambda arm: arm["learned"]["level"] - arm["left alone"]["level"], least=0.5),
    Claim(
        "at the same cost",
        lambda arm: arm["left alone"]["cost/images"] - arm["learned"]["cost/images"],
        origin="sanity",
    ),
)
