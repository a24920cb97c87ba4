"""Rewards on the rendered picture of a program, compared with a reference picture.

An output is a text with a program in it (see `extract_program`); the answer of its problem holds the reference:
"picture" uint8 ``[S, S, 3]`` and, where they are not the defaults, "lang" and "box" ("own": the canvas that the program
declares). The background is white. All rewards request the same pictures, which `tools.render` renders once. A program
that cannot be rendered has a reward's lowest value, a blank picture the value of its pixels; a problem without a
reference picture is NaN. Rewards on the length of programs are in `rewards.text.reference`.
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
from saccade.math.pixels import to_float
from saccade.rewards.render import similarity
from saccade.rewards.text.parsing import parse_answer
from saccade.tools.render import (
    STATUSES,
    Box,
    Refused,
    Render,
    Request,
    declared_canvas,
    find_program,
    render_batch,
)

ImageSimilarity = Callable[[Tensor, Tensor], Tensor]
"""Two batches of pictures ``[B, 3, S, S]`` in [0, 1], rendered and reference -> ``[B]``."""

_DEFAULT_SIZE = 64
"""Height and width in pixels of a render without a reference picture."""


def extract_program(text: str, lang: str = "svg") -> str:
    """The program in the answer of a model's text (see `parsing.parse_answer`); "" for none."""
    return find_program(parse_answer(text) or "", lang)


def render_rollout(rollout: Rollout) -> list[Render]:
    """The render of every output, at the size and box of its reference (64 pixels if there is no picture)."""
    return render_batch([_request(problem, text) for problem, text in zip(rollout.problems, rollout.outputs)])


def render_status_metrics(rollout: Rollout) -> dict[str, float]:
    """The fraction of outputs with each render status, as ``health/render_<status>``."""
    counts = Counter(render.status for render in render_rollout(rollout))
    return {f"health/render_{status}": counts[status] / max(len(rollout), 1) for status in STATUSES}


def validity(rollout: Rollout) -> Tensor:
    """1 where the program renders to a picture that is not blank, else 0 ``[B]``."""
    return torch.tensor([float(render.status == "ok") for render in render_rollout(rollout)])


def l2(rollout: Rollout) -> Tensor:
    """Standardized L2 to the reference, in [-1, 1] ``[B]``; a blank picture has -1 unless the reference is blank."""
    return compare_renders(rollout, similarity.standardized_l2, -1.0)


@dataclass(frozen=True)
class EdgeL2:
    """Standardized L2 of blurred edges, in [-1, 1] ``[B]``; ``sigma`` in pixels (2.3 is RLRF's window of 13)."""

    sigma: float = 2.3

    def __call__(self, rollout: Rollout) -> Tensor:
        return compare_renders(rollout, lambda a, b: similarity.edge_l2(a, b, self.sigma), -1.0)


def structure(rollout: Rollout) -> Tensor:
    """1 - distance of paint and outlines at several scales, in [-1, 1] ``[B]``; see `similarity.structure_distance`."""
    return compare_renders(rollout, lambda a, b: 1 - similarity.structure_distance(a, b), -1.0)


def ssim(rollout: Rollout) -> Tensor:
    """Structural similarity to the reference, in [-1, 1] ``[B]``; high for a blank picture beside a sparse one."""
    return compare_renders(rollout, similarity.ssim, -1.0)


def foreground_iou(rollout: Rollout) -> Tensor:
    """Intersection over union of the pixels that are not white, in [0, 1] ``[B]``."""
    return compare_renders(rollout, similarity.foreground_iou, 0.0)


def error(rollout: Rollout) -> Tensor:
    """Mean squared error of the pixels, in [0, 1] ``[B]``, lower is better; a program that fails counts as blank."""
    return compare_renders(rollout, similarity.mean_squared_error, None)


def negative_error(rollout: Rollout) -> Tensor:
    """Minus `error` ``[B]``, NaN for blank and failed renders, which may have a lower error than poor ones."""
    return torch.where(validity(rollout) > 0, -error(rollout), torch.nan)


def compare_renders(rollout: Rollout, similarity: ImageSimilarity, failed: float | None) -> Tensor:
    """``similarity`` of renders and references ``[B]``, one call for each size; NaN where there is no reference.

    An output that does not render has the value ``failed``; None compares a blank picture instead.
    """
    pictures = [render.picture for render in render_rollout(rollout)]
    references = [_answer(problem).get("picture") for problem in rollout.problems]
    score_B = torch.full((len(rollout),), float("nan"))
    for shape in {picture.shape for picture in references if picture is not None}:
        rows = [i for i, picture in enumerate(references) if picture is not None and picture.shape == shape]
        blank = np.full(shape, 255, np.uint8)
        rendered = [blank if pictures[i] is None else pictures[i] for i in rows]
        scores = similarity(to_float(rendered), to_float([references[i] for i in rows])).float()
        missing = torch.tensor([pictures[i] is None for i in rows])
        score_B[rows] = scores if failed is None else scores.masked_fill(missing, failed)
    return score_B


def _request(problem: Problem, text: str) -> Request:
    answer, lang = _answer(problem), _lang(problem)
    picture = answer.get("picture")
    if picture is not None and (picture.dtype != np.uint8 or picture.shape != (len(picture), len(picture), 3)):
        raise ValueError(f"reference picture {picture.dtype} {list(picture.shape)} must be uint8 [S, S, 3]")
    size, code = _DEFAULT_SIZE if picture is None else len(picture), extract_program(text, lang)
    return Request(code, lang, size, box=_canvas(code, lang) if answer.get("box") == "own" else answer.get("box"))


def _canvas(code: str, lang: str) -> Box | None:
    """The canvas that a program declares, None if it declares none."""
    try:
        return declared_canvas(code, lang)
    except Refused:
        return None


def _answer(problem: Problem) -> dict[str, Any]:
    return problem.answer if isinstance(problem.answer, dict) else {}


def _lang(problem: Problem) -> str:
    return _answer(problem).get("lang", "svg")
