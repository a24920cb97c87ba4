"""Evaluation of rewards on a rollout, and their combination.

A reward that raises is evaluated row by row, so that one broken sample costs one score; NaN means that a row has no
score. A reward that scores no row at all ends the run with its own error. A call may take TIMEOUT seconds, or as many
as the reward's attribute ``timeout``; where it takes longer, the rows, one by one, have as many in all. A reward that
returns several scores by name counts as their mean, and each of them is kept beside it, as "reward.name".
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from saccade.core import NothingJudged, Reward, Rollout
from saccade.tools.timeout import time_limit
from saccade.tools.user_code import described, user_code

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
            why = (
                str(error)
                if isinstance(error, _UnfitScores)
                else described(error)
                if error
                else "it returned NaN or infinity for every sample"
            )
            raise NothingJudged(f"reward '{name}' judged none of {len(rollout)} samples: {why}") from error
        rollout.rewards |= {name: score_B} | {f"{name}.{part}": value for part, value in scores.items()}
    return rollout


def ask(reward: Reward, rollout: Rollout) -> tuple[Tensor, Exception | None]:
    """A reward's scores ``[B]``, NaN for rows on which it raised, and the last error."""
    scores, error = _scores(reward, rollout, timeout(reward))
    return scores[_MEAN], error


def timeout(reward: Reward) -> float:
    """Seconds that a call of the reward may take. ValueError where its attribute is no number of seconds above 0."""
    seconds = getattr(reward, "timeout", TIMEOUT)
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not 0 < seconds < math.inf:
        raise ValueError(f"the timeout of a reward is a number of seconds above 0, not {seconds!r}")
    return float(seconds)


class _UnfitScores(ValueError):
    """A reward returned something else than scores, which it would do for single rows too."""


def _scores(reward: Reward, rollout: Rollout, seconds: float) -> tuple[dict[str, Tensor], Exception | None]:
    """A reward's own score and those that it names, each ``[B]``, and the last error."""
    try:
        with time_limit(seconds), user_code():
            returned = reward(rollout)
        if not isinstance(returned, Mapping) or not returned:
            return {_MEAN: _checked(returned, rollout)}, None
        named = {_name(name): _checked(value, rollout) for name, value in returned.items()}
        return {_MEAN: _mean(named, rollout.group_B)} | named, None
    except Exception as error:
        if len(rollout) <= 1 or isinstance(error, _UnfitScores):
            return {_MEAN: torch.full((len(rollout),), float("nan"))}, error
        each = seconds / len(rollout)
        rows = [_scores(reward, rollout.rows(torch.tensor([i])), each)[0] for i in range(len(rollout))]
        missing = torch.full((1,), float("nan"))
        names = dict.fromkeys(name for row in rows for name in row)
        return {name: torch.cat([row.get(name, missing) for row in rows]) for name in names}, error


def _name(name: object) -> str:
    if not isinstance(name, str) or not name.strip():
        raise _UnfitScores(f"a reward must name its scores by words, not by {name!r}")
    return name


def _checked(returned: object, rollout: Rollout) -> Tensor:
    """Scores as float32 ``[B]``, NaN for infinite ones."""
    want = f"a reward must return a tensor with one score a row, [{len(rollout)}]"
    if not isinstance(returned, Tensor):
        shape = f" of shape {list(returned.shape)}" if hasattr(returned, "shape") else ""
        raise _UnfitScores(f"{want}, not {type(returned).__name__}{shape}")
    if returned.shape != (len(rollout),):
        raise _UnfitScores(f"{want}, not one of shape {list(returned.shape)}")
    kind = "meta" if returned.is_meta else returned.dtype if returned.is_complex() else returned.layout
    if kind != torch.strided:
        raise _UnfitScores(f"{want}, not of kind {kind}")
    score = returned.float()
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
