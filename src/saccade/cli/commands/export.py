"""`saccade export`: a run's trained weights as folders that plain diffusers and transformers load."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import tyro

from saccade.cli.parsing import Flag, RecipeFile, Trust, parse


@dataclass(frozen=True)
class Options:
    """The trained weights of a run as plain diffusers / transformers folders, LoRA folded in.

    One model is written to DIR itself, several to DIR/policy, DIR/rewriter, … , each with a README.md that says how to
    load it.
    """

    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """A run's folder."""
    dir: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DIR")]
    """A folder that is new or empty."""
    lora: Flag = False
    """Write LoRA alone: pytorch_lora_weights.safetensors of diffusers, or an adapter of peft."""
    recipe: RecipeFile = ""
    """File of the run's recipe, where it is one of your own."""
    trust: Trust = False
    """Execute the Python files outside the folder that the run's settings name (recipe, rewards)."""


def main(words: Sequence[str]) -> int:
    """Run the command; the exit status."""
    options = parse(Options, words, "saccade export")
    from saccade.api.run import open_run

    run = open_run(options.run, recipe=options.recipe, trust=options.trust)
    target = run.export(options.dir, options.lora)
    for name, folder in run.exported(target).items():
        print(f"{name}: {folder}")
    return 0
