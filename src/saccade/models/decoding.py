"""The token loop: prompts are read once, their key-value cache is spread over the attempts, one token a row and step.

A token is the inverse of the cumulative distribution at the row's own uniform number, so a row is written by its own
numbers and not by the company that it is in (logits differ by rounding between batches, and only by that).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

DROP = 0.25
"""Rows that ended leave the batch once they are this share of it: a smaller cache pays for being copied."""


@torch.no_grad()
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
    """Complete the left-padded prompt ``index_B[b]`` for every row b by at most T tokens.

    ``ended`` looks at the tokens so far ``[rows, t]`` and says which rows are complete. Returns tokens ``[B, T']`` and
    log-probs ``[B, T']`` (float32, of the full tempered distribution, 0 after the end), and lengths ``[B]``.
    """
    from saccade.models.cache import spread

    (rows, most), width = uniform_BT.shape, ids_PL.shape[1]
    tokens_BT = ids_PL.new_zeros(rows, most)
    logp_BT = torch.zeros(rows, most, device=ids_PL.device)
    length_B = torch.full((rows,), most, device=ids_PL.device)
    attention_BL = torch.cat([attention_PL[index_B], attention_PL.new_ones(rows, most)], 1)
    place_BL = positions(attention_BL)
    cache, logits = _read(model, ids_PL, attention_PL, positions(attention_PL), None)
    spread(cache, index_B, width + most)
    logits, live = logits[index_B], torch.arange(rows, device=ids_PL.device)
    writing = torch.ones_like(live, dtype=torch.bool)
    for t in range(most):
        token, logp = choose(logits, uniform_BT[live, t], temperature, top_p)
        tokens_BT[live, t], logp_BT[live, t] = token, logp
        over = writing & ended(tokens_BT[live, : t + 1])
        length_B[live[over]] = t + 1
        writing = writing & ~over
        left = int(writing.sum())
        if left == 0 or t + 1 == most:
            break
        if left <= (1 - DROP) * len(live):
            cache.batch_select_indices(writing.nonzero()[:, 0])
            live, token, writing = live[writing], token[writing], writing[writing]
        at = width + t
        cache, logits = _read(model, token[:, None], attention_BL[live, : at + 1], place_BL[live, at : at + 1], cache)
    longest = int(length_B.max())
    own_BT = torch.arange(longest, device=length_B.device) < length_B[:, None]
    return tokens_BT[:, :longest], logp_BT[:, :longest] * own_BT, length_B


def _read(model: Any, ids: Tensor, attention: Tensor, place: Tensor, cache: Any) -> tuple[Any, Tensor]:
    out = model(
        input_ids=ids,
        attention_mask=attention,
        position_ids=place,
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    )
    return out.past_key_values, out.logits[:, -1]


def choose(logits_BV: Tensor, uniform_B: Tensor, temperature: float, top_p: float) -> tuple[Tensor, Tensor]:
    """A token a row ``[B]`` and its log-prob ``[B]`` under softmax(logits / temperature), in float32.

    Temperature 0 takes the likeliest token, with its log-prob at temperature 1. ``top_p`` < 1 draws from the smallest
    set of likeliest tokens that holds this mass.
    """
    logp_BV = tempered(logits_BV, temperature)
    if temperature == 0:
        token_B1 = logp_BV.argmax(-1, keepdim=True)
    else:
        p = logp_BV.exp()
        cumulative = (p if top_p == 1 else nucleus(p, top_p)).cumsum(-1)
        # A float32 uniform is at most 1 - 2^-24, so the product stays below the total and the index inside.
        token_B1 = torch.searchsorted(cumulative, uniform_B[:, None] * cumulative[:, -1:], right=True)
    return token_B1[:, 0], logp_BV.gather(1, token_B1)[:, 0]


def tempered(logits: Tensor, temperature: float) -> Tensor:
    """log softmax(logits / temperature) over the last axis in float32; temperature 0 counts as 1."""
    return (logits.float() / (temperature or 1.0)).log_softmax(-1)


def nucleus(p_BV: Tensor, top_p: float) -> Tensor:
    """The probabilities of the likeliest tokens that together hold ``top_p``, 0 for all others (not renormalised)."""
    ordered, index = p_BV.sort(-1, descending=True)
    before = ordered.cumsum(-1) - ordered
    return torch.zeros_like(p_BV).scatter(-1, index, ordered.masked_fill(before >= top_p, 0.0))


def positions(attention: Tensor) -> Tensor:
    """Positions ``[B, L]`` that count only what is attended to."""
    return (attention.cumsum(1) - 1).clamp(min=0)
