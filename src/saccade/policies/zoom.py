"""Zooming in: the crop of the original picture at a box that the model wrote, and a scripted conversation about it."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from saccade.core import Problem, Question, Rollout, Sampler
from saccade.math.frames import Box, Frame
from saccade.math.pixels import picture_digest
from saccade.models.language.model import Message
from saccade.policies.multi_turn import Conversation, MultiTurnRollout
from saccade.policies.tokens import TokenPolicy

MAX_ASPECT_RATIO = 200
"""Ratio of a picture's longer to its shorter side from which on processors refuse the picture."""


@dataclass(frozen=True, eq=False)
class ZoomEnvironment:
    """The messages before each of ``turns`` turns; a box that cannot be used is answered with the full view.

    All turns but the last ask for a box, without the question's choices; the last one asks for the answer. The crop of
    each box is kept in the conversation's ``env_state`` as "crops".
    """

    split_choices: Callable[[str], tuple[str, str]]
    """Splits the text of a question into the question and the lines of its choices."""
    turns: int = 2
    """Number of turns of the model."""
    max_pixels: int | None = None
    """Most pixels of a view, the first one and each crop; None leaves the bound to the model's processor."""
    box_prompt: str = " Give the box of the place to look at."
    """Text after the question in turns that ask for a box."""
    answer_prompt: str = ""
    """Text after the question in the last turn."""
    notice: str = "This box cannot be used, here is the whole picture. "
    """Text before the question after a box that is missing, empty or not inside the picture."""
    full_view: bool = False
    """Answer every box with the full view."""
    shown_crops: Mapping[int, Crop | None] = field(default_factory=dict)
    """Crops to show instead of those of the row's own boxes, by the `id` of the problem."""

    def __post_init__(self) -> None:
        if self.turns < 2:
            raise ValueError(f"zooming in takes a turn for the box and one for the answer: turns {self.turns} < 2")

    def prompt(self, problem: Problem) -> list[Message]:
        """The first message. ValueError unless the question is about one picture."""
        return [_message(self._full_view(problem), self._text(problem, last=False))]

    def reply(self, problem: Problem, conversation: Conversation, text: str) -> list[Message]:
        """The message after a turn with this text, as `MultiTurnRollout` asks for it."""
        crop = try_crop(text, problem.inputs.pictures[0], conversation.frames[-1])
        conversation.env_state.setdefault("crops", []).append(crop)
        shown = self.shown_crops.get(id(problem), crop)
        question = self._text(problem, last=len(conversation.turns) == self.turns - 1)
        if shown is not None and not self.full_view:
            return [_message(view(shown.pixels, self.max_pixels, shown.frame), question)]
        return [_message(self._full_view(problem), question if self.full_view else self.notice + question)]

    def sampler(self, policy: TokenPolicy) -> Sampler:
        """Samples one conversation about each problem, by a policy whose prompt is `prompt`."""
        return MultiTurnRollout(policy, self.reply, self.turns)

    def swapped_sampler(self, policy: TokenPolicy) -> Sampler:
        """Samples conversations in which every row is shown the crop of a row about another problem: a control.

        The first turns are sampled twice, since all boxes must be known before the first crop is shown. ValueError for
        more than two turns: a later box would be written in another row's picture.
        """
        if self.turns != 2:
            raise ValueError(f"crops are swapped in conversations of 2 turns, not of {self.turns}")

        def sample(problems: Sequence[Problem], seeds_B: Tensor) -> Rollout:
            copies = [replace(problem) for problem in problems]  # rows are told apart by the identity of their problem
            first = policy.rollout(copies, seeds_B)
            texts, frames = first.outputs, first.extras["frames_B"].values
            crops = [try_crop(text, p.inputs.pictures[0], f[0]) for text, p, f in zip(texts, copies, frames)]
            shift = next((i for i, problem in enumerate(problems) if problem is not problems[0]), 0)
            if not shift:
                raise ValueError("crops are swapped between problems, and there is only one here")
            shown_crops = {id(problem): crops[(i + shift) % len(copies)] for i, problem in enumerate(copies)}
            return replace(self, shown_crops=shown_crops).sampler(policy)(copies, seeds_B)

        return sample

    def _text(self, problem: Problem, last: bool) -> str:
        if last:
            return problem.inputs.text + self.answer_prompt
        return self.split_choices(problem.inputs.text)[0] + self.box_prompt

    def _full_view(self, problem: Problem) -> Message:
        question = problem.inputs if isinstance(problem.inputs, Question) else Question(str(problem.inputs))
        if len(question.pictures) != 1:
            count, text = len(question.pictures), question.text[:60]
            raise ValueError(f"a question to zoom into has one picture, this one has {count}: {text!r}")
        return view(question.pictures[0], self.max_pixels)


def view(picture: np.ndarray, max_pixels: int | None = None, frame: Frame | None = None) -> dict[str, Any]:
    """A picture uint8 ``[H, W, 3]``, reduced to at most ``max_pixels``, as part of a message, with its frame.

    ``frame`` is the frame of the picture where it is a crop; without one the picture is an original.
    """
    from PIL import Image

    frame = frame or Frame.of(picture, picture_digest(picture))
    scale = math.sqrt(max_pixels / (frame.width * frame.height)) if max_pixels else 1.0
    if scale >= 1:
        return {"type": "image", "image": picture, "frame": frame}
    width, height = (max(math.floor(side * scale + 1e-6), 1) for side in (frame.width, frame.height))
    small = np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.BICUBIC))
    return {"type": "image", "image": small, "frame": frame.displayed(width, height)}


def _message(picture: Message, text: str) -> Message:
    return {"role": "user", "content": [picture, {"type": "text", "text": text}]}


@dataclass(frozen=True, eq=False)
class Crop:
    """The pixels uint8 ``[h, w, 3]`` that a box touches, their frame in the original, and the box as it was written."""

    pixels: np.ndarray
    frame: Frame
    box: Box


_NUMBER = r"\s*(-?\d+(?:\.\d+)?)\s*"
_BOX = re.compile(rf"\[{_NUMBER},{_NUMBER},{_NUMBER},{_NUMBER}\]")


def parse_box(text: str, shown: Frame) -> Box:
    """The last ``[x1, y1, x2, y2]`` of a text, in the pixels of the picture as ``shown``.

    ValueError with one line, for the model to read, if there is no box or if it is not inside the picture.
    """
    found = _BOX.findall(text)
    if not found:
        raise ValueError(f"there is no box [x1, y1, x2, y2] in {text[-60:]!r}")
    x1, y1, x2, y2 = map(float, found[-1])
    box = Box(x1, y1, x2, y2, shown)
    if not box.valid:
        clipped = box.clipped()
        nearest = list(clipped.corners if clipped.valid else shown.bounds)
        size = f"{shown.width} x {shown.height} pixels"
        raise ValueError(f"box {list(box.corners)} is not inside {size}; nearest: {nearest}")
    return box


def crop_box(text: str, original: np.ndarray, shown: Frame) -> Crop:
    """Crop the box of a text, written in the picture as ``shown``, out of the ``original`` uint8 ``[H, W, 3]``.

    ``shown`` may be the original resized, or a crop of it resized. ValueError with one line as in `parse_box`, and for
    an original of another size than the one that was shown.
    """
    frame = shown.original
    height, width = original.shape[:2]
    if (height, width) != (frame.height, frame.width):
        raise ValueError(f"the original has {width} x {height} pixels, not {frame.width} x {frame.height}")
    box = parse_box(text, shown)
    cropped = frame.crop(box)
    return Crop(np.ascontiguousarray(original[cropped.slices]), cropped, box)


def try_crop(text: str, original: np.ndarray, shown: Frame) -> Crop | None:
    """The crop of a text's box as in `crop_box`; None if there is no box, or one that processors would refuse."""
    try:
        parse_box(text, shown)
    except ValueError:
        return None
    crop = crop_box(text, original, shown)
    longer, shorter = max(crop.pixels.shape[:2]), min(crop.pixels.shape[:2])
    return crop if longer < MAX_ASPECT_RATIO * shorter else None


def last_crops(rollout: Rollout) -> list[Crop | None]:
    """The crop of the last box of each conversation ``[B]``, None where there is none."""
    return [
        (conversation.env_state.get("crops") or [None])[-1] for conversation in rollout.extras["conversation_B"].values
    ]


def box_areas(crops: Sequence[Crop | None]) -> Tensor:
    """Share of the original picture's area that each crop covers ``[B]``, NaN where there is no crop."""
    area = lambda frame: frame.width * frame.height
    shares = [math.nan if crop is None else area(crop.frame) / area(crop.frame.original) for crop in crops]
    return torch.tensor(shares)
