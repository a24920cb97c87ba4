"""A frozen vision-language model that is asked for yes or no, read in one pass, with gradients into the pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from saccade.models.device import device_of
from saccade.models.differentiable import Preparation
from saccade.models.language import LanguageModel, load
from saccade.models.passages import Passage, Sight, beside
from saccade.models.states import Rows, states
from saccade.models.vision import Eyes, parameters

Pictures = tuple[Tensor, ...]
"""What is shown with one question: pictures ``[3, H, W]`` in [0, 1], each of its own size."""
Sizes = tuple[tuple[int, int], ...]


@dataclass(frozen=True, eq=False)
class YesNo:
    """A frozen model that sees; ``yes`` and ``no`` are the tokens that are these answers."""

    language: LanguageModel
    preparation: Preparation
    eyes: Eyes
    yes: list[int]
    no: list[int]
    passages: dict[tuple[str, Sizes], Passage] = field(default_factory=dict)

    def odds(self, pictures: Sequence[Pictures], texts: Sequence[str]) -> Tensor:
        """Log-odds of "yes" after each text about its pictures ``[B]``.

        What comes before a text, pictures included, is read once for all rows that share the tuple of pictures.
        """
        device = self.language.model.device
        passages = [self._passage(text, tuple(tuple(p.shape[1:]) for p in row)) for text, row in zip(texts, pictures)]
        cut = [int((p.ids_L == self.language.model.config.image_token_id).nonzero().max()) + 1 for p in passages]
        before = beside([Passage(p.ids_L[:end], p.place_AL[:, :end]) for p, end in zip(passages, cut)], self.language.pad)
        after = self._after([Passage(p.ids_L[end:], p.place_AL[:, end:]) for p, end in zip(passages, cut)])
        joined = [torch.cat(parts, -1).to(device) for parts in zip(before, after)]
        rows = Rows(*joined, tuple((sight,) for sight in self._look(pictures)), before[0].shape[1])
        last_B = torch.tensor([len(p) - end for p, end in zip(passages, cut)], device=device)
        hidden_BD = states(self.language, self.eyes, rows)[torch.arange(len(texts), device=device), last_B]
        logits_BV = self.language.head(hidden_BD)
        logits_BV = logits_BV.to(torch.promote_types(logits_BV.dtype, torch.float32))
        return logits_BV[:, self.yes].logsumexp(1) - logits_BV[:, self.no].logsumexp(1)

    def _passage(self, text: str, sizes: Sizes) -> Passage:
        """A text after pictures of these sizes, as the model reads it; kept, since a question is asked often."""
        if (text, sizes) not in self.passages:
            shown = [{"type": "image", "image": np.zeros((*size, 3), np.uint8)} for size in sizes]
            content = [*shown, {"type": "text", "text": text}]
            self.passages[text, sizes] = self.language.passage([{"role": "user", "content": content}])
        return self.passages[text, sizes]

    def _after(self, texts: Sequence[Passage]) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens, what is attended to and positions as `beside` gives them, but padded on the right."""
        ids, place = [text.ids_L for text in texts], [text.place_AL.T for text in texts]
        attention = pad_sequence([torch.ones_like(own) for own in ids], True)
        return pad_sequence(ids, True, self.language.pad), attention, pad_sequence(place, True).transpose(1, 2)

    def _look(self, pictures: Sequence[Pictures]) -> list[Sight]:
        """What is seen in each row's pictures; equal tuples are one sight, pictures of one size are prepared together."""
        sized: dict[tuple[int, ...], dict[int, Tensor]] = {}
        for picture in (picture for row in pictures for picture in row):
            sized.setdefault(tuple(picture.shape[1:]), {})[id(picture)] = picture.to(self.language.model.device)
        prepared: dict[int, tuple[Tensor, Tensor]] = {}
        for alike in sized.values():
            prepared.update(zip(alike, zip(*self.preparation.patches(torch.stack(list(alike.values()))))))
        keys = [tuple(map(id, row)) for row in pictures]
        sights = {key: self._sight([prepared[picture] for picture in key]) for key in dict.fromkeys(keys)}
        return [sights[key] for key in keys]

    def _sight(self, prepared: Sequence[tuple[Tensor, Tensor]]) -> Sight:
        patches, grids = torch.cat([own for own, _ in prepared]), torch.stack([grid for _, grid in prepared])
        return Sight({"pixel_values": patches, "image_grid_thw": grids}, len(patches) // self.preparation.merge**2)


@cache
def reader(
    model: str, precision: str = "float32", device: str = "cpu", min_pixels: int | None = None, max_pixels: int | None = None
) -> YesNo:
    """The model by hub id, folder or miniature's name, loaded once. ValueError with one line if it cannot serve."""
    language = load(model, getattr(torch, precision), device_of(device), min_pixels, max_pixels)
    # Eyes whose weights count as trained let gradients through and keep nothing; the weights themselves are frozen.
    eyes = Eyes(language.model, list(parameters(language.model)))
    return YesNo(language, Preparation.of(language), eyes, tokens_of("yes", language), tokens_of("no", language))


def tokens_of(answer: str, language: LanguageModel) -> list[int]:
    """The tokens that are a whole answer: in small letters or capitalised, with a space before it or without.

    ValueError if every way to write it takes several tokens.
    """
    ways = [space + word for space in ("", " ") for word in (answer, answer.capitalize())]
    ids = [language.tokenizer(way, add_special_tokens=False)["input_ids"] for way in ways]
    single = sorted({own[0] for own in ids if len(own) == 1})
    if not single:
        raise ValueError(f"model '{language.model.name_or_path}': no token is {answer!r}, so it cannot be asked for yes or no")
    return single
