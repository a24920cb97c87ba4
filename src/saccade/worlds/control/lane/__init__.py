"""Lane keeping by camera and LiDAR (BLIP-FusePPO, 2510.22370): the world, what lies ahead in words, its mirror image."""

from saccade.worlds.control.lane.captions import LENGTH, SWAPPED, WORDS
from saccade.worlds.control.lane.rewards import Weights
from saccade.worlds.control.lane.roads import HELD_OUT, WEATHERS, WIDTH
from saccade.worlds.control.lane.world import Lane

__all__ = ["HELD_OUT", "LENGTH", "SWAPPED", "WEATHERS", "WIDTH", "WORDS", "Lane", "Weights"]
