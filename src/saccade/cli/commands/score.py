"""`saccade score`: the rewards of a folder of pictures from anywhere."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import tyro

from saccade.cli.output import figure, say_error, show_json, show_table
from saccade.cli.parsing import Flag, parse


@dataclass(frozen=True)
class Options:
    """Rewards of the pictures in a folder.

    Pictures are taken in the order of their names, one for each line of the prompt file. Rewards: shapes,
    shapes_strict, ocr (the world of shapes), rapidocr (any words), sharpness, diversity, or FILE.py:FUNCTION.
    """

    reward: Annotated[str, tyro.conf.arg(metavar="A,B")]
    """Rewards, separated by commas."""
    images: Annotated[str, tyro.conf.arg(metavar="DIR")]
    """Folder of pictures."""
    prompts: Annotated[str, tyro.conf.arg(metavar="FILE", help_behavior_hint="")] = ""
    """GenEval's JSONL, or text with one prompt a line; not needed by rewards of pictures alone."""
    json: Flag = False
    """Print one JSON object as the last line: mean, and items with image, prompt and rewards (null = no score)."""


def main(words: Sequence[str]) -> int:
    """Run the command; the exit status."""
    options = parse(Options, words, "saccade score")
    from saccade.api.scoring import score

    names = list(dict.fromkeys(name.strip() for name in options.reward.split(",") if name.strip()))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        result = score(options.images, options.prompts or None, names)
    for warning in caught:
        if issubclass(warning.category, UserWarning):
            say_error(warning.message)
    if options.json:
        show_json(result)
    else:
        _show(names, result)
    return 0


def _show(names: Sequence[str], result: Mapping[str, Any]) -> None:
    rows = [
        (item["image"], *(figure(item[name]) for name in names), item.get("prompt", "")) for item in result["items"]
    ]
    rows.append(("mean", *(figure(result["mean"][name]) for name in names), ""))
    show_table(("picture", *names, "prompt"), rows, right=range(1, len(names) + 1))
