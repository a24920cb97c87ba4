"""The world of shapes: scenes of objects and words, captions in many wordings, a judge that reads pictures."""

from saccade.worlds.shapes.captions import HELD_OUT_WORDINGS, TRAIN_WORDINGS, WORDINGS, caption, interpret, style
from saccade.worlds.shapes.judge import geneval, parse, verdicts
from saccade.worlds.shapes.meanings import COLORS, RELATIONS, SHAPES, TAGS, Meaning, meanings_of, split_of
from saccade.worlds.shapes.prompts import load, problems
from saccade.worlds.shapes.read import ocr_score, read
from saccade.worlds.shapes.render import render
from saccade.worlds.shapes.scene import SIZES, Object, Scene, Text, depict, sample

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
    "geneval",
    "interpret",
    "load",
    "meanings_of",
    "ocr_score",
    "parse",
    "problems",
    "read",
    "render",
    "sample",
    "split_of",
    "style",
    "verdicts",
]
