"""SAC on a pendulum: steps of the environment a second, each with one gradient step, against stable-baselines3 in the
same run.

    python benchmarks/control_sac.py [--threads 1] [--repetitions 7] [--hidden 256] [--json] [--save]

Both sides have an actor and two critics of two equal hidden layers, batches of 256, Adam, one environment without rows
beside it, and their ordinary loops: acting, stepping, storing, sampling, critics, actor, temperature, target. Ours is
measured three times: "ours" with the gradients written out (what the recipe takes), "bfloat16" the same with products
of that precision (`--algo.precision bfloat16`; its returns are compared by the check too), "autograd" with the same
losses through `Updates`. "x sb3" is the median over repetitions of the ratio of CPU seconds (of all threads) within one
repetition, since wall seconds depend on who else uses the machine: the load average is printed. All take turns. "x
floor" is how many times slower than the FLOPs that a step needs, counted on the autograd path, at the rate of a large
matrix product of the same thread count, measured beside every repetition.

The same work: before anything is timed, both of ours take ten steps on the same batches and must tell the same losses;
the largest relative difference is printed. Equal returns are the business of the check of recipe sac, not of this file.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
from flow import rounded
from measure import flops, interleaved, load, matmul_rate, ratio

from saccade.algorithms import off_policy
from saccade.algorithms.off_policy import ADAM, OffPolicy
from saccade.envs.task import ControlTask
from saccade.oracles import stable_baselines3
from saccade.training.provenance import commit, machine, now, versions

AIM = 1.8
STEPS = 60
"""Steps of the environment in one repetition."""
TASK = ControlTask("Pendulum-v1")


class Ours:
    """Our loop without its run folder: the feed, then the learner, whose gradients are hand-written or autograd's."""

    def __init__(self, algo: OffPolicy, analytic: bool):
        environment = TASK.make(1)
        agent = algo.build(environment, 0)
        chosen = off_policy.off_policy_learner
        off_policy.off_policy_learner = chosen if analytic else (lambda *_: None)
        self.feed, self.learner, self.done = algo.feed(environment, agent, 0), algo.learner(agent, ADAM), 0
        off_policy.off_policy_learner = chosen

    def step(self) -> dict[str, float]:
        """One step of the environment and one gradient step."""
        self.done += 1
        return self.learner.update(self.feed(self.done - 1))

    def steps(self) -> None:
        for _ in range(STEPS):
            self.step()


def oracle(algo: OffPolicy) -> Callable[[], None]:
    """Steps of stable-baselines3's own loop."""
    model = stable_baselines3.build_off_policy("SAC", algo, ADAM, TASK.make(1), 0)
    model.learn(algo.learning_starts + STEPS)
    return lambda: model.learn(STEPS, reset_num_timesteps=False)


def equality(hand: Ours, plain: Ours, steps: int = 10) -> float:
    """The largest relative difference of what both tell of their first steps."""
    told = [(hand.step(), plain.step()) for _ in range(steps)]
    return max(abs(a[k] - b[k]) / (abs(b[k]) + 1e-3) for a, b in told for k in a)


def measure(repetitions: int, hidden: int) -> dict[str, Any]:
    """All that is said about the sides."""
    algo = OffPolicy(hidden=(hidden, hidden), buffer_size=100_000)
    hand, low, plain = Ours(algo, True), Ours(replace(algo, precision="bfloat16"), True), Ours(algo, False)
    found: dict[str, Any] = {"load before": load(), "hidden": hidden, "largest difference": equality(hand, plain)}
    batch = plain.feed(plain.done)
    needed = flops(lambda: plain.learner.update(batch))
    sides = {"ours": hand.steps, "bfloat16": low.steps, "autograd": plain.steps, "sb3": oracle(algo)}
    timings, rates, _ = interleaved(sides, repetitions)
    for name, timing in timings.items():
        found[name] = {
            "steps/s": STEPS / median(timing.cpu),
            "x sb3": ratio(timings["sb3"], timing),
            "x floor": median(s * r / (STEPS * needed) for s, r in zip(timing.cpu, rates)),
            "wall steps/s": STEPS / median(timing.wall),
        }
    return found | {"load after": load()}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--hidden", type=int, default=256, help="units of each of two hidden layers")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/control_sac.json too")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    import stable_baselines3

    known = versions() | {"stable-baselines3": stable_baselines3.__version__}
    result: dict[str, Any] = {"date": now(), "commit": commit(), "machine": machine(), "versions": known}
    result |= {"threads": options.threads, "repetitions": options.repetitions, "matmul GFLOP/s": matmul_rate() / 1e9}
    result |= measure(options.repetitions, options.hidden)
    faster = result["bfloat16"]["x sb3"]
    result["aim"] = {"aim": f">= {AIM} x sb3", "found": faster, "met": faster >= AIM}
    print(json.dumps(rounded(result))) if options.json else show(result)
    if options.save:
        place = Path(__file__).parent / "results" / "control_sac.json"
        place.write_text(json.dumps(rounded(result), indent=1) + "\n")


def show(found: dict[str, Any]) -> None:
    """The human table."""
    print(f"2 x {found['hidden']} units; load {found['load before'][0]} to"
          f" {found['load after'][0]}; ours by hand and by autograd differ "
          f"by {found['largest difference']:.1e}")  # fmt: skip
    for side in ("ours", "bfloat16", "autograd", "sb3"):
        print(f"  {side:16s}" + "  ".join(f"{name} {value:7.2f}" for name, value in found[side].items()))
    print(
        f"  aim {found['aim']['aim']}: found {found['aim']['found']:.2f}, {'met' if found['aim']['met'] else 'not met'}"
    )


if __name__ == "__main__":
    main()
