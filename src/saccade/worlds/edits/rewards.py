"""The world's judge as rewards of rollouts whose outputs are edited pictures."""

from __future__ import annotations

import torch
from torch import Tensor

from saccade.core import Rollout
from saccade.worlds.edits.judge import VERDICTS, verdicts


def judge(rollout: Rollout) -> dict[str, Tensor]:
    """All verdicts with one look at each picture: "success", "keep", "quality", "overall", each [B]; NaN = cannot
    judge.
    """
    seen = verdicts(rollout.outputs.detach(), rollout.problems)
    return {name: torch.as_tensor(seen[name], dtype=torch.float32, device=rollout.outputs.device) for name in VERDICTS}
