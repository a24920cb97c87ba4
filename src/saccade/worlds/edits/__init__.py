"""The world of edits: instructions on scenes of shapes, on photographs and from files, with an exact judge."""

from saccade.worlds.edits import photographs
from saccade.worlds.edits.files import load
from saccade.worlds.edits.judge import VERDICTS, verdicts
from saccade.worlds.edits.kinds import KINDS, split_of
from saccade.worlds.edits.prompts import problems
from saccade.worlds.edits.wordings import INSTRUCTIONS, PHOTOGRAPHS

__all__ = [
    "INSTRUCTIONS",
    "KINDS",
    "PHOTOGRAPHS",
    "VERDICTS",
    "load",
    "photographs",
    "problems",
    "split_of",
    "verdicts",
]
