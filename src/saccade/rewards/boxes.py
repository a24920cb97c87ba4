"""Rewards on boxes written as text against ``problem.answer["boxes"]`` and ``["labels"]`` (VLM-R1 2504.07615).

Where a problem has no targets, an answer without boxes scores 1. An answer without boxes where there are targets, with
boxes where there are none, or that cannot be parsed scores 0. NaN where a problem has no boxes to compare with. An
empty box overlaps nothing, yet counts as written. Boxes are written in the pixels of the picture as it was shown and
mapped into those of the targets.
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
from saccade.rewards.text.parsing import ParsedBox, follows_think_format, parse_boxes, score_rows

Frames = Callable[[Rollout], Sequence[Frame | None]]
"""The frame of each row in whose pixels the model wrote its boxes; None for that of the targets, the original."""


def first_frames(rollout: Rollout) -> Sequence[Frame | None]:
    """The frame of each row's first picture as the model was shown it, None without ``extras["frames_B"]``."""
    frames_B = rollout.extras.get("frames_B")
    return [frames[0] if frames else None for frames in frames_B.values] if frames_B else [None] * len(rollout)


@dataclass(frozen=True)
class BoxOverlap:
    """Overlap (IoU) of the first box with the target that it overlaps most: one object is asked for (VLM-R1's REC)."""

    require_tags: bool = False
    """Whether only boxes between answer tags count, in this reward and the others."""
    frames: Frames = first_frames

    def __call__(self, rollout: Rollout) -> Tensor:
        """In [0, 1] ``[B]``."""
        return _score_boxes(rollout, self, lambda overlap_NM, label_N, label_M: overlap_NM[0].max())


@dataclass(frozen=True)
class DetectionPrecision:
    """Average precision over all targets: COCO's AP@[.5:.95], or AP50 with ``thresholds`` (0.5,).

    Alone it does not punish spurious boxes that come late. ``by_count`` multiplies it by targets / boxes written where
    more boxes than targets were written (VLM-R1's odLength).
    """

    thresholds: tuple[float, ...] = COCO_THRESHOLDS
    by_count: bool = False
    require_tags: bool = False
    frames: Frames = first_frames

    def __call__(self, rollout: Rollout) -> Tensor:
        """In [0, 1] ``[B]``."""
        return _score_boxes(rollout, self, self._precision)

    def _precision(self, overlap_NM: Tensor, label_N: Tensor, label_M: Tensor) -> Tensor:
        factor = min(1.0, len(label_M) / len(label_N)) if self.by_count else 1.0
        return factor * average_precision(overlap_NM, label_N, label_M, self.thresholds)


@dataclass(frozen=True)
class MatchedBoxes:
    """Weighted mean of position, completeness and labels of boxes matched one to one (VLM-R1's weighted_sum).

    Position is the summed overlap of matched pairs with equal labels over the number of targets; completeness is
    1 - (missed / targets + spurious / written) / 2; labels is the share of targets matched under their own label.
    Pairs match from an overlap of ``threshold`` on.
    """

    position: float = 0.7
    completeness: float = 0.3
    labels: float = 0.0
    threshold: float = 0.5
    require_tags: bool = False
    frames: Frames = first_frames

    def __call__(self, rollout: Rollout) -> Tensor:
        """In [0, 1] ``[B]``."""
        return _score_boxes(rollout, self, self._mean)

    def _mean(self, overlap_NM: Tensor, label_N: Tensor, label_M: Tensor) -> Tensor:
        written, targets = overlap_NM.shape
        target_N = match(overlap_NM, self.threshold)
        matched = target_N >= 0
        same_label = matched & (label_M[target_N] == label_N)
        overlap_N = overlap_NM.gather(1, target_N.clamp(min=0)[:, None])[:, 0]
        pairs = matched.sum()
        missed, spurious = (targets - pairs) / targets, (written - pairs) / written
        parts = [overlap_N[same_label].sum() / targets, 1 - (missed + spurious) / 2, same_label.sum() / targets]
        parts_3 = torch.stack(parts)
        weights_3 = torch.tensor([self.position, self.completeness, self.labels], dtype=parts_3.dtype)
        return (weights_3 * parts_3).sum() / weights_3.sum()


BoxReward = BoxOverlap | DetectionPrecision | MatchedBoxes


@dataclass(frozen=True)
class BoxFormat:
    """1 where a text has the required form and its answer has a box; "None" counts as well where ``allow_none``."""

    form: Callable[[str], bool] = follows_think_format
    require_tags: bool = False
    allow_none: bool = True

    def __call__(self, rollout: Rollout) -> Tensor:
        """In {0, 1} ``[B]``."""
        return score_rows(rollout, self._score)

    def _score(self, problem: Problem, text: str) -> float:
        found = parse_boxes(text, self.require_tags)
        return float(self.form(text) and (bool(found) or (self.allow_none and found == [])))


def _score_boxes(rollout: Rollout, reward: BoxReward, score: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Tensor:
    """``score`` of overlaps ``[N, M]``, labels written ``[N]`` and target labels ``[M]``, where both exist: ``[B]``."""

    def score_row(problem: Problem, text: str, frame: Frame | None) -> float:
        targets = problem.answer.get("boxes") if isinstance(problem.answer, dict) else None
        found = parse_boxes(text, reward.require_tags)
        if targets is None:
            return math.nan
        if not found or not len(targets):
            return float(found == [] and not len(targets))
        written_N4 = torch.tensor([_in_original(box, frame) for box in found], dtype=torch.float64)
        overlap_NM = iou(written_N4, torch.as_tensor(targets, dtype=torch.float64).reshape(-1, 4))
        return float(score(overlap_NM, *_labels(found, problem.answer)))

    return score_rows(rollout, score_row, reward.frames(rollout))


def _in_original(box: ParsedBox, frame: Frame | None) -> tuple[float, ...]:
    return Box(*box.corners, frame).into(frame.original).corners if frame else box.corners


def _labels(found: list[ParsedBox], answer: dict) -> tuple[Tensor, Tensor]:
    """Numbers for the labels written ``[N]`` (-1 for one that no target has) and those of the targets ``[M]``.

    Where all targets share one label, or have none, a box without a label has that label.
    """
    normalized = lambda label: label.strip().casefold()
    targets = [normalized(label) for label in answer.get("labels") or [""] * len(answer["boxes"])]
    if len(targets) != len(answer["boxes"]):
        raise ValueError(f"{len(answer['boxes'])} target boxes have {len(targets)} labels")
    number = {label: i for i, label in enumerate(targets)}
    common = targets[0] if len(number) == 1 else ""
    resolved = lambda label: common if not label or not any(targets) else label
    label_N = torch.tensor([number.get(resolved(normalized(box.label)), -1) for box in found])
    return label_N, torch.tensor([number[label] for label in targets])
