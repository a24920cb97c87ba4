"""Rewards on boxes written as text against ``problem.answer["boxes"]`` and ``["labels"]`` (VLM-R1 2504.07615).

Where nothing is to be found, an answer of no boxes scores 1; no boxes where there are some, some where there are none,
and what cannot be read score 0. NaN where a problem has no boxes to compare with. A box of no extent overlaps nothing,
yet counts as written. Boxes are written in the pixels of the picture as it was shown and carried into those of the
targets.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from saccade.core import Problem, Rollout
from saccade.math.boxes import COCO_THRESHOLDS, average_precision, iou, match
from saccade.math.frames import Box, Frame
from saccade.rewards.text.reading import Written, boxes, each_row, in_form

Shown = Callable[[Rollout], Sequence[Frame | None]]
"""The frame of each row in whose pixels the model wrote; None = that of the targets, the original."""


def first_shown(rollout: Rollout) -> Sequence[Frame | None]:
    """Each row's first picture as the model was shown it, where the rollout says so (``extras["frames_B"]``)."""
    shown = rollout.extras.get("frames_B")
    return [frames[0] if frames else None for frames in shown.values] if shown else [None] * len(rollout)


@dataclass(frozen=True)
class BoxOverlap:
    """Overlap (IoU) of the first box written with the target nearest to it: one thing is asked for (VLM-R1's REC)."""

    tagged: bool = False
    """Whether only boxes between answer tags count, in this reward and the others."""
    shown: Shown = first_shown

    def __call__(self, rollout: Rollout) -> Tensor:
        """In [0, 1] ``[B]``."""
        return _judge(rollout, self, lambda overlap_NM, label_N, label_M: overlap_NM[0].max())


@dataclass(frozen=True)
class DetectionPrecision:
    """Average precision over all targets: COCO's AP@[.5:.95], AP50 with ``thresholds`` (0.5,).

    Alone it does not punish spurious boxes that come late. ``by_count`` multiplies it by targets / boxes written where
    too many were written (VLM-R1's odLength).
    """

    thresholds: tuple[float, ...] = COCO_THRESHOLDS
    by_count: bool = False
    tagged: bool = False
    shown: Shown = first_shown

    def __call__(self, rollout: Rollout) -> Tensor:
        """In [0, 1] ``[B]``."""
        return _judge(rollout, self, self._precision)

    def _precision(self, overlap_NM: Tensor, label_N: Tensor, label_M: Tensor) -> Tensor:
        factor = min(1.0, len(label_M) / len(label_N)) if self.by_count else 1.0
        return factor * average_precision(overlap_NM, label_N, label_M, self.thresholds)


@dataclass(frozen=True)
class MatchedBoxes:
    """Weighted mean of position, completeness and naming of boxes matched one to one (VLM-R1's weighted_sum).

    Position is the overlap of matched pairs over the number of targets, 0 for a pair whose labels differ; completeness
    is 1 - (missed / targets + spurious / written) / 2; naming is the share of targets matched under their own label.
    Pairs match from an overlap of ``least`` on.
    """

    position: float = 0.7
    completeness: float = 0.3
    naming: float = 0.0
    least: float = 0.5
    tagged: bool = False
    shown: Shown = first_shown

    def __call__(self, rollout: Rollout) -> Tensor:
        """In [0, 1] ``[B]``."""
        return _judge(rollout, self, self._mean)

    def _mean(self, overlap_NM: Tensor, label_N: Tensor, label_M: Tensor) -> Tensor:
        written, targets = overlap_NM.shape
        partner_N = match(overlap_NM, self.least)
        matched = partner_N >= 0
        named = matched & (label_M[partner_N] == label_N)
        reached = overlap_NM.gather(1, partner_N.clamp(min=0)[:, None])[:, 0]
        pairs = matched.sum()
        parts = torch.stack(
            [
                reached[named].sum() / targets,
                1 - ((targets - pairs) / targets + (written - pairs) / written) / 2,
                named.sum() / targets,
            ]
        )
        weights = torch.tensor([self.position, self.completeness, self.naming], dtype=parts.dtype)
        return (weights * parts).sum() / weights.sum()


@dataclass(frozen=True)
class BoxFormat:
    """1 where a text has the form that was asked for and its answer holds a box; "None" will do too where ``none``."""

    form: Callable[[str], bool] = in_form
    tagged: bool = False
    none: bool = True

    def __call__(self, rollout: Rollout) -> Tensor:
        """In {0, 1} ``[B]``."""
        return each_row(rollout, self._verdict)

    def _verdict(self, problem: Problem, text: str) -> float:
        found = boxes(text, self.tagged)
        return float(self.form(text) and (bool(found) or (self.none and found == [])))


def _judge(
    rollout: Rollout,
    asked: BoxOverlap | DetectionPrecision | MatchedBoxes,
    score: Callable[[Tensor, Tensor, Tensor], Tensor],
) -> Tensor:
    """``score`` of the overlaps ``[N, M]`` and labels of boxes written and targets, where there are both: ``[B]``."""

    def verdict(problem: Problem, text: str, frame: Frame | None) -> float:
        truth = problem.answer.get("boxes") if isinstance(problem.answer, dict) else None
        found = boxes(text, asked.tagged)
        if truth is None:
            return math.nan
        if not found or not len(truth):
            return float(found == [] and not len(truth))
        written_N4 = torch.tensor([_original(box, frame) for box in found], dtype=torch.float64)
        overlap_NM = iou(written_N4, torch.as_tensor(truth, dtype=torch.float64).reshape(-1, 4))
        return float(score(overlap_NM, *_labels(found, problem.answer)))

    return each_row(rollout, verdict, asked.shown(rollout))


def _original(box: Written, frame: Frame | None) -> tuple[float, ...]:
    return Box(*box.corners, frame).into(frame.original).corners if frame else box.corners


def _labels(found: list[Written], truth: dict) -> tuple[Tensor, Tensor]:
    """Numbers for the labels written (-1 = no target's) and those of the targets.

    Where the targets share one label, or have none, a box without a label cannot mean another.
    """
    plain = lambda label: label.strip().casefold()
    wanted = [plain(label) for label in truth.get("labels") or [""] * len(truth["boxes"])]
    if len(wanted) != len(truth["boxes"]):
        raise ValueError(f"{len(truth['boxes'])} target boxes have {len(wanted)} labels")
    number = {label: i for i, label in enumerate(wanted)}
    only = wanted[0] if len(number) == 1 else ""
    mean = lambda label: only if not label or not any(wanted) else label
    return torch.tensor([number.get(mean(plain(b.label)), -1) for b in found]), torch.tensor(
        [number[w] for w in wanted]
    )
