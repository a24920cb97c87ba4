"""The world of edits: instructions on scenes of shapes, on photographs and from files, with exact scores."""

from saccade.worlds.edits import photographs
from saccade.worlds.edits.files import load_edits
from saccade.worlds.edits.judge import SCORES, score_edits
from saccade.worlds.edits.kinds import KINDS, split_of
from saccade.worlds.edits.prompts import sample_problems
from saccade.worlds.edits.wordings import INSTRUCTIONS, PHOTOGRAPH_INSTRUCTIONS

__all__ = [
    "INSTRUCTIONS",
    "KINDS",
    "PHOTOGRAPH_INSTRUCTIONS",
    "SCORES",
    "load_edits",
    "photographs",
    "sample_problems",
    "score_edits",
    "split_of",
]
