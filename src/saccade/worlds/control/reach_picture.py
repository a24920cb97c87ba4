"""How the world "reach" looks: two discs or two clouds before whatever is behind, in the colours and light of a palette."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Palette:
    """Colours from 0 to 255; ``light`` is the share of brightness at the left and at the right edge."""

    ground: tuple[int, int, int]
    agent: tuple[int, int, int]
    goal: tuple[int, int, int]
    light: tuple[float, float]


PALETTES = {
    "day": Palette((0, 0, 0), (235, 235, 235), (60, 200, 80), (1.0, 1.0)),
    "night": Palette((24, 20, 72), (235, 235, 235), (60, 200, 80), (0.45, 0.8)),
}
_AGENT, _GOAL = 0.14, 0.2
"""Radii."""


def draw(state_B6: np.ndarray, size: int, palette: str, behind: np.ndarray | None = None, soft: float = 0.0) -> np.ndarray:
    """Pictures uint8 ``[B, size, size, 3]`` of states; ``behind`` (float32, 0 to 255) is added to the palette's ground.

    Edges cover a pixel in part, so places can be read finer than a pixel. With ``soft`` there are no edges: both are Gaussian
    clouds of that spread. y points up.
    """
    look = PALETTES[palette]
    picture = np.broadcast_to(np.float32(look.ground), (len(state_B6), size, size, 3))
    picture = picture.copy() if behind is None else np.minimum(picture + behind, 255.0)
    for place, radius, color in ((state_B6[:, 4:], _GOAL, look.goal), (state_B6[:, :2], _AGENT, look.agent)):
        share = (_cloud(place, soft, size) if soft else _disc(place, radius, size))[..., None]
        picture += share * (np.float32(color) - picture)
    picture *= np.linspace(*look.light, size, dtype=np.float32)[:, None]
    return (picture + 0.5).astype(np.uint8)


def _disc(place_B2: np.ndarray, radius: float, size: int) -> np.ndarray:
    """How much of each pixel a disc covers: ``[B, size, size]`` float32."""
    return np.clip((radius - np.sqrt(_square_distance(place_B2, size))) * (size / 2) + 0.5, 0.0, 1.0)


def _cloud(place_B2: np.ndarray, spread: float, size: int) -> np.ndarray:
    """How dense a cloud is at each pixel, 1 in its middle: ``[B, size, size]`` float32."""
    return np.exp(_square_distance(place_B2, size) * np.float32(-0.5 / spread**2))


def _square_distance(place_B2: np.ndarray, size: int) -> np.ndarray:
    """Of the middle of each pixel from a place, in units of the plane: ``[B, size, size]`` float32."""
    middle = (np.arange(size, dtype=np.float32) + 0.5) * (2 / size) - 1
    place = np.float32(place_B2)
    across, up = middle[None] - place[:, :1], -middle[None] - place[:, 1:]
    return up[:, :, None] ** 2 + across[:, None, :] ** 2
