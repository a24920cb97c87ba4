"""Named random streams, and that nothing in the package draws from anything else.

That no two uses share a stream is asserted whenever a test of a recipe trains it: see `recipes/conftest.py`.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import torch
from stream_uses import recorded

import saccade
from saccade import catalog, random

ROOT = Path(saccade.__file__).parent
GENERATORS = {"default_rng", "Generator", "Philox", "PCG64", "RandomState", "manual_seed", "seed", "fork_rng"}
TORCH = {"rand", "randn", "randint", "randperm", "multinomial", "bernoulli", "rand_like", "randn_like", "normal"}
EXCEPTIONS = {
    "worlds.splits": "problems are data",
    "worlds.programs.prompts": "problems are data",
    "worlds.shapes.prompts": "problems are data",
    "worlds.shapes.templates": "the templates of the judge are data",
    "worlds.sketches.objects": "the catalog of objects is data",
    "envs.lane.camera": "the pixel noise of the camera is a table",
    "envs.lane.roads": "a road is data: its number says which",
    "builders.parts.stages": "a build seeds torch once a stage, from a named stream",
    "builders.parts.pictures": "a builder's noise comes from torch's global generator",
    "recipes.visual_control.resfit.networks": "initial weights, made inside `initialized`",
    "builders.qwen25_vl_shapes.evaluation": "transformers samples from torch's global generator, seeded from a stream",
}
"""Where a generator is made beside named streams, with the reason."""


def test_a_stream_follows_from_seed_and_name_alone():
    assert random.stream(3, "weights") == random.stream(3, "weights") < 2**63
    names = [("weights",), ("weight",), ("weights", 0), ("weights", 1), ("weights", "0", 1)]
    assert len({random.stream(seed, *name) for seed in range(50) for name in names}) == 250
    seeds = torch.tensor([3, 2**62, -7])
    assert random.stream(seeds, "step", 4).tolist() == [random.stream(seed, "step", 4) for seed in seeds.tolist()]
    assert random.stream(3, "weights") == 4462449110717978520, "runs of an earlier version would be other runs"


def test_numbers_of_a_row_depend_on_its_own_seed():
    seeds = random.seeds(0, 64, "rows")
    assert len(set(seeds.tolist())) == 64 and (seeds >= 0).all()
    for draw in (random.noise, random.normal, random.uniform):
        assert torch.equal(draw(seeds, (3, 2), "test")[[5, 9]], draw(seeds[[5, 9]], (3, 2), "test"))
        assert not torch.equal(draw(seeds, (3, 2), "test"), draw(seeds, (3, 2), "other"))


def test_numbers_are_distributed_as_they_should_be():
    seeds = random.seeds(1, 20_000, "rows")
    normal, uniform = random.normal(seeds, (5,), "test"), random.uniform(seeds, (5,), "test")
    assert abs(normal.mean()) < 0.01 and abs(normal.std() - 1) < 0.01
    assert abs(uniform.mean() - 0.5) < 0.01 and uniform.min() >= 0 and uniform.max() < 1
    both = torch.cat([normal, random.normal(seeds, (5,), "other")], 1)
    assert abs(torch.corrcoef(both.T) - torch.eye(10)).max() < 0.03


def test_what_has_no_name_is_refused_and_torch_is_left_alone():
    for draw in (random.generator, random.numpy_generator, random.stream):
        with pytest.raises(ValueError, match="needs a name"):
            draw(0)
    before = torch.get_rng_state()
    with random.initialized(0, "weights"):
        first = torch.rand(3)
    with random.initialized(0, "weights"):
        assert torch.equal(torch.rand(3), first)
    assert torch.equal(torch.get_rng_state(), before)


def test_two_uses_of_a_stream_are_found():
    with recorded() as uses:
        for _ in range(2):
            random.generator(0, "repeated in one place")
        random.generator(0, "one")
        random.noise(torch.tensor([0, 1]), (2,), "two")
    assert not uses.shared() and len(uses.of) == 4
    with recorded() as uses:
        random.generator(0, "one")
        random.normal(torch.tensor([1, 0]), (2,), "one")
    assert len(uses.shared()) == 1
    with recorded() as uses:
        for _ in range(2):
            with random.initialized(0, "weights"):
                pass
    assert len(uses.shared()) == 1


def test_every_recipe_has_a_test_that_watches_its_streams():
    tests = Path(__file__).parent / "recipes"
    assert {f"test_{name}.py" for name in catalog.recipes()} <= {file.name for file in tests.iterdir()}


def test_nothing_draws_but_from_named_streams():
    found = {}
    for file in ROOT.rglob("*.py"):
        module = ".".join(file.relative_to(ROOT).with_suffix("").parts)
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and _makes_or_draws(node):
                found[module] = f"{file.name}:{node.lineno}: {ast.unparse(node)}"
    wrong = {module: call for module, call in found.items() if module not in EXCEPTIONS and module != "random"}
    assert not wrong
    assert not EXCEPTIONS.keys() - found.keys(), "no longer needed"


def _makes_or_draws(call: ast.Call) -> bool:
    """Whether a call makes a generator, or draws from torch's global one."""
    name, owner = call.func.attr, ast.unparse(call.func.value)
    if name in GENERATORS:
        return owner in ("torch", "np.random", "torch.random", "random", "numpy.random")
    return name in TORCH and owner == "torch" and not any(word.arg == "generator" for word in call.keywords)
