"""Does a picture show the words that were asked for? Read by rapidocr (extra `ocr`), compared by edit distance.

score = 1 if the read text contains the asked text, else 1 - min(edit distance, n) / n with n letters asked; both in
lower case and without spaces (the rule of Flow-GRPO, arXiv 2505.05470).
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import torch
from torch import Tensor

from saccade.core import Rollout
from saccade.math.pixels import to_bytes
from saccade.rewards.text.parsing import edit_distance


def similarity(rollout: Rollout) -> Tensor:
    """Likeness of what is read to ``problem.answer["text"]``, in [0, 1] ``[B]``.

    NaN where no text was asked, or the picture (``rollout.outputs`` ``[B, 3, H, W]`` in [0, 1]) holds a NaN. ValueError
    with the install line if rapidocr is absent.
    """
    asked = [_asked(problem.answer) for problem in rollout.problems]
    judged = [text and bool(picture.isfinite().all()) for picture, text in zip(rollout.outputs, asked)]
    scores = [
        likeness(read(picture), text) if can else math.nan for picture, text, can in zip(rollout.outputs, asked, judged)
    ]
    return torch.tensor(scores, dtype=torch.float32)


def likeness(seen: str, asked: str) -> float:
    """1 if ``asked`` stands in ``seen``, else one minus the edit distance in lengths of ``asked``, at least 0."""
    seen, asked = _plain(seen), _plain(asked)
    return 1.0 if asked in seen else 1 - min(edit_distance(seen, asked), len(asked)) / len(asked)


def read(picture: Tensor) -> str:
    """All words that rapidocr finds in a picture ``[3, H, W]`` in [0, 1], one after another."""
    return "".join(_reader()(to_bytes(picture)[..., ::-1].copy()).txts or ())  # it takes blue first


def _asked(answer: Any) -> str:
    text = answer.get("text") if isinstance(answer, dict) else None
    return _plain(text) if isinstance(text, str) else ""


def _plain(text: str) -> str:
    return text.replace(" ", "").lower()


@cache
def _reader() -> Any:
    try:
        import onnxruntime  # noqa: F401  (rapidocr would fail later, with many lines)
        from rapidocr import RapidOCR
    except ImportError:
        raise ValueError("the reward 'rapidocr' needs a package: pip install 'saccade[ocr]'") from None
    threads = {"EngineConfig.onnxruntime.intra_op_num_threads": torch.get_num_threads()}
    return RapidOCR(params={"Global.log_level": "critical", **threads})
