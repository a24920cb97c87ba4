"""Which checkpoint draws and how it is sampled, as options of a command."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal


@dataclass(frozen=True)
class FlowModel:
    """Which checkpoint draws, how it is sampled, and which of its weights move."""

    name: str = "sd3-shapes"
    """Hub id, folder or miniature of a StableDiffusion3Pipeline, FluxPipeline or FluxKontextPipeline (which edits)."""
    size: int = 32
    """Edge of a picture in pixels."""
    sampling_steps: int = 8
    """Denoising steps of a picture."""
    guidance: float = 1.0
    """Classifier-free guidance (1 = off), or the embedded guidance of a distilled network."""
    kernel: Literal["flow_sde", "dance_sde", "cps", "renoise"] = "flow_sde"
    """Transition of the stochastic steps; renoise (the predicted picture noised again) makes a generator of a few
    steps.
    """
    noise: float = 0.7
    """Scale of the kernel's noise."""
    text_length: int = 1
    """T5 tokens of a prompt; pipelines without a T5 take zeros in their place."""
    lora_rank: int = 0
    """Rank of LoRA on the attention projections; 0 trains all weights of the transformer."""
    lora_alpha: float = 64.0
    """Scale of LoRA: its change is multiplied by alpha / rank."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Arithmetic of the network; formulas are float32 always."""
    device: str = "auto"
    """cpu, cuda or auto."""
    checkpointing: bool = False
    """Recompute activations in the backward pass to save memory."""
    sharded: bool = False
    """Cut the network over all processes (FSDP2) instead of keeping a copy in each."""
    lora_folded: bool = False
    """Train through W + LoRA as one matrix; faster where 6 x rank comes near the layers' width or exceeds it."""
    reuse_unconditional: bool = False
    """Take the unconditional velocities of sampling for an update; exact for the first optimiser step of a batch."""
    at_once: int = 64
    """Rows in one call of the network where no gradients are needed (guidance doubles the attempts)."""


SD35_MEDIUM = FlowModel(
    "stabilityai/stable-diffusion-3.5-medium", size=512, text_length=256, precision="bfloat16", checkpointing=True
)
"""A checkpoint as recipes train it; they say with how many steps, which guidance and which LoRA."""

FLUX1_DEV = replace(SD35_MEDIUM, name="black-forest-labs/FLUX.1-dev", guidance=3.5, text_length=512)
