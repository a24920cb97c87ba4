"""Teacher forcing: the last hidden states of stored rows at the tokens where decisions are made.

Rows with equal prompts share them: a prompt is read once, with gradients, and its keys and values are given to all of
its rows. Results and gradients equal those of reading every row alone, within rounding.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from saccade.models.language.prompts import ImageInputsList, position_ids
from saccade.models.linear import onednn_linears
from saccade.models.vision.encoder import VisionEncoder


class TeacherForced(Protocol):
    """What is needed of a `LanguageModel` or an `ImageTokenGenerator`."""

    @property
    def model(self) -> Any: ...

    @property
    def plain_head(self) -> bool: ...

    @property
    def pad_id(self) -> int: ...


@dataclass(frozen=True, eq=False)
class TokenRows:
    """Stored rows: token ids and attention mask ``[B, L]``, positions ``[B, A, L]``, and the pictures of each row.

    The first ``begin`` columns are the rows' prompts, and the first image inputs of a row are its prompt's.
    """

    ids_BL: Tensor
    attention_BL: Tensor
    position_BAL: Tensor
    images_B: tuple[ImageInputsList, ...]
    begin: int

    @classmethod
    def for_decisions(
        cls, language: TeacherForced, decisions: Mapping[str, Any], row_N: Tensor, column_N: Tensor
    ) -> tuple[TokenRows, Tensor]:
        """The rows to read for the decisions in ``column_N`` of ``row_N``, and the new columns of these decisions.

        All prompts end in one column, nothing after a row's last decision is left, no column is empty. A decision is
        never inside a picture, so no picture is cut.
        """
        begin_B = decisions["begin_B"]
        begin, shift_B = int(begin_B.max()), begin_B.max() - begin_B
        ids_BL, attention_BL, position_BAL = (
            _shift_right(decisions[k], shift_B) for k in ("ids_BL", "attention_BL", "position_BAL")
        )
        column_N = column_N + shift_B[row_N]
        end_B = torch.full_like(begin_B, begin).scatter_reduce(0, row_N, column_N, "amax")
        attention_BL = attention_BL * (torch.arange(ids_BL.shape[1], device=end_B.device) < end_B[:, None])
        ids_BL = ids_BL.masked_fill(attention_BL == 0, language.pad_id)
        used_L = attention_BL.any(0)
        rows = cls(
            ids_BL[:, used_L],
            attention_BL[:, used_L],
            position_BAL[..., used_L],
            _images_left(language, ids_BL, decisions["images_B"].values),
            int(used_L[:begin].sum()),
        )
        # A row's last decision may be in the first column that is not read any more.
        return rows, torch.cat([used_L.new_zeros(1), used_L]).cumsum(0)[column_N]

    def columns(self, part: slice) -> dict[str, Tensor]:
        """Arguments for a forward pass over some columns; the mask is over all columns up to their end."""
        return {
            "input_ids": self.ids_BL[:, part],
            "attention_mask": self.attention_BL[:, : part.stop],
            "position_ids": position_ids(self.position_BAL[:, :, part]),
        }

    def pick(self, index_P: Tensor) -> TokenRows:
        """The rows at ``index_P``."""
        images = tuple(self.images_B[i] for i in index_P.tolist())
        ids, attention, position = (x[index_P] for x in (self.ids_BL, self.attention_BL, self.position_BAL))
        return TokenRows(ids, attention, position, images, self.begin)

    def unique_prompts(self) -> tuple[Tensor, Tensor]:
        """One row of each different prompt ``[P]``, and for every row the number of its prompt ``[B]``."""
        ids, attention = (x[:, : self.begin].cpu().numpy() for x in (self.ids_BL, self.attention_BL))
        keys = [(ids[b].tobytes(), attention[b].tobytes(), id(images[0])) for b, images in enumerate(self.images_B)]
        number = {key: i for i, key in enumerate(dict.fromkeys(keys))}
        first = {key: b for b, key in reversed(list(enumerate(keys)))}
        device = self.ids_BL.device
        index_B = torch.tensor([number[k] for k in keys], device=device)
        return torch.tensor([first[k] for k in number], device=device), index_B


def hidden_states(language: TeacherForced, vision: VisionEncoder, rows: TokenRows, sharing: bool = True) -> Tensor:
    """Hidden states ``[B, L - begin + 1, D]`` after the last token of the prompts and all that follow.

    Where the model's head is not plain these are its logits. With ``sharing`` equal prompts are read once.
    """
    with onednn_linears(language.model.get_decoder()):
        return _hidden_states(language, vision, rows, sharing)


def _hidden_states(language: TeacherForced, vision: VisionEncoder, rows: TokenRows, sharing: bool) -> Tensor:
    from saccade.models.language.cache import has_full_attention

    width = rows.ids_BL.shape[1]
    if sharing and has_full_attention(language.model):
        first_P, index_B = rows.unique_prompts()
        if len(first_P) < len(index_B):
            return _with_shared_prompts(language, vision, rows, first_P, index_B)
    images = vision.model_inputs([one for images in rows.images_B for one in images], rows.ids_BL)
    return _forward(language, rows.columns(slice(0, width)) | images, width - rows.begin + 1, use_cache=False)[0]


def _with_shared_prompts(
    language: TeacherForced, vision: VisionEncoder, rows: TokenRows, first_P: Tensor, index_B: Tensor
) -> Tensor:
    from saccade.models.language.cache import select_rows

    prompts, width = rows.pick(first_P), rows.ids_BL.shape[1]
    before = prompts.columns(slice(0, rows.begin))
    inputs = before | vision.model_inputs([images[0] for images in prompts.images_B], before["input_ids"])
    last_P1D, cache = _forward(language, inputs, 1, use_cache=True)
    last_B1D = last_P1D.index_select(0, index_B)
    if width == rows.begin:
        return last_B1D
    select_rows(cache, index_B)
    after = rows.columns(slice(rows.begin, width))
    inputs = after | vision.model_inputs([one for images in rows.images_B for one in images[1:]], after["input_ids"])
    rest, _ = _forward(language, inputs, width - rows.begin, use_cache=True, past_key_values=cache)
    return torch.cat([last_B1D, rest], 1)


def _forward(language: TeacherForced, inputs: Mapping[str, Any], last: int, **cached: Any) -> tuple[Tensor, Any]:
    """Hidden states of the last ``last`` columns, or logits where the head is not plain; and the cache."""
    if language.plain_head:
        out = language.model.base_model(**inputs, **cached)
        return out.last_hidden_state[:, -last:], out.past_key_values
    out = language.model(**inputs, **cached, logits_to_keep=last)
    return out.logits, out.past_key_values


def _images_left(
    language: TeacherForced, ids_BL: Tensor, images_B: tuple[ImageInputsList, ...]
) -> tuple[ImageInputsList, ...]:
    """The pictures whose tokens are left in each row."""
    if not any(one for images in images_B for one in images):
        return images_B
    left = (ids_BL == language.model.config.image_token_id).sum(1).tolist()
    kept = []
    for count, images in zip(left, images_B):
        ends = torch.tensor([one.tokens if one else 0 for one in images]).cumsum(0)
        kept.append(tuple(one for one, end in zip(images, ends.tolist()) if end <= count))
    return tuple(kept)


def _shift_right(x_BL: Tensor, shift_B: Tensor) -> Tensor:
    """Rows ``[B, …, L]`` shifted to the right with zeros before them, since joined rollouts differ in prompt length."""
    most = int(shift_B.max())
    if most == 0:
        return x_BL
    padded = torch.nn.functional.pad(x_BL, (most, most))
    from_BL = torch.arange(x_BL.shape[-1] + most, device=shift_B.device) + most - shift_B[:, None]
    index = from_BL.reshape(len(x_BL), *[1] * (x_BL.dim() - 2), -1)
    return padded.gather(-1, index.expand(*x_BL.shape[:-1], -1))
