"""The world of large canvases: colored plates with digits that are too small to be read in a reduced view."""

from saccade.worlds.canvases.glyphs import DIGITS
from saccade.worlds.canvases.prompts import SKILLS, WORDINGS, sample_problems, split_choices, sufficient

__all__ = ["DIGITS", "SKILLS", "WORDINGS", "sample_problems", "split_choices", "sufficient"]
