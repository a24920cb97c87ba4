"""One arm of a check with one seed, as a process of its own with one thread: an ordinary run, resumed if
its folder holds one.

python -m saccade.checks.arm RECIPE ARM SEED FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from saccade import catalog
from saccade.checks.processes import folder_of
from saccade.config import changed, flat
from saccade.random import stream


def with_seed(settings: Any, seed: int) -> Any:
    """Settings with a training seed, and with held-out problems that follow from it.

    So the spread over seeds covers the problems too. All arms with one seed have the same ones.
    """
    held_out = [name for name in flat(settings) if name.rpartition(".")[2] == "held_out_seed"]
    return changed(settings, {"seed": seed, **dict.fromkeys(held_out, stream(seed, "held-out problems of a check"))})


def main(name: str, arm: str, seed: int, folder: Path) -> None:
    """Train the arm in ``folder``."""
    import torch

    from saccade.training.run import Run

    torch.set_num_threads(1)
    chosen = catalog.arms(name)[arm]
    recipe, settings = catalog.load(chosen.recipe), with_seed(chosen.settings, seed)
    config = catalog.identity(chosen.recipe) | {"preset": None, "arm": arm, "settings": settings, "seed": seed}
    first = folder_of(folder.parent, chosen.stages_of, seed) if chosen.stages_of else None
    begun = (folder / "config.json").is_file()
    with (
        Run.resume(folder, display=False) if begun else Run.start(folder, config, display=False, stages_of=first) as run
    ):
        run.finish(recipe.train(settings, run))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), Path(sys.argv[4]))
