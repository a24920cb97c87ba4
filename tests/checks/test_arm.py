"""Arms of a check: every training seed has held-out problems of its own, the same ones for all arms."""

from __future__ import annotations

import pytest

from saccade import catalog
from saccade.checks.arm import with_seed
from saccade.config import flat
from saccade.worlds.shapes.task import DrawingTask


@pytest.mark.parametrize("name", catalog.recipes())
def test_held_out_problems_follow_from_the_training_seed(name):
    of_arm = [chosen.settings for chosen in catalog.arms(name).values()]
    held_out = lambda cfg: {value for key, value in flat(cfg).items() if key.endswith("held_out_seed")}
    first, second = ([held_out(with_seed(cfg, seed)) for cfg in of_arm] for seed in (0, 1))
    assert all(len(found) == 1 and found == first[0] for found in first) and first[0] != second[0]
    assert all(with_seed(cfg, 7).seed == 7 for cfg in of_arm)


def test_other_held_out_prompts_are_still_held_out():
    prompts = lambda seed: DrawingTask(held_out_size=64, held_out_seed=seed).held_out_problems()["held out"]
    one, other = ([problem.inputs for problem in prompts(seed)] for seed in (1, 2))
    trained = {problem.inputs for problem in DrawingTask(train_size=2048).training(0)}
    assert one != other and not trained & {*one, *other}
