"""Behaviour cloning: recorded episodes as a data set of observations and actions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from saccade.core import Problem, Rollout


def bc_dataset(episodes: Sequence[Mapping[str, np.ndarray]], length: int) -> Rollout:
    """A row for each step of recorded episodes: the observation and the next ``length`` actions, mask 0 past the end.

    Decisions: "observation.<name>_B" ``[B, ...]``, "action_BT" ``[B, length, A]``.
    """
    names = [name for name in episodes[0] if name.startswith("observation.")]
    observations = {f"{n}_B": np.concatenate([e[n][: len(e["action"])] for e in episodes]) for n in names}
    ahead = [np.arange(len(e["action"]))[:, None] + np.arange(length) for e in episodes]
    action = np.concatenate([e["action"][np.minimum(at, len(at) - 1)] for e, at in zip(episodes, ahead)])
    mask = torch.from_numpy(np.concatenate([at < len(at) for at in ahead]).astype(np.float32))
    decisions = {name: torch.from_numpy(value) for name, value in observations.items()}
    rows = len(mask)
    return Rollout(
        problems=[Problem(0, None)] * rows,
        decisions=decisions | {"action_BT": torch.from_numpy(action)},
        outputs=None,
        logp_BT=torch.zeros_like(mask),
        mask_BT=mask,
        group_B=torch.arange(rows),
    )
