"""A model looks closer: a box that it writes, the part of the original picture there, and the scripted dialogue
about both.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from saccade.core import Problem, Rollout
from saccade.math.frames import Box, Frame
from saccade.math.pixels import picture_digest
from saccade.models.language.model import Message
from saccade.policies.multi_turn import Conversation, MultiTurnRollout
from saccade.policies.tokens import TokenPolicy

SLENDER = 200
"""Processors refuse a picture whose one side is longer than so many times the other."""


@dataclass(frozen=True, eq=False)
class ZoomEnvironment:
    """What the model is told before each of ``turns`` turns; a box that cannot be used brings the whole view back.

    ``parts`` cuts a question's text into what is asked at once and the lines of choices that the last turn adds.
    ``whole`` brings the whole view back whatever was written. ``others`` says for which problems (by `id`) another
    row's crop is shown instead of the own one. What each box showed is kept in the conversation's memory as "looks".
    """

    parts: Callable[[str], tuple[str, str]]
    turns: int = 2
    pixels: int | None = None
    """Most pixels of a view, the first one and what a box shows of the original; None leaves it to the model's
    processor.
    """
    point: str = " Give the box of the place to look at."
    """Ends a turn that asks for a box."""
    closing: str = ""
    """Ends the last turn."""
    notice: str = "This box cannot be used, here is the whole picture. "
    """Begins a turn after a box that is missing, empty or not inside the picture."""
    whole: bool = False
    others: Mapping[int, Crop | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.turns < 2:
            raise ValueError(f"a look takes a turn to point and one to answer: turns {self.turns} is less than 2")

    def prompt(self, problem: Problem) -> list[Message]:
        """The first turn. ValueError unless the question is about one picture."""
        return [_user(self._view(problem), self.asked(problem, last=False))]

    def reply(self, problem: Problem, talk: Conversation, text: str) -> list[Message]:
        """The next turn, as `MultiTurnRollout` asks for it."""
        found = look(text, problem.inputs.pictures[0], talk.frames[-1])
        talk.memory.setdefault("looks", []).append(found)
        shown = self.others.get(id(problem), found)
        asked = self.asked(problem, last=len(talk.turns) == self.turns - 1)
        if shown is not None and not self.whole:
            return [_user(view(shown.pixels, self.pixels, shown.frame), asked)]
        return [_user(self._view(problem), asked if self.whole else self.notice + asked)]

    def asked(self, problem: Problem, last: bool) -> str:
        """The words of a turn: the question and a wish for a box, or all of it."""
        if last:
            return problem.inputs.text + self.closing
        return self.parts(problem.inputs.text)[0] + self.point

    def attempt(self, policy: TokenPolicy) -> MultiTurnRollout:
        """One conversation about each problem, by a policy whose prompt is `prompt`."""
        return MultiTurnRollout(policy, self.reply, self.turns)

    def swapped(self, policy: TokenPolicy) -> Callable[[Sequence[Problem], Tensor], Rollout]:
        """Conversations in which everyone is shown what the box of a row about another problem brought: a control.

        The first turns are written twice, since all boxes must be known before the first crop is shown. ValueError for
        more than two turns: a later box would be written in another row's picture.
        """
        if self.turns != 2:
            raise ValueError(f"crops change places in conversations of 2 turns, not of {self.turns}")

        def attempt(problems: Sequence[Problem], seeds_B: Tensor) -> Rollout:
            own = [replace(problem) for problem in problems]  # objects of their own: rows are told apart by them
            first = policy.rollout(own, seeds_B)
            frames = first.extras["frames_B"].values
            found = [look(text, p.inputs.pictures[0], shown[0]) for text, p, shown in zip(first.outputs, own, frames)]
            away = next((i for i, p in enumerate(problems) if p is not problems[0]), 0)
            if not away:
                raise ValueError("crops change places between problems, and there is only one here")
            others = {id(p): found[(i + away) % len(own)] for i, p in enumerate(own)}
            return replace(self, others=others).attempt(policy)(own, seeds_B)

        return attempt

    def _view(self, problem: Problem) -> Message:
        pictures = getattr(problem.inputs, "pictures", ())
        if len(pictures) != 1:
            asked = str(getattr(problem.inputs, "text", problem.inputs))[:60]
            raise ValueError(f"a question to look into has one picture, this one has {len(pictures)}: {asked!r}")
        return view(pictures[0], self.pixels)


def view(picture: np.ndarray, pixels: int | None = None, frame: Frame | None = None) -> dict[str, Any]:
    """A picture ``[H, W, 3]``, reduced to at most ``pixels``, as part of a message; its frame finds back to the
    original.

    ``frame`` is the picture's own where it is a part of another.
    """
    from PIL import Image

    frame = frame or Frame.of(picture, picture_digest(picture))
    scale = math.sqrt(pixels / (frame.width * frame.height)) if pixels else 1.0
    if scale >= 1:
        return {"type": "image", "image": picture, "frame": frame}
    width, height = (max(math.floor(side * scale + 1e-6), 1) for side in (frame.width, frame.height))
    small = np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.BICUBIC))
    return {"type": "image", "image": small, "frame": frame.displayed(width, height)}


def look(text: str, original: np.ndarray, shown: Frame) -> Crop | None:
    """What the last box of a text, written in the pixels of ``shown``, shows of the original; None if it cannot be
    used.
    """
    try:
        box_in(text, shown)
    except ValueError:
        return None
    found = crop(text, original, shown)
    long, short = max(found.pixels.shape[:2]), min(found.pixels.shape[:2])
    return found if long < SLENDER * short else None


def crops(rollout: Rollout) -> list[Crop | None]:
    """What the last box of each conversation showed of its picture."""
    return [(talk.memory.get("looks") or [None])[-1] for talk in rollout.extras["conversation_B"].values]


def box_areas(found: Sequence[Crop | None]) -> Tensor:
    """Each box's share of its picture ``[B]``, NaN where there is none."""
    share = lambda one: one.frame.width * one.frame.height / (one.frame.original.width * one.frame.original.height)
    return torch.tensor([math.nan if one is None else share(one) for one in found])


def _user(picture: Message, text: str) -> Message:
    return {"role": "user", "content": [picture, {"type": "text", "text": text}]}


_NUMBER = r"\s*(-?\d+(?:\.\d+)?)\s*"

_BOX = re.compile(rf"\[{_NUMBER},{_NUMBER},{_NUMBER},{_NUMBER}\]")


@dataclass(frozen=True, eq=False)
class Crop:
    """The pixels ``[h, w, 3]`` that a box touches, where they lie in the original, and the box as it was written."""

    pixels: np.ndarray
    frame: Frame
    box: Box


def box_in(text: str, shown: Frame) -> Box:
    """The last ``[x1, y1, x2, y2]`` of a text, in the pixels of the picture as ``shown``.

    ValueError with one line, for the model to read, if there is none or if it is not inside the picture.
    """
    found = _BOX.findall(text)
    if not found:
        raise ValueError(f"there is no box [x1, y1, x2, y2] in {text[-60:]!r}")
    box = Box(*map(float, found[-1]), shown)
    if not box.valid:
        near = box.clipped()
        nearest = list(near.corners if near.valid else shown.whole)
        raise ValueError(
            f"box {list(box.corners)} is not inside {shown.width} x {shown.height} pixels; nearest: {nearest}"
        )
    return box


def crop(text: str, original: np.ndarray, shown: Frame) -> Crop:
    """Cut the box of a text, written in the picture as ``shown``, out of the ``original`` ``[H, W, 3]``.

    ``shown`` may be the original resized, or a crop of it resized. ValueError with one line as in `box_in`, and for an
    original that is not the one which was shown.
    """
    whole = shown.original
    high, wide = original.shape[:2]
    if (high, wide) != (whole.height, whole.width):
        raise ValueError(f"the original has {wide} x {high} pixels, not {whole.width} x {whole.height}")
    box = box_in(text, shown)
    frame = whole.crop(box)
    return Crop(np.ascontiguousarray(original[frame.slices]), frame, box)
