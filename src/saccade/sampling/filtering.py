"""Dynamic sampling (DAPO 2503.14476): drop groups whose attempts were all judged alike, draw more until enough are left."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from saccade.core import Problem, Rollout, Sampler
from saccade.math.credit import telling


@dataclass(frozen=True)
class Kept:
    """What dynamic sampling gave: for each round a rollout of the groups kept, and what it took to find them."""

    parts: list[Rollout]
    groups: int
    """Groups kept; fewer than asked if the rounds ran out."""
    generated: int
    """Attempts made, dropped ones too: budgets are compared by these."""


def until_telling(
    attempt: Sampler,
    judge: Callable[[Rollout], Tensor],
    rounds: Iterable[tuple[Sequence[Problem], Tensor]],
    groups: int,
) -> Kept:
    """Attempt round after round of problems and their seeds until ``groups`` groups tell their attempts apart.

    ``attempt`` numbers the groups of its rollout, ``judge`` gives the verdict that must differ within one ``[B]`` (an
    accuracy, or the whole reward); what it stored in a rollout is kept. The iterable bounds how often more is drawn; no
    round is drawn in vain. If no group of any round has signal, the first round is handed back as it is, with
    ``groups`` 0, so that a step without signal is still a batch. ValueError if there is no round.
    """
    parts: list[Rollout] = []
    first: Rollout | None = None
    found = generated = 0
    for problems, seeds_P in rounds:
        rollout = attempt(problems, seeds_P)
        first = rollout if first is None else first
        generated += len(rollout)
        kept = rollout.group_B[telling(judge(rollout), rollout.group_B)].unique()[: groups - found]
        if len(kept):
            parts.append(rollout.rows(torch.nonzero(torch.isin(rollout.group_B, kept)).flatten()))
            found += len(kept)
        if found >= groups:
            break
    if first is None:
        raise ValueError("there is no round to draw from")
    return Kept(parts or [first], found, generated)
