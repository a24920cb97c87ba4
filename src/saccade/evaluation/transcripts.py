"""Rollouts of questions as logged samples: a transcript turn by turn, with boxes drawn into the pictures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from saccade.core import Problem, Rollout
from saccade.math.frames import Box, Frame
from saccade.math.pixels import picture_digest, to_float
from saccade.models.language.model import Message, Prompt
from saccade.policies.multi_turn import Conversation
from saccade.rewards.text.parsing import parse_boxes

MAX_SIDE = 1024
"""Longest side in pixels of a picture in a transcript; larger ones are reduced."""


def transcripts(rollout: Rollout, score_B: Tensor, count: int = 16) -> list[dict[str, Any]]:
    """The first rows of a token policy's rollout as `Run.samples` takes them.

    Each is {"prompt", "text" (of the last turn), "score", "turns"}. The boxes that the model wrote are drawn into the
    picture shown last, the true ones in the problem's "boxes" beside them.
    """
    extras, rows = rollout.extras, range(min(count, len(rollout)))
    conversations = extras["conversation_B"].values if "conversation_B" in extras else [None] * len(rollout)
    found = []
    for row in rows:
        problem, text = rollout.problems[row], rollout.outputs[row]
        prompt, frames = extras["prompt_B"].values[row], extras["frames_B"].values[row]
        turns = _turns(problem, prompt, conversations[row], text, frames)
        found.append({"prompt": problem.inputs.text, "text": text, "score": float(score_B[row]), "turns": turns})
    return found


def _turns(
    problem: Problem, prompt: Prompt, conversation: Conversation | None, text: str, frames: Sequence[Frame]
) -> list[dict[str, Any]]:
    """Each turn {"who", "text", "pictures", "trained"}; ``frames`` are those of all pictures, in order."""
    first: Sequence[Message] = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    texts = [turn.text for turn in conversation.turns] if conversation else [text]
    replies = [turn.reply for turn in conversation.turns] if conversation else []
    turns: list[dict[str, Any]] = []
    shown = 0
    for messages, written in zip([first, *replies], texts):
        for message in messages:
            parts = _parts(message)
            images = [part["image"] for part in parts if part["type"] == "image"]
            pictures = [
                _picture(problem, image, frame, written if k == len(images) - 1 else "")
                for k, (image, frame) in enumerate(zip(images, frames[shown : shown + len(images)]))
            ]
            shown += len(images)
            words = "".join(part["text"] for part in parts if part["type"] == "text")
            turns.append({"who": message["role"], "text": words, "pictures": pictures, "trained": False})
        turns.append({"who": "model", "text": written, "pictures": [], "trained": True})
    return turns


def _parts(message: Message) -> Sequence[Message]:
    content = message["content"]
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def _picture(problem: Problem, pixels: np.ndarray, frame: Frame, text: str) -> dict[str, Any]:
    """A picture shown as ``frame``, with the boxes of the text written after it and the true ones inside it."""
    height, width = pixels.shape[:2]
    stored = frame if (frame.width, frame.height) == (width, height) else frame.parent or frame
    scale = min(MAX_SIDE / max(width, height), 1.0)
    logged = stored if scale == 1 else stored.displayed(max(round(width * scale), 1), max(round(height * scale), 1))
    written = [(Box(*box.corners, frame), box.label, "predicted") for box in parse_boxes(text) or ()]
    drawn = [_drawn(box.into(logged), label, kind) for box, label, kind in (*_true_boxes(problem, frame), *written)]
    return {"image": _resized(pixels, logged), "boxes": [box for box in drawn if box]}


def _true_boxes(problem: Problem, frame: Frame) -> list[tuple[Box, str, str]]:
    """The boxes of the problem's answer, if the picture of ``frame`` is the problem's first one."""
    answer = problem.answer if isinstance(problem.answer, dict) else {}
    corners, picture = answer.get("boxes") or [], problem.inputs.pictures[0]
    if not corners or frame.original != Frame.of(picture, picture_digest(picture)):
        return []
    labels = answer.get("labels") or [""] * len(corners)
    boxes = [Box(float(x1), float(y1), float(x2), float(y2), frame.original) for x1, y1, x2, y2 in corners]
    return [(box, label, "true") for box, label in zip(boxes, labels)]


def _drawn(box: Box, label: str, kind: str) -> dict[str, Any] | None:
    """The part of a box inside its picture, None if there is none."""
    inside = box.clipped() if all(map(math.isfinite, box.corners)) else box
    return {"corners": [round(x, 2) for x in inside.corners], "label": label, "kind": kind} if inside.valid else None


def _resized(pixels: np.ndarray, frame: Frame) -> Tensor:
    """Pixels uint8 ``[H, W, 3]`` at the size of ``frame``, as ``[3, H, W]`` in [0, 1]."""
    from PIL import Image

    image = Image.fromarray(pixels)
    if image.size != (frame.width, frame.height):
        image = image.resize((frame.width, frame.height), Image.Resampling.BICUBIC)
    return to_float(image)
