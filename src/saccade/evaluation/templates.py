"""Prompt templates: whether a question asks for answer tags and thoughts, and whether an answer follows that form."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Literal

from saccade.core import Problem
from saccade.models.language.messages import Prompt
from saccade.policies.tokens import inputs_as_prompt
from saccade.rewards.text.parsing import follows_think_format, parse_answer

Template = Literal["plain", "answer", "think"]
"""Form of an answer: alone, in tags, or thoughts and then an answer, both in tags."""

SUFFIXES: dict[Template, str] = {
    "plain": "",
    "answer": " Answer in <answer></answer>.",
    "think": " Think in <think></think>, then answer in <answer></answer>.",
}
"""Text that a template adds to a question."""


def prompt_template(template: Template, instruction: str = "") -> Callable[[Problem], Prompt]:
    """A function from a problem to its prompt: its pictures, its text, an instruction and the template's suffix."""
    suffix = instruction + SUFFIXES[template]

    def prompt(problem: Problem) -> Prompt:
        if suffix:
            problem = replace(problem, inputs=replace(problem.inputs, text=problem.inputs.text + suffix))
        return inputs_as_prompt(problem)

    return prompt


def answer_template(template: Template) -> str:
    """Form of the correct answer for supervised training, with {} for the answer. ValueError for thoughts."""
    forms = {"plain": "{}", "answer": "<answer>{}</answer>"}
    if template not in forms:
        raise ValueError(f"template '{template}' has thoughts, which no data holds; supervised are {', '.join(forms)}")
    return forms[template]


def has_answer_tags(template: Template) -> bool:
    """Whether answers stand between tags, so that a text without tags has no answer."""
    return template != "plain"


def follows_template(template: Template, text: str) -> bool:
    """Whether a text has the template's form; for plain every text has."""
    match template:
        case "plain":
            return True
        case "answer":
            return parse_answer(text, require_tags=True) is not None
        case "think":
            return follows_think_format(text)
