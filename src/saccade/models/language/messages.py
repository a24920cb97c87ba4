"""Chat messages as recipes and tools write them, and as templates and processors take them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Message = Mapping[str, Any]

Prompt = str | Sequence[Message]
"""Plain text, or chat messages ``[{"role": "user", "content": …}]`` for the model's own template; a content is a
text or a list of ``{"type": "text", "text": …}`` and ``{"type": "image", "image": uint8 [H, W, 3], "frame": its
Frame if any}``."""


def in_parts(message: Message) -> dict[str, Any]:
    """A message as templates of vision-language models take it: content in parts, pictures without their pixels."""
    content = message["content"]
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    return {**message, "content": [{"type": "image"} if part["type"] == "image" else part for part in parts]}


def in_words(message: Message) -> dict[str, Any]:
    """A message as templates of language models take it: content as one text."""
    content = message["content"]
    if isinstance(content, str):
        return dict(message)
    return {**message, "content": "".join(part["text"] for part in content if part["type"] == "text")}


def pictures(prompt: Prompt) -> list[Message]:
    """The picture parts of messages, in order."""
    messages = () if isinstance(prompt, str) else prompt
    parts = [part for m in messages if not isinstance(m["content"], str) for part in m["content"]]
    return [part for part in parts if part["type"] == "image"]


def as_pil(pixels: Any) -> Any:
    """A picture as PIL has it: nothing is guessed about axes and ranges then. ValueError unless it is uint8 [H, W,
    3].
    """
    from PIL import Image

    if getattr(pixels, "dtype", None) != "uint8" or pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
        what = f"{pixels.dtype} {list(pixels.shape)}" if hasattr(pixels, "shape") else type(pixels).__name__
        raise ValueError(f"a picture is uint8 [H, W, 3], not {what}")
    return Image.fromarray(pixels)
