"""Attempts at drawing what a text says, as their judges see them: with the words in the drawing left out.

A model that is rewarded for likeness to a text soon writes the text into its picture (RLRF 2505.20793, SGP-Gen
2509.05208).
"""

from __future__ import annotations

from dataclasses import replace

from saccade.core import Problem, Question, Rollout
from saccade.rewards.render.rendering import program
from saccade.tools.render import Refused


def strip_text(rollout: Rollout) -> Rollout:
    """The same attempts and the same dictionary of rewards; where no picture was shown, programs draw no words."""
    judged = [
        text if _shown(problem) else without_text(text) for problem, text in zip(rollout.problems, rollout.outputs)
    ]
    return replace(rollout, outputs=judged)


def without_text(text: str) -> str:
    """A model's text whose SVG holds ``<text>`` as that SVG alone, without them; any other text as it is.

    A program that cannot be read as XML stays as it is: it cannot be drawn either.
    """
    from lxml import etree

    from saccade.tools.render import guard

    code = program(text)
    if "text" not in code:
        return text
    try:
        root = guard.read(code)
    except Refused:
        return text
    written = [element for element in root.iter() if element.tag in ("text", f"{{{guard.SVG}}}text")]
    for element in written:
        if element.getparent() is not None:
            element.getparent().remove(element)
    return etree.tostring(root, encoding="unicode") if written else text


def _shown(problem: Problem) -> bool:
    return isinstance(problem.inputs, Question) and bool(problem.inputs.pictures)
