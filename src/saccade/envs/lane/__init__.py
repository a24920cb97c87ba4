"""Lane keeping by camera and LiDAR (BLIP-FusePPO, 2510.22370): the world, and true captions of the road ahead."""

from __future__ import annotations

from saccade.envs.lane.captions import LENGTH, SWAPPED, WORDS
from saccade.envs.lane.rewards import Weights
from saccade.envs.lane.roads import HELD_OUT, WEATHERS, WIDTH
from saccade.envs.lane.world import Lane

__all__ = ["HELD_OUT", "LENGTH", "SWAPPED", "WEATHERS", "WIDTH", "WORDS", "Lane", "Weights"]
