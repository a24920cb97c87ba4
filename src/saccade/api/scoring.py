"""Rewards as a tool of their own: what they give pictures from anywhere."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from saccade.rewards.registry import PICTURES, Function, reward

if TYPE_CHECKING:
    from torch import Tensor

    from saccade.core import Problem, Reward, Rollout


def score(
    images: str | Path | Sequence[Any],
    prompts: str | Path | Sequence[Any] | None = None,
    rewards: str | Callable | Sequence[str | Callable] = ("geneval",),
) -> dict[str, Any]:
    """The rewards of pictures: {"mean": {reward: value}, "items": [{image, prompt?, reward: value, …}, …]}.

    ``images`` is a folder, or a list of files, Pillow images, tensors ``[3, H, W]`` in [0, 1] or arrays uint8
    ``[H, W, 3]``. ``prompts`` is a file (GenEval's JSONL, or text with one prompt a line), a list of texts or of
    problems, one for each picture, or None for rewards that need none. ``rewards`` are names, FILE.py:FUNCTION, or
    functions of a rollout. NaN is no score; a reward that fails on some pictures warns. ValueError for what does not
    fit, and for a reward that scores no picture at all.
    """
    from saccade.api.pictures import as_tensor, find

    chosen = _rewards(rewards)
    listed = find(Path(images)) if isinstance(images, (str, Path)) else list(images)
    if not listed:
        raise ValueError("no pictures to score")
    place = str(images) if isinstance(images, (str, Path)) else "the list"
    problems = _problems(prompts, len(listed), place)
    pictures = [as_tensor(image) for image in listed]
    values = {name: _ask(name, each, pictures, problems, prompts is not None) for name, each in chosen.items()}
    label = lambda i, image: Path(image).name if isinstance(image, (str, Path)) else i
    prompt = lambda i: {"prompt": problems[i].inputs} if prompts is not None else {}
    items = [
        {"image": label(i, image), **prompt(i), **{name: values[name][i].item() for name in chosen}}
        for i, image in enumerate(listed)
    ]
    return {"mean": {name: values[name].nanmean().item() for name in chosen}, "items": items}


def _rewards(rewards: str | Callable | Sequence[str | Callable]) -> dict[str, Reward]:
    listed = [rewards] if isinstance(rewards, str) or callable(rewards) else list(rewards)
    names = dict.fromkeys(Function(each) if callable(each) else each for each in listed)
    if not names:
        raise ValueError(f"no reward is named; there are {', '.join(PICTURES)}, and FILE.py:FUNCTION")
    return {str(name): reward(name) for name in names}


def _problems(prompts: str | Path | Sequence[Any] | None, count: int, place: str) -> list[Problem]:
    from saccade.core import Problem
    from saccade.worlds import shapes

    if prompts is None:
        return [Problem(i, "") for i in range(count)]
    if isinstance(prompts, (str, Path)):
        found, origin = shapes.load_prompts(prompts), str(prompts)
    else:
        found, origin = [_problem(i, each) for i, each in enumerate(prompts)], "the list"
    if len(found) != count:
        raise ValueError(f"{count} pictures in {place}, but {len(found)} prompts in {origin}")
    return found


def _problem(index: int, prompt: Any) -> Problem:
    from saccade.core import Problem
    from saccade.worlds.shapes.prompts import plain_prompt

    return prompt if isinstance(prompt, Problem) else Problem(index, *plain_prompt(str(prompt)))


def _ask(name: str, asked: Reward, images: Sequence[Tensor], problems: Sequence[Problem], prompted: bool) -> Tensor:
    """One reward's values ``[N]``, NaN where it has none; pictures of one size are scored together."""
    import torch

    from saccade.rewards.rubric import ask

    values, failure = torch.full((len(images),), float("nan")), None
    for rows in _by_size(images):
        values[rows], error = ask(asked, _rollout([images[i] for i in rows], [problems[i] for i in rows]))
        failure = failure or (error and f"{type(error).__name__}: {error}")
    if not values.isfinite().any():
        advice = "" if prompted else "; it may need prompts"
        raise ValueError(
            f"reward '{name}' scored none of {len(images)} pictures: {failure or f'it returned NaN{advice}'}"
        )
    if failure:
        failed = int(values.isnan().sum())
        warnings.warn(f"reward '{name}' failed on {failed} of {len(images)} pictures: {failure}", stacklevel=3)
    return values


def _rollout(images: Sequence[Tensor], problems: Sequence[Problem]) -> Rollout:
    """Pictures as samples of one group: diversity is then that of the folder."""
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
