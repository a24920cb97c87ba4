"""Named random streams, and that no two uses of a seed share one, in any recipe."""

from __future__ import annotations

from pathlib import Path

import golden
import pytest
import torch
from saccade import catalog, random
from saccade.training.run import Run


def test_a_stream_follows_from_seed_and_name_alone():
    assert random.stream(3, "weights") == random.stream(3, "weights") < 2**63
    names = [("weights",), ("weight",), ("weights", 0), ("weights", 1), ("weights", "0", 1)]
    assert len({random.stream(seed, *name) for seed in range(50) for name in names}) == 250
    seeds = torch.tensor([3, 2**62, -7])
    assert random.streams(seeds, "step", 4).tolist() == [random.stream(seed, "step", 4) for seed in seeds.tolist()]


def test_numbers_of_a_row_depend_on_its_own_seed():
    seeds = random.seeds(0, 64, "rows")
    assert len(set(seeds.tolist())) == 64 and (seeds >= 0).all()
    for draw in (random.noise, random.normal, random.uniform):
        assert torch.equal(draw(seeds, (3, 2), "test")[[5, 9]], draw(seeds[[5, 9]], (3, 2), "test"))
        assert not torch.equal(draw(seeds, (3, 2), "test"), draw(seeds, (3, 2), "other"))


def test_numbers_are_distributed_as_they_should_be():
    seeds = random.seeds(1, 20_000)
    normal, uniform = random.normal(seeds, (5,), "test"), random.uniform(seeds, (5,), "test")
    assert abs(normal.mean()) < 0.01 and abs(normal.std() - 1) < 0.01
    assert abs(uniform.mean() - 0.5) < 0.01 and uniform.min() >= 0 and uniform.max() < 1
    assert abs(torch.corrcoef(normal.T) - torch.eye(5)).max() < 0.03


def test_what_has_no_name_is_refused_and_torch_is_left_alone():
    with pytest.raises(ValueError, match="needs a name"):
        random.generator(0)
    before = torch.get_rng_state()
    with random.initialized(0, "weights"):
        first = torch.rand(3)
    with random.initialized(0, "weights"):
        assert torch.equal(torch.rand(3), first)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", golden.RUNS)
def test_no_two_names_of_a_recipe_open_one_stream(name: str, tmp_path: Path):
    recipe, preset, changes = golden.RUNS[name]
    module = catalog.load(recipe)
    with random.recorded() as opened, Run.start(tmp_path / "run", {"recipe": recipe}, display=False) as run:
        module.train(golden.changed(module.PRESETS[preset], changes), run)
    shared = {seed: names for seed, names in opened.items() if len(names) > 1}
    assert opened and not shared
