"""The world of sketches: objects in fine-grained families, photos of them, and vector sketches of different styles."""

from saccade.worlds.sketches.files import load_pairs, load_sketch
from saccade.worlds.sketches.pairs import SketchPairs, generate_pairs
from saccade.worlds.sketches.raster import LINE_WIDTH, draw, rasterize
from saccade.worlds.sketches.strokes import (
    Sketch,
    fit_to_canvas,
    from_stroke5,
    simplify_sketches,
    simplify_strokes,
    to_stroke5,
)

__all__ = [
    "LINE_WIDTH",
    "Sketch",
    "SketchPairs",
    "draw",
    "fit_to_canvas",
    "from_stroke5",
    "generate_pairs",
    "load_pairs",
    "load_sketch",
    "rasterize",
    "simplify_sketches",
    "simplify_strokes",
    "to_stroke5",
]
