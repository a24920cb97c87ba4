"""Rewards on what a program draws, beside what it should have drawn.

An attempt is a text with a program in it (see `program`); its problem's answer holds the reference: "picture" uint8
``[S, S, 3]`` and, where they are not the defaults, "lang" and "box" ("own": the canvas that the program itself names).
The background is white. All rewards ask for the same pictures, which `tools.render` draws once. What cannot be drawn
has a reward's lowest value, a blank picture what its pixels earn; a problem without a reference picture has no verdict
(NaN). How long a program is judges `rewards.text.reference`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from saccade.core import Problem, Rollout
from saccade.math.pixels import to_unit
from saccade.rewards.render import similarity
from saccade.rewards.text.parsing import parse_answer
from saccade.tools.render import STATUSES, Box, Refused, Render, Request, canvas, find, render_batch

ImageSimilarity = Callable[[Tensor, Tensor], Tensor]
"""Two batches of pictures ``[B, 3, S, S]`` in [0, 1], drawn and wanted -> ``[B]``."""

_SIZE = 64
"""Pixels on a side where no picture says how many."""


def program(text: str, lang: str = "svg") -> str:
    """The program in the answer of a model's text (`parsing.parse_answer`), without other words; "" for none."""
    return find(parse_answer(text) or "", lang)


def drawn(rollout: Rollout) -> list[Render]:
    """What every attempt draws, at the size and box of its reference (64 pixels where there is no picture)."""
    return render_batch([_request(problem, text) for problem, text in zip(rollout.problems, rollout.outputs)])


def status_shares(rollout: Rollout) -> dict[str, float]:
    """The share of each status among the attempts, as ``health/render_<status>``: the first sign of a policy that
    breaks.
    """
    counts = Counter(one.status for one in drawn(rollout))
    return {f"health/render_{status}": counts[status] / max(len(rollout), 1) for status in STATUSES}


def validity(rollout: Rollout) -> Tensor:
    """1 where the program draws something, else 0 ``[B]``."""
    return torch.tensor([float(one.status == "ok") for one in drawn(rollout)])


def l2(rollout: Rollout) -> Tensor:
    """Standardised L2 to the reference, in [-1, 1] ``[B]``; a blank picture has -1 unless a blank one was wanted."""
    return compared(rollout, similarity.standardized_l2, -1.0)


@dataclass(frozen=True)
class EdgeL2:
    """Standardised L2 of blurred edges, in [-1, 1] ``[B]``; ``sigma`` in pixels (2.3 is RLRF's window of 13,
    whatever the size).
    """

    sigma: float = 2.3

    def __call__(self, rollout: Rollout) -> Tensor:
        return compared(rollout, lambda a, b: similarity.edge_l2(a, b, self.sigma), -1.0)


def structure(rollout: Rollout) -> Tensor:
    """1 - distance of paint and outlines at several scales, in [-1, 1] ``[B]``; needs no model, see `likeness`."""
    return compared(rollout, lambda a, b: 1 - similarity.structure_distance(a, b), -1.0)


def ssim(rollout: Rollout) -> Tensor:
    """Structural similarity to the reference, in [-1, 1] ``[B]``; high for a blank picture beside a nearly blank
    one.
    """
    return compared(rollout, similarity.ssim, -1.0)


def foreground_iou(rollout: Rollout) -> Tensor:
    """Overlap of what is painted, whatever its color, in [0, 1] ``[B]``."""
    return compared(rollout, similarity.foreground_iou, 0.0)


def error(rollout: Rollout) -> Tensor:
    """Mean squared error of the pixels, in [0, 1] ``[B]``, less is better; a program that fails has drawn nothing."""
    return compared(rollout, similarity.mean_squared_error, None)


def nearness(rollout: Rollout) -> Tensor:
    """Minus the error in pixels ``[B]``, NaN for what draws nothing: a blank picture may be nearer than a poor one."""
    return torch.where(validity(rollout) > 0, -error(rollout), torch.nan)


def compared(rollout: Rollout, like: ImageSimilarity, failed: float | None) -> Tensor:
    """``like`` of what is drawn and what was wanted ``[B]``, one call for each size of picture; NaN where none was
    wanted.

    An attempt without a picture has the value ``failed``; None stands for a blank picture.
    """
    renders = drawn(rollout)
    wanted = [_answer(problem).get("picture") for problem in rollout.problems]
    score_B = torch.full((len(rollout),), float("nan"))
    for shape in {picture.shape for picture in wanted if picture is not None}:
        rows = [i for i, picture in enumerate(wanted) if picture is not None and picture.shape == shape]
        blank = np.full(shape, 255, np.uint8)
        seen = [blank if renders[i].picture is None else renders[i].picture for i in rows]
        scores = like(to_unit(seen), to_unit([wanted[i] for i in rows])).float()
        missing = torch.tensor([renders[i].picture is None for i in rows])
        score_B[rows] = scores if failed is None else scores.masked_fill(missing, failed)
    return score_B


def _request(problem: Problem, text: str) -> Request:
    known, lang = _answer(problem), _lang(problem)
    picture = known.get("picture")
    if picture is not None and (picture.dtype != np.uint8 or picture.shape != (len(picture), len(picture), 3)):
        raise ValueError(f"reference picture {picture.dtype} {list(picture.shape)} must be uint8 [S, S, 3]")
    size, code = _SIZE if picture is None else len(picture), program(text, lang)
    return Request(code, lang, size, box=_own(code, lang) if known.get("box") == "own" else known.get("box"))


def _own(code: str, lang: str) -> Box | None:
    """The canvas that a program names itself."""
    try:
        return canvas(code, lang)
    except Refused:
        return None


def _answer(problem: Problem) -> dict[str, Any]:
    return problem.answer if isinstance(problem.answer, dict) else {}


def _lang(problem: Problem) -> str:
    return _answer(problem).get("lang", "svg")
