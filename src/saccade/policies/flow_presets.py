"""Which flow-matching checkpoint is trained and how it is sampled, as settings of recipes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Literal

from saccade.config import Count, Range


@dataclass(frozen=True)
class FlowModel:
    """A flow-matching checkpoint that generates or edits pictures, how it is sampled, and which weights are trained."""

    name: str = "sd3-shapes"
    """Hub id, folder or miniature of a diffusers pipeline; docs/models.md lists the classes."""
    size: Count | None = None
    """Edge of a picture in pixels; None takes the checkpoint's own."""
    sampling_steps: Count | None = None
    """Denoising steps of a picture; None takes the checkpoint's own."""
    guidance: Annotated[float | None, Range(-1e6, 1e6)] = None
    """Scale of classifier-free guidance (1 = off), or the embedded guidance of a guidance-distilled network; None takes
    the checkpoint's own.
    """
    negative_prompt: str = ""
    """Text that classifier-free guidance leads away from."""
    kernel: Literal["flow_sde", "dance_sde", "cps", "renoise"] = "flow_sde"
    """Transition of stochastic steps; renoise adds noise to the predicted x0, as few-step generators sample."""
    noise: Annotated[float, Range(1e-3, 1e4)] = 0.7  # without noise a step has no density
    """Noise scale of the stochastic steps."""
    text_length: Count | None = None
    """T5 tokens of a prompt; pipelines without a T5 encoder take zeros in their place. None takes the checkpoint's own:
    that of its ``sampling.json``, or of its pipeline.
    """
    lora_rank: int = 0
    """Rank of LoRA on the attention projections; 0 trains all weights of the transformer."""
    lora_alpha: Annotated[float, Range(-1e6, 1e6)] = 64.0
    """Scale of LoRA: its output is multiplied by alpha / rank."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Arithmetic of the network; samplers and losses are computed in float32 always."""
    device: str = "auto"
    """Device of the model: cpu, cuda or auto."""
    checkpointing: bool = False
    """Recompute activations in the backward pass to save memory."""
    sharded: bool = False
    """Shard the transformer over all processes (FSDP2) instead of keeping a copy in each."""
    lora_folded: bool = False
    """Train through W + LoRA as one matrix; faster where 6 x rank is near the width of the layers or above it."""
    reuse_uncond: bool = False
    """Reuse the unconditional velocities of sampling in all of an update; they are reused anyway while the weights are
    those of sampling, when this is exact.
    """
    forward_batch_size: Count = 64
    """Largest number of rows in a call of the network without gradients; guidance takes two rows for a picture."""


def require_window(window: int, flow: FlowModel) -> None:
    """ValueError where more denoising steps are to be stochastic than there are."""
    if flow.sampling_steps is not None and window > flow.sampling_steps:
        raise ValueError(f"a window of {window} denoising steps does not fit into {flow.sampling_steps} sampling steps")


SD35_MEDIUM = FlowModel(
    "stabilityai/stable-diffusion-3.5-medium",
    size=512,
    sampling_steps=8,
    guidance=1.0,
    text_length=256,
    precision="bfloat16",
    checkpointing=True,
)
"""Stable Diffusion 3.5 medium as recipes train it; recipes set sampling steps, guidance and LoRA."""

FLUX1_DEV = replace(SD35_MEDIUM, name="black-forest-labs/FLUX.1-dev", guidance=3.5, text_length=512)
"""FLUX.1-dev as recipes train it; recipes set sampling steps and LoRA."""
