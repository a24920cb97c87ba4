"""Pictures of the front camera with their true captions, from anywhere on many roads: what a captioner learns from."""

from __future__ import annotations

import numpy as np

from saccade.envs.lane import roads
from saccade.envs.lane.driving import Cars
from saccade.envs.lane.world import Lane


def scenes(lane: Lane, seed: int, held_out: bool = False, places: int = 1) -> tuple[np.ndarray, list[str]]:
    """Some places on each of the world's ``count`` roads, which are drawn anew: frames uint8 ``[N, H, W, 3]``, N
    captions.

    ``held_out`` takes the roads and weathers of tests.
    """
    rng = np.random.default_rng([seed, int(held_out)])
    rows, known = range(lane.count), roads.HELD_OUT if held_out else range(roads.HELD_OUT.start)
    lane.begin(rows, rng.integers(known.start, known.stop, lane.count).tolist())
    pictures, told = [], []
    for _ in range(places):
        lane.cars = _anywhere(lane, rng)
        pictures.append(lane.camera(rows))
        told += lane.captions(rows)
    return np.concatenate(pictures), told


def _anywhere(lane: Lane, rng: np.random.Generator) -> Cars:
    """Cars that stand anywhere along their roads, off the middle and turned as far as driving takes them."""
    s = rng.uniform(roads.START, roads.START + lane.length, lane.count)
    d, psi = (spread * rng.standard_normal(lane.count).clip(-3, 3) for spread in (0.45, 0.08))
    return Cars(s, d, psi, np.zeros(lane.count), np.zeros(lane.count))
