"""What a model makes of stored rows, teacher-forced: its last hidden states where a row's decisions are made.

Rows that begin alike share their beginning: it is read once, with gradients, and its keys and values are given to all
of them. The numbers are those of reading every row alone, within rounding, and so are the gradients.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from saccade.models.language.model import LanguageModel
from saccade.models.language.prompts import ImageInputsList, position_ids
from saccade.models.vision.encoder import VisionEncoder


@dataclass(frozen=True, eq=False)
class Rows:
    """Stored rows: tokens and what is attended to ``[B, L]``, positions ``[B, A, L]``, the pictures of each.

    The first ``begin`` columns are the rows' prompts, and the first sight is theirs.
    """

    ids_BL: Tensor
    attention_BL: Tensor
    place_BAL: Tensor
    sights_B: tuple[ImageInputsList, ...]
    begin: int

    @classmethod
    def before(
        cls, language: LanguageModel, decisions: Mapping[str, Any], row_N: Tensor, at_N: Tensor
    ) -> tuple[Rows, Tensor]:
        """What must be read for the decisions in column ``at_N`` of ``row_N``, and the columns where these stand then.

        All prompts end in one column, nothing that comes after a row's last decision is left, no column is empty. A
        decision is never inside a picture, so no picture is cut.
        """
        begin_B = decisions["begin_B"]
        begin, shift_B = int(begin_B.max()), begin_B.max() - begin_B
        ids_BL, attention_BL, place_BAL = (
            _shifted(decisions[k], shift_B) for k in ("ids_BL", "attention_BL", "place_BAL")
        )
        column_N = at_N + shift_B[row_N]
        end_B = torch.full_like(begin_B, begin).scatter_reduce(0, row_N, column_N, "amax")
        attention_BL = attention_BL * (torch.arange(ids_BL.shape[1], device=end_B.device) < end_B[:, None])
        ids_BL = ids_BL.masked_fill(attention_BL == 0, language.pad)
        used_L = attention_BL.any(0)
        rows = cls(
            ids_BL[:, used_L],
            attention_BL[:, used_L],
            place_BAL[..., used_L],
            _shown(language, ids_BL, decisions["sights_B"].values),
            int(used_L[:begin].sum()),
        )
        # A row's last decision may stand in the first column that is not read any more.
        return rows, torch.cat([used_L.new_zeros(1), used_L]).cumsum(0)[column_N]

    def columns(self, part: slice) -> dict[str, Tensor]:
        """Arguments for a forward pass over some columns; the mask is over all columns up to their end."""
        return {
            "input_ids": self.ids_BL[:, part],
            "attention_mask": self.attention_BL[:, : part.stop],
            "position_ids": position_ids(self.place_BAL[:, :, part]),
        }

    def pick(self, index_P: Tensor) -> Rows:
        sights = tuple(self.sights_B[i] for i in index_P.tolist())
        return Rows(self.ids_BL[index_P], self.attention_BL[index_P], self.place_BAL[index_P], sights, self.begin)

    def groups(self) -> tuple[Tensor, Tensor]:
        """Rows whose beginnings differ from one another ``[P]``, and for every row the number of its own ``[B]``."""
        ids, attention = (x[:, : self.begin].cpu().numpy() for x in (self.ids_BL, self.attention_BL))
        keys = [(ids[b].tobytes(), attention[b].tobytes(), id(sights[0])) for b, sights in enumerate(self.sights_B)]
        number = {key: i for i, key in enumerate(dict.fromkeys(keys))}
        first = {key: b for b, key in reversed(list(enumerate(keys)))}
        device = self.ids_BL.device
        return torch.tensor([first[k] for k in number], device=device), torch.tensor(
            [number[k] for k in keys], device=device
        )


def states(language: LanguageModel, eyes: VisionEncoder, rows: Rows, sharing: bool = True) -> Tensor:
    """Hidden states ``[B, L - begin + 1, D]`` after the last token of the prompts and all that follow.

    Where the model's head is not plain these are its logits. With ``sharing`` equal prompts are read once.
    """
    from saccade.models.language.cache import sees_all

    width = rows.ids_BL.shape[1]
    if sharing and sees_all(language.model):
        first_P, index_B = rows.groups()
        if len(first_P) < len(index_B):
            return _shared(language, eyes, rows, first_P, index_B)
    seen = eyes.see([sight for sights in rows.sights_B for sight in sights], rows.ids_BL)
    return _run(language, rows.columns(slice(0, width)) | seen, width - rows.begin + 1, use_cache=False)[0]


def _shared(language: LanguageModel, eyes: VisionEncoder, rows: Rows, first_P: Tensor, index_B: Tensor) -> Tensor:
    from saccade.models.language.cache import share

    prompts, width = rows.pick(first_P), rows.ids_BL.shape[1]
    before = prompts.columns(slice(0, rows.begin))
    seen = eyes.see([sights[0] for sights in prompts.sights_B], before["input_ids"])
    last_P1D, cache = _run(language, before | seen, 1, use_cache=True)
    last_B1D = last_P1D.index_select(0, index_B)
    if width == rows.begin:
        return last_B1D
    share(cache, index_B)
    after = rows.columns(slice(rows.begin, width))
    seen = eyes.see([sight for sights in rows.sights_B for sight in sights[1:]], after["input_ids"])
    rest, _ = _run(language, after | seen, width - rows.begin, use_cache=True, past_key_values=cache)
    return torch.cat([last_B1D, rest], 1)


def _run(language: LanguageModel, inputs: Mapping[str, Any], last: int, **cached: Any) -> tuple[Tensor, Any]:
    """The last hidden states of the ``last`` columns, or logits where the head is not plain; and the cache."""
    if language.plain_head:
        out = language.model.base_model(**inputs, **cached)
        return out.last_hidden_state[:, -last:], out.past_key_values
    out = language.model(**inputs, **cached, logits_to_keep=last)
    return out.logits, out.past_key_values


def _shown(
    language: LanguageModel, ids_BL: Tensor, sights_B: tuple[ImageInputsList, ...]
) -> tuple[ImageInputsList, ...]:
    """The pictures whose tokens are left in each row."""
    if not any(sight for sights in sights_B for sight in sights):
        return sights_B
    left = (ids_BL == language.model.config.image_token_id).sum(1).tolist()
    kept = []
    for count, sights in zip(left, sights_B):
        tokens = torch.tensor([sight.tokens if sight else 0 for sight in sights]).cumsum(0)
        kept.append(tuple(sight for sight, so_far in zip(sights, tokens.tolist()) if so_far <= count))
    return tuple(kept)


def _shifted(x_BL: Tensor, shift_B: Tensor) -> Tensor:
    """Rows ``[B, …, L]`` moved to the right, zeros before them; rollouts that were joined had prompts of other
    lengths.
    """
    most = int(shift_B.max())
    if most == 0:
        return x_BL
    padded = torch.nn.functional.pad(x_BL, (most, most))
    from_BL = torch.arange(x_BL.shape[-1] + most, device=shift_B.device) + most - shift_B[:, None]
    index = from_BL.reshape(len(x_BL), *[1] * (x_BL.dim() - 2), -1)
    return padded.gather(-1, index.expand(*x_BL.shape[:-1], -1))
