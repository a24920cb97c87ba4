"""The plan of the house (docs/architecture.md): floors, and the rule of rooms.

A file imports only from floors below its own, and rooms of one floor do not import one another. A part with one user
lives beside that user; its second user moves it down.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import saccade

ROOT = Path(saccade.__file__).parent
FLOORS = [
    {"core", "naming", "random", "config"},
    {"math"},
    {"models", "tools"},
    {"policies"},
    {"training"},
    {"rewards", "envs"},
    {"evaluation"},
    {"worlds"},
    {"algorithms"},
    {"oracles"},
    {"recipes", "builders"},
    {"catalog", "checks", "report"},
    {"api"},
    {"cli"},
]
FLOOR = {name: i for i, names in enumerate(FLOORS) for name in names}
ALLOWED_ASIDE = {("config", "naming"), ("core", "naming"), ("checks", "catalog"), ("report", "catalog")}

PUBLIC = {
    "algorithms.nft": "a learning rule is whole in one file, for people's own recipes too",
    "algorithms.reward_gradient": "a learning rule is whole in one file, for people's own recipes too",
    "envs.single": "a user's own loop steps one of our environments as a Gymnasium one",
}
"""Parts that nobody here uses, or one alone, with the reason for which they stand where they stand."""
DATA_ROOMS = ("worlds", "envs")
"""A world is a folder, whoever learns in it: the miniatures, the tests and users draw from it too."""


def module_of(file: Path) -> str:
    """``worlds.shapes`` of ``worlds/shapes/__init__.py``."""
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {module_of(file): file for file in ROOT.rglob("*.py")}


@cache
def imports(module: str) -> frozenset[str]:
    """The modules of this package that a module imports, at its top or in its functions."""
    found = set()
    for node in ast.walk(ast.parse(FILES[module].read_text())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module:
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name.removeprefix("saccade.") in FILES else node.module for name in inner]
        found |= {name.removeprefix("saccade.") for name in names if name.startswith("saccade.")}
    return frozenset(found)


def users() -> dict[str, set[str]]:
    """Who imports each module."""
    found: dict[str, set[str]] = {module: set() for module in FILES}
    for module in FILES:
        for other in imports(module):
            found[other].add(module)
    return found


def test_a_file_imports_only_from_floors_below():
    wrong = []
    for module in FILES:
        own = module.split(".")[0]
        for name in imports(module) if own in FLOOR else ():
            other = name.split(".")[0]
            if (
                other not in (own, "")
                and other in FLOOR
                and (own, other) not in ALLOWED_ASIDE
                and FLOOR[other] >= FLOOR[own]
            ):
                wrong.append(f"{module} imports {name}")
    assert not wrong, "\n".join(sorted(wrong))


def test_a_recipe_never_imports_a_recipe():
    """The parts of a system that has its own folder are imported from within it alone."""
    for module in FILES:
        if module.startswith("recipes."):
            family, name = module.split(".")[1:3] if module.count(".") > 1 else (module.split(".")[1], "")
            others = {other for other in imports(module) if other.startswith("recipes.")}
            assert all(other.startswith(f"recipes.{family}.{name}.") for other in others), module


def test_every_folder_has_a_floor():
    for place in ROOT.iterdir():
        if place.name not in ("__init__.py", "__main__.py", "miniatures", "data", "__pycache__"):
            assert place.stem in FLOOR, f"{place.name} stands on no floor"


def one_user_parts() -> Iterator[str]:
    """Parts of shared rooms that a single module of another room uses, or a single recipe."""
    for module, by in users().items():
        room = module.split(".")[0]
        shared = FLOOR.get(room, 99) < FLOOR["oracles"] and "." in module and room not in DATA_ROOMS
        if not shared or FILES[module].name == "__init__.py" or module in PUBLIC:
            continue
        homes = {place_of(user) for user in by}
        if len(homes) == 1 and not any(user.startswith(room) for user in by):
            yield f"{module} has one user, {', '.join(sorted(by))}: it lives beside that user"


def place_of(module: str) -> str:
    """A module, or the folder of the recipe or builder that it is part of."""
    parts = module.split(".")
    return ".".join(parts[: {"recipes": 3, "builders": 2}.get(parts[0], len(parts))])


def test_a_part_with_one_user_lives_beside_that_user():
    found = sorted(one_user_parts())
    assert not found, "\n".join(found)


def test_every_part_has_a_user():
    alone = [module for module, by in users().items() if not by and not entered(module) and module not in PUBLIC]
    assert not alone, f"nothing uses {', '.join(alone)}"


def entered(module: str) -> bool:
    """Whether a module is reached by another way than an import: a command, a recipe, a builder, a process of its
    own.
    """
    entries = ("recipes.", "builders.", "api.", "cli.", "checks.arm", "tools.render.", "__main__")
    return FILES[module].name == "__init__.py" or module.startswith(entries)
