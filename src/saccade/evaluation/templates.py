"""Templates: how a question asks to be answered, with or without tags and thoughts, and who keeps to it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Literal

from saccade.core import Problem
from saccade.models.language.messages import Prompt
from saccade.policies.tokens import inputs_as_prompt
from saccade.rewards.text.reading import in_form, said

Template = Literal["plain", "answer", "think"]
"""An answer alone, in tags, or thoughts and then an answer, both in tags."""

ADDED: dict[Template, str] = {
    "plain": "",
    "answer": " Answer in <answer></answer>.",
    "think": " Think in <think></think>, then answer in <answer></answer>.",
}
"""What a template adds to a question."""


def prompt_template(template: Template, instruction: str = "") -> Callable[[Problem], Prompt]:
    """Problem -> the chat messages that ask it: its text, an instruction, and what the template adds."""
    added = instruction + ADDED[template]
    return lambda p: inputs_as_prompt(replace(p, inputs=replace(p.inputs, text=p.inputs.text + added)) if added else p)


def answer_template(template: Template) -> str:
    """How a right answer is written, in place of {}. ValueError for a template with thoughts."""
    known = {"plain": "{}", "answer": "<answer>{}</answer>"}
    if template not in known:
        raise ValueError(f"template '{template}' has thoughts, which no data holds; supervised are {', '.join(known)}")
    return known[template]


def has_answer_tags(template: Template) -> bool:
    """Whether answers stand between tags, outside of which there is none."""
    return template != "plain"


def follows_template(template: Template, text: str) -> bool:
    """Whether an answer is in the template's form; plain ones always are."""
    return {"think": in_form(text), "answer": said(text, tagged=True) is not None, "plain": True}[template]
