"""Running a recipe in a folder, and reading what came of it."""

from __future__ import annotations

from pathlib import Path

import torch

from saccade import catalog
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
    from saccade.training import checkpoint

    _, state = checkpoint.read(checkpoint.latest(folder / "checkpoints"))
    return {f"{p}.{k}": v for p in ("policy", "rewriter") if p in state for k, v in state[p].items()}
