"""The world of sketches: objects in fine-grained families, photos of them, and vector sketches of them by many
hands.
"""

from saccade.worlds.sketches.files import load, read_sketch
from saccade.worlds.sketches.pairs import Pairs, made
from saccade.worlds.sketches.raster import WIDTH, pictures, rasterise
from saccade.worlds.sketches.strokes import Sketch, fitted, from_stroke5, shortened, simplified, stroke5

__all__ = [
    "WIDTH", "Pairs", "Sketch",
    "fitted", "from_stroke5", "load", "made", "pictures", "rasterise", "read_sketch", "shortened", "simplified", "stroke5",
]  # fmt: skip
