"""Where weights live, by the name that a setting gives."""

from __future__ import annotations

import torch


def device_of(name: str) -> str:
    """A device by its name; "auto" is the GPU where there is one. ValueError for one that torch does not know or have."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except Exception:  # torch has an exception of its own for each kind of device that is missing
        raise ValueError(f"device '{name}' is not to be had here: auto, cpu, or cuda where there is a GPU") from None
    return name
