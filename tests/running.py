"""Running a recipe in a folder, and reading what came of it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import torch
from golden import changed

from saccade import catalog
from saccade.training import checkpoint
from saccade.training.run import Run


def run_recipe(name: str, cfg, folder: Path) -> dict:
    recipe = catalog.load(name)
    resume = folder.exists()
    run = Run.resume(folder, display=False) if resume else Run.start(folder, {"recipe": name}, display=False)
    with run:
        return recipe.train(cfg, run)


def brightness(folder: Path) -> str:
    """A reward of one's own, in a file."""
    (folder / "mine.py").write_text("def bright(rollout):\n    return rollout.outputs.flatten(1).mean(1)\n")
    return f"{folder / 'mine.py'}:bright"


def weights(folder: Path) -> dict[str, torch.Tensor]:
    _, state = checkpoint.read(checkpoint.latest(folder / "checkpoints"))
    return {f"{p}.{k}": v for p in ("policy", "rewriter") if p in state for k, v in state[p].items()}


def checkpoint_state(folder: Path, *parts: str) -> dict[str, torch.Tensor]:
    """Tensors of some parts of the last checkpoint, by part and name."""
    _, state = checkpoint.read(checkpoint.latest(folder / "checkpoints"))
    return {f"{part}.{k}": v for part in parts for k, v in state[part].items()}


def metrics(folder: Path) -> list[dict]:
    """The lines of metrics that a run logged."""
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def assert_resume_is_exact(name: str, cfg, folder: Path, *parts: str) -> dict:
    """Two steps equal one step and one after a resume, bit for bit; returns the result of the former."""
    one_step = (
        replace(cfg, schedule=replace(cfg.schedule, steps=1)) if hasattr(cfg, "schedule") else replace(cfg, steps=1)
    )
    result = run_recipe(name, cfg, folder / "at once")
    run_recipe(name, one_step, folder / "resumed")
    resumed = run_recipe(name, cfg, folder / "resumed")
    one, two = (checkpoint_state(folder / run, *parts) for run in ("at once", "resumed"))
    assert one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)
    initial = catalog.load(name).policies(cfg)["policy"].state_dict()
    assert max(float((one[f"policy.{k}"] - v).abs().max()) for k, v in initial.items()) > 0
    assert result["before"] == resumed["before"] and {"held out", "paraphrase"} <= result["after"].keys()
    last = [[line for line in metrics(folder / run) if "eval/held out" in line][-1] for run in ("at once", "resumed")]
    assert last[0]["eval/held out"] == last[1]["eval/held out"]
    return result


def small_flow_settings(name: str, folder: Path, preset: str = "", lm_folder: Path | None = None, **changes):
    """Settings of a recipe that generates pictures, on tiny random models; ``changes`` as in `golden.changed`.

    A key's double underscore stands for a dot: ``optim__lr``.
    """
    presets = catalog.load(name).PRESETS
    cfg = presets[preset] if preset else next(iter(presets.values()))
    small = {
        "task.train_size": 16,
        "task.held_out_size": 4,
        "schedule.evaluate_every": 1,
        "schedule.save_every": 1,
        "batch.prompts_per_step": 2,
        "batch.group_size": 4,
        "flow.name": str(folder),
        "flow.size": 16,
        "flow.sampling_steps": 4,
    }
    small |= {f"{group}.warmup": 1 for group in ("optim", "flow_optim", "rewriter_optim") if hasattr(cfg, group)}
    if hasattr(cfg, "rewriter"):
        small |= {"rewriter.name": str(lm_folder), "rewriter.max_new_tokens": 8, "retained": 1}
    return changed(cfg, small | {key.replace("__", "."): value for key, value in changes.items()})
