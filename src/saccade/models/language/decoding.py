"""The token loop: prompts are read once, their key-value cache is spread over the attempts, one token a row and step.

A token is the inverse of the cumulative distribution at the row's own uniform number, so a row is written by its own
numbers and not by the company that it is in (logits differ by rounding between batches, and only by that).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from saccade.models.language.head import tempered
from saccade.models.language.layers import TokenDecoder, token_decoder
from saccade.models.language.prompts import EncodedPrompt, ImageInputs, beside, position_ids

Look = Callable[[Sequence[ImageInputs | None], Tensor], Mapping[str, Any]]
"""Pictures and the tokens ``[B, L]`` that they are among -> further arguments of the model."""

NOTHING: Mapping[str, Any] = {}


@dataclass(eq=False)
class DecodeState:
    """How far B rows have read: a cache of keys and values, and what each may write next.

    Place n of the cache belongs to row ``row_B[n]``; the first ``count`` places are at work, the others rest.
    ``attention_BC`` says by row which columns of the cache are its own, ``next_B`` where its next token stands.
    """

    model: Any
    cache: Any
    row_B: Tensor
    count: int
    logits_NV: Tensor
    attention_BC: Tensor
    next_B: Tensor
    width: int

    @property
    def row_N(self) -> Tensor:
        """The rows at work."""
        return self.row_B[: self.count]

    def feed(self, ids_NE: Tensor, attention_NC: Tensor, place_NAE: Tensor, seen: Mapping[str, Any] = NOTHING) -> None:
        """Read on in the rows at work; ``attention_NC`` is over the whole cache, the new columns included."""
        self.cache, self.logits_NV = _read(self.model, ids_NE, attention_NC, place_NAE, self.cache, seen)
        self.width += ids_NE.shape[1]

    def follow(self, token_N: Tensor, attention_NC: Tensor, place_N: Tensor, decoder: TokenDecoder | None) -> None:
        """Read one more token in the rows at work, by ``decoder`` where the model has one."""
        if decoder is None:
            self.feed(token_N[:, None], attention_NC, place_N[:, None, None])
            return
        self.logits_NV = decoder(token_N, attention_NC, place_N)
        self.width += 1

    def keep(self, stay_N: Tensor) -> Tensor:
        """Go on with some of the rows at work; returns which of the former places each of them comes from."""
        from saccade.models.language.cache import gather

        order_N = gather(self.cache, stay_N)
        self.row_B = torch.cat([self.row_N[order_N], self.row_B[self.count :]])
        self.count = int(stay_N.sum())
        return order_N[: self.count]

    def resume(self, rows: Tensor, room: int) -> None:
        """Go on with ``rows``, whether they worked or rested, and with room for ``room`` more tokens."""
        for layer in self.cache.layers:
            layer.show(len(self.row_B), self.width)
            layer.grow(self.width + room)
        lacking = self.width + room - self.attention_BC.shape[1]
        self.attention_BC = torch.nn.functional.pad(self.attention_BC, (0, max(lacking, 0)))
        self.count = len(self.row_B)
        self.keep(torch.isin(self.row_B, rows))

    def among(self, rows: Tensor, total: int) -> DecodeState:
        """The same for a reading of ``rows`` alone, out of ``total``."""
        self.row_B = rows[self.row_B]
        attention_NC, next_N = self.attention_BC, self.next_B
        self.attention_BC, self.next_B = attention_NC.new_zeros(total, attention_NC.shape[1]), next_N.new_zeros(total)
        self.attention_BC[rows], self.next_B[rows] = attention_NC, next_N
        return self


@torch.no_grad()
def prefill(
    model: Any,
    ids_PL: Tensor,
    attention_PL: Tensor,
    place_PAL: Tensor,
    index_B: Tensor,
    room: int,
    seen: Mapping[str, Any] = NOTHING,
) -> DecodeState:
    """Read left-padded prompts once, for rows b that begin with prompt ``index_B[b]`` and have room for ``room``
    tokens.
    """
    from saccade.models.language.cache import spread

    cache, logits_PV = _read(model, ids_PL, attention_PL, place_PAL, None, seen)
    spread(cache, index_B, room)
    rows, width = len(index_B), ids_PL.shape[1]
    attention_BC = attention_PL.new_zeros(rows, room)
    attention_BC[:, :width] = attention_PL[index_B]
    next_P = place_PAL.masked_fill(attention_PL[:, None] == 0, 0).amax((1, 2)) + 1
    every = torch.arange(rows, device=ids_PL.device)
    return DecodeState(model, cache, every, rows, logits_PV[index_B], attention_BC, next_P[index_B], width)


@torch.no_grad()
def generate(
    reading: DecodeState,
    uniform_BT: Tensor,
    ended: Callable[[Tensor], Tensor],
    temperature: float = 1.0,
    top_p: float = 1.0,
    banned: Sequence[int] = (),
) -> tuple[Tensor, Tensor, Tensor]:
    """At most T tokens in each row at work, until ``ended`` says of its tokens so far ``[rows, t]`` that it is
    complete.

    Returns tokens ``[B, T']``, log-probs ``[B, T']`` (float32, of the full tempered distribution, 0 after the end) and
    lengths ``[B]``. The last token of a row is not read yet.
    """
    rows, most = uniform_BT.shape
    start, device = reading.width, uniform_BT.device
    tokens_BT, logp_BT = (
        torch.zeros(rows, most, dtype=torch.int64, device=device),
        torch.zeros(rows, most, device=device),
    )
    length_B = torch.zeros(rows, dtype=torch.int64, device=device)
    live = reading.row_N
    length_B[live] = most
    own_NC, place_N = ahead(reading, start, most)
    decoder = token_decoder(reading.model, reading.cache, reading.count) if most > 1 else None
    for t in range(most):
        token, logp = choose(reading.logits_NV, uniform_BT[live, t], temperature, top_p, banned)
        tokens_BT[live, t], logp_BT[live, t] = token, logp
        over = ended(tokens_BT[live, : t + 1])
        if over.any():
            length_B[live[over]] = t + 1
            token, live = token[reading.keep(~over)], reading.row_N
            own_NC, place_N = ahead(reading, start, most)
        if len(live) == 0 or t + 1 == most:
            break
        reading.follow(token, own_NC[:, : start + t + 1], place_N + t, decoder)
    longest = int(length_B.max())
    column_T = torch.arange(most, device=device)
    reading.attention_BC[:, start : start + most] = (column_T < length_B[:, None] - 1).long()
    reading.next_B = reading.next_B + (length_B - 1).clamp(min=0)
    return tokens_BT[:, :longest], logp_BT[:, :longest] * (column_T[:longest] < length_B[:, None]), length_B


@torch.no_grad()
def append(reading: DecodeState, told: Mapping[int, EncodedPrompt], look: Look, pad: int, room: int) -> None:
    """Read on in the rows that were told something, each its own passage (its last token first, which is not read yet).

    They are at work then, with room for ``room`` more tokens, and all others rest. ``look`` makes arguments of
    pictures.
    """
    longest = max(map(len, told.values()))
    reading.resume(torch.tensor(list(told), device=reading.row_B.device), longest + room)
    passages = [told[row] for row in reading.row_N.tolist()]
    ids_NE, attention_NE, place_NAE = (x.to(reading.row_B.device) for x in beside(passages, pad))
    reading.attention_BC[reading.row_N, reading.width : reading.width + longest] = attention_NE
    place_NAE = place_NAE + reading.next_B[reading.row_N, None, None]
    own_NC = reading.attention_BC[reading.row_N, : reading.width + longest]
    reading.feed(ids_NE, own_NC, place_NAE, look([passage.sight for passage in passages], ids_NE))
    reading.next_B[reading.row_N] = place_NAE.amax((1, 2)) + 1


def ahead(reading: DecodeState, start: int, most: int) -> tuple[Tensor, Tensor]:
    """What the rows at work attend to if they write on from column ``start``, and where their first token stands."""
    own_NC = reading.attention_BC[reading.row_N]
    own_NC[:, start : start + most] = 1
    return own_NC, reading.next_B[reading.row_N]


def decode(
    model: Any,
    ids_PL: Tensor,
    attention_PL: Tensor,
    index_B: Tensor,
    uniform_BT: Tensor,
    ended: Callable[[Tensor], Tensor],
    temperature: float = 1.0,
    top_p: float = 1.0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Complete the left-padded prompt ``index_B[b]`` in every row b: `read`, then `write`."""
    room = ids_PL.shape[1] + uniform_BT.shape[1]
    reading = prefill(model, ids_PL, attention_PL, positions(attention_PL)[:, None], index_B, room)
    return generate(reading, uniform_BT, ended, temperature, top_p)


def _read(
    model: Any, ids: Tensor, attention: Tensor, place: Tensor, cache: Any, seen: Mapping[str, Any]
) -> tuple[Any, Tensor]:
    out = model(
        input_ids=ids,
        attention_mask=attention,
        position_ids=position_ids(place),
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
        **seen,
    )
    return out.past_key_values, out.logits[:, -1]


def choose(
    logits_BV: Tensor, uniform_B: Tensor, temperature: float, top_p: float, banned: Sequence[int] = ()
) -> tuple[Tensor, Tensor]:
    """A token a row ``[B]`` and its log-prob ``[B]`` under softmax(logits / temperature), in float32.

    Temperature 0 takes the likeliest token, with its log-prob at temperature 1. ``top_p`` < 1 draws from the smallest
    set of likeliest tokens that holds this mass. Tokens in ``banned`` have no probability.
    """
    logp_BV = tempered(logits_BV, temperature, banned)
    if temperature == 0:
        token_B1 = logp_BV.argmax(-1, keepdim=True)
    else:
        p = logp_BV.exp()
        cumulative = (p if top_p == 1 else nucleus(p, top_p)).cumsum(-1)
        # A float32 uniform is at most 1 - 2^-24, so the product stays below the total and the index inside.
        token_B1 = torch.searchsorted(cumulative, uniform_B[:, None] * cumulative[:, -1:], right=True)
    return token_B1[:, 0], logp_BV.gather(1, token_B1)[:, 0]


def nucleus(p_BV: Tensor, top_p: float) -> Tensor:
    """The probabilities of the likeliest tokens that together hold ``top_p``, 0 for all others (not renormalised)."""
    ordered, index = p_BV.sort(-1, descending=True)
    before = ordered.cumsum(-1) - ordered
    return torch.zeros_like(p_BV).scatter(-1, index, ordered.masked_fill(before >= top_p, 0.0))


def positions(attention: Tensor) -> Tensor:
    """Positions ``[B, L]`` that count only what is attended to."""
    return (attention.cumsum(1) - 1).clamp(min=0)
