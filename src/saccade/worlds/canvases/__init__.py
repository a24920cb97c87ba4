"""The world of large canvases: coloured plates with digits that are too small to be read at a first glance."""

from saccade.worlds.canvases.glyphs import DIGITS
from saccade.worlds.canvases.prompts import SKILLS, WORDINGS, parts, problems, sufficient

__all__ = ["DIGITS", "SKILLS", "WORDINGS", "parts", "problems", "sufficient"]
