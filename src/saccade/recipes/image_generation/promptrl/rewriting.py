"""Prompts that a language model words anew before they are drawn: how it is asked, judged beside the original, and
scored.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from saccade.core import LogSamples, Problem, Rollout, Sampler
from saccade.policies.tokens import TokenPolicy
from saccade.rewards.text.parsing import tagged_answer
from saccade.worlds.shapes.task import DrawingTask


def instructed(instruction: str) -> Callable[[Problem], list[dict[str, str]]]:
    """Problem -> the chat messages that the language model answers: the instruction, then the prompt."""
    return lambda problem: [{"role": "user", "content": instruction + str(problem.inputs)}]


def format_of_all(rewrites: Rollout, refined: Tensor, group_B: Tensor) -> Tensor:
    """Format reward of every picture; those of the original prompt get their group's mean, so that format cannot favour
    either.

    ``refined`` are the rows, of the pictures numbered by ``group_B``, that were drawn from the rewrites.
    """
    format_B = torch.zeros(len(group_B))
    format_B[refined] = rewrites.rewards["format"]
    for g in group_B.unique():
        own = rewrites.group_B == g
        kept = group_B == g
        kept[refined] = False
        format_B[kept] = rewrites.rewards["format"][own].mean()
    return format_B


def redrawn(
    rewriter: TokenPolicy, draw: Sampler, problems: Sequence[Problem], seeds_B: Tensor
) -> tuple[Rollout, list[str]]:
    """Pictures of greedily rewritten prompts, as attempts at the original problems; and the rewrites."""
    writer = replace(rewriter, temperature=0.0)
    texts = [tagged_answer(t) or str(p.inputs) for t, p in zip(writer.rollout(problems, seeds_B).outputs, problems)]
    drawn = draw([replace(p, inputs=text) for p, text in zip(problems, texts)], seeds_B)
    return replace(drawn, problems=list(problems)), texts


def score_rewritten(
    task: DrawingTask, rewriter: TokenPolicy, draw: Sampler, show: LogSamples | None = None
) -> dict[str, float]:
    """The task's scores of kept-back prompts that are rewritten before they are drawn."""
    texts: dict[str, str] = {}

    def attempt(problems: Sequence[Problem], seeds_B: Tensor) -> Rollout:
        drawn, rewrites = redrawn(rewriter, draw, problems, seeds_B)
        texts.update(zip((p.inputs for p in problems), rewrites))
        return drawn

    def shown(name: str, items: list[dict]) -> None:
        show(f"{name}, rewritten", [item | {"text": texts[item["prompt"]]} for item in items])

    return task.score(attempt, shown if show else None)
