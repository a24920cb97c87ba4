"""The world of programs: pictures of a few primitives, and redundant SVG programs that draw them."""

from saccade.worlds.programs.primitives import COLORS, KINDS, Primitive
from saccade.worlds.programs.prompts import OOD, TRAIN, load_programs, sample_problems, split_of
from saccade.worlds.programs.scenes import Scene, sample_scenes
from saccade.worlds.programs.writing import vocabulary, write_svg

__all__ = [
    "COLORS",
    "KINDS",
    "OOD",
    "TRAIN",
    "Primitive",
    "Scene",
    "load_programs",
    "sample_problems",
    "sample_scenes",
    "split_of",
    "vocabulary",
    "write_svg",
]
