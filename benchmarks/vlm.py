"""Speed of GRPO on a model that sees, beside TRL: tokens a second of answers, samples a second of an update and of a
step.

    python benchmarks/vlm.py [--threads 1] [--repetitions 5] [--json] [--save]      (TRL comes with the extra `bench`)

A Qwen2_5_VLForConditionalGeneration with 6.6 M random weights answers 2 questions 8 times each, about a picture of 224
px (64 tokens) each, in 64 tokens; then follows one optimiser step on all of its weights. Float32. Ours is measured
against

* the floor: the FLOPs that our own run needs, counted, over the rate of a large matrix product of the same thread
count,
  measured beside every repetition. TRL is held to the same floor: what it computes beyond that is not needed.
* trl: TRL's GRPOTrainer with its own generation and its own loss, on the same folder, questions, optimiser and
settings.

How it is driven. TRL's trainer has no public verbs for the phases of a step, so its methods are called one by one on a
trainer that is made in the ordinary way: `_generate` (answers), `_generate_and_score_completions` (answers, then the
same prompts prepared once more, rewards and advantages: all that an update needs), `compute_loss`, backward, clipping,
optimiser. All 16 answers go through one micro-batch, as with us. Its data loader, logging and checkpoints are not
timed.

How to read it. "x trl" is how many times faster than "trl" (than "trl, frozen eyes" where the eyes are frozen), "x
floor" how many times slower than the floor; both are medians over repetitions of the ratio within one repetition, in
CPU seconds (of all threads), for wall seconds depend on who else uses the machine: the load average is printed. All
works of a table take turns. Memory is the peak of a process of its own that makes one step.

The same work. Before anything is timed, both sides must have read the same tokens and pixels, have written 64 tokens in
every row, give the same log-probs to our answers and the same gradient for the same advantages; the errors are printed.
The end and what stands for pictures have no probability in this model and are suppressed in TRL's generation, so all
answers are equally long and both sides normalise over the same tokens.

Variants. Ours always stores log-probs while it writes. "trl" needs none if it makes one step a batch; "trl, log-probs
too" is its generation where it makes more, with the pass over the answers that this costs. "trl, batch ready" is
generation with all else that its update needs. "trl, checkpointing" has activation checkpointing, its default, which
trades speed for memory; the aims are judged by "trl", without. "frozen eyes": the part that looks at pictures is not
trained on either side.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch
from flow import rounded
from measure import load, matmul_rate, peak_mb, resident_mb
from vlm_bench import OURS, THEIRS, Bench
from vlm_models import save
from vlm_sides import ROWS, SIDES

from saccade.training.provenance import commit, machine, now, versions

AIMS = {"generation": 2.2, "update": 2.0, "step": 2.0}
TABLES = tuple(AIMS)


def memory(threads: int) -> dict[str, dict[str, float]]:
    """Peak of a process that makes one step: both sides."""
    found = {}
    for side in SIDES:
        command = [sys.executable, __file__, "--threads", str(threads), "--memory-of", side]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        found[side] = json.loads(done.stdout.splitlines()[-1])
    return found


def memory_of(side: str) -> dict[str, float]:
    """Peak memory of this process after a step of ``side``, and by how much it exceeds what was held before."""
    with tempfile.TemporaryDirectory() as place:
        one = SIDES[side](save(Path(place)))
    before = resident_mb()
    one.step()
    return {"peak MB": peak_mb(), "added MB": peak_mb() - before}


def measure(repetitions: int, threads: int) -> dict[str, Any]:
    """All that is said about both sides."""
    found: dict[str, Any] = {"load before": load(), "memory": memory(threads)}
    with tempfile.TemporaryDirectory() as place:
        bench = Bench(save(Path(place)))
    model = bench.ours[OURS].policy.language.model
    found["parameters"] = sum(p.numel() for p in model.parameters())
    found["prompt tokens"] = int(bench.rollouts[OURS].decisions["begin_B"].max())
    found |= {"answers": ROWS, "equality": bench.equality()}
    for table in TABLES:
        found[table] = getattr(bench, table)(repetitions)
    found["aims"] = judge(found)
    return found | {"load after": load()}


def judge(found: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Aim, figure and whether it was met."""
    aims = {}
    for table, least in AIMS.items():
        faster = found[table][OURS]["x trl"]
        aims[f"{table}, x trl"] = {"aim": f">= {least}", "found": faster, "met": faster >= least}
    return aims


def show(found: dict[str, Any]) -> None:
    """The human table."""
    print(f"{found['parameters'] / 1e6:.2f} M parameters, {found['answers']} answers to prompts of"
          f" {found['prompt tokens']} tokens; "
          f"load {found['load before'][0]} to {found['load after'][0]}")  # fmt: skip
    for side, errors in found["equality"].items():
        print(f"  same work   {side:24s}" + "  ".join(f"{k} {v:.1e}" for k, v in errors.items()))
    for table in TABLES:
        for side, row in found[table].items():
            unit = next(iter(row))
            print(f"  {table:11s} {side:24s}{row[unit]:9.2f} {unit}  x trl {row['x trl']:5.2f}  x"
                  f" floor {row['x floor']:5.2f}"
                  f"  cpu {row['cpu seconds']:.2f} s  wall {row['wall seconds']:.2f} s  spread"
                  f" {row['spread']:.0%}")  # fmt: skip
    for side, row in found["memory"].items():
        print(f"  memory      {side:24s}{row['peak MB']:8.0f} MB, of which the step {row['added MB']:.0f} MB")
    for what, aim in found["aims"].items():
        print(f"  aim {what}: {aim['aim']}, found {aim['found']:.2f}, {'met' if aim['met'] else 'not met'}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/vlm.json too")
    parser.add_argument("--memory-of", choices=SIDES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.simplefilter("ignore", FutureWarning)
    if options.memory_of:
        print(json.dumps(memory_of(options.memory_of)))
        return
    import trl

    known = versions() | {THEIRS: trl.__version__}
    result: dict[str, Any] = {"date": now(), "commit": commit(), "machine": machine(), "versions": known}
    result |= {"threads": options.threads, "repetitions": options.repetitions, "matmul GFLOP/s": matmul_rate() / 1e9}
    result |= measure(options.repetitions, options.threads)
    print(json.dumps(rounded(result))) if options.json else show(result)
    if options.save:
        place = Path(__file__).parent / "results" / "vlm.json"
        place.write_text(json.dumps(rounded(result), indent=1) + "\n")


if __name__ == "__main__":
    main()
