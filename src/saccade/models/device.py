"""Where weights live and how they are multiplied, by the names that settings give."""

from __future__ import annotations

from typing import Any

import torch

from saccade.naming import nearest


def device_of(name: str) -> str:
    """A device by its name; "auto" is the GPU where there is one. ValueError, with the nearest that is here, for one
    that is not.

    Nothing is begun on a device.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if not _here(name):
        found = ["auto", *filter(_here, ("cpu", "cuda", "mps"))]
        raise ValueError(f"device '{name}' is not here; nearest: {nearest(name, found)} (of {', '.join(found)})")
    return name


def autocast(network: Any, precision: torch.dtype) -> torch.autocast:
    """Within it, a network whose weights rest in float32 is multiplied in ``precision``; any other as it is."""
    wanted = precision != torch.float32 and network.dtype == torch.float32
    return torch.autocast(network.device.type, precision, enabled=wanted)


def _here(name: str) -> bool:
    try:
        place = torch.device(name)
        kind = torch.get_device_module(place)
    except (RuntimeError, AttributeError):
        return False
    return kind.is_available() and (place.index or 0) < kind.device_count()
