"""One arm of a check with one seed, as a process of its own with one thread: an ordinary run, resumed if
its folder holds one.

python -m saccade.checks.arm RECIPE ARM SEED FOLDER
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from saccade import catalog
from saccade.checks.processes import folder_of


def main(name: str, arm: str, seed: int, folder: Path) -> None:
    """Train the arm in ``folder``."""
    import torch

    from saccade.training.run import Run

    torch.set_num_threads(1)
    chosen = catalog.arms(name)[arm]
    recipe, settings = catalog.load(chosen.recipe), replace(chosen.settings, seed=seed)
    config = catalog.identity(chosen.recipe) | {"preset": None, "arm": arm, "settings": settings, "seed": seed}
    first = folder_of(folder.parent, chosen.stages_of, seed) if chosen.stages_of else None
    begun = (folder / "config.json").is_file()
    with (
        Run.resume(folder, display=False) if begun else Run.start(folder, config, display=False, stages_of=first) as run
    ):
        run.finish(recipe.train(settings, run))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), Path(sys.argv[4]))
