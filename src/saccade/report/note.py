"""What a recipe says of itself, read from its head note without running it."""

from __future__ import annotations

import ast
import re
from pathlib import Path

_RECIPES = Path(__file__).resolve().parents[1] / "recipes"
_FIELDS = ("paper", "idea", "claims", "differs")


def read(recipe: str) -> dict[str, str]:
    """title, paper, idea, claims, differs of a recipe (its name, family/name, or a .py file); absent ones are left out."""
    source = _source(recipe)
    if source is None:
        return {}
    try:
        head = ast.get_docstring(ast.parse(source.read_text())) or ""
    except (OSError, SyntaxError, ValueError):
        return {}
    title, _, rest = head.partition("\n")
    parts = re.split(rf"^({'|'.join(_FIELDS)}):", rest, flags=re.MULTILINE)
    fields = {name: " ".join(text.split()) for name, text in zip(parts[1::2], parts[2::2])}
    return {name: text for name, text in {"title": title.strip().rstrip("."), **fields}.items() if text}


def _source(recipe: str) -> Path | None:
    """The file of a recipe; any word that is not one finds nothing."""
    if recipe.endswith(".py"):
        return Path(recipe) if Path(recipe).is_file() else None
    wanted = recipe.replace(".", "/").split("/")
    return next((p for p in sorted(_RECIPES.rglob("*.py")) if [*p.parts[:-1], p.stem][-len(wanted) :] == wanted), None)
