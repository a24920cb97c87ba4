"""The exact scores of this world as rewards of rollouts whose outputs are edited pictures."""

from __future__ import annotations

import torch
from torch import Tensor

from saccade.core import Rollout
from saccade.worlds.edits.judge import SCORES, score_edits


def exact_rewards(rollout: Rollout) -> dict[str, Tensor]:
    """The scores "success", "keep", "quality" and "overall" of each picture, ``[B]`` each; NaN without a score."""
    found = score_edits(rollout.outputs.detach(), rollout.problems)
    return {name: torch.as_tensor(found[name], dtype=torch.float32, device=rollout.outputs.device) for name in SCORES}
