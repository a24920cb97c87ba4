"""The world of shapes: scenes of objects and words, captions in many wordings, and an exact judge of pictures."""

from saccade.worlds.shapes.captions import HELD_OUT_WORDINGS, TRAIN_WORDINGS, WORDINGS, caption, interpret, style
from saccade.worlds.shapes.judge import parse, score_pictures
from saccade.worlds.shapes.meanings import COLORS, RELATIONS, SHAPES, TAGS, Meaning, meanings_of, split_of
from saccade.worlds.shapes.ocr import read_text
from saccade.worlds.shapes.prompts import load_prompts, sample_problems
from saccade.worlds.shapes.render import render
from saccade.worlds.shapes.scene import SIZES, Object, Scene, Text, depict, sample_scenes

__all__ = [
    "COLORS",
    "HELD_OUT_WORDINGS",
    "RELATIONS",
    "SHAPES",
    "SIZES",
    "TAGS",
    "TRAIN_WORDINGS",
    "WORDINGS",
    "Meaning",
    "Object",
    "Scene",
    "Text",
    "caption",
    "depict",
    "interpret",
    "load_prompts",
    "meanings_of",
    "parse",
    "read_text",
    "render",
    "sample_problems",
    "sample_scenes",
    "score_pictures",
    "split_of",
    "style",
]
