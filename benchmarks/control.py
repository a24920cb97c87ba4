"""Speed of learning to act: environment steps a second of PPO, ours and stable-baselines3's in the same run.

    python benchmarks/control.py [--pole] [--pong] [--threads 1] [--repetitions 5] [--json] [--save]

Both sides have the same environment, network, batch sizes and epochs. A repetition is one segment of each: collecting
it and all epochs on it. The sides take turns, and the order turns round each time. "x sb3" is how many times ours is
faster, the median over repetitions of the ratio within one, in CPU seconds of all threads, for wall seconds depend on
who else uses the machine: the load average is printed. The return of the episodes that ended lately is printed for
both, after equally many steps.

* pole: CartPole-v1, vectors, two networks of 64 x 64. stable-baselines3 makes the environment in its own way.
* pong: ALE/Pong-v5, grey 84 x 84 x 4, 8 rows, the network of DQN. Both step the environment that we make. "bfloat16" is
ours with
  the products of the update in that precision and weights in float32.

SAC is measured by `control_sac.py`.
"""

from __future__ import annotations

import argparse
import json
from collections import deque
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from statistics import fmean, median
from typing import Any

import torch
from measure import Timing, interleaved, load, ratio

from saccade.core import Rollout
from saccade.envs.rollout import RolloutCollector
from saccade.oracles import stable_baselines3
from saccade.recipes.baselines.ppo import PRESETS, Settings, policies
from saccade.training.provenance import commit, machine, now, versions

AIMS = {"pole": ("float32", 5.0), "pong": ("bfloat16", 1.7)}
RECENT = 20
"""Episodes whose mean return is told."""


class Ours:
    """One segment a call: collected, and learned from in all epochs."""

    def __init__(self, cfg: Settings):
        policy = policies(cfg)["policy"]
        self.finished: deque[float] = deque(maxlen=RECENT)
        collector = RolloutCollector(cfg.task.make(cfg.n_envs), policy, cfg.ppo.n_steps, cfg.seed)
        self.feed = cfg.ppo.feed(collector, cfg.n_envs, self._log)
        # The number of steps of a full training, so that an annealed learning rate starts as it does there.
        self.learner = cfg.ppo.learner(policy, cfg.optim, cfg.n_envs, cfg.schedule.steps, cfg.seed)
        self.step = 0

    def __call__(self) -> None:
        self.learner.update(self.feed(self.step))
        self.step += 1

    def _log(self, step: int, rollout: Rollout) -> None:
        self.finished += [episode.total for row in rollout.outputs for episode in row]

    def returned(self) -> float | None:
        return fmean(self.finished) if self.finished else None


class Theirs:
    """The same of stable-baselines3."""

    def __init__(self, cfg: Settings, own_environment: bool):
        from stable_baselines3.common.env_util import make_vec_env
        from stable_baselines3.common.vec_env import VecMonitor

        self.decisions = cfg.n_envs * cfg.ppo.n_steps
        model = replace(cfg.model, precision="float32")
        self.model = stable_baselines3.build_ppo(cfg.task.make(cfg.n_envs), model, cfg.ppo, cfg.optim, cfg.seed)
        rows = VecMonitor(self.model.env) if own_environment else make_vec_env(cfg.task.env, cfg.n_envs, cfg.seed)
        self.model.set_env(rows)

    def __call__(self) -> None:
        self.model.learn(self.decisions, reset_num_timesteps=False)

    def returned(self) -> float | None:
        finished = [e["r"] for e in list(self.model.ep_info_buffer)[-RECENT:]]
        return fmean(finished) if finished else None


def measure(name: str, repetitions: int) -> dict[str, Any]:
    """Steps a second and returns of all sides."""
    cfg = {"pole": PRESETS["tiny"], "pong": PRESETS["pong"]}[name]
    sides: dict[str, Any] = {"float32": Ours(cfg), "sb3": Theirs(cfg, own_environment=name != "pole")}
    if name == "pong":
        sides["bfloat16"] = Ours(replace(cfg, model=replace(cfg.model, precision="bfloat16")))
    before = load()
    for side in sides.values():
        side()
    timings, _, _ = interleaved(sides, repetitions)
    decisions = cfg.n_envs * cfg.ppo.n_steps
    found: dict[str, Any] = {side: row(timings, side, decisions, sides[side].returned()) for side in sides}
    return {"steps": decisions * (repetitions + 1), "load": [before, load()], "sides": found}


def row(timings: Mapping[str, Timing], side: str, decisions: int, returned: float | None) -> dict[str, float | None]:
    """What is said about one side."""
    cpu, wall = median(timings[side].cpu), median(timings[side].wall)
    return {
        "steps/s": decisions / cpu,
        "wall steps/s": decisions / wall,
        "x sb3": ratio(timings["sb3"], timings[side]),
        "return": returned,
    }


def show(name: str, found: Mapping[str, Any]) -> None:
    """The human table."""
    print(f"\n{name}: {found['steps']} steps each; load {found['load'][0][0]} to {found['load'][1][0]}")
    for side, values in found["sides"].items():
        told = {key: "  no end  " if value is None else f"{value:9.2f}" for key, value in values.items()}
        print(f"  {side:10s}" + "  ".join(f"{key} {value}" for key, value in told.items()))
    side, least = AIMS[name]
    times = found["sides"][side]["x sb3"]
    print(f"  aim {side}, x sb3: >= {least}, found {times:.2f}, {'met' if times >= least else 'not met'}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    for name in AIMS:
        parser.add_argument(f"--{name}", action="store_true", help=f"measure {name} (default: all)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/control.json too")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    chosen = [name for name in AIMS if getattr(options, name)] or list(AIMS)
    result: dict[str, Any] = {
        "date": now(),
        "commit": commit(),
        "machine": machine(),
        "versions": versions(),
        "threads": options.threads,
    }
    for name in chosen:
        result[name] = measure(name, options.repetitions)
        if not options.json:
            show(name, result[name])
    if options.json:
        print(json.dumps(result))
    if options.save:
        (Path(__file__).parent / "results" / "control.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
