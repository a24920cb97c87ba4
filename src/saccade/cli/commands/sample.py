"""`saccade sample`: pictures or texts from a run or a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from saccade.api.data import SUFFIXES
from saccade.cli.parsing import RecipeFile, Trust, parse
from saccade.naming import suggestion


@dataclass(frozen=True)
class Options:
    """Sample prompts with a run, at its newest checkpoint, or with a model; pictures are written to one file.

    Where a prompt for an editor or a vision-language model begins with picture files, the model is given them.
    A run that rewrites prompts prints what it made of each. A language model only writes: it prints, no file.
    """

    path: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="PATH")]
    """A run's folder, a miniature's name, a model folder or a hub id."""
    prompts: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="PROMPT…", help_behavior_hint="")]
    """Prompts; each is a row of the picture."""
    out: Annotated[str, tyro.conf.arg(aliases=["-o"], metavar="FILE")] = "sample.png"
    """The file of the pictures; several are laid out in a grid."""
    count: int = 1
    """Number of samples of each prompt."""
    seed: int = 0
    """The same seed gives the same samples."""
    without: Annotated[
        tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="MODEL", help_behavior_hint="")
    ] = ()
    """A model of the run to leave out, such as rewriter; may be repeated."""
    recipe: RecipeFile = ""
    """File of the run's recipe, where it is one of your own."""
    trust: Trust = False
    """Execute the Python files outside the folder that the run's settings name (recipe, rewards)."""


def main(words: Sequence[str]) -> int:
    """Run the command; the exit status."""
    options = parse(Options, words, "saccade sample")
    _refuse(options)
    items = _sampled(options)
    pictured = "image" in items[0]
    for item in items[:: options.count if pictured else 1]:
        print(f"{item['prompt']} → {item['text']}" if item.get("text") else item["prompt"])
    if pictured:
        from saccade.api.pictures import write_grid

        images = [item["image"] for item in items]
        write_grid([images[i : i + options.count] for i in range(0, len(images), options.count)], Path(options.out))
        print(options.out)
    return 0


def _refuse(options: Options) -> None:
    """ValueError for what cannot be, before any model is loaded."""
    if not options.prompts:
        raise ValueError('missing PROMPT, such as "a red ring above two blue squares"')
    if options.count < 1:
        raise ValueError(f"--count must be 1 or more, not {options.count}")
    for prompt in options.prompts:
        word = next(iter(prompt.split()), "")
        if Path(word).suffix.lower() in SUFFIXES and not Path(word).is_file():
            raise ValueError(f"there is no picture '{word}', with which the prompt '{prompt}' begins")
    suffix = Path(options.out).suffix
    if suffix.lower() not in SUFFIXES:
        raise ValueError(
            f"'{options.out}' is no kind of picture{suggestion(suffix, SUFFIXES)} (of {', '.join(SUFFIXES)})"
        )


def _sampled(options: Options) -> list[dict[str, Any]]:
    """Items with prompt, image or text, or both."""
    from saccade.api.models import Model, open_path

    subject = open_path(options.path, options.recipe, options.trust)
    if not isinstance(subject, Model):
        return subject.sample(options.prompts, options.seed, options.count, options.without)
    if options.without:
        raise ValueError(f"{options.path} is one model: there is no {options.without[0]} to leave out")
    return subject.sample(options.prompts, options.seed, options.count)
