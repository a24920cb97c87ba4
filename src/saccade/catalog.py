"""The systems and their recipes: which are planned, which are built, and what their checks measured.

A recipe is found by its name, ``recipes/<family>/<name>.py`` or ``recipes/<family>/<name>/recipe.py``; nothing here
imports one unless ``load`` is called.
"""

from __future__ import annotations

import ast
import contextlib
import importlib
import itertools
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, is_dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Protocol, cast

from saccade.config import changed
from saccade.naming import suggestion

if TYPE_CHECKING:
    from torch import Tensor

    from saccade.core import Run
    from saccade.training.claims import BaselineArm, Claim, WarmStartedArm

PACKAGE = Path(__file__).resolve().parent
FIELDS = ("paper", "idea", "claims", "differs")
OFFERS = ("Settings", "PRESETS", "policies", "train", "evaluate", "sample")
"""What every recipe module must have; a check also needs ARMS and CLAIMS."""


class Recipe(Protocol):
    """What a recipe module offers. ``ARMS`` and ``CLAIMS`` may be left out where nothing is to be checked."""

    Settings: type
    """A frozen dataclass with a field ``seed``; its defaults are the embedded miniature's."""
    PRESETS: Mapping[str, Any]
    """Settings by name; the first is the default."""
    ARMS: Mapping[str, Any | BaselineArm | WarmStartedArm]
    """Settings, or other kinds of arms, that a check trains and compares."""
    CLAIMS: Sequence[Claim]
    """Inequalities between scores of the arms."""
    __doc__: str | None
    """The head note: a title and the fields paper, idea, claims, differs."""

    def policies(self, cfg: Any) -> Mapping[str, Any]:
        """The models that are trained, by the names under which a checkpoint holds them; each can be exported."""
        ...

    def train(self, cfg: Any, run: Run) -> Mapping[str, Any]:
        """Train in a run; returns the scores before and after."""
        ...

    def evaluate(self, cfg: Any, policies: Mapping[str, Any]) -> Mapping[str, float | Tensor]:
        """Scores on held-out problems, as `saccade.core.ProblemScores`."""
        ...

    def sample(
        self, cfg: Any, policies: Mapping[str, Any], prompts: Sequence[str], seeds_B: Tensor
    ) -> list[dict[str, Any]]:
        """What the models make of prompts: items with prompt and image ``[3, H, W]`` or text, or both."""
        ...


@dataclass(frozen=True)
class System:
    """One published system or, without a number, one baseline."""

    number: int | None
    name: str
    family: str
    title: str

    @property
    def file(self) -> Path | None:
        """Its recipe, None while it is not built."""
        return recipes().get(self.name)

    @property
    def state(self) -> str:
        """not built, built (never checked), or the verdict of its check: holds, refuted, undecided, void."""
        if self.file is None:
            return "not built"
        return str((result(self.name) or {}).get("verdict") or "built")


def systems() -> list[System]:
    """The 63 systems, in their order."""
    return [System(**entry) for entry in json.loads((PACKAGE / "data" / "systems.json").read_text())]


def baselines() -> list[System]:
    """The recipes in ``baselines/``, which the systems are compared with, titled by their first line."""
    known = recipes("baselines")
    return [System(None, name, "baselines", head(file)["title"]) for name, file in known.items()]


def recipes(family: str = "*") -> dict[str, Path]:
    """Every recipe that is built, by name: ``<family>/<name>.py`` or ``<family>/<name>/recipe.py``."""
    root = PACKAGE / "recipes"
    files = [*root.glob(f"{family}/[a-z]*.py"), *root.glob(f"{family}/*/recipe.py")]
    return dict(sorted((name_of(file), file) for file in files))


def name_of(file: Path) -> str:
    """The name of the recipe in a file: its stem, or its folder's name where the file is ``recipe.py``."""
    return file.parent.name if file.name == "recipe.py" else file.stem


def find(name: str) -> Path:
    """The file of a recipe by its name or its path. ValueError with the nearest name if there is none."""
    if name.endswith(".py"):
        if not Path(name).is_file():
            raise ValueError(f"there is no recipe file '{name}'")
        return Path(name).resolve()
    built = recipes()
    if name in built:
        return built[name]
    planned = [system.name for system in systems()]
    if name in planned:
        raise ValueError(f"'{name}' is not built yet; built are {', '.join(built) or 'none'}")
    raise ValueError(f"unknown recipe '{name}'{suggestion(name, built) or '; saccade list shows them'}")


def load(name: str) -> Recipe:
    """The module of a recipe. ValueError if there is none, if it cannot be read, or if a part is missing or wrong."""
    from saccade.tools.user_code import load_module

    file = find(name)
    module = _packaged(file) if file.is_relative_to(PACKAGE) else load_module(file, "recipe")
    if flaw := _flaw(module):
        raise ValueError(f"recipe {file} has {flaw}; a recipe offers {', '.join(OFFERS)}")
    return cast(Recipe, module)


def _flaw(module: ModuleType) -> str | None:
    """What of the protocol `Recipe` a module lacks, None if it is whole."""
    missing = [part for part in OFFERS if not hasattr(module, part)]
    if missing:
        return f"no {missing[0]}"
    if not (isinstance(module.Settings, type) and is_dataclass(module.Settings)):
        return "Settings that are no dataclass"
    if "seed" not in module.Settings.__dataclass_fields__:
        return "Settings without a field 'seed'"
    if not isinstance(module.PRESETS, Mapping) or not module.PRESETS:
        return "no preset in PRESETS"
    if odd := [name for name, settings in module.PRESETS.items() if not isinstance(settings, module.Settings)]:
        return f"a preset '{odd[0]}' that is no Settings"
    if odd := [part for part in OFFERS[2:] if not callable(getattr(module, part))]:
        return f"a {odd[0]} that is no function"
    return None


def _packaged(file: Path) -> ModuleType:
    return importlib.import_module(".".join(("saccade", *file.relative_to(PACKAGE).with_suffix("").parts)))


def identity(name: str) -> dict[str, str]:
    """What a run's config holds of its recipe: the name and, for a file outside this package, its path."""
    file = find(name)
    return {"recipe": name_of(file)} | ({} if file.is_relative_to(PACKAGE) else {"file": str(file)})


@dataclass(frozen=True)
class Arm:
    """What an arm of a check runs: a recipe with its settings, and the arm whose stages it takes, if there is one."""

    recipe: str
    settings: Any
    stages_of: str | None = None


def arms(name: str) -> dict[str, Arm]:
    """The arms of a recipe's check. ValueError for one whose stages are those of an unknown arm or of its own."""
    return {arm: _arm(name, arm, entry) for arm, entry in load(name).ARMS.items()}


def _arm(name: str, arm: str, entry: Any) -> Arm:
    from saccade.training.claims import BaselineArm, WarmStartedArm

    match entry:
        case BaselineArm(recipe, changes):
            return Arm(recipe, changed(next(iter(load(recipe).PRESETS.values())), changes))
        case WarmStartedArm(first, settings):
            others = [each for each, kind in load(name).ARMS.items() if not isinstance(kind, WarmStartedArm)]
            if first not in others:
                raise ValueError(f"arm '{arm}' of {name} follows '{first}', which is not one of {', '.join(others)}")
            return Arm(name, settings, first)
    return Arm(name, entry)


def new_run(name: str, kind: str = "") -> Path:
    """A new folder ``runs/<name>/<kind><time>``, with the smallest number added that no other process has taken."""
    stem = Path("runs") / name / f"{kind}{time.strftime('%Y%m%d-%H%M%S')}"
    stem.parent.mkdir(parents=True, exist_ok=True)
    for n in itertools.count(1):
        folder = stem if n == 1 else stem.with_name(f"{stem.name}-{n}")
        with contextlib.suppress(FileExistsError):
            folder.mkdir()
            return folder
    raise AssertionError("numbers do not end")


def head(file: Path) -> dict[str, str]:
    """The head note of a recipe: its title (the first line) and the fields paper, idea, claims, differs."""
    try:
        text = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
    except (SyntaxError, UnicodeDecodeError) as error:
        raise ValueError(f"recipe {file} cannot be read: {error}") from None
    notes = {"title": text.partition("\n")[0].strip().rstrip("."), **dict.fromkeys(FIELDS, "")}
    field = ""
    for line in text.splitlines()[1:]:
        start, colon, rest = line.partition(":")
        if colon and start in FIELDS:
            field, line = start, rest
        elif not line.strip():
            field = ""
        if field:
            notes[field] = f"{notes[field]} {line.strip()}".strip()
    return notes


def result_file(name: str, first_seed: int = 0) -> Path:
    """Where the check of a recipe is recorded: ``results/<name>.json``, ``results/<name>-from-<seed>.json`` for others
    than the seeds from 0 on; the scores of single problems stand beside it as ``.npz``.

    ``results/`` lies in the checkout that this package is part of; for a recipe file of the user's, and for a package
    that was installed without a checkout, in the current folder.
    """
    root = PACKAGE.parents[1]
    checkout = (root / "pyproject.toml").is_file() and not name.endswith(".py")
    seeds = f"-from-{first_seed}" if first_seed else ""
    return (root if checkout else Path()) / "results" / f"{name_of(Path(name))}{seeds}.json"


def result(name: str, first_seed: int = 0) -> dict[str, Any] | None:
    """The recorded check of a recipe, None if there is none. ValueError for a broken file."""
    path = result_file(name, first_seed)
    if not path.is_file():
        return None
    try:
        found = dict(json.loads(path.read_text()))
    except (ValueError, TypeError):
        raise ValueError(f"{path} is not the result of a check") from None
    if "verdict" not in found:
        raise ValueError(f"{path} is the result of an earlier version, without a verdict: check again")
    return found
