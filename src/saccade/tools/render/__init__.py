"""Programs that draw, drawn: in worker processes that survive them, under limits, once for every program.

A language is a file of this folder (`svg`) and its name in `LANGUAGES`. The file holds

* ``LIMITS``, ``PROBE`` (a program that must draw), ``BOX`` (what is shown unless a request says otherwise);
* ``renderer()`` (name and version, a part of every cache key), ``find(text)`` (the program in what a model wrote),
  ``canvas(code)`` (the box that a program asks for);
* in the worker alone ``prepare()`` (heavy imports) and ``draw(code, size, background, box) -> (status, message, RGB
  bytes)``, which raises `Refused` for what it will not draw.
"""

from saccade.tools.render.results import LANGUAGES, STATUSES, Box, Refused, Render, RendererBroken, Request
from saccade.tools.render.service import canvas, find, render, render_batch

__all__ = [
    "LANGUAGES", "STATUSES", "Box", "Refused", "Render", "RendererBroken", "Request", "canvas", "find", "render",
    "render_batch",
]  # fmt: skip
