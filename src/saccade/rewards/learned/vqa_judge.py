"""VQA judge: the probability that a vision-language model answers "yes" to questions about a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from saccade.config import Count
from saccade.core import Rollout
from saccade.math.pixels import to_float
from saccade.models.device import device_of
from saccade.models.language.hidden_states import TokenRows, hidden_states
from saccade.models.language.model import LanguageModel, load_language_model
from saccade.models.language.prompts import EncodedPrompt, ImageInputs, pad_left
from saccade.models.vision.differentiable import ImagePreprocessor
from saccade.models.vision.encoder import VisionEncoder, vision_parameters

Pictures = tuple[Tensor, ...]
"""The pictures of one question, each ``[3, H, W]`` in [0, 1] of its own size."""

Sizes = tuple[tuple[int, int], ...]
"""Height and width of each picture of one question."""


@dataclass(frozen=True, eq=False)
class YesNoLikelihood:
    """A frozen vision-language model as a differentiable classifier of pictures by yes-no questions."""

    language: LanguageModel
    preparation: ImagePreprocessor
    vision: VisionEncoder
    yes: list[int]
    """Ids of the tokens that answer yes."""
    no: list[int]
    """Ids of the tokens that answer no."""
    prompts: dict[tuple[str, Sizes], EncodedPrompt] = field(default_factory=dict)
    """Cache of encoded prompts, by question and sizes of the pictures."""

    def log_odds(self, pictures: Sequence[Pictures], texts: Sequence[str]) -> Tensor:
        """Log-odds of "yes" against "no" after each text about its pictures ``[B]``.

        Rows with the same tuple of pictures share the computation of everything before the text.
        """
        device = self.language.model.device
        prompts = [
            self._prompt(text, tuple((p.shape[1], p.shape[2]) for p in row)) for text, row in zip(texts, pictures)
        ]
        cut = [int((p.ids_L == self.language.model.config.image_token_id).nonzero().max()) + 1 for p in prompts]
        before = pad_left(
            [EncodedPrompt(p.ids_L[:end], p.position_AL[:, :end]) for p, end in zip(prompts, cut)], self.language.pad_id
        )
        after = self._after([EncodedPrompt(p.ids_L[end:], p.position_AL[:, end:]) for p, end in zip(prompts, cut)])
        ids_BL, attention_BL, place_BAL = (torch.cat(parts, -1).to(device) for parts in zip(before, after))
        images_B = tuple((images,) for images in self._image_inputs(pictures))
        rows = TokenRows(ids_BL, attention_BL, place_BAL, images_B, before[0].shape[1])
        last_B = torch.tensor([len(p) - end for p, end in zip(prompts, cut)], device=device)
        hidden_BD = hidden_states(self.language, self.vision, rows)[torch.arange(len(texts), device=device), last_B]
        logits_BV = self.language.head(hidden_BD)
        logits_BV = logits_BV.to(torch.promote_types(logits_BV.dtype, torch.float32))
        return logits_BV[:, self.yes].logsumexp(1) - logits_BV[:, self.no].logsumexp(1)

    def _prompt(self, text: str, sizes: Sizes) -> EncodedPrompt:
        """The cached prompt of a text after pictures of these sizes."""
        if (text, sizes) not in self.prompts:
            images = [{"type": "image", "image": np.zeros((*size, 3), np.uint8)} for size in sizes]
            content = [*images, {"type": "text", "text": text}]
            self.prompts[text, sizes] = self.language.encode_prompt([{"role": "user", "content": content}])
        return self.prompts[text, sizes]

    def _after(self, texts: Sequence[EncodedPrompt]) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens ``[B, L]``, attention mask ``[B, L]`` and positions ``[B, A, L]`` of texts, padded on the right."""
        ids, place = [text.ids_L for text in texts], [text.position_AL.T for text in texts]
        attention = pad_sequence([torch.ones_like(ids_L) for ids_L in ids], True)
        return pad_sequence(ids, True, self.language.pad_id), attention, pad_sequence(place, True).transpose(1, 2)

    def _image_inputs(self, pictures: Sequence[Pictures]) -> list[ImageInputs]:
        """Inputs of the vision encoder for each row; equal tuples share one object.

        Pictures of one size are preprocessed together.
        """
        sized: dict[tuple[int, ...], dict[int, Tensor]] = {}
        for picture in (picture for row in pictures for picture in row):
            sized.setdefault(tuple(picture.shape[1:]), {})[id(picture)] = picture.to(self.language.model.device)
        prepared: dict[int, tuple[Tensor, Tensor]] = {}
        for same_size in sized.values():
            prepared.update(zip(same_size, zip(*self.preparation.patches(torch.stack([*same_size.values()])))))
        keys = [tuple(map(id, row)) for row in pictures]
        inputs = {key: self._joined([prepared[picture] for picture in key]) for key in dict.fromkeys(keys)}
        return [inputs[key] for key in keys]

    def _joined(self, prepared: Sequence[tuple[Tensor, Tensor]]) -> ImageInputs:
        patches, grids = torch.cat([patches for patches, _ in prepared]), torch.stack([grid for _, grid in prepared])
        return ImageInputs(
            {"pixel_values": patches, "image_grid_thw": grids}, len(patches) // self.preparation.merge**2
        )


@cache
def load_judge(
    model: str,
    precision: str = "float32",
    device: str = "cpu",
    min_pixels: Count | None = None,
    max_pixels: Count | None = None,
) -> YesNoLikelihood:
    """The judge by hub id, folder or name of a miniature, loaded once. ValueError if the model cannot be a judge."""
    language = load_language_model(model, getattr(torch, precision), device_of(device), min_pixels, max_pixels)
    # A vision encoder with trained weights passes gradients and caches no features; the weights themselves are frozen.
    vision = VisionEncoder(language.model, list(vision_parameters(language.model)))
    return YesNoLikelihood(
        language,
        ImagePreprocessor.from_model(language),
        vision,
        answer_tokens("yes", language),
        answer_tokens("no", language),
    )


def answer_tokens(answer: str, language: LanguageModel) -> list[int]:
    """Ids of the tokens that spell the answer: in lower case or capitalized, with or without a leading space.

    ValueError if every spelling takes several tokens.
    """
    spellings = [space + word for space in ("", " ") for word in (answer, answer.capitalize())]
    ids = [language.tokenizer(spelling, add_special_tokens=False)["input_ids"] for spelling in spellings]
    single = sorted({tokens[0] for tokens in ids if len(tokens) == 1})
    if not single:
        raise ValueError(
            f"model '{language.model.name_or_path}': no token is {answer!r}, so it cannot answer yes or no"
        )
    return single


@dataclass(frozen=True)
class VQAJudge:
    """Probability of the expected answers to a problem's questions, by a frozen vision-language model.

    ``problem.answer["questions"]`` are triples of text, expected answer ("yes" or "no") and topic.
    """

    model: str = "qwen2.5-vl-shapes"
    """Hub id, folder or name of a miniature of the Qwen2-VL kind."""
    about: tuple[str, ...] = ("edit", "keep")
    """Topics of the questions that are asked."""
    compare: bool = False
    """Show the source picture before the result, for questions that compare them."""
    template: str = "{}"
    """Text around a question, which replaces the ``{}``."""
    min_pixels: Count | None = None
    """Least number of pixels that pictures are resized to; None is the model's own bound."""
    max_pixels: Count | None = None
    """Largest number of pixels that pictures are resized to; None is the model's own bound."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Arithmetic of the network. float16 is not offered: activations of these models exceed its range."""
    device: str = "auto"
    """Device of the model: cpu, cuda or auto."""

    def __post_init__(self) -> None:
        if "{}" not in self.template:
            raise ValueError(f"template {self.template!r} has no {{}} for the question")

    def __call__(self, rollout: Rollout) -> Tensor:
        """Mean probability of the expected answers ``[B]``; NaN where a problem has no question."""
        row_N, logp_N = self.answer_logprobs(rollout)
        count_B = torch.bincount(row_N, minlength=len(rollout))
        return logp_N.new_zeros(len(rollout)).index_add(0, row_N, logp_N.exp()) / count_B

    def loglikelihood(self, rollout: Rollout) -> Tensor:
        """Sum of the log-probabilities of the expected answers ``[B]``, 0 where a problem has no question."""
        row_N, logp_N = self.answer_logprobs(rollout)
        return logp_N.new_zeros(len(rollout)).index_add(0, row_N, logp_N)

    def answer_logprobs(self, rollout: Rollout) -> tuple[Tensor, Tensor]:
        """The row of each question, and the log-probability of its expected answer: two ``[N]``."""
        questions = [
            (row, text, answer)
            for row, problem in enumerate(rollout.problems)
            for text, answer, topic in _questions(problem.answer)
            if topic in self.about
        ]
        row_N = torch.tensor([row for row, _, _ in questions], dtype=torch.int64, device=rollout.outputs.device)
        if not questions:
            return row_N, rollout.outputs.new_zeros(0)
        pictures = {row: self._pictures(rollout, row) for row in dict.fromkeys(row for row, _, _ in questions)}
        log_odds_N = self.log_odds([pictures[row] for row, _, _ in questions], [text for _, text, _ in questions])
        sign_N = torch.tensor([1.0 if answer == "yes" else -1.0 for *_, answer in questions], device=row_N.device)
        return row_N, F.logsigmoid(sign_N * log_odds_N.to(row_N.device))

    def log_odds(self, pictures: Sequence[Pictures], questions: Sequence[str]) -> Tensor:
        """Log-odds of "yes" against "no" for each question ``[B]``; gradients flow into the pictures.

        Rows with the same tuple of pictures share the computation of everything before the question. ValueError for a
        model of another kind, or one whose "yes" and "no" take several tokens.
        """
        if len(pictures) != len(questions) or not questions:
            raise ValueError(f"{len(questions)} questions need as many tuples of pictures, and at least one question")
        judge = load_judge(self.model, self.precision, self.device, self.min_pixels, self.max_pixels)
        return judge.log_odds(pictures, [self.template.replace("{}", question) for question in questions])

    def _pictures(self, rollout: Rollout, row: int) -> Pictures:
        sources = rollout.problems[row].inputs.pictures if self.compare else ()
        return (*(to_float(source).to(rollout.outputs) for source in sources), rollout.outputs[row])


def _questions(answer: Any) -> Sequence[tuple[str, str, str]]:
    return answer.get("questions") or () if isinstance(answer, Mapping) else ()
