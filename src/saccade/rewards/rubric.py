"""Ask rewards about a rollout, and put several together.

A reward that raises is asked row by row, so that one broken sample costs one verdict; NaN = no verdict. A reward that
can judge nothing at all ends the run with its own error. A call may take PATIENCE seconds, or as many as the reward's
attribute ``patience`` says; where it took longer the rows, one by one, are given as much in all. One that returns
several verdicts by name counts as their mean, and each of them is kept beside it, as "reward.name".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from saccade.core import NothingJudged, Reward, Rollout
from saccade.tools.timeout import time_limit


def judge(rollout: Rollout, rewards: Mapping[str, Reward], may_abstain: Sequence[str] = ()) -> Rollout:
    """Fill ``rollout.rewards``; those in ``may_abstain`` may judge no row at all (the tag of no prompt here)."""
    for name, reward in rewards.items():
        parts, error = _ask(reward, rollout, patience(reward))
        values = parts.pop(_WHOLE)
        if len(rollout) and not values.isfinite().any() and name not in may_abstain:
            why = f"{type(error).__name__}: {error}" if error else "it returned NaN for every sample"
            raise NothingJudged(f"reward '{name}' judged none of {len(rollout)} samples: {why}") from error
        rollout.rewards |= {name: values} | {f"{name}.{part}": value for part, value in parts.items()}
    return rollout


def ask(reward: Reward, rollout: Rollout) -> tuple[Tensor, Exception | None]:
    """A reward's verdicts, NaN for rows it raised on, and the last error."""
    parts, error = _ask(reward, rollout, patience(reward))
    return parts[_WHOLE], error


def patience(reward: Reward) -> float:
    """Seconds that a call of the reward may take."""
    return getattr(reward, "patience", PATIENCE)


PATIENCE = 600.0

_WHOLE = ""


def _ask(reward: Reward, rollout: Rollout, seconds: float) -> tuple[dict[str, Tensor], Exception | None]:
    """A reward's verdicts as a whole and those that it names, and the last error."""
    try:
        with time_limit(seconds):
            said = reward(rollout)
        named = (
            {str(name): _checked(value, rollout) for name, value in said.items()} if isinstance(said, Mapping) else {}
        )
        whole = torch.stack([*named.values()]).nanmean(0) if named else _checked(said, rollout)
        return {_WHOLE: whole} | named, None
    except Exception as error:
        if len(rollout) <= 1:
            return {_WHOLE: torch.full((len(rollout),), float("nan"))}, error
        rows = [_ask(reward, rollout.rows(torch.tensor([i])), seconds / len(rollout))[0] for i in range(len(rollout))]
        none = torch.full((1,), float("nan"))
        names = dict.fromkeys(name for row in rows for name in row)
        return {name: torch.cat([row.get(name, none) for row in rows]) for name in names}, error


def _checked(said: Tensor, rollout: Rollout) -> Tensor:
    if not isinstance(said, Tensor):
        raise ValueError(f"a reward must return a tensor with one verdict a row, not {type(said).__name__}")
    values = said.float()
    if values.shape[:1] != (len(rollout),):
        raise ValueError(f"a reward must return one verdict a row, not shape {tuple(values.shape)}")
    return values.masked_fill(values.isinf(), float("nan"))


def weighted(rewards: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor:
    """The weighted sum; a reward without a verdict on a row is left out there, NaN where none has one: ``[B]``."""
    stacked = torch.stack([rewards[name] * w for name, w in weights.items()])
    missing = stacked.isnan()
    total = torch.where(missing, 0.0, stacked).sum(0)
    return total.masked_fill(missing.all(0), float("nan"))


def gated(reward: Tensor, gate: Tensor, below: float = 0.0) -> Tensor:
    """The reward where the gate is open (> 0.5), ``below`` elsewhere; NaN where either has no verdict."""
    return torch.where(gate > 0.5, reward, torch.full_like(reward, below)).masked_fill(gate.isnan(), float("nan"))


def per_tag(rewards: Mapping[str, Tensor], tags: Sequence[str]) -> Tensor:
    """The one reward that each row's tag names (PromptRL's reward tagging): ``[B]``."""
    unknown = sorted(set(tags) - set(rewards))
    if unknown:
        raise ValueError(f"no reward for tag '{unknown[0]}'; there are {', '.join(rewards)}")
    return torch.stack([rewards[tag][i] for i, tag in enumerate(tags)])
