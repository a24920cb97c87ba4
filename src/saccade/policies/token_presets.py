"""Settings of language models: which model is trained and how it is sampled."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from saccade.config import Count, Fraction


@dataclass(frozen=True)
class TokenModel:
    """Which language model or vision-language model is trained, and how it is sampled."""

    name: str = "qwen2.5-vl-shapes"
    """Hub id, folder or miniature of a language model or a vision-language model."""
    max_new_tokens: Count = 64
    """Largest number of tokens in a generated turn."""
    temperature: float = 1.0
    """Temperature of training samples; evaluation is greedy."""
    top_p: Fraction = 1.0
    """Probability mass of the most likely tokens that training samples are taken from (nucleus sampling)."""
    lora_rank: int = 0
    """Rank of LoRA on the attention projections; 0 trains all weights."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Floating-point precision of the model."""
    device: str = "auto"
    """Device of the model: cpu, cuda or auto."""
    sharded: bool = False
    """Shard the model over all processes (FSDP2) instead of keeping a copy in each."""
    train_vision: bool = False
    """Whether the vision encoder is trained too."""
    min_pixels: Count | None = None
    """Smallest number of pixels of a picture; smaller ones are enlarged. None keeps the model's bound."""
    max_pixels: Count | None = None
    """Largest number of pixels of a picture; larger ones are reduced. None keeps the model's bound."""


QWEN25_VL_3B = TokenModel("Qwen/Qwen2.5-VL-3B-Instruct", precision="bfloat16")
"""Qwen2.5-VL 3B; recipes set the length of turns and which weights are trained."""
