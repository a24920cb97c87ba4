"""A vision-language model as judge: the probability of "yes" to questions about a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from saccade.core import Rollout
from saccade.math.pixels import to_unit
from saccade.models.device import device_of
from saccade.models.language.hidden_states import TokenRows, hidden_states
from saccade.models.language.model import LanguageModel, load_language_model
from saccade.models.language.prompts import EncodedPrompt, ImageInputs, pad_left
from saccade.models.vision.differentiable import ImagePreprocessor
from saccade.models.vision.encoder import VisionEncoder, vision_parameters

Pictures = tuple[Tensor, ...]
"""What is shown with one question: pictures ``[3, H, W]`` in [0, 1], each of its own size."""

Sizes = tuple[tuple[int, int], ...]


@dataclass(frozen=True, eq=False)
class YesNoLikelihood:
    """A frozen model that sees; ``yes`` and ``no`` are the tokens that are these answers."""

    language: LanguageModel
    preparation: ImagePreprocessor
    eyes: VisionEncoder
    yes: list[int]
    no: list[int]
    passages: dict[tuple[str, Sizes], EncodedPrompt] = field(default_factory=dict)

    def odds(self, pictures: Sequence[Pictures], texts: Sequence[str]) -> Tensor:
        """Log-odds of "yes" after each text about its pictures ``[B]``.

        What comes before a text, pictures included, is read once for all rows that share the tuple of pictures.
        """
        device = self.language.model.device
        passages = [self._passage(text, tuple(tuple(p.shape[1:]) for p in row)) for text, row in zip(texts, pictures)]
        cut = [int((p.ids_L == self.language.model.config.image_token_id).nonzero().max()) + 1 for p in passages]
        before = pad_left(
            [EncodedPrompt(p.ids_L[:end], p.position_AL[:, :end]) for p, end in zip(passages, cut)], self.language.pad_id
        )
        after = self._after([EncodedPrompt(p.ids_L[end:], p.position_AL[:, end:]) for p, end in zip(passages, cut)])
        joined = [torch.cat(parts, -1).to(device) for parts in zip(before, after)]
        rows = TokenRows(*joined, tuple((sight,) for sight in self._look(pictures)), before[0].shape[1])
        last_B = torch.tensor([len(p) - end for p, end in zip(passages, cut)], device=device)
        hidden_BD = hidden_states(self.language, self.eyes, rows)[torch.arange(len(texts), device=device), last_B]
        logits_BV = self.language.head(hidden_BD)
        logits_BV = logits_BV.to(torch.promote_types(logits_BV.dtype, torch.float32))
        return logits_BV[:, self.yes].logsumexp(1) - logits_BV[:, self.no].logsumexp(1)

    def _passage(self, text: str, sizes: Sizes) -> EncodedPrompt:
        """A text after pictures of these sizes, as the model reads it; kept, since a question is asked often."""
        if (text, sizes) not in self.passages:
            shown = [{"type": "image", "image": np.zeros((*size, 3), np.uint8)} for size in sizes]
            content = [*shown, {"type": "text", "text": text}]
            self.passages[text, sizes] = self.language.encode_prompt([{"role": "user", "content": content}])
        return self.passages[text, sizes]

    def _after(self, texts: Sequence[EncodedPrompt]) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens, what is attended to and positions as `pad_left` gives them, but padded on the right."""
        ids, place = [text.ids_L for text in texts], [text.position_AL.T for text in texts]
        attention = pad_sequence([torch.ones_like(own) for own in ids], True)
        return pad_sequence(ids, True, self.language.pad_id), attention, pad_sequence(place, True).transpose(1, 2)

    def _look(self, pictures: Sequence[Pictures]) -> list[ImageInputs]:
        """What is seen in each row's pictures; equal tuples are one sight, pictures of one size are prepared
        together.
        """
        sized: dict[tuple[int, ...], dict[int, Tensor]] = {}
        for picture in (picture for row in pictures for picture in row):
            sized.setdefault(tuple(picture.shape[1:]), {})[id(picture)] = picture.to(self.language.model.device)
        prepared: dict[int, tuple[Tensor, Tensor]] = {}
        for alike in sized.values():
            prepared.update(zip(alike, zip(*self.preparation.patches(torch.stack(list(alike.values()))))))
        keys = [tuple(map(id, row)) for row in pictures]
        sights = {key: self._sight([prepared[picture] for picture in key]) for key in dict.fromkeys(keys)}
        return [sights[key] for key in keys]

    def _sight(self, prepared: Sequence[tuple[Tensor, Tensor]]) -> ImageInputs:
        patches, grids = torch.cat([own for own, _ in prepared]), torch.stack([grid for _, grid in prepared])
        return ImageInputs(
            {"pixel_values": patches, "image_grid_thw": grids}, len(patches) // self.preparation.merge**2
        )


@cache
def reader(
    model: str,
    precision: str = "float32",
    device: str = "cpu",
    min_pixels: int | None = None,
    max_pixels: int | None = None,
) -> YesNoLikelihood:
    """The model by hub id, folder or miniature's name, loaded once. ValueError with one line if it cannot serve."""
    language = load_language_model(model, getattr(torch, precision), device_of(device), min_pixels, max_pixels)
    # Eyes whose weights count as trained let gradients through and keep nothing; the weights themselves are frozen.
    eyes = VisionEncoder(language.model, list(vision_parameters(language.model)))
    return YesNoLikelihood(
        language, ImagePreprocessor.from_model(language), eyes, tokens_of("yes", language), tokens_of("no", language)
    )


def tokens_of(answer: str, language: LanguageModel) -> list[int]:
    """The tokens that are a whole answer: in small letters or capitalised, with a space before it or without.

    ValueError if every way to write it takes several tokens.
    """
    ways = [space + word for space in ("", " ") for word in (answer, answer.capitalize())]
    ids = [language.tokenizer(way, add_special_tokens=False)["input_ids"] for way in ways]
    single = sorted({own[0] for own in ids if len(own) == 1})
    if not single:
        raise ValueError(
            f"model '{language.model.name_or_path}': no token is {answer!r}, so it cannot be asked for yes or no"
        )
    return single


@dataclass(frozen=True)
class VQAJudge:
    """How sure a frozen model is of the wanted answers to a problem's ``answer["questions"]`` (text, "yes" or "no",
    about).

    ``model`` is a miniature, a folder or a hub id of the Qwen2-VL kind. ``about`` chooses questions by what they are
    about, ``compare`` shows the source before the result, for questions that compare them, ``template`` holds a
    question in place of its ``{}``. ``min_pixels`` and ``max_pixels`` bound what pictures are resized to; None leaves
    the model's own bounds.
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
        """How much likelier "yes" is than "no", question by question, in log-odds ``[B]``; gradients flow into the
        pictures.

        Rows that show the same tuple of pictures share what is read before the question. ValueError where a model
        cannot be shown them, or does not answer "yes" and "no" in one token each.
        """
        if len(pictures) != len(questions) or not questions:
            raise ValueError(
                f"{len(questions)} questions need as many tuples of pictures, and there must be one at least"
            )
        judge = reader(self.model, self.precision, self.device, self.min_pixels, self.max_pixels)
        return judge.odds(pictures, [self.template.replace("{}", question) for question in questions])

    def _shown(self, rollout: Rollout, row: int) -> Pictures:
        sources = rollout.problems[row].inputs.pictures if self.compare else ()
        turned = [to_unit(source).to(rollout.outputs) for source in sources]
        return (*turned, rollout.outputs[row])


def _questions(answer: Any) -> Sequence[tuple[str, str, str]]:
    return answer.get("questions") or () if isinstance(answer, Mapping) else ()
