"""The world of questions: counting, naming, comparing, reading, grounding, in scenes of shapes or from files."""

from saccade.worlds.questions.answers import NO_BOXES, box_text, detection_text
from saccade.worlds.questions.files import load_questions
from saccade.worlds.questions.layouts import RADIUS
from saccade.worlds.questions.prompts import pictures, sample_problems, vocabulary
from saccade.worlds.questions.skills import HELD_OUT_SKILLS, SKILLS
from saccade.worlds.questions.styles import STYLES
from saccade.worlds.questions.wordings import WORDINGS

__all__ = [
    "HELD_OUT_SKILLS",
    "NO_BOXES",
    "RADIUS",
    "SKILLS",
    "STYLES",
    "WORDINGS",
    "box_text",
    "detection_text",
    "load_questions",
    "pictures",
    "sample_problems",
    "vocabulary",
]
