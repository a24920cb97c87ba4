"""OCR reward: rapidocr (extra `ocr`) reads a picture, and the text is compared with the requested text.

score = 1 if the text contains the requested text, else 1 - min(edit distance, n) / n with n letters requested; both in
lower case and without spaces (the rule of Flow-GRPO, arXiv 2505.05470). Other white space and other ways to write the
same letters count as little.
"""

from __future__ import annotations

import math
import unicodedata
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from saccade.core import Problem, Rollout
from saccade.math.pixels import to_uint8
from saccade.rewards.text.parsing import edit_distance

_QUOTES = str.maketrans("\u2018\u2019\u201c\u201d", "''\"\"")


def similarity(rollout: Rollout) -> Tensor:
    """`text_match` of the text read in each picture and ``problem.answer["text"]``, in [0, 1] ``[B]``.

    ``rollout.outputs`` are pictures ``[B, 3, H, W]`` in [0, 1]. NaN where no text is requested, or the picture has a
    NaN. ValueError with the install command if rapidocr is absent.
    """
    targets = [_requested(problem.answer) for problem in rollout.problems]
    judgeable = [target and bool(picture.isfinite().all()) for picture, target in zip(rollout.outputs, targets)]
    scores = [
        text_match(read_text(picture), target) if can else math.nan
        for picture, target, can in zip(rollout.outputs, targets, judgeable)
    ]
    return torch.tensor(scores, dtype=torch.float32)


@dataclass(frozen=True)
class ReadWords:
    """`similarity` as a reward that says beforehand what it lacks."""

    def __call__(self, rollout: Rollout) -> Tensor:
        return similarity(rollout)

    def ready(self) -> None:
        """ValueError with the install command if rapidocr is absent."""
        _engine()

    def why_not(self, problem: Problem) -> str:
        """Why pictures of a problem cannot be judged, in words; "" where they can."""
        return "" if _requested(problem.answer) else f"the prompt '{problem.inputs}' has no words in quotes to be drawn"


def text_match(text: str, target: str) -> float:
    """1 where the text contains the target, else their `text_similarity`. ValueError for an empty target."""
    score = text_similarity(text, target)
    return 1.0 if _normalized(target) in _normalized(text) else score


def text_similarity(text: str, target: str) -> float:
    """1 - min(edit distance, n) / n with n letters in the target; case and spaces do not count.

    ValueError for an empty target.
    """
    text, target = _normalized(text), _normalized(target)
    if not target:
        raise ValueError(f"target text {target!r} is empty; a word is needed")
    return 1 - min(edit_distance(text, target), len(target)) / len(target)


def read_text(picture: Tensor) -> str:
    """All words that rapidocr reads in a picture ``[3, H, W]`` in [0, 1], joined without spaces."""
    bgr = to_uint8(picture)[..., ::-1].copy()
    return "".join(_engine()(bgr).txts or ())


def _requested(answer: Any) -> str:
    text = answer.get("text") if isinstance(answer, dict) else None
    return _normalized(text) if isinstance(text, str) else ""


def _normalized(text: str) -> str:
    """Letters without white space, case and variants of one letter (composed, full-width, curly quotes)."""
    plain = unicodedata.normalize("NFKC", text).translate(_QUOTES).casefold()
    return "".join(unicodedata.normalize("NFKC", plain).split())


@cache
def _engine() -> Any:
    try:
        import onnxruntime  # noqa: F401  (rapidocr would fail later, with many lines)
        from rapidocr import RapidOCR
    except ImportError:
        raise ValueError("the reward 'rapidocr' needs a package: pip install 'saccade[ocr]'") from None
    threads = {"EngineConfig.onnxruntime.intra_op_num_threads": torch.get_num_threads()}
    return RapidOCR(params={"Global.log_level": "critical", **threads})
