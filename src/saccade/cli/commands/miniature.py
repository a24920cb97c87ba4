"""`saccade miniature`: the tiny checkpoints that come with the package: listed, and built."""

from __future__ import annotations

import dataclasses
import importlib
import json
import re
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import tyro

from saccade import catalog
from saccade.api.models import MINIATURE, builders, drawing_policy, drawing_scores
from saccade.cli.output import figure, show_scores, show_table
from saccade.cli.parsing import Flat, parse
from saccade.naming import suggestion

_USAGE = """usage: saccade miniature list
       saccade miniature build NAME [--out DIR] [--SETTING VALUE …]

The tiny checkpoints that come with the package, in the ordinary Hugging Face layout.

  list    names and folders
  build   train one from random weights (minutes) and write it with its card

Names: {names}.
"""


@dataclass(frozen=True)
class NoOptions:
    """The miniatures that can be built, and those that are present."""


@dataclass(frozen=True)
class Options:
    """Options of the command itself."""

    out: Annotated[str, tyro.conf.arg(metavar="DIR", help_behavior_hint="")] = ""
    """Folder of the miniature, new or empty; miniatures/NAME if not given."""


def main(words: Sequence[str]) -> int:
    """Run the command; the exit status."""
    if not words or words[0] in ("-h", "--help"):
        print(_USAGE.format(names=", ".join(builders())), end="")
        return 0 if words else 2
    if words[0] == "list":
        parse(NoOptions, words[1:], "saccade miniature list")
        _list()
        return 0
    if words[0] != "build":
        near = suggestion(words[0], ("list", "build"))
        raise ValueError(f"unknown command 'miniature {words[0]}'{near} (of list, build)")
    if len(words) == 1 or (words[1].startswith("-") and words[1] not in ("-h", "--help")):
        raise ValueError(f"missing NAME: saccade miniature build NAME, one of {', '.join(builders())}")
    return _build(words[1], words[2:])


def present(name: str) -> Path | None:
    """The folder of a miniature that comes with this package, None if it does not."""
    folder = catalog.PACKAGE / "miniatures" / name
    return folder if (folder / "config.json").is_file() or (folder / "model_index.json").is_file() else None


def _list() -> None:
    rows = []
    for name in builders():
        folder = present(name)
        size = f"{sum(f.stat().st_size for f in folder.rglob('*') if f.is_file()) / 1e6:.1f} MB" if folder else ""
        rows.append((name, "ok" if folder else "missing", size, str(folder or f"saccade miniature build {name}")))
    show_table(("name", "state", "size", "folder"), rows, right=(2,))


def _build(name: str, words: Sequence[str]) -> int:
    if name in ("-h", "--help"):
        print(_USAGE.format(names=", ".join(builders())), end="")
        return 0
    if name not in builders():
        raise ValueError(f"unknown miniature '{name}'{suggestion(name, list(builders()))}")
    builder = importlib.import_module(f"saccade.builders.{builders()[name]}")
    made = dataclasses.make_dataclass(
        "CommandLine", [("recipe", Flat[builder.Settings]), ("place", Flat[Options])], frozen=True
    )
    made.__doc__ = (builder.__doc__ or name).partition("\n")[0]
    given = parse(made, words, f"saccade miniature build {name}", made(builder.Settings(), Options()))
    target = Path(given.place.out or Path("miniatures") / name)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ValueError(f"{target} exists and is not empty: name a new folder with --out")
    facts = _train(builder, given.recipe, target)
    _declare(name, target)
    scores = _scores(builder, target)
    (target / "README.md").write_text(card(name, builder, given.recipe, facts, scores), encoding="utf-8")
    show_scores(scores, name)
    print(target)
    return 0


def _train(builder: ModuleType, settings: Any, target: Path) -> Mapping[str, Any]:
    """Build beside the target and rename, so that a folder is whole or absent."""
    from saccade.training.display import open_display

    beside = target.with_name(f".{target.name}.new")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    display, began = open_display(True, lambda: False), time.time()
    try:

        def progress(part: str, step: int, steps: int, loss: float) -> None:
            display.log(part, step, {"loss/mean": loss})
            display.progress(part, step, steps)

        facts = builder.build(settings, beside, progress)
        facts = {"seconds": round(time.time() - began), **facts}
        _without_places(beside)
        if target.exists():
            target.rmdir()
        beside.rename(target)
    finally:
        display.close()
        shutil.rmtree(beside, ignore_errors=True)
    return facts


def _without_places(folder: Path) -> None:
    """Take out of configurations where on the builder's machine a part came from."""
    for file in folder.rglob("*.json"):
        text = file.read_text(encoding="utf-8")
        file.write_text(re.sub(r'\n *"_name_or_path": "[^"]*",', "", text), encoding="utf-8")


def _declare(name: str, folder: Path) -> None:
    """Name the miniature in its config.json, which models that are trained from it inherit."""
    file = folder / "config.json"
    if file.is_file():
        config = json.loads(file.read_text(encoding="utf-8")) | {MINIATURE: name}
        file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _scores(builder: ModuleType, target: Path) -> dict[str, float]:
    if hasattr(builder, "evaluate"):
        return builder.evaluate(target)
    return drawing_scores(drawing_policy(str(target)))


def card(name: str, builder: ModuleType, settings: Any, facts: Mapping[str, Any], scores: Mapping[str, float]) -> str:
    """The model card that lies beside the weights."""
    from saccade.config import flat, option
    from saccade.training import provenance

    title, _, data = (builder.__doc__ or "").partition("\n")
    machine = provenance.machine()
    rows = lambda pairs: "\n".join(f"| {key} | {value} |" for key, value in pairs)
    options = " ".join(option(name, value) for name, value in flat(settings).items())
    about = {
        "date": time.strftime("%Y-%m-%d"),
        "machine": f"{machine['cpu']}, {machine['cores']} cores" + (f", {machine['gpu']}" if machine["gpu"] else ""),
        "commit": provenance.commit() or "none",
        **{key: f"{value:.4g}" if isinstance(value, float) else value for key, value in facts.items()},
    }
    return f"""# {name}

{title}

{data.strip()}

## How it was made

```
saccade miniature build {name} {options}
```

| | |
|---|---|
{rows(about.items())}

## Scores on held-out prompts

| score | value |
|---|---|
{rows((key, figure(value)) for key, value in scores.items())}
"""
