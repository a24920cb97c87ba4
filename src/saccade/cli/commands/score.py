"""`saccade score`: rewards as a tool of their own, on a folder of pictures from anywhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from saccade.cli.output import figure, say_error, show_json, show_table
from saccade.cli.parsing import Flag, parse
from saccade.rewards.registry import PICTURES, reward

if TYPE_CHECKING:
    from torch import Tensor

    from saccade.core import Problem


@dataclass(frozen=True)
class Options:
    """Judge the pictures of a folder.

    Pictures are taken in the order of their names, one for each line of the prompt file. Rewards: geneval,
    geneval_strict, ocr (the world of shapes), rapidocr (any words), sharpness, diversity, or FILE.py:FUNCTION.
    """

    reward: Annotated[str, tyro.conf.arg(metavar="A,B")]
    """Rewards, separated by commas."""
    images: Annotated[str, tyro.conf.arg(metavar="DIR")]
    """Folder of pictures."""
    prompts: Annotated[str, tyro.conf.arg(metavar="FILE", help_behavior_hint="")] = ""
    """GenEval's JSONL, or text with one prompt a line; not needed by rewards that look at pictures alone."""
    json: Flag = False
    """Print one JSON object as the last line: mean, and items with image, prompt and rewards (null = no verdict)."""


def main(words: Sequence[str]) -> int:
    """Run the command; the exit status."""
    options = parse(Options, words, "saccade score")
    names = list(dict.fromkeys(name.strip() for name in options.reward.split(",") if name.strip()))
    result = score(names, Path(options.images), Path(options.prompts) if options.prompts else None)
    if options.json:
        show_json(result)
    else:
        _show(names, result)
    return 0


def score(names: Sequence[str], folder: Path, prompts: Path | None) -> dict[str, Any]:
    """Verdicts of rewards on the pictures of a folder. ValueError if files do not fit, or a reward judges nothing."""
    from saccade.cli import pictures

    if not names:
        raise ValueError(f"--reward names no reward; there are {', '.join(PICTURES)}, and FILE.py:FUNCTION")
    rewards = {name: reward(name) for name in names}
    files = pictures.find(folder)
    problems = _problems(prompts, len(files), folder)
    images = [pictures.read(file) for file in files]
    verdicts = {name: _ask(name, reward, images, problems, prompts) for name, reward in rewards.items()}
    prompt = lambda i: {"prompt": problems[i].inputs} if prompts else {}
    items = [
        {"image": file.name, **prompt(i), **{name: verdicts[name][i].item() for name in names}}
        for i, file in enumerate(files)
    ]
    return {"mean": {name: verdicts[name].nanmean().item() for name in names}, "items": items}


def _problems(prompts: Path | None, count: int, folder: Path) -> list[Problem]:
    from saccade.core import Problem
    from saccade.worlds import shapes

    if prompts is None:
        return [Problem(i, "") for i in range(count)]
    found = shapes.load_prompts(prompts)
    if len(found) != count:
        raise ValueError(f"{count} pictures in {folder}, but {len(found)} prompts in {prompts}")
    return found


def _ask(name: str, reward: Any, images: Sequence[Tensor], problems: Sequence[Problem], prompts: Path | None) -> Tensor:
    """One reward's verdicts ``[N]``, NaN where it has none; pictures of one size are judged together."""
    import torch

    from saccade.rewards.rubric import ask

    verdicts, failure = torch.full((len(images),), float("nan")), None
    for rows in _by_size(images):
        verdicts[rows], error = ask(reward, _rollout([images[i] for i in rows], [problems[i] for i in rows]))
        failure = failure or (error and f"{type(error).__name__}: {error}")
    if not verdicts.isfinite().any():
        advice = "" if prompts else "; it may need --prompts"
        raise ValueError(
            f"reward '{name}' judged none of {len(images)} pictures: {failure or f'it gave no verdict{advice}'}"
        )
    if failure:
        say_error(f"reward '{name}' failed on {int(verdicts.isnan().sum())} of {len(images)} pictures: {failure}")
    return verdicts


def _rollout(images: Sequence[Tensor], problems: Sequence[Problem]) -> Any:
    """Pictures as attempts of one group: diversity is then that of the folder."""
    import torch

    from saccade.core import Rollout

    none = torch.zeros(len(images), 0)
    return Rollout(
        list(problems), {}, torch.stack(list(images)), none, none, torch.zeros(len(images), dtype=torch.long)
    )


def _by_size(images: Sequence[Tensor]) -> list[list[int]]:
    """Places of the pictures that have the same size."""
    sizes: dict[tuple[int, ...], list[int]] = {}
    for i, image in enumerate(images):
        sizes.setdefault(tuple(image.shape), []).append(i)
    return list(sizes.values())


def _show(names: Sequence[str], result: Mapping[str, Any]) -> None:
    rows = [
        (item["image"], *(figure(item[name]) for name in names), item.get("prompt", "")) for item in result["items"]
    ]
    rows.append(("mean", *(figure(result["mean"][name]) for name in names), ""))
    show_table(("picture", *names, "prompt"), rows, right=range(1, len(names) + 1))
