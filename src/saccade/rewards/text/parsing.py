"""Rewards on words: is the answer where it was asked for, how far are two texts apart."""

from __future__ import annotations

import re
from collections.abc import Hashable, Sequence

import torch
from torch import Tensor

from saccade.core import Rollout

_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)


def answer(text: str) -> str | None:
    """What stands between the first ``<answer>`` and ``</answer>``, stripped; None if there is nothing."""
    found = _ANSWER.search(text)
    return found.group(1).strip() or None if found else None


def has_answer(rollout: Rollout) -> Tensor:
    """1 where a text holds a non-empty answer between its tags, else 0: ``[B]``."""
    return torch.tensor([float(answer(text) is not None) for text in rollout.outputs])


def edit_distance(a: Sequence[Hashable], b: Sequence[Hashable]) -> int:
    """Levenshtein distance between two texts, or two rows of tokens."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        last, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            last, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, last + (x != y))
    return row[-1]
