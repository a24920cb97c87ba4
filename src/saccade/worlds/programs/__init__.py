"""The world of programs: pictures of a few primitives, and the SVG that draws them, longer than it need be."""

from saccade.worlds.programs.primitives import COLORS, KINDS, Primitive
from saccade.worlds.programs.problems import OOD, TRAIN, load, problems, split_of
from saccade.worlds.programs.scenes import Scene, sample
from saccade.worlds.programs.writing import concise, verbose, vocabulary

__all__ = [
    "COLORS", "KINDS", "OOD", "TRAIN", "Primitive", "Scene", "concise", "load", "problems", "sample", "split_of", "verbose",
    "vocabulary",
]  # fmt: skip
