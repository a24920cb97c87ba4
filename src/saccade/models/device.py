"""Where weights live and how they are multiplied, by the names that settings give."""

from __future__ import annotations

from typing import Any

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


def lowered(network: Any, precision: torch.dtype) -> torch.autocast:
    """Within it, a network whose weights rest in float32 is multiplied in ``precision``; any other as it is."""
    wanted = precision != torch.float32 and network.dtype == torch.float32
    return torch.autocast(network.device.type, precision, enabled=wanted)
