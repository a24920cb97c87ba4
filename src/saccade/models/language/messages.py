"""Chat messages as recipes and tools write them, and as templates and processors take them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

Message = Mapping[str, Any]

Prompt = str | Sequence[Message]
"""Plain text, or chat messages ``[{"role": "user", "content": …}]`` for the model's chat template; a content is a text
or a list of ``{"type": "text", "text": …}`` and ``{"type": "image", "image": uint8 [H, W, 3], "frame": its Frame if
any}``."""


def with_image_placeholders(message: Message) -> dict[str, Any]:
    """A message for templates of vision-language models: content as a list of parts, pictures without their pixels."""
    content = message["content"]
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    return {**message, "content": [{"type": "image"} if part["type"] == "image" else part for part in parts]}


def as_text_only(message: Message) -> dict[str, Any]:
    """A message for templates of language models: content as one text, without pictures."""
    content = message["content"]
    if isinstance(content, str):
        return dict(message)
    return {**message, "content": "".join(part["text"] for part in content if part["type"] == "text")}


def with_texts(message: Message, change: Callable[[str], str]) -> dict[str, Any]:
    """A message whose texts are changed."""
    content = message["content"]
    if isinstance(content, str):
        return {**message, "content": change(content)}
    return {**message, "content": [p | {"text": change(p["text"])} if p["type"] == "text" else p for p in content]}


def image_parts(prompt: Prompt) -> list[Message]:
    """The image parts of messages, in order."""
    messages = () if isinstance(prompt, str) else prompt
    parts = [part for m in messages if not isinstance(m["content"], str) for part in m["content"]]
    return [part for part in parts if part["type"] == "image"]


def to_pil(pixels: Any) -> Any:
    """A PIL image of a picture. ValueError unless it is uint8 ``[H, W, 3]``, so that no axis or range is guessed."""
    from PIL import Image

    if getattr(pixels, "dtype", None) != "uint8" or pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
        what = f"{pixels.dtype} {list(pixels.shape)}" if hasattr(pixels, "shape") else type(pixels).__name__
        raise ValueError(f"a picture is uint8 [H, W, 3], not {what}")
    return Image.fromarray(pixels)
