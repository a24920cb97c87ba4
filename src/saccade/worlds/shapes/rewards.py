"""The world's judge as rewards of rollouts whose outputs are pictures and whose answers are meanings."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from saccade.core import Problem, Rollout
from saccade.worlds.shapes.judge import verdicts


def judge(rollout: Rollout) -> dict[str, Tensor]:
    """All verdicts with one look at each picture: "correct", "points", "ocr", each [B]; NaN = cannot judge."""
    seen = verdicts(rollout.outputs, [problem.answer for problem in rollout.problems])
    device = rollout.outputs.device
    return {name: torch.as_tensor(score_B, dtype=torch.float32, device=device) for name, score_B in seen.items()}


def correct(rollout: Rollout) -> Tensor:
    """1 where the picture shows everything asked and nothing else, else 0 [B]."""
    return judge(rollout)["correct"]


def points(rollout: Rollout) -> Tensor:
    """Share of what was asked that the picture shows, in [0, 1]: ``[B]``."""
    return judge(rollout)["points"]


def ocr(rollout: Rollout) -> Tensor:
    """Likeness of the text that is read to the text asked, in [0, 1]: ``[B]``; NaN where no text was asked."""
    return judge(rollout)["ocr"]


def by_tag(scores_B: Tensor, problems: Sequence[Problem]) -> dict[str, float]:
    """Mean score of each tag among the answers, unjudged rows left out; NaN for a tag with no judged row."""
    tags = np.array([(problem.answer or {}).get("tag", "") for problem in problems])
    return {str(tag): scores_B[torch.from_numpy(tags == tag)].nanmean().item() for tag in sorted(set(tags) - {""})}
