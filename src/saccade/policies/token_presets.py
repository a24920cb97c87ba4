"""Which model of tokens is trained and how it is sampled, as options of a command."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class TokenModel:
    """Which model reads and writes, how it is sampled, and which of its weights move."""

    name: str = "qwen2.5-vl-shapes"
    """Hub id, folder or miniature of a language model or a vision-language model."""
    max_new_tokens: int = 64
    """Longest turn."""
    temperature: float = 1.0
    """Temperature of training samples; evaluation is greedy."""
    top_p: float = 1.0
    """Share of probability that training samples are drawn from."""
    lora_rank: int = 0
    """Rank of LoRA on the attention projections; 0 trains all weights."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Arithmetic of the model."""
    device: str = "auto"
    """cpu, cuda or auto."""
    sharded: bool = False
    """Cut the model over all processes (FSDP2) instead of keeping a copy in each."""
    train_vision: bool = False
    """Whether the part that looks at pictures is trained too."""
    min_pixels: int | None = None
    """Pictures with fewer pixels are enlarged to it; None leaves the model's own bound."""
    max_pixels: int | None = None
    """Pictures with more pixels are reduced to it; None leaves the model's own bound."""


QWEN25_VL_3B = TokenModel("Qwen/Qwen2.5-VL-3B-Instruct", precision="bfloat16")
"""A checkpoint as recipes train it; they say how long turns are and which weights move."""
