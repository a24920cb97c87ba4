"""Speed of GRPO on a flow model: pictures a second of sampling with log-probs, samples a second of an update.

    python benchmarks/flow.py [--tiny] [--small] [--threads 1] [--repetitions 5] [--json] [--save]

Two SD3 transformers with random weights (tiny: 0.3 M parameters, 64 px; small: 14 M, 256 px, 461 tokens), LoRA of rank
32, guidance 4.5. Ours is measured against

* the floor: the FLOPs that our own run needs, counted, over the rate of a large matrix product of the same precision
and
  thread count, measured beside every repetition. 1.0 would be a program that does nothing but multiply at full speed.
* plain: the usual loop, written in `flow_plain.py` from its description, on the same weights, prompts and noise, with
  diffusers' own attention. Always float32.

How to read it. "x plain" is how many times faster than plain, "x floor" how many times slower than the floor; both are
medians over repetitions of the ratio within one repetition, in CPU seconds (of all threads), for wall seconds depend on
who else uses the machine: the load average is printed. All works of a table take turns. Before anything is timed, both
sides must have drawn the same latents with the same log-probs, and computed the same gradient; the errors are printed.
Memory is the peak of a process of its own that samples and updates once.

Variants. "float32" is the default; where the weights are those of sampling, as in the first optimiser step of a batch,
which is what is timed, its unconditional velocities come from sampling. "folded": LoRA is folded into the weights in
the update too (`lora_folded`). "reused": those velocities are taken in every step (`reuse_uncond`). "bfloat16": frozen
weights and activations (`precision`); the gap between replayed and stored log-probs, printed as "replay gap", must stay
far below the clip range. The recommended variant of a model has a
star, and the aims are judged by it. "plain, 64 at once" is the plain loop with micro-batches as large as ours, which
the usual one does not have. What changes the algorithm is listed apart, as "other algorithm"; prefixes that a group
shares are not measured.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from flow_bench import Bench
from flow_models import SMALL, save
from flow_sides import BETA, CASES, VARIANTS, Case, Ours, Plain
from measure import load, matmul_rate, peak_mb, resident_mb

from saccade.random import seeds
from saccade.training.provenance import commit, machine, now, versions


def memory(case: str, threads: int) -> dict[str, dict[str, float]]:
    """Peak of a process that loads a model, samples once and updates once with KL: plain and all variants."""
    found = {}
    for side in (*CASES[case].plain, *VARIANTS):
        command = [sys.executable, __file__, f"--{case}", "--threads", str(threads), "--memory-of", side]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        found[side] = json.loads(done.stdout.splitlines()[-1])
    return found


def memory_of(case: Case, side: str) -> dict[str, float]:
    """Peak memory of this process after a batch on ``side``, and by how much it exceeds what was held before."""
    with tempfile.TemporaryDirectory() as place:
        folder = save(case.shape, Path(place))
        one = Ours(case, folder, **VARIANTS[side]) if side in VARIANTS else Plain(case, folder, case.plain[side])
    problems = case.problems()
    advantage_B, before = torch.ones(len(problems)), resident_mb()
    drawn = one.sample(problems, seeds(3, len(problems), "test"))
    if side in VARIANTS:
        drawn.advantage_BT = drawn.broadcast(advantage_B)
        one.update(drawn, BETA)
    else:
        one.update(drawn, advantage_B, BETA)
    return {"peak MB": peak_mb(), "added MB": peak_mb() - before}


def measure(name: str, repetitions: int, threads: int) -> dict[str, Any]:
    """All that is said about one model."""
    case = CASES[name]
    found: dict[str, Any] = {"load before": load(), "memory": memory(name, threads)}
    with tempfile.TemporaryDirectory() as place:
        bench = Bench(case, save(case.shape, Path(place)))
    found["parameters"] = sum(
        p.numel() for n, p in bench.plain["plain"].loop.network.named_parameters() if "lora" not in n
    )
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
    print(f"\n{name}: {found['parameters'] / 1e6:.2f} M parameters, {found['tokens']} tokens,"
          f" {found['pictures']} pictures, "
          f"{found['steps']} steps; load {found['load before'][0]} to {found['load after'][0]}")  # fmt: skip
    for side, errors in found["equality"].items():
        print(f"  same work   {side:24s}" + "  ".join(f"{k} {v:.1e}" for k, v in errors.items()))
    for table in ("sampling", "update with KL", "update"):
        for side, row in found[table].items():
            unit = next(iter(row))
            star = "*" if side == found["recommended"] else " "
            print(f"  {table:15s}{star}{side:24s}{row[unit]:9.3f} {unit}  x plain"
                  f" {row['x plain']:5.2f}  x floor {row['x floor']:5.2f}"
                  f"  cpu {row['cpu seconds']:.2f} s  wall {row['wall seconds']:.2f} s  spread"
                  f" {row['spread']:.0%}")  # fmt: skip
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
