"""The world of questions: counting, naming, comparing, reading, pointing, about scenes of shapes or from files."""

from saccade.worlds.questions.answers import NOTHING, box_text, detection_text
from saccade.worlds.questions.files import load
from saccade.worlds.questions.layouts import RADIUS
from saccade.worlds.questions.prompts import pictures, problems, vocabulary
from saccade.worlds.questions.skills import HELD_OUT_SKILLS, SKILLS
from saccade.worlds.questions.styles import STYLES
from saccade.worlds.questions.wordings import WORDINGS

__all__ = [
    "HELD_OUT_SKILLS", "NOTHING", "RADIUS", "SKILLS", "STYLES", "WORDINGS",
    "box_text", "detection_text", "load", "pictures", "problems", "vocabulary",
]  # fmt: skip
