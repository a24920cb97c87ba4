"""The exact judge as rewards of rollouts whose outputs are pictures and whose answers are meanings."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from saccade.core import Problem, Rollout
from saccade.worlds.shapes.judge import score_pictures, unjudged


def judge(rollout: Rollout) -> dict[str, Tensor]:
    """The scores "correct", "points" and "ocr" of `score_pictures`, each float32 ``[B]``; NaN = cannot judge."""
    scores = score_pictures(rollout.outputs, [problem.answer for problem in rollout.problems])
    device = rollout.outputs.device
    return {name: torch.as_tensor(score_B, dtype=torch.float32, device=device) for name, score_B in scores.items()}


def correct(rollout: Rollout) -> Tensor:
    """1 where the picture shows everything requested and nothing else, else 0: ``[B]``."""
    return judge(rollout)["correct"]


def points(rollout: Rollout) -> Tensor:
    """Share of the request that the picture shows, in [0, 1]: ``[B]``."""
    return judge(rollout)["points"]


def ocr(rollout: Rollout) -> Tensor:
    """Similarity of the text in the picture to the requested text, in [0, 1]: ``[B]``; NaN where none is requested."""
    return judge(rollout)["ocr"]


def why_not(problem: Problem) -> str:
    """Why this world's judge cannot judge pictures of a problem, in words; "" where it can."""
    answer = problem.answer
    if answer is None:
        return f"it does not understand the prompt '{problem.inputs}': {unjudged(None)}"
    reason = unjudged(answer) if isinstance(answer, dict) and "tag" in answer else unjudged(None)
    return reason and f"the prompt '{problem.inputs}': {reason}"


def why_not_read(problem: Problem) -> str:
    """Why a problem asks for no text that could be read; "" where it does."""
    asks = isinstance(problem.answer, dict) and problem.answer.get("text")
    return why_not(problem) if asks else f"the prompt '{problem.inputs}' has no words in quotes to be drawn"


def by_tag(scores_B: Tensor, problems: Sequence[Problem]) -> dict[str, float]:
    """Mean finite score of the problems with each tag; NaN for a tag without a finite score."""
    tags = np.array([(problem.answer or {}).get("tag", "") for problem in problems])
    return {str(tag): scores_B[torch.from_numpy(tags == tag)].nanmean().item() for tag in sorted(set(tags) - {""})}
