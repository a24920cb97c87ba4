"""Rewards as a tool of their own: what they give pictures from anywhere."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from saccade.rewards.registry import PICTURES, Function, reward, why_none

if TYPE_CHECKING:
    from torch import Tensor

    from saccade.core import Problem, Reward, Rollout

PIXELS = 16_000_000
"""Pixels of the pictures that are held at once (12 bytes each); a reward that ``compares`` pictures is given all."""


def score(
    images: str | Path | Sequence[Any],
    prompts: str | Path | Sequence[Any] | None = None,
    rewards: str | Callable | Sequence[str | Callable] = ("shapes",),
) -> dict[str, Any]:
    """The rewards of pictures: {"mean": {reward: value}, "items": [{image, prompt?, reward: value, …}, …]}.

    ``images`` is a folder, or a list of files, Pillow images, tensors ``[3, H, W]`` in [0, 1] or arrays uint8
    ``[H, W, 3]``. ``prompts`` is a file (GenEval's JSONL, or text with one prompt a line), a list of texts or of
    problems, one for each picture, or None for rewards that need none. ``rewards`` are names, FILE.py:FUNCTION, or
    functions of a rollout. Pictures are read in batches, so that a folder may be larger than memory; a function with
    the attribute ``compares = True`` is given all pictures of one size together. NaN is no score; a reward that fails
    on some pictures, or scores none, warns. ValueError for what does not fit, and where no reward scores a picture.
    """
    from saccade.api.pictures import find

    chosen = _rewards(rewards)
    listed = find(Path(images)) if isinstance(images, (str, Path)) else list(images)
    if not listed:
        raise ValueError("no pictures to score")
    place = str(images) if isinstance(images, (str, Path)) else "the list"
    problems = _problems(prompts, len(listed), place)
    scores = _Scores(chosen, problems)
    for whole, pixels in ((False, PIXELS), (True, math.inf)):
        if any(getattr(each, "compares", False) == whole for each in chosen.values()):
            for rows, pictures in _batches(listed, pixels):
                scores.add(rows, pictures, whole)
    scores.tell_failures(prompts is not None)
    values = scores.values
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


class _Scores:
    """The values ``[N]`` of each reward, filled batch by batch, and the first failure of each."""

    def __init__(self, rewards: Mapping[str, Reward], problems: Sequence[Problem]):
        import torch

        self.rewards, self.problems = rewards, problems
        self.values = {name: torch.full((len(problems),), float("nan")) for name in rewards}
        self.failures: dict[str, str] = {}

    def add(self, rows: list[int], images: Sequence[Tensor], whole: bool) -> None:
        """Ask the rewards that compare pictures (``whole``), or those that do not, about pictures of one size."""
        from saccade.rewards.rubric import ask

        asked = [name for name, reward in self.rewards.items() if getattr(reward, "compares", False) == whole]
        rollout = _rollout(images, [self.problems[i] for i in rows])
        for name in asked:
            self.values[name][rows], error = ask(self.rewards[name], rollout)
            if error:
                self.failures.setdefault(name, f"{type(error).__name__}: {error}")

    def tell_failures(self, prompted: bool) -> None:
        """Warn of a reward that failed on some pictures, or scored none. ValueError where no reward scored any."""
        silent = {name for name, values in self.values.items() if not values.isfinite().any()}
        for name, values in self.values.items():
            failure = self.failures.get(name)
            if name in silent:
                advice = "" if prompted else "; it may need prompts"
                reason = why_none(self.rewards[name], self.problems) if prompted else ""
                text = f"reward '{name}' scored none of {len(values)} pictures: "
                text += failure or reason or f"it returned NaN{advice}"
                if len(silent) == len(self.values):
                    raise ValueError(text)
                warnings.warn(text, stacklevel=3)
            elif failure:
                failed = int(values.isnan().sum())
                text = f"reward '{name}' failed on {failed} of {len(values)} pictures: {failure}"
                warnings.warn(text, stacklevel=3)


def _rollout(images: Sequence[Tensor], problems: Sequence[Problem]) -> Rollout:
    """Pictures as samples of one group: diversity is then that of the folder."""
    import torch

    from saccade.core import Rollout

    none = torch.zeros(len(images), 0)
    return Rollout(
        list(problems), {}, torch.stack(list(images)), none, none, torch.zeros(len(images), dtype=torch.long)
    )


def _batches(listed: Sequence[Any], pixels: float) -> Iterator[tuple[list[int], list[Tensor]]]:
    """Places and pictures of one size, read one after another; about so many pixels are held at once."""
    from saccade.api.pictures import as_tensor

    held: dict[tuple[int, ...], tuple[list[int], list[Tensor]]] = {}
    room = pixels
    for i, image in enumerate(listed):
        picture = as_tensor(image)
        rows, pictures = held.setdefault(tuple(picture.shape), ([], []))
        rows.append(i)
        pictures.append(picture)
        room -= picture.shape[1] * picture.shape[2]
        if room <= 0:
            yield from held.values()
            held, room = {}, pixels
    yield from held.values()
