"""Attempts at questions as a run shows them: turn by turn what was said and told, boxes drawn into the pictures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from saccade.core import Problem, Rollout
from saccade.math.frames import Box, Frame
from saccade.math.pixels import picture_digest, to_unit
from saccade.models.language.model import Message, Prompt
from saccade.rewards.text.reading import boxes

LARGEST = 1024
"""Longest side of a picture that is kept to be looked at."""


def conversations(rollout: Rollout, reward_B: Tensor, count: int = 16) -> list[dict[str, Any]]:
    """The first attempts of a token policy's rollout as `Run.samples` takes them: prompt, text (the last turn), score,
    turns.

    A box that the model wrote is drawn into the picture that it saw last, what the problem's "boxes" say beside it.
    """
    frames = rollout.extras["frames_B"].values
    talks = rollout.extras["conversation_B"].values if "conversation_B" in rollout.extras else [None] * len(rollout)
    rows = zip(
        rollout.problems[:count], rollout.outputs, reward_B.tolist(), frames, rollout.extras["prompt_B"].values, talks
    )
    return [
        {"prompt": p.inputs.text, "text": text, "score": score, "turns": _turns(p, prompt, talk, text, shown)}
        for p, text, score, shown, prompt, talk in rows
    ]


def _turns(problem: Problem, prompt: Prompt, talk: Any, text: str, frames: Sequence[Frame]) -> list[dict[str, Any]]:
    """Each turn {"who", "text", "pictures", "trained"}; frames are those of all pictures, in order."""
    told: list[Sequence[Message]] = [[{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt]
    said = [text] if talk is None else [turn.said for turn in talk.turns]
    told += [] if talk is None else [turn.told for turn in talk.turns]
    turns, shown = [], 0
    for messages, words in zip(told, said):
        for message in messages:
            pixels = [part["image"] for part in _parts(message) if part["type"] == "image"]
            own = frames[shown : shown + len(pixels)]
            shown += len(pixels)
            pictures = [
                _picture(problem, *pair, words if k == len(own) - 1 else "") for k, pair in enumerate(zip(pixels, own))
            ]
            written = "".join(part["text"] for part in _parts(message) if part["type"] == "text")
            turns.append({"who": message["role"], "text": written, "pictures": pictures, "trained": False})
        turns.append({"who": "model", "text": words, "pictures": [], "trained": True})
    return turns


def _parts(message: Message) -> Sequence[Message]:
    content = message["content"]
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def _picture(problem: Problem, pixels: np.ndarray, frame: Frame, words: str) -> dict[str, Any]:
    """A picture that a model was shown as ``frame``, the boxes that it wrote about it, and the true ones that lie in
    it.
    """
    height, width = pixels.shape[:2]
    stored = frame if (frame.width, frame.height) == (width, height) else frame.parent or frame
    scale = min(LARGEST / max(width, height), 1.0)
    kept = stored if scale == 1 else stored.displayed(max(round(width * scale), 1), max(round(height * scale), 1))
    said = [(Box(*box.corners, frame), box.label, "said") for box in boxes(words) or ()]
    original = frame.original
    true = problem.answer.get("boxes", []) if isinstance(problem.answer, dict) else []
    labels = (problem.answer.get("labels") or [""] * len(true)) if true else []
    about = original == Frame.of(problem.inputs.pictures[0], picture_digest(problem.inputs.pictures[0]))
    right = [(Box(*map(float, box), original), label, "true") for box, label in zip(true, labels)] if about else []
    found = [_drawn(box.into(kept), label, kind) for box, label, kind in (*right, *said)]
    return {"image": _shown(pixels, kept), "boxes": [box for box in found if box]}


def _drawn(box: Box, label: str, kind: str) -> dict[str, Any] | None:
    """A box as far as it lies in its picture, None if it does not."""
    inside = box.clipped() if all(map(math.isfinite, box.corners)) else box
    return {"corners": [round(x, 2) for x in inside.corners], "label": label, "kind": kind} if inside.valid else None


def _shown(pixels: np.ndarray, frame: Frame) -> Tensor:
    """Pixels uint8 ``[H, W, 3]`` at the size of ``frame``, as ``[3, H, W]`` in [0, 1]."""
    from PIL import Image

    image = Image.fromarray(pixels)
    if image.size != (frame.width, frame.height):
        image = image.resize((frame.width, frame.height), Image.Resampling.BICUBIC)
    return to_unit(image)
