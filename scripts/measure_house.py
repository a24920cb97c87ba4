"""How large the package is, how long its recipes are, and how much of it a reader opens to understand one.

    python scripts/measure_house.py [--json] [NAME ...]     NAME: print the files that are opened for these recipes

**lines** of a recipe are those of its file, or of all files of its folder. **method** is the share of them that stand
in functions and classes which ``train``, ``policies``, ``evaluate`` and ``sample`` come to. So it leaves out the head
note, imports, lines between definitions, the dataclass ``Settings``, presets, arms, claims, and functions that only
these use; docstrings and comments inside a function are part of it.

**opened** is the number of files a reader opens, from ``train`` and ``policies`` on: every name of this package that
a followed definition uses is looked up, through re-exports, and of the module where it stands that one function,
class or assignment is followed in turn, a class with its bases and all its methods. Annotations count as uses: they
tell a reader what an argument is. Worlds, environments and models are taken as read: their files are neither counted
nor followed, nor is a package's ``__init__`` that only passes a name on.

**shared** is the share of lines of the shorter of two recipes that stand in the same order in the other too (their
longest common subsequence), without imports, blank lines and comments. Pairs above a third are listed.
"""

from __future__ import annotations

import argparse
import ast
import json
from collections.abc import Iterable, Iterator
from functools import cache
from itertools import combinations
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from saccade import catalog

ROOT = catalog.PACKAGE
TAKEN_AS_READ = ("worlds", "envs", "models")
Definition = ast.FunctionDef | ast.ClassDef


class Symbol(NamedTuple):
    """A name in a module; without a name, the module itself."""

    module: str
    name: str = ""


def dotted(file: Path) -> str:
    """The name by which a file of the package is imported."""
    parts = (ROOT.name, *file.relative_to(ROOT).with_suffix("").parts)
    return ".".join(parts).removesuffix(".__init__")


@cache
def modules() -> dict[str, Path]:
    """Every module of the package by its dotted name."""
    return {dotted(file): file for file in sorted(ROOT.rglob("*.py"))}


@cache
def lines_of(file: Path) -> list[str]:
    """The lines of a file."""
    return file.read_text(encoding="utf-8").splitlines()


@cache
def tree(file: Path) -> ast.Module:
    """The syntax of a file."""
    return ast.parse("\n".join(lines_of(file)))


@cache
def bound(module: str) -> dict[str, ast.stmt | Symbol]:
    """What the names of a module stand for: a definition, an assignment, or a symbol of another module."""
    found: dict[str, ast.stmt | Symbol] = {}
    waiting = list(tree(modules()[module]).body)
    while waiting:
        node = waiting.pop(0)
        if isinstance(node, Definition):
            found[node.name] = node
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            names = (name for name in ast.walk(node) if isinstance(name, ast.Name) and isinstance(name.ctx, ast.Store))
            found |= {name.id: node for name in names}
        elif isinstance(node, ast.If | ast.Try):
            waiting[:0] = [child for child in ast.iter_child_nodes(node) if isinstance(child, ast.stmt)]
        else:
            found |= imported([node])
    return found


def imported(nodes: Iterable[ast.AST]) -> dict[str, Symbol]:
    """What import statements among nodes bind to symbols of this package, which imports itself by full names."""
    found: dict[str, Symbol] = {}
    for node in nodes:
        if isinstance(node, ast.Import):
            tops = ((alias, alias.name.partition(".")[0]) for alias in node.names)
            found |= {alias.asname or top: Symbol(alias.name if alias.asname else top) for alias, top in tops}
        elif isinstance(node, ast.ImportFrom):
            found |= {alias.asname or alias.name: Symbol(node.module or "", alias.name) for alias in node.names}
    return {name: symbol for name, symbol in found.items() if symbol.module in modules()}


def origin(symbol: Symbol) -> Symbol | None:
    """Where a symbol is defined, through re-exports; None if not in this package."""
    there = bound(symbol.module).get(symbol.name) if symbol.name else None
    if isinstance(there, Symbol) and there != symbol:
        return origin(there)
    if isinstance(there, ast.stmt) or not symbol.name:
        return symbol
    inner = f"{symbol.module}.{symbol.name}"
    return Symbol(inner) if inner in modules() else None


def used(symbol: Symbol) -> Iterator[Symbol]:
    """The symbols that a definition uses, by name or as an attribute of a module."""
    inside = list(ast.walk(bound(symbol.module)[symbol.name]))  # pyrefly: ignore[bad-argument-type]
    local = imported(inside)

    def meant(expression: ast.AST) -> Symbol | None:
        match expression:
            case ast.Name(name):
                return origin(local.get(name, Symbol(symbol.module, name)))
            case ast.Attribute(value, name):
                base = meant(value)
                return origin(Symbol(base.module, name)) if base and not base.name else None
        return None

    return (found for found in map(meant, inside) if found and found.name)


def reached(module: str, names: Iterable[str]) -> set[Symbol]:
    """All that a reader comes to from names of a module."""
    seen: set[Symbol] = set()
    waiting = [found for name in names if (found := origin(Symbol(module, name))) and found.name]
    while waiting:
        symbol = waiting.pop()
        if symbol not in seen and symbol.module.split(".")[1] not in TAKEN_AS_READ:
            seen.add(symbol)
            waiting += used(symbol)
    return seen


def length(node: Definition) -> int:
    """Lines of a definition, with its decorators."""
    return (node.end_lineno or 0) - min([node.lineno, *(each.lineno for each in node.decorator_list)]) + 1


def files_of(recipe: Path) -> list[Path]:
    """The files of a recipe: its one file, or all of its folder."""
    return sorted(recipe.parent.rglob("*.py")) if recipe.name == "recipe.py" else [recipe]


def facts_of(recipe: Path) -> dict[str, Any]:
    """Lines, share of method, and files opened of one recipe."""
    lines = sum(len(lines_of(file)) for file in files_of(recipe))
    told = reached(dotted(recipe), ("train", "policies", "evaluate", "sample"))
    own = [bound(at)[name] for at, name in told if modules()[at] in files_of(recipe) and name != "Settings"]
    method = sum(length(node) for node in own if isinstance(node, Definition))
    opened = {modules()[symbol.module] for symbol in reached(dotted(recipe), ("train", "policies"))}
    places = sorted(file.relative_to(ROOT).as_posix() for file in opened)
    return {"lines": lines, "method": round(method / lines, 3), "opened": len(places), "files": places}


def bare(recipe: Path) -> list[str]:
    """Lines of a recipe without imports, blank lines and comments."""
    found: list[str] = []
    for file in files_of(recipe):
        nodes = [node for node in ast.walk(tree(file)) if isinstance(node, ast.Import | ast.ImportFrom)]
        left_out = {line for node in nodes for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)}
        lines = enumerate(map(str.strip, lines_of(file)), 1)
        found += [line for i, line in lines if i not in left_out and line and not line.startswith("#")]
    return found


def in_common(a: list[str], b: list[str]) -> int:
    """Length of the longest common subsequence, all of ``a`` at once as bits (Hyyrö 2004): zeros of the last row."""
    places: dict[str, int] = {}
    for i, line in enumerate(a):
        places[line] = places.get(line, 0) | 1 << i
    row = ones = (1 << len(a)) - 1
    for line in b:
        matches = row & places.get(line, 0)
        row = (row + matches) | (row - matches)
    return len(a) - (row & ones).bit_count()


def siblings(recipes: dict[str, Path]) -> list[tuple[str, str, float]]:
    """Pairs of recipes that share more than a third of the shorter one, the most alike first."""
    texts = {name: bare(file) for name, file in recipes.items()}
    share = lambda a, b: in_common(texts[a], texts[b]) / min(len(texts[a]), len(texts[b]))
    pairs = [(a, b, round(share(a, b), 3)) for a, b in combinations(texts, 2)]
    return sorted((pair for pair in pairs if pair[2] > 1 / 3), key=lambda pair: -pair[2])


def house() -> dict[str, Any]:
    """Size of the whole package."""
    nodes = [(file, node) for file in modules().values() for node in ast.walk(tree(file))]
    functions = [(length(node), file, node) for file, node in nodes if isinstance(node, ast.FunctionDef)]
    most, file, node = max(functions, key=lambda function: function[0])
    texts = [lines_of(file) for file in modules().values()]
    return {
        "files": len(texts),
        "lines": sum(map(len, texts)),
        "median file": median(map(len, texts)),
        "median function": median(lines for lines, *_ in functions),
        "longest function": f"{most} lines, {file.relative_to(ROOT)}:{node.lineno} {node.name}",
        "lines over 120": sum(len(line) > 120 for text in texts for line in text),
    }


def main() -> None:
    """Print everything, for people or as one object."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="recipes whose opened files are listed")
    parser.add_argument("--json", action="store_true", help="one object, with the opened files of every recipe")
    options = parser.parse_args()
    recipes = catalog.recipes()
    facts, pairs = {name: facts_of(file) for name, file in recipes.items()}, siblings(recipes)
    if options.json:
        print(json.dumps({"package": house(), "recipes": facts, "siblings": pairs}))
        return
    for name, value in house().items():
        print(f"{name:24} {value}")
    print(f"\n{'recipe':24} {'lines':>6} {'method':>7} {'opened':>7}")
    for name, fact in facts.items():
        print(f"{name:24} {fact['lines']:6} {fact['method']:7.0%} {fact['opened']:7}")
    lines = sum(fact["lines"] for fact in facts.values())
    method = sum(fact["method"] * fact["lines"] for fact in facts.values()) / lines
    print(f"{'all':24} {lines:6} {method:7.0%} {median(fact['opened'] for fact in facts.values()):7} in the median")
    print(f"\n{'siblings':49} {'shared':>6}")
    for one, other, share in pairs:
        print(f"{one:24} {other:24} {share:6.0%}")
    for name in options.names:
        print(f"\n{name}", *facts[name]["files"], sep="\n  ")


if __name__ == "__main__":
    main()
