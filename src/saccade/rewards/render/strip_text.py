"""Removing text elements from programs before they are judged.

A model that is rewarded for alignment with a text learns to write the text into its picture (RLRF 2505.20793, SGP-Gen
2509.05208).
"""

from __future__ import annotations

from dataclasses import replace

from saccade.core import Problem, Question, Rollout
from saccade.rewards.render.rendering import extract_program
from saccade.tools.render import Refused


def strip_text(rollout: Rollout) -> Rollout:
    """The same rollout (and the same dictionary of rewards) without text in programs, unless the input is a picture."""
    rows = zip(rollout.problems, rollout.outputs)
    return replace(rollout, outputs=[text if _has_picture(p) else remove_text_elements(text) for p, text in rows])


def remove_text_elements(text: str) -> str:
    """The SVG of a model's output without its ``<text>`` elements; the output unchanged if there are none.

    A program that is not well-formed XML is returned unchanged: it cannot be rendered either.
    """
    from lxml import etree

    from saccade.tools.render import guard

    code = extract_program(text)
    if "text" not in code:
        return text
    try:
        root = guard.parse_svg(code)
    except Refused:
        return text
    elements = [element for element in root.iter() if element.tag in ("text", f"{{{guard.SVG}}}text")]
    for element in elements:
        if element.getparent() is not None:
            element.getparent().remove(element)
    return etree.tostring(root, encoding="unicode") if elements else text


def _has_picture(problem: Problem) -> bool:
    return isinstance(problem.inputs, Question) and bool(problem.inputs.pictures)
