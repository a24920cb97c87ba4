"""Push: a world in which a block is pushed off a hole and a peg is inserted, and its rendering."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from gymnasium import spaces

from saccade.core import Observation, Step
from saccade.naming import require
from saccade.random import numpy_generator

SPEED = 0.08
"""Distance of one step at full action."""

INERTIA = 0.4
"""Share of the last velocity that remains."""

PEG, BLOCK = 0.05, 0.15
"""Half widths of peg and block."""

TOP, DEPTH, CEILING = 0.2, 0.2, 1.0
"""Height of the block, depth of the hole, largest height of the peg's tip."""

FRICTION = 0.5
"""Share of a sideways move that remains while the peg is pressed on a surface."""

CONTACT = PEG + BLOCK
"""Distance of the centres of peg and block where they touch."""

CLOSE = 0.1
"""Distance at which the close-range observations are clipped."""

_RENDER_SIZE = 96
"""Side of a rendered frame in pixels."""


class Push:
    """``count`` episodes of up to ``steps`` steps; actions ``[B, 2]`` move the gripper; info: "success", "position".

    ``observe`` decides the observations: "state" float32 ``[B, 8]`` (tip x, y, velocity x, y over SPEED, the distances
    in x to block and hole, and both distances over CLOSE, clipped to 1), or "image" uint8 ``[B, pixels, pixels, 3]``
    with "body", the first four of these numbers. ``clearance`` is the gap on each side of the peg in the hole.
    ValueError for a setting outside its range.
    """

    name = "push"

    def __init__(self, count: int, observe: str = "state", pixels: int = 32, clearance: float = 0.02, steps: int = 60):
        require("observe", observe, ("state", "image"))
        if count < 1 or steps < 1 or pixels < 8 or not 0 < clearance <= 0.1:
            wrong = f"count {count}, pixels {pixels}, clearance {clearance}, steps {steps}"
            raise ValueError(
                f"push: {wrong}; count and steps are 1 or more, pixels 8 or more, clearance above 0 up to 0.1"
            )
        self.count, self.observe, self.pixels, self.clearance, self.steps = count, observe, pixels, clearance, steps
        numbers = lambda size: spaces.Box(-2.0, 2.0, (size,), np.float32)
        image = spaces.Box(0, 255, (pixels, pixels, 3), np.uint8)
        self.observation_space = spaces.Dict(
            {"state": numbers(8)} if observe == "state" else {"image": image, "body": numbers(4)}
        )
        self.action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
        self.state_B6, self.time_B = np.zeros((count, 6)), np.zeros(count, np.int64)

    def begin(self, rows: Sequence[int], seeds: Sequence[int]) -> Observation:
        """Begin episodes in these rows; observations in the order of ``rows``."""
        index = np.asarray(rows, np.int64)
        for row, seed in zip(rows, seeds):
            self.state_B6[row] = _start(int(seed))
        self.time_B[index] = 0
        return self._observation(self.state_B6[index])

    def step(self, action_B: np.ndarray) -> Step:
        """One step of all rows; ``action_B`` ``[B, 2]`` is clipped to [-1, 1]."""
        self.state_B6 = dynamics(self.state_B6, np.clip(action_B, -1.0, 1.0), self.clearance)
        self.time_B += 1
        done_B = inserted(self.state_B6)
        info = {"success": done_B, "position": self.state_B6[:, :2].astype(np.float32)}
        truncated_B = ~done_B & (self.time_B >= self.steps)
        return Step(self._observation(self.state_B6), done_B.astype(np.float32), done_B, truncated_B, info)

    def expert(self) -> np.ndarray:
        """The scripted expert's action in every row: ``[B, 2]``."""
        return scripted(self.state_B6, self.clearance)

    def render(self, rows: Sequence[int]) -> np.ndarray:
        """Pictures uint8 ``[len(rows), 96, 96, 3]``."""
        return draw(self.state_B6[np.asarray(rows, np.int64)], _RENDER_SIZE, self.clearance)

    def state_dict(self) -> dict[str, Any]:
        return {"state_B6": torch.tensor(self.state_B6), "time_B": torch.tensor(self.time_B)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.state_B6, self.time_B = state["state_B6"].numpy().copy(), state["time_B"].numpy().copy()

    def _observation(self, state_B6: np.ndarray) -> Observation:
        state = self._state(state_B6)
        if self.observe == "state":
            return {"state": state}
        return {"image": draw(state_B6, self.pixels, self.clearance), "body": state[:, :4].copy()}

    def _state(self, state_B6: np.ndarray) -> np.ndarray:
        x, y, vx, vy, block, hole = state_B6.T
        gaps_B2 = np.stack([block - x, hole - x], 1)
        body_B4 = np.stack([x, y, vx / SPEED, vy / SPEED], 1)
        return np.concatenate([body_B4, gaps_B2, np.clip(gaps_B2 / CLOSE, -1, 1)], 1).astype(np.float32)


def dynamics(state_B6: np.ndarray, action_B2: np.ndarray, clearance: float) -> np.ndarray:
    """States (tip x, y, velocity x, y, block x, hole x) ``[B, 6]`` one step later: moves in x come before moves in
    y.
    """
    x, y, vx, vy, block, hole = state_B6.T
    vx = INERTIA * vx + (1 - INERTIA) * SPEED * action_B2[:, 0]
    vy = INERTIA * vy + (1 - INERTIA) * SPEED * action_B2[:, 1]
    pressed = (vy < 0) & (y <= _floor(x, block, hole, clearance))
    x_new = np.clip(x + np.where(pressed, FRICTION, 1.0) * vx, PEG - 1, 1 - PEG)
    x_new = np.where(y < 0, np.clip(x_new, hole - clearance, hole + clearance), x_new)
    x_new, block_new = _pushed(x, x_new, y, block)
    y_new = np.clip(y + vy, _floor(x_new, block_new, hole, clearance), CEILING)
    return np.stack([x_new, y_new, x_new - x, y_new - y, block_new, hole], 1)


def inserted(state_B6: np.ndarray) -> np.ndarray:
    """Whether the peg is at the bottom of its hole, bool ``[B]``."""
    return state_B6[:, 1] <= -0.95 * DEPTH


def scripted(state_B6: np.ndarray, clearance: float) -> np.ndarray:
    """The expert's actions ``[B, 2]``: down to the left of the block, push it away, align, into the hole."""
    x, y, vx, vy, block, hole = state_B6.T
    clear = block - hole >= CONTACT - 0.3 * clearance
    pushing = (block - x >= CONTACT - 1e-6) & (y < TOP + 0.02)
    start = block - CONTACT - 0.06
    aligned = np.abs(hole - x) < 0.6 * clearance
    goal_x = np.where(clear, hole, np.where(pushing, hole + 0.7 * clearance, start))
    over = np.where(pushing, np.maximum(y, 0.04), np.where(np.abs(hole - x) < 0.1, 0.04, 0.3))
    beside = np.where(pushing | (np.abs(start - x) < 0.05), 0.1, 0.35)
    goal_y = np.where(clear, np.where(aligned, -DEPTH - 0.1, over), beside)
    action_B2 = np.stack([_towards(goal_x - x, vx), _towards(goal_y - y, vy)], 1)
    return np.clip(action_B2, -1.0, 1.0).astype(np.float32)


def _towards(move: np.ndarray, velocity: np.ndarray) -> np.ndarray:
    """The action after which the next move is ``move``, unclipped."""
    return (move - INERTIA * velocity) / (1 - INERTIA) / SPEED


def _start(seed: int) -> np.ndarray:
    """The initial state ``[6]``: peg in the air at rest, hole near the middle, block over it."""
    rng = numpy_generator(seed, "push")
    hole = rng.uniform(-0.5, 0.5)
    return np.array([rng.uniform(-0.8, 0.8), rng.uniform(0.5, 0.9), 0.0, 0.0, hole + rng.uniform(-0.12, 0.12), hole])


def _floor(x: np.ndarray, block: np.ndarray, hole: np.ndarray, clearance: float) -> np.ndarray:
    """Lowest height of the peg at ``x``: on the block, at the bottom of the hole, or on the bench."""
    # Touching is not overlapping, however the last bit was rounded.
    on_block = np.abs(x - block) < CONTACT - 1e-9
    in_hole = np.abs(x - hole) <= clearance + 1e-9
    return np.where(on_block, TOP, np.where(in_hole, -DEPTH, 0.0))


def _pushed(x: np.ndarray, x_new: np.ndarray, y: np.ndarray, block: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Positions of peg and block after the peg moves to ``x_new``; at the bench's end the block stops the peg."""
    side = np.where(block >= x, 1.0, -1.0)
    met = (y < TOP) & ((block - x_new) * side < CONTACT)
    block_new = np.where(met, np.clip(x_new + side * CONTACT, BLOCK - 1, 1 - BLOCK), block)
    return np.where(met, block_new - side * CONTACT, x_new), block_new


SKY, BENCH, WOOD, STEEL, JAW = (236, 240, 245), (92, 98, 110), (214, 140, 62), (40, 110, 190), (30, 34, 42)


def draw(state_B6: np.ndarray, size: int, clearance: float) -> np.ndarray:
    """Pictures uint8 ``[B, size, size, 3]`` of x in [-1, 1] and y in [-0.5, 1.5], y upwards.

    Edges are antialiased, so that positions can be read more finely than a pixel.
    """
    x, y, _, _, block, hole = state_B6.T
    zero = np.zeros_like(x)
    # Channels come first while painting, since short last axes are slow; the result has them last.
    picture_3B = np.empty((3, len(x), size, size), np.float32)
    picture_3B[:] = np.array(SKY, np.float32)[:, None, None, None]
    _fill(picture_3B, (zero - 1, zero + 1, zero - 0.5, zero), BENCH)
    _fill(picture_3B, (hole - 0.05 - clearance, hole + 0.05 + clearance, zero - 0.2, zero), SKY)
    _fill(picture_3B, (block - 0.15, block + 0.15, zero, zero + 0.2), WOOD)
    _fill(picture_3B, (x - 0.05, x + 0.05, y, y + 0.35), STEEL)
    _fill(picture_3B, (x - 0.1, x + 0.1, y + 0.3, y + 0.45), JAW)
    return np.ascontiguousarray((picture_3B + 0.5).astype(np.uint8).transpose(1, 2, 3, 0))


def _fill(picture_3B: np.ndarray, box: tuple[np.ndarray, ...], color: tuple[int, int, int]) -> None:
    """Paint a rectangle (left, right, low, high; each ``[B]``) into each row's picture, in place."""
    size = picture_3B.shape[-1]
    left, right, low, high = box
    across = _cover((left + 1) * size / 2, (right + 1) * size / 2, size)
    down = _cover((1.5 - high) * size / 2, (1.5 - low) * size / 2, size)
    lines = np.flatnonzero(down.any(0))
    part = slice(lines[0], lines[-1] + 1) if len(lines) else slice(0)
    share = down[:, part, None] * across[:, None, :]
    for channel, value in zip(picture_3B, color):
        channel[:, part] += share * (value - channel[:, part])


def _cover(start_B: np.ndarray, end_B: np.ndarray, size: int) -> np.ndarray:
    """Share of each pixel of a line between start and end, which are in pixels: ``[B, size]`` float32."""
    pixel = np.arange(size)
    inside = np.minimum(pixel + 1, end_B[:, None]) - np.maximum(pixel, start_B[:, None])
    return np.clip(inside, 0.0, 1.0).astype(np.float32)
