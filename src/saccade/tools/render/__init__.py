"""Rendering of programs in isolated worker processes, under limits, with a cache.

A language is a module of this folder (`svg`) with the members of `results.BackEnd`, and its name in `LANGUAGES`.
"""

from saccade.tools.render.results import LANGUAGES, STATUSES, Box, Refused, Render, RendererBroken, Request
from saccade.tools.render.service import declared_canvas, find_program, render, render_batch

__all__ = [
    "LANGUAGES",
    "STATUSES",
    "Box",
    "Refused",
    "Render",
    "RendererBroken",
    "Request",
    "declared_canvas",
    "find_program",
    "render",
    "render_batch",
]
