"""One arm of a check with one seed, as a process of its own with one thread: an ordinary run.

    python -m saccade.checks.arm RECIPE ARM SEED FOLDER
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from saccade import catalog


def main(name: str, arm: str, seed: int, folder: Path) -> None:
    """Train the arm in ``folder``."""
    import torch

    from saccade.training.run import Run

    torch.set_num_threads(1)
    runs, settings = catalog.arms(name)[arm]
    recipe, settings = catalog.load(runs), replace(settings, seed=seed)
    config = catalog.identity(runs) | {"preset": None, "arm": arm, "settings": settings, "seed": seed}
    with Run.start(folder, config, display=False) as run:
        run.finish(recipe.train(settings, run))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), Path(sys.argv[4]))
