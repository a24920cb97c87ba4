"""The world of puzzles: questions about what was done to a picture, which need no label."""

from saccade.worlds.images import PHOTOGRAPHS, UPRIGHT, load_folder, photographs
from saccade.worlds.puzzles.contrast import Contrast
from saccade.worlds.puzzles.jigsaw import Jigsaw
from saccade.worlds.puzzles.position import Position
from saccade.worlds.puzzles.prompts import PUZZLES, sample_problems
from saccade.worlds.puzzles.puzzle import Puzzle
from saccade.worlds.puzzles.rotation import Rotation
from saccade.worlds.questions import pictures as scenes

__all__ = [
    "PHOTOGRAPHS",
    "PUZZLES",
    "UPRIGHT",
    "Contrast",
    "Jigsaw",
    "Position",
    "Puzzle",
    "Rotation",
    "load_folder",
    "photographs",
    "sample_problems",
    "scenes",
]
