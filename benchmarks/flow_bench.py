"""What is measured of one model: the same problems, noise and advantages for every way to work on them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median

import torch
from flow_sides import BETA, VARIANTS, Case, Ours, Plain, gradient_of
from measure import Timing, flops, interleaved, ratio
from torch import Tensor

from saccade.core import Rollout
from saccade.random import seeds

Table = dict[str, dict[str, float]]


def _update_into(metrics: dict[str, float], ours: Ours, part: Rollout, beta: float) -> None:
    metrics.update(ours.update(part, beta))


class Bench:
    """One model, plain and in all variants of ours."""

    def __init__(self, case: Case, folder: Path):
        self.case = case
        self.problems = case.problems()
        self.seeds_B = seeds(3, len(self.problems), "test")
        self.advantage_B = torch.randn(len(self.problems), generator=torch.Generator().manual_seed(2))
        self.plain = {name: Plain(case, folder, images) for name, images in case.plain.items()}
        self.ours = {name: Ours(case, folder, **options) for name, options in VARIANTS.items()}
        self.unguided = Ours(case, folder, guidance=1.0)
        self.drawn = {name: plain.sample(self.problems, self.seeds_B) for name, plain in self.plain.items()}
        self.rollouts = {name: self._rollout(ours) for name, ours in self.ours.items()}

    def _rollout(self, ours: Ours) -> Rollout:
        rollout = ours.sample(self.problems, self.seeds_B)
        rollout.advantage_BT = rollout.broadcast(self.advantage_B)
        return rollout

    def part(self, name: str) -> Rollout:
        return self.rollouts[name].columns(slice(0, self.case.updated))

    def plain_part(self, name: str) -> list:
        return [replace(d, logps=d.logps[: self.case.updated]) for d in self.drawn[name]]

    # -- the same work? -------------------------------------------------------------------------------------

    def equality(self) -> Table:
        """Relative errors of latents and gradients, absolute ones of log-probs. AssertionError if they are too
        large.
        """
        found: Table = {}
        for beta, key in ((0.0, "gradient"), (BETA, "gradient with KL")):
            plain = gradient_of(
                self.plain["plain"],
                partial(self.plain["plain"].update, self.plain_part("plain"), self.advantage_B, beta),
            )
            for name, ours in self.ours.items():
                gap: dict[str, float] = {}
                gradient = gradient_of(ours, partial(_update_into, gap, ours, self.part(name), beta))
                errors = found.setdefault(name, self._sampled(name))
                errors[key] = relative(gradient, plain)
                errors["replay gap"] = gap["health/flow_replay_gap"]
        for name, errors in found.items():
            allowed = 1e-4 if name.startswith("float32") else 0.06
            over = {k: v for k, v in errors.items() if not v < allowed}
            assert not over, f"{name} does not do the same work: {over}"
        return found

    def _sampled(self, name: str) -> dict[str, float]:
        rollout = self.rollouts[name]
        latents = torch.cat([torch.stack(d.latents, 1) for d in self.drawn["plain"]])
        own = torch.cat([rollout.decisions["x_BT"], rollout.decisions["next_x_BT"][:, -1:]], 1)
        logps = torch.cat([torch.stack(d.logps, 1) for d in self.drawn["plain"]])
        return {"latents": relative(own, latents), "log-probs": float((rollout.logp_BT - logps).abs().max())}

    # -- how long? ------------------------------------------------------------------------------------------

    def sampling(self, repetitions: int) -> Table:
        """Pictures a second with log-probs, from the text to the decoded picture."""
        # The other variants differ in the update only.
        sides = self.plain | {n: self.ours[n] for n in ("float32", "bfloat16 folded")}
        works = {n: lambda side=side: side.sample(self.problems, self.seeds_B) for n, side in sides.items()}
        return self._table(works, repetitions, len(self.problems), "images/s")

    def update(self, repetitions: int, beta: float) -> Table:
        """Samples a second of an optimiser step; the reference is part of it where there is a KL."""
        works: dict[str, Callable] = {
            n: lambda n=n: self.plain[n].update(self.plain_part(n), self.advantage_B, beta) for n in self.plain
        }
        works |= {n: lambda n=n: self.ours[n].update(self.part(n), beta) for n in self.ours}
        samples = len(self.problems) * self.case.updated / (self.case.steps - 1)
        return self._table(works, repetitions, samples, "samples/s")

    def other_algorithms(self, repetitions: int) -> dict[str, float]:
        """What is gained by doing something else: times faster than the float32 default, in CPU time."""
        guided, unguided = self.ours["float32"], self.unguided
        part, free = self.part("float32"), self._rollout(unguided).columns(slice(0, self.case.updated))
        timings, _, _ = interleaved(
            {
                "sampling": lambda: guided.sample(self.problems, self.seeds_B),
                "unguided sampling": lambda: unguided.sample(self.problems, self.seeds_B),
                "update": lambda: guided.update(part, 0.0),
                "unguided update": lambda: unguided.update(free, 0.0),
            },
            repetitions,
        )
        return {
            "no guidance, sampling": ratio(timings["sampling"], timings["unguided sampling"]),
            "no guidance, update": ratio(timings["update"], timings["unguided update"]),
            "a window of 2 trained steps, update (by count)": (self.case.steps - 1) / 2,
        }

    def _table(self, works: dict[str, Callable], repetitions: int, count: float, unit: str) -> Table:
        needed = {name: flops(work) for name, work in works.items() if name in self.ours}
        timings, full, half = interleaved(works, repetitions)
        rows = {}
        for name, timing in timings.items():
            # Plain has the floor of the default: what it computes beyond that is not needed.
            rows[name] = summary(timing, count, unit) | {"x plain": ratio(timings["plain"], timing)}
            rate = half if name.startswith("bfloat16") else full
            work = needed.get(name, needed["float32"])
            rows[name]["x floor"] = median(s * r / work for s, r in zip(timing.cpu, rate))
        return rows


def summary(timing: Timing, count: float, unit: str) -> dict[str, float]:
    middle = median(timing.cpu)
    return {
        unit: count / middle,
        "cpu seconds": middle,
        "wall seconds": median(timing.wall),
        "spread": (max(timing.cpu) - min(timing.cpu)) / middle,
    }


def relative(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())
