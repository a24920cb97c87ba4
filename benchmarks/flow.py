"""Speed of GRPO on a flow model: pictures a second of sampling with log-probs, samples a second of an update.

    python benchmarks/flow.py [--tiny] [--small] [--threads 1] [--repetitions 5] [--json] [--save]

Two SD3 transformers with random weights (tiny: 0.3 M parameters, 64 px; small: 14 M, 256 px, 461 tokens), LoRA of rank 32,
guidance 4.5. Ours is measured against

* the floor: the FLOPs that our own run needs, counted, over the rate of a large matrix product of the same precision and
  thread count, measured beside every repetition. 1.0 would be a program that does nothing but multiply at full speed.
* plain: the usual loop, written in `flow_plain.py` from its description, on the same weights, prompts and noise, with
  diffusers' own attention. Always float32.

How to read it. "x plain" is how many times faster than plain, "x floor" how many times slower than the floor; both are
medians over repetitions of the ratio within one repetition, in CPU seconds (of all threads), for wall seconds depend on who
else uses the machine: the load average is printed. All works of a table take turns. Before anything is timed, both sides
must have drawn the same latents with the same log-probs, and computed the same gradient; the errors are printed. Memory is
the peak of a process of its own that samples and updates once.

Variants. "float32" is the default. "folded": LoRA is folded into the weights in the update too (`lora_folded`). "reused": the
unconditional velocities come from sampling (`reuse_unconditional`), exact for the first optimiser step of a batch, which is
what is timed. "bfloat16": frozen weights and activations (`precision`); its gap between replayed and stored log-probs, printed
as "replay gap", must stay far below the clip range, which is why it is not for tiny latents. Each model has one recommended
variant, marked with a star: the aims are judged by it. What changes the algorithm is listed apart, as "other algorithm".
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
from flow_models import SMALL, TINY, Shape, save
from flow_plain import PlainLoop
from measure import Timing, flops, interleaved, load, matmul_rate, peak_mb, ratio
from torch import Tensor

from saccade.core import Problem, Rollout, seeds
from saccade.models.snapshot import Snapshot
from saccade.objectives.policy_gradient import PolicyGradient, remember_reference
from saccade.policies.flow import FlowModel, FlowPolicy, build
from saccade.training.learner import Update, Updates
from saccade.training.provenance import commit, machine, now, versions

BETA = 0.04
# Ten times the usual range, so that the comparison of gradients is not decided by which rounding crosses it.
CLIP = 1e-3
LORA = {"lora_rank": 32, "lora_alpha": 64.0}
WORDS = ("a red ring", "two blue squares", "one green star", "three small cups", "an old lamp", "a bird", "five pears", "a cart")


@dataclass(frozen=True)
class Case:
    """A model and how much of what is measured with it."""

    shape: Shape
    prompts: int
    group: int
    updated: int
    """Decisions of each picture that the timed update covers, of the 9 that are stored."""
    images: int
    """Pictures in a micro-batch of the plain loop."""
    micro: tuple[int, int]
    """Rows and decisions in a micro-batch of ours."""
    at_once: int
    variants: dict[str, dict[str, Any]]
    star: str
    aims: dict[str, float]
    steps: int = 10


FOLDED, REUSED = {"lora_folded": True}, {"lora_folded": True, "reuse_unconditional": True}
HALF = {"precision": "bfloat16"}
FULL = {"float32": {}, "float32 folded": FOLDED, "float32 folded reused": REUSED}
CASES = {
    "tiny": Case(
        TINY, prompts=8, group=8, updated=3, images=8, micro=(64, 3), at_once=128,
        variants=FULL | {"bfloat16 folded": HALF | FOLDED}, star="float32 folded reused",
        aims={"sampling": 1.5, "update with KL": 2.0, "update": 2.0},
    ),
    "small": Case(
        SMALL, prompts=1, group=2, updated=2, images=2, micro=(2, 2), at_once=8,
        variants=FULL | {"bfloat16 folded": HALF | FOLDED, "bfloat16 folded reused": HALF | REUSED},
        star="bfloat16 folded reused", aims={"update with KL": 1.9, "update": 2.8},
    ),
}  # fmt: skip


class Ours:
    """The library's own path: a policy, its reference, a learner."""

    def __init__(self, case: Case, folder: Path, **options: Any):
        model = FlowModel(
            str(folder), case.shape.size, case.steps, guidance=4.5, text_length=case.shape.zeros, device="cpu",
            at_once=case.at_once, **LORA | options,
        )  # fmt: skip
        self.case, self.policy = case, build(model, range(case.steps - 1))
        self.reference = Snapshot(self.policy.trained)
        away_from_start(self.policy)
        self.optimizer = torch.optim.SGD(self.policy.trained, lr=0.0)  # the same weights in every repetition

    def sample(self, problems: list[Problem], seeds_B: Tensor) -> Rollout:
        self.policy.said.kept.clear()  # the prompts of a batch are new to it
        return self.policy.rollout(problems, seeds_B)

    def update(self, rollout: Rollout, beta: float) -> dict[str, float]:
        if beta:
            remember_reference(self.policy, self.reference, rollout, self.case.micro[0])
        loss = PolicyGradient(self.policy, CLIP, beta=beta, kl="drift")
        rows, decisions = self.case.micro
        update = Update("flow", loss, self.policy.trained, self.optimizer)
        return Updates([update], micro_rows=rows, micro_decisions=decisions).update(rollout)


class Plain:
    """The usual loop on a policy of its own, behind the same two verbs."""

    def __init__(self, case: Case, folder: Path):
        from diffusers.models.attention_processor import JointAttnProcessor2_0

        self.policy = Ours(case, folder).policy
        self.policy.backbone.transformer.set_attn_processor(JointAttnProcessor2_0())
        self.loop = PlainLoop(self.policy, case.images)
        self.optimizer = torch.optim.SGD(self.policy.trained, lr=0.0)

    def sample(self, problems: list[Problem], seeds_B: Tensor) -> list:
        return self.loop.sample([p.inputs for p in problems], seeds_B)

    def update(self, drawn: list, advantage_B: Tensor, beta: float) -> None:
        self.loop.update(drawn, advantage_B, CLIP, beta, self.optimizer)


def away_from_start(policy: FlowPolicy) -> None:
    """LoRA is the identity at first; here it must do something."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in policy.trained:
            p.add_(0.02 * torch.randn(p.shape, generator=generator))


class Bench:
    """One model: the same problems, noise and advantages for every way to work on them."""

    def __init__(self, case: Case, folder: Path):
        self.case = case
        self.problems = [Problem(i, WORDS[i]) for i in range(case.prompts) for _ in range(case.group)]
        self.seeds_B = seeds(3, len(self.problems))
        self.advantage_B = torch.randn(len(self.problems), generator=torch.Generator().manual_seed(2))
        self.plain = Plain(case, folder)
        self.ours = {name: Ours(case, folder, **options) for name, options in case.variants.items()}
        self.drawn = self.plain.sample(self.problems, self.seeds_B)
        self.rollouts = {name: self._rollout(ours) for name, ours in self.ours.items()}

    def _rollout(self, ours: Ours) -> Rollout:
        rollout = ours.sample(self.problems, self.seeds_B)
        rollout.advantage_BT = rollout.credit(self.advantage_B)
        return rollout

    def part(self, name: str) -> Rollout:
        return self.rollouts[name].columns(slice(0, self.case.updated))

    def plain_part(self) -> list:
        return [replace(d, logps=d.logps[: self.case.updated]) for d in self.drawn]

    # -- the same work? -------------------------------------------------------------------------------------

    def equality(self) -> dict[str, dict[str, float]]:
        """Relative errors of latents and gradients, absolute ones of log-probs. AssertionError if they are too large."""
        found = {}
        for beta, key in ((0.0, "gradient"), (BETA, "gradient with KL")):
            plain = gradient_of(self.plain, lambda: self.plain.update(self.plain_part(), self.advantage_B, beta))
            for name, ours in self.ours.items():
                gap: dict[str, float] = {}
                gradient = gradient_of(ours, lambda: gap.update(ours.update(self.part(name), beta)))
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
        latents = torch.cat([torch.stack(d.latents, 1) for d in self.drawn])
        own = torch.cat([rollout.decisions["x_BT"], rollout.decisions["next_BT"][:, -1:]], 1)
        logps = torch.cat([torch.stack(d.logps, 1) for d in self.drawn])
        return {"latents": relative(own, latents), "log-probs": float((rollout.logp_BT - logps).abs().max())}

    # -- how long? ------------------------------------------------------------------------------------------

    def sampling(self, repetitions: int) -> dict[str, dict[str, float]]:
        # The other variants differ in the update only.
        names = [n for n in ("float32", "bfloat16 folded") if n in self.ours]
        works: dict[str, Callable] = {"plain": lambda: self.plain.sample(self.problems, self.seeds_B)}
        works |= {n: lambda n=n: self.ours[n].sample(self.problems, self.seeds_B) for n in names}
        return self._table(works, repetitions, len(self.problems), "images/s")

    def update(self, repetitions: int, beta: float) -> dict[str, dict[str, float]]:
        part = self.plain_part()
        works: dict[str, Callable] = {"plain": lambda: self.plain.update(part, self.advantage_B, beta)}
        works |= {n: lambda n=n: self.ours[n].update(self.part(n), beta) for n in self.ours}
        samples = len(self.problems) * self.case.updated / (self.case.steps - 1)
        return self._table(works, repetitions, samples, "samples/s")

    def other_algorithms(self, repetitions: int) -> dict[str, float]:
        """What is gained by doing something else: times faster than the float32 default, in CPU time."""
        ours, problems, seeds_B = self.ours["float32"], self.problems, self.seeds_B
        unguided = replace(ours.policy, guidance=1.0)
        part = self.part("float32")
        free = unguided.rollout(problems, seeds_B)
        free.advantage_BT = free.credit(self.advantage_B)
        other = Ours.__new__(Ours)
        other.__dict__ = ours.__dict__ | {"policy": unguided}
        works: dict[str, Callable] = {
            "sampling": lambda: ours.sample(problems, seeds_B),
            "sampling without guidance": lambda: unguided.rollout(problems, seeds_B),
            "update": lambda: ours.update(part, 0.0),
            "update without guidance": lambda: other.update(free.columns(slice(0, self.case.updated)), 0.0),
        }
        timings, _, _ = interleaved(works, repetitions)
        window = (self.case.steps - 1) / 2
        return {
            "sampling without guidance": ratio(timings["sampling"], timings["sampling without guidance"]),
            "update without guidance": ratio(timings["update"], timings["update without guidance"]),
            "update of a window of 2 steps instead of 9 (by count)": window,
        }

    def _table(self, works: dict[str, Callable], repetitions: int, count: float, unit: str) -> dict:
        needed = {name: flops(work) for name, work in works.items() if name != "plain"}
        timings, full, half = interleaved(works, repetitions)
        rows = {}
        for name, timing in timings.items():
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


def gradient_of(side: Any, step: Callable[[], object]) -> Tensor:
    """The gradient that the optimiser is given in ``step``; weights that nothing depends on have none."""
    seen: list[Tensor] = []
    trained = side.policy.trained
    read = lambda *_: seen.append(torch.cat([(p.grad if p.grad is not None else 0 * p.detach()).flatten() for p in trained]))
    hook = side.optimizer.register_step_pre_hook(read)
    step()
    hook.remove()
    return seen[0]


def relative(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


def memory(case: str, threads: int) -> dict[str, dict[str, float]]:
    """Peak of a process that loads a model, samples once and updates once with KL: plain and all variants."""
    found = {}
    for side in ("plain", *CASES[case].variants):
        command = [sys.executable, __file__, f"--{case}", "--threads", str(threads), "--memory-of", side]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        found[side] = json.loads(done.stdout.splitlines()[-1])
    return found


def memory_of(case: Case, side: str) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as place:
        folder = save(case.shape, Path(place))
        one = Plain(case, folder) if side == "plain" else Ours(case, folder, **case.variants[side])
    problems = [Problem(i, WORDS[i]) for i in range(case.prompts) for _ in range(case.group)]
    advantage_B, before = torch.ones(len(problems)), peak_mb()
    drawn = one.sample(problems, seeds(3, len(problems)))
    if side == "plain":
        one.update(drawn, advantage_B, BETA)
    else:
        drawn.advantage_BT = drawn.credit(advantage_B)
        one.update(drawn, BETA)
    return {"peak MB": peak_mb(), "added MB": peak_mb() - before}


def measure(name: str, repetitions: int, threads: int) -> dict[str, Any]:
    """All that is said about one model."""
    case = CASES[name]
    found: dict[str, Any] = {"load before": load(), "memory": memory(name, threads)}
    with tempfile.TemporaryDirectory() as place:
        bench = Bench(case, save(case.shape, Path(place)))
    found["parameters"] = sum(p.numel() for n, p in bench.plain.loop.network.named_parameters() if "lora" not in n)
    found["tokens"] = case.shape.tokens
    found |= {"pictures": len(bench.problems), "steps": case.steps, "recommended": case.star}
    found["equality"] = bench.equality()
    found["sampling"] = bench.sampling(repetitions)
    found["update with KL"] = bench.update(repetitions, BETA)
    found["update"] = bench.update(repetitions, 0.0)
    found["other algorithm"] = bench.other_algorithms(max(repetitions - 2, 1))
    found["aims"] = judge(case, found)
    return found | {"load after": load()}


def judge(case: Case, found: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Aim, figure and whether it was met."""
    aims = {}
    for table, least in case.aims.items():
        row = found[table].get(case.star, found[table]["float32"])
        aims[f"{table}, x plain"] = {"aim": f">= {least}", "found": row["x plain"], "met": row["x plain"] >= least}
    if case.shape is SMALL:
        over = found["sampling"]["float32"]["x floor"]
        aims["sampling in float32, x floor"] = {"aim": "<= 1.2", "found": over, "met": over <= 1.2}
        plain, ours = (found["memory"][side]["peak MB"] for side in ("plain", case.star))
        aims["peak memory, of plain's"] = {"aim": "<= 1", "found": ours / plain, "met": ours <= plain}
    return aims


def show(name: str, found: dict[str, Any]) -> None:
    """The human table."""
    print(f"\n{name}: {found['parameters'] / 1e6:.2f} M parameters, {found['tokens']} tokens, {found['pictures']} pictures, "
          f"{found['steps']} steps; load {found['load before'][0]} to {found['load after'][0]}")  # fmt: skip
    for side, errors in found["equality"].items():
        print(f"  same work   {side:24s}" + "  ".join(f"{k} {v:.1e}" for k, v in errors.items()))
    for table in ("sampling", "update with KL", "update"):
        for side, row in found[table].items():
            unit = next(iter(row))
            star = "*" if side == found["recommended"] else " "
            print(f"  {table:15s}{star}{side:24s}{row[unit]:9.3f} {unit}  x plain {row['x plain']:5.2f}  x floor {row['x floor']:5.2f}"
                  f"  cpu {row['cpu seconds']:.2f} s  wall {row['wall seconds']:.2f} s  spread {row['spread']:.0%}")  # fmt: skip
    for side, row in found["memory"].items():
        print(f"  memory          {side:24s}{row['peak MB']:8.0f} MB, of which the batch {row['added MB']:.0f} MB")
    for what, gain in found["other algorithm"].items():
        print(f"  other algorithm {what}: {gain:.2f} x")
    for what, aim in found["aims"].items():
        print(f"  aim {what}: {aim['aim']}, found {aim['found']:.2f}, {'met' if aim['met'] else 'not met'}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    for name in CASES:
        parser.add_argument(f"--{name}", action="store_true", help=f"measure the {name} model (default: all)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/flow.json too")
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    chosen = [name for name in CASES if getattr(options, name)] or list(CASES)
    if options.memory_of:
        print(json.dumps(memory_of(CASES[chosen[0]], options.memory_of)))
        return
    rates = {str(d).removeprefix("torch."): matmul_rate(dtype=d) / 1e9 for d in (torch.float32, torch.bfloat16)}
    result: dict[str, Any] = {"date": now(), "commit": commit(), "machine": machine(), "versions": versions()}
    result |= {"threads": options.threads, "repetitions": options.repetitions, "matmul GFLOP/s": rates, "models": {}}
    for name in chosen:
        result["models"][name] = measure(name, options.repetitions, options.threads)
        if not options.json:
            show(name, result["models"][name])
    if options.json:
        print(json.dumps(rounded(result)))
    if options.save:
        place = Path(__file__).parent / "results" / "flow.json"
        place.write_text(json.dumps(rounded(result), indent=1) + "\n")


def rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, dict):
        return {k: rounded(v) for k, v in value.items()}
    return [rounded(v) for v in value] if isinstance(value, list) else value


if __name__ == "__main__":
    main()
