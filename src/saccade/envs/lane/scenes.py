"""Pictures of the front camera with their true captions, from anywhere on many roads: training data of captioners."""

from __future__ import annotations

import numpy as np

from saccade.envs.lane import roads
from saccade.envs.lane.driving import Cars
from saccade.envs.lane.world import Lane
from saccade.random import numpy_generator


def scenes(lane: Lane, seed: int, held_out: bool = False, places: int = 1) -> tuple[np.ndarray, list[str]]:
    """``places`` positions on each of ``lane.count`` new roads: frames uint8 ``[N, H, W, 3]``, N captions.

    ``held_out`` takes the roads and weathers of test episodes.
    """
    rng = numpy_generator(seed, "held-out scenes" if held_out else "scenes")
    rows, road_seeds = range(lane.count), roads.HELD_OUT if held_out else range(roads.HELD_OUT.start)
    lane.begin(rows, rng.integers(road_seeds.start, road_seeds.stop, lane.count).tolist())
    pictures, texts = [], []
    for _ in range(places):
        lane.cars = _random_poses(lane, rng)
        pictures.append(lane.camera(rows))
        texts += lane.captions(rows)
    return np.concatenate(pictures), texts


def _random_poses(lane: Lane, rng: np.random.Generator) -> Cars:
    """Standing cars anywhere along their roads, with the offsets and angles of driving cars."""
    s = rng.uniform(roads.START, roads.START + lane.length, lane.count)
    d, psi = (std * rng.standard_normal(lane.count).clip(-3, 3) for std in (0.45, 0.08))
    return Cars(s, d, psi, np.zeros(lane.count), np.zeros(lane.count))
