"""Classifier-free guidance 2207.12598: what a network says with a prompt, moved further from what it says without one."""

from __future__ import annotations

from torch import Tensor


def guided(said: Tensor, unsaid: Tensor | None, guidance: float) -> Tensor:
    """unsaid + guidance (said - unsaid), for velocities or logits of any one shape; ``said`` where there is no other."""
    return said if unsaid is None else unsaid + guidance * (said - unsaid)
