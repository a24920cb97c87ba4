"""The floors of docs/architecture.md: a file imports only from below, and packages of one floor not from one another."""

from __future__ import annotations

import ast
from pathlib import Path

import saccade

ROOT = Path(saccade.__file__).parent
FLOORS = [
    {"core", "naming"},
    {"math"},
    {"models", "tools"},
    {"policies"},
    {"sampling", "rewards", "objectives", "worlds", "training"},
    {"tasks"},
    {"recipes"},
    {"catalog", "checks", "report"},
    {"cli"},
]
FLOOR = {name: i for i, names in enumerate(FLOORS) for name in names}
ALLOWED_ASIDE = {("checks", "catalog"), ("report", "catalog"), ("cli", "cli")}


def imports(file: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in found if name.startswith("saccade.")}


def test_a_file_imports_only_from_floors_below():
    wrong = []
    for file in ROOT.rglob("*.py"):
        own = file.relative_to(ROOT).with_suffix("").parts[0]
        if own in ("__init__", "__main__"):
            continue
        for name in imports(file):
            other = name.split(".")[1]
            if other == own or other not in FLOOR or (own, other) in ALLOWED_ASIDE:
                continue
            if FLOOR[other] >= FLOOR[own]:
                wrong.append(f"{file.relative_to(ROOT)} imports {name}")
    assert not wrong, "\n".join(sorted(wrong))


def test_a_recipe_never_imports_a_recipe():
    """The builders of miniatures share parts, whose names begin with an underscore."""
    parts = ("saccade.recipes.miniatures", "saccade.recipes.miniatures._")
    for file in (ROOT / "recipes").rglob("*.py"):
        names = {name for name in imports(file) if name.startswith("saccade.recipes")}
        shared = {name for name in names if name == parts[0] or name.startswith(parts[1])}
        assert not (names - shared if file.parent.name == "miniatures" else names), file


def test_every_folder_has_a_floor():
    for place in ROOT.iterdir():
        if place.name not in ("__init__.py", "__main__.py", "miniatures", "data", "__pycache__"):
            assert place.stem in FLOOR, f"{place.name} stands on no floor"
