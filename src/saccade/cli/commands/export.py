"""`saccade export`: a run's trained weights as folders that plain diffusers and transformers load."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from saccade.cli import subjects
from saccade.cli.parsing import parse


@dataclass(frozen=True)
class Options:
    """The trained weights of a run as plain diffusers / transformers folders, LoRA folded in.

    One policy is written to DIR itself, several to DIR/policy, DIR/rewriter, … .
    """

    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """A run's folder."""
    dir: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DIR")]
    """A folder that is new or empty."""


def main(words: Sequence[str]) -> int:
    """Run the command; the exit status."""
    options = parse(Options, words, "saccade export")
    target = Path(options.dir)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ValueError(f"{target} exists and is not empty: name a new folder")
    policies = subjects.open_run(options.run).policies
    for name, policy in policies.items():
        folder = target if len(policies) == 1 else target / name
        folder.mkdir(parents=True, exist_ok=True)
        policy.export(folder)
        print(f"{name}: {folder}")
    return 0
