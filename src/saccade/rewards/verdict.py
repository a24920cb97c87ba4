"""A vision-language model as a judge that answers yes or no, and whose answers have gradients with respect to pictures.

With l the logits of the answer's first token: margin = logsumexp l(yes) - logsumexp l(no), each over all ways to write the
word in one token, and p(wanted) = sigmoid(margin) or sigmoid(-margin) (NP-Edit, arXiv 2510.14978). One forward pass, nothing
is decoded. The same object is a reward of a rollout and, where the rollout's pictures carry a graph, a differentiable one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from saccade.core import Rollout
from saccade.math.pixels import to_unit
from saccade.models.yes_no import Pictures, reader


@dataclass(frozen=True)
class Verdict:
    """How sure a frozen model is of the wanted answers to a problem's ``answer["questions"]`` (text, "yes" or "no", about).

    ``model`` is a miniature, a folder or a hub id of the Qwen2-VL kind. ``about`` chooses questions by what they are about,
    ``compare`` shows the source before the result, for questions that compare them, ``template`` holds a question in place
    of its ``{}``. ``min_pixels`` and ``max_pixels`` bound what pictures are resized to; None leaves the model's own bounds.
    """

    model: str = "qwen2.5-vl-shapes"
    about: tuple[str, ...] = ("edit", "keep")
    compare: bool = False
    template: str = "{}"
    min_pixels: int | None = None
    max_pixels: int | None = None
    precision: str = "float32"
    device: str = "auto"

    def __post_init__(self) -> None:
        if "{}" not in self.template:
            raise ValueError(f"template {self.template!r} has no {{}} where the question could stand")

    def __call__(self, rollout: Rollout) -> Tensor:
        """Mean probability of the wanted answers ``[B]``; NaN where a problem has no question."""
        row_N, logp_N = self.weighed(rollout)
        count_B = torch.bincount(row_N, minlength=len(rollout))
        return logp_N.new_zeros(len(rollout)).index_add(0, row_N, logp_N.exp()) / count_B

    def loglikelihood(self, rollout: Rollout) -> Tensor:
        """Log-probability of all wanted answers together ``[B]``, 0 where a problem has no question."""
        row_N, logp_N = self.weighed(rollout)
        return logp_N.new_zeros(len(rollout)).index_add(0, row_N, logp_N)

    def weighed(self, rollout: Rollout) -> tuple[Tensor, Tensor]:
        """The row of each question, and the log-probability of its wanted answer: two ``[N]``."""
        asked = [(row, q) for row, p in enumerate(rollout.problems) for q in _questions(p.answer) if q[2] in self.about]
        row_N = torch.tensor([row for row, _ in asked], dtype=torch.int64, device=rollout.outputs.device)
        if not asked:
            return row_N, rollout.outputs.new_zeros(0)
        shown = {row: self._shown(rollout, row) for row in dict.fromkeys(row for row, _ in asked)}
        margin_N = self.margin([shown[row] for row, _ in asked], [text for _, (text, *_) in asked])
        sign_N = torch.tensor([1.0 if answer == "yes" else -1.0 for _, (_, answer, _) in asked], device=row_N.device)
        return row_N, F.logsigmoid(sign_N * margin_N.to(row_N.device))

    def margin(self, pictures: Sequence[Pictures], questions: Sequence[str]) -> Tensor:
        """How much likelier "yes" is than "no", question by question, in log-odds ``[B]``; gradients flow into the pictures.

        Rows that show the same tuple of pictures share what is read before the question. ValueError where a model cannot
        be shown them, or does not answer "yes" and "no" in one token each.
        """
        if len(pictures) != len(questions) or not questions:
            raise ValueError(f"{len(questions)} questions need as many tuples of pictures, and there must be one at least")
        judge = reader(self.model, self.precision, self.device, self.min_pixels, self.max_pixels)
        return judge.odds(pictures, [self.template.replace("{}", question) for question in questions])

    def _shown(self, rollout: Rollout, row: int) -> Pictures:
        sources = rollout.problems[row].inputs.pictures if self.compare else ()
        turned = [to_unit(source).to(rollout.outputs) for source in sources]
        return (*turned, rollout.outputs[row])


def _questions(answer: Any) -> Sequence[tuple[str, str, str]]:
    return answer.get("questions") or () if isinstance(answer, Mapping) else ()
