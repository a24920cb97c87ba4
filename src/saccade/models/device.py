"""Devices and arithmetic of networks, by the names that settings have for them."""

from __future__ import annotations

from typing import Any

import torch

from saccade.naming import suggestion


def device_of(name: str) -> str:
    """A device by its name; "auto" is the GPU where there is one. No device is initialized.

    ValueError, with the nearest available name, for a device that this machine does not have.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if not _available(name):
        found = ["auto", *filter(_available, ("cpu", "cuda", "mps"))]
        raise ValueError(f"device '{name}' is not available{suggestion(name, found)} (of {', '.join(found)})")
    return name


def autocast(network: Any, precision: torch.dtype) -> torch.autocast:
    """Within it, a network with float32 weights computes in ``precision``; any other network is unaffected."""
    lower = precision != torch.float32 and network.dtype == torch.float32
    return torch.autocast(network.device.type, precision, enabled=lower)


def _available(name: str) -> bool:
    try:
        place = torch.device(name)
        kind = torch.get_device_module(place)
    except (RuntimeError, AttributeError):
        return False
    return kind.is_available() and (place.index or 0) < kind.device_count()
