"""Prompts that a language model rewrites before pictures are generated: sampling, format reward and scores."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from saccade.core import LogSamples, Problem, ProblemScores, Rollout, Sampler
from saccade.policies.tokens import TokenPolicy
from saccade.rewards.rubric import judge
from saccade.rewards.text.parsing import has_answer, tagged_answer
from saccade.worlds.shapes.task import DrawingTask


def rewriting_prompt(instruction: str) -> Callable[[Problem], list[dict[str, str]]]:
    """Problem -> the chat messages that the language model answers: the instruction, then the prompt."""
    return lambda problem: [{"role": "user", "content": instruction + str(problem.inputs)}]


def sample_rewrites(
    rewriter: TokenPolicy, problems: Sequence[Problem], seeds_B: Tensor, group_B: Tensor, rows: Tensor
) -> Rollout | None:
    """Rewrites of the problems at ``rows``, with the reward "format" (an answer between tags); None for no rows."""
    if not len(rows):
        return None
    rewrites = rewriter.rollout([problems[i] for i in rows.tolist()], seeds_B[rows])
    rewrites.group_B = group_B[rows]
    return judge(rewrites, {"format": has_answer})


def with_rewrites(problems: Sequence[Problem], rewrites: Rollout | None, rows: Tensor) -> list[Problem]:
    """The problems, those at ``rows`` with their rewritten prompt, or the original one where no answer is tagged."""
    changed = list(problems)
    if rewrites is not None:
        for i, text in zip(rows.tolist(), rewrites.outputs):
            changed[i] = replace(problems[i], inputs=tagged_answer(text) or problems[i].inputs)
    return changed


def format_reward(rewrites: Rollout | None, rows: Tensor, group_B: Tensor) -> Tensor:
    """Format reward of each picture ``[B]``; pictures of an original prompt get the mean of their group.

    So the format favours neither rewritten nor original prompts. ``rows`` are the pictures of ``rewrites``, ``group_B``
    numbers the groups of all pictures. 0 where nothing was rewritten.
    """
    format_B = torch.zeros(len(group_B))
    if rewrites is None:
        return format_B
    format_B[rows] = rewrites.rewards["format"]
    for group in group_B.unique():
        original = group_B == group
        original[rows] = False
        format_B[original] = rewrites.rewards["format"][rewrites.group_B == group].mean()
    return format_B


def generate_rewritten(
    rewriter: TokenPolicy, generate: Sampler, problems: Sequence[Problem], seeds_B: Tensor
) -> tuple[Rollout, list[str]]:
    """Pictures of greedily rewritten prompts, as samples of the original problems; and the rewrites."""
    outputs = replace(rewriter, temperature=0.0).rollout(problems, seeds_B).outputs
    texts = [tagged_answer(text) or str(problem.inputs) for text, problem in zip(outputs, problems)]
    rollout = generate([replace(p, inputs=text) for p, text in zip(problems, texts)], seeds_B)
    return replace(rollout, problems=list(problems)), texts


def score_rewritten(
    task: DrawingTask, rewriter: TokenPolicy, generate: Sampler, show: LogSamples | None = None
) -> ProblemScores:
    """The task's scores of held-out prompts that are rewritten before pictures are generated."""
    texts: dict[str, str] = {}

    def sampler(problems: Sequence[Problem], seeds_B: Tensor) -> Rollout:
        rollout, rewrites = generate_rewritten(rewriter, generate, problems, seeds_B)
        texts.update(zip((p.inputs for p in problems), rewrites))
        return rollout

    def log_samples(name: str, items: Sequence[Mapping[str, Any]]) -> None:
        if show:
            show(f"{name}, rewritten", [{**item, "text": texts[item["prompt"]]} for item in items])

    return task.score(sampler, log_samples if show else None)
