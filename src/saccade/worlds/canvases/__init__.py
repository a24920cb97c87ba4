"""The world of large canvases: colored plates with digits that are too small to be read in a reduced view."""

from saccade.worlds.canvases.glyphs import DIGITS
from saccade.worlds.canvases.prompts import SKILLS, WORDINGS, problems, split_choices, sufficient

__all__ = ["DIGITS", "SKILLS", "WORDINGS", "problems", "split_choices", "sufficient"]
