"""Evaluation of rewards on a rollout, and their combination.

A reward that raises is evaluated row by row, so that one broken sample costs one score; NaN means that a row has no
score. A reward that scores no row at all ends the run with its own error. A call may take TIMEOUT seconds, or as many
as the reward's attribute ``timeout``; where it takes longer, the rows, one by one, have as many in all. A reward that
returns several scores by name counts as their mean, and each of them is kept beside it, as "reward.name".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from saccade.core import NothingJudged, Reward, Rollout
from saccade.tools.timeout import time_limit

TIMEOUT = 600.0
"""Seconds that a call of a reward may take, unless its attribute ``timeout`` has another value."""

_MEAN = ""
"""Key of a reward's own score beside those that it names."""


def judge(rollout: Rollout, rewards: Mapping[str, Reward], may_abstain: Sequence[str] = ()) -> Rollout:
    """Fill ``rollout.rewards`` and return the rollout.

    Rewards in ``may_abstain`` may score no row at all (the tag of no prompt here); any other raises NothingJudged.
    FloatingPointError where no picture is finite: no reward is to blame for that.
    """
    pictures = rollout.outputs
    if isinstance(pictures, Tensor) and len(pictures) and not pictures.flatten(1).isfinite().all(1).any():
        raise FloatingPointError(f"none of {len(pictures)} pictures is finite")
    for name, reward in rewards.items():
        scores, error = _scores(reward, rollout, timeout(reward))
        score_B = scores.pop(_MEAN)
        if len(rollout) and not score_B.isfinite().any() and name not in may_abstain:
            why = f"{type(error).__name__}: {error}" if error else "it returned NaN for every sample"
            raise NothingJudged(f"reward '{name}' judged none of {len(rollout)} samples: {why}") from error
        rollout.rewards |= {name: score_B} | {f"{name}.{part}": value for part, value in scores.items()}
    return rollout


def ask(reward: Reward, rollout: Rollout) -> tuple[Tensor, BaseException | None]:
    """A reward's scores ``[B]``, NaN for rows on which it raised, and the last error."""
    scores, error = _scores(reward, rollout, timeout(reward))
    return scores[_MEAN], error


def timeout(reward: Reward) -> float:
    """Seconds that a call of the reward may take."""
    return getattr(reward, "timeout", TIMEOUT)


def _scores(reward: Reward, rollout: Rollout, seconds: float) -> tuple[dict[str, Tensor], BaseException | None]:
    """A reward's own score and those that it names, each ``[B]``, and the last error."""
    try:
        with time_limit(seconds):
            returned = reward(rollout)
        if not isinstance(returned, Mapping) or not returned:
            return {_MEAN: _checked(returned, rollout)}, None
        named = {str(name): _checked(value, rollout) for name, value in returned.items()}
        return {_MEAN: _mean(named, rollout.group_B)} | named, None
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # sys.exit in a reward is an error of the reward
        if len(rollout) <= 1:
            return {_MEAN: torch.full((len(rollout),), float("nan"))}, error
        each = seconds / len(rollout)
        rows = [_scores(reward, rollout.rows(torch.tensor([i])), each)[0] for i in range(len(rollout))]
        missing = torch.full((1,), float("nan"))
        names = dict.fromkeys(name for row in rows for name in row)
        return {name: torch.cat([row.get(name, missing) for row in rows]) for name in names}, error


def _checked(returned: Tensor, rollout: Rollout) -> Tensor:
    if not isinstance(returned, Tensor):
        raise ValueError(f"a reward must return a tensor with one score a row, not {type(returned).__name__}")
    score = returned.float()
    if score.shape[:1] != (len(rollout),):
        raise ValueError(f"a reward must return one score a row, not shape {tuple(score.shape)}")
    return score.masked_fill(score.isinf(), float("nan"))


def weighted(rewards: Mapping[str, Tensor], weights: Mapping[str, float], group_B: Tensor | None = None) -> Tensor:
    """The weighted sum ``[B]`` of rewards that are compared within the groups ``group_B``; None is one group.

    A reward that judges nobody in a group is left out there. Where it judges others of the group, a row that it could
    not judge has no sum, NaN: a missing score is not the score 0. NaN also where no reward judges.
    """
    stacked_KB = torch.stack([rewards[name] * w for name, w in weights.items()])
    return torch.where(stacked_KB.isnan(), 0.0, stacked_KB).sum(0) + _unjudged(stacked_KB, group_B)


def _mean(named: Mapping[str, Tensor], group_B: Tensor) -> Tensor:
    """The mean ``[B]`` of a reward's several scores, left out and missing as in `weighted`."""
    stacked_KB = torch.stack([*named.values()])
    return stacked_KB.nanmean(0) + _unjudged(stacked_KB, group_B)


def _unjudged(scores_KB: Tensor, group_B: Tensor | None) -> Tensor:
    """NaN for rows without a score that others of their group have, and for rows without any score, else 0: ``[B]``."""
    missing_KB = scores_KB.isnan()
    group_B = torch.zeros(scores_KB.shape[1], dtype=torch.long) if group_B is None else group_B
    ids, number_B = group_B.to(scores_KB.device).unique(return_inverse=True)
    judged_KG = scores_KB.new_zeros(len(scores_KB), len(ids)).index_add(1, number_B, (~missing_KB).to(scores_KB.dtype))
    lost_B = (missing_KB & (judged_KG[:, number_B] > 0)).any(0) | missing_KB.all(0)
    return torch.zeros_like(scores_KB[0]).masked_fill(lost_B, float("nan"))


def gated(reward: Tensor, gate: Tensor, below: float = 0.0) -> Tensor:
    """The reward where the gate is above 0.5, ``below`` elsewhere; NaN where either is NaN: ``[B]``."""
    return torch.where(gate > 0.5, reward, torch.full_like(reward, below)).masked_fill(gate.isnan(), float("nan"))


def per_tag(rewards: Mapping[str, Tensor], tags: Sequence[str]) -> Tensor:
    """The one reward that each row's tag names (PromptRL's reward tagging): ``[B]``."""
    unknown = sorted(set(tags) - set(rewards))
    if unknown:
        raise ValueError(f"no reward for tag '{unknown[0]}'; there are {', '.join(rewards)}")
    return torch.stack([rewards[tag][i] for i, tag in enumerate(tags)])
