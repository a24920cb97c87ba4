"""The decoding loop: each prompt is prefilled once, its cache is copied to its rows, then one token a row and step.

A token is the inverse of the cumulative distribution at the row's own uniform number, so a row depends on its own
numbers and not on the other rows of the batch (logits differ between batches by rounding, and only by that).

Suffixes here: P prompts, B all rows, N active rows, C cache columns, E new tokens, A position axes, V vocabulary.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from saccade.models.language.head import tempered_logprobs
from saccade.models.language.layers import TokenDecoder, token_decoder
from saccade.models.language.prompts import EncodedPrompt, ImageInputs, pad_left, position_ids
from saccade.models.linear import onednn_linears

EncodeImages = Callable[[Sequence[ImageInputs | None], Tensor], Mapping[str, Any]]
"""Pictures and the token ids ``[B, L]`` that they are among -> further arguments of the model."""

NO_IMAGES: Mapping[str, Any] = {}


@dataclass(eq=False)
class DecodeState:
    """What B rows have read: a cache of keys and values, and the logits of each row's next token.

    Slot n of the cache belongs to row ``row_B[n]``; the first ``count`` slots are active. ``attention_BC`` says by row
    which columns of the cache the row attends to, ``next_B`` is the position of its next token, ``width`` the number of
    columns in use.
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
        """The active rows."""
        return self.row_B[: self.count]

    def forward(
        self, ids_NE: Tensor, attention_NC: Tensor, position_NAE: Tensor, images: Mapping[str, Any] = NO_IMAGES
    ) -> None:
        """Read tokens in the active rows; ``attention_NC`` is over the full cache, the new columns included."""
        self.cache, self.logits_NV = _forward(self.model, ids_NE, attention_NC, position_NAE, self.cache, images)
        self.width += ids_NE.shape[1]

    def forward_token(
        self, token_N: Tensor, attention_NC: Tensor, position_N: Tensor, decoder: TokenDecoder | None
    ) -> None:
        """Read one token in each active row, by ``decoder`` where the model has one."""
        if decoder is None:
            self.forward(token_N[:, None], attention_NC, position_N[:, None, None])
            return
        self.logits_NV = decoder(token_N, attention_NC, position_N)
        self.width += 1

    def keep_active(self, active_N: Tensor) -> Tensor:
        """Keep some of the active rows active; returns the former slot of each of them."""
        from saccade.models.language.cache import move_to_front

        order_N = move_to_front(self.cache, active_N)
        self.row_B = torch.cat([self.row_N[order_N], self.row_B[self.count :]])
        self.count = int(active_N.sum())
        return order_N[: self.count]

    def activate(self, rows: Tensor, room: int) -> None:
        """Make exactly ``rows`` active, with memory for ``room`` more tokens."""
        for layer in self.cache.layers:
            layer.set_view(len(self.row_B), self.width)
            layer.grow(self.width + room)
        missing = self.width + room - self.attention_BC.shape[1]
        self.attention_BC = torch.nn.functional.pad(self.attention_BC, (0, max(missing, 0)))
        self.count = len(self.row_B)
        self.keep_active(torch.isin(self.row_B, rows))

    def scattered(self, rows: Tensor, total: int) -> DecodeState:
        """The same state with its rows renumbered as ``rows`` out of ``total``."""
        self.row_B = rows[self.row_B]
        attention_NC, next_N = self.attention_BC, self.next_B
        self.attention_BC, self.next_B = attention_NC.new_zeros(total, attention_NC.shape[1]), next_N.new_zeros(total)
        self.attention_BC[rows], self.next_B[rows] = attention_NC, next_N
        return self

    def attention_and_position(self, start: int, max_new_tokens: int) -> tuple[Tensor, Tensor]:
        """Attention mask ``[N, C]`` of active rows that write from column ``start`` on, and next positions ``[N]``."""
        attention_NC = self.attention_BC[self.row_N]
        attention_NC[:, start : start + max_new_tokens] = 1
        return attention_NC, self.next_B[self.row_N]


@torch.no_grad()
def prefill(
    model: Any,
    ids_PL: Tensor,
    attention_PL: Tensor,
    position_PAL: Tensor,
    index_B: Tensor,
    capacity: int,
    images: Mapping[str, Any] = NO_IMAGES,
) -> DecodeState:
    """Read left-padded prompts once, for rows b that begin with prompt ``index_B[b]``.

    ``capacity`` is the number of tokens, prompts included, that the cache has memory for.
    """
    from saccade.models.language.cache import make_static

    cache, logits_PV = _forward(model, ids_PL, attention_PL, position_PAL, None, images)
    make_static(cache, index_B, capacity)
    rows, width = len(index_B), ids_PL.shape[1]
    attention_BC = attention_PL.new_zeros(rows, capacity)
    attention_BC[:, :width] = attention_PL[index_B]
    next_P = position_PAL.masked_fill(attention_PL[:, None] == 0, 0).amax((1, 2)) + 1
    row_B = torch.arange(rows, device=ids_PL.device)
    return DecodeState(model, cache, row_B, rows, logits_PV[index_B], attention_BC, next_P[index_B], width)


@torch.no_grad()
def generate(
    state: DecodeState,
    uniform_BT: Tensor,
    is_finished: Callable[[Tensor], Tensor],
    temperature: float = 1.0,
    top_p: float = 1.0,
    banned_ids: Sequence[int] = (),
) -> tuple[Tensor, Tensor, Tensor]:
    """At most T tokens in each active row, until ``is_finished`` is true of its new tokens so far ``[rows, t]``.

    Returns tokens ``[B, T']``, log-probs ``[B, T']`` (float32, of the full tempered distribution, 0 after the end) and
    lengths ``[B]``. The last token of a row is not in the cache yet.
    """
    rows, max_new_tokens = uniform_BT.shape
    start, device = state.width, uniform_BT.device
    tokens_BT = torch.zeros(rows, max_new_tokens, dtype=torch.int64, device=device)
    logp_BT = torch.zeros(rows, max_new_tokens, device=device)
    length_B = torch.zeros(rows, dtype=torch.int64, device=device)
    active = state.row_N
    length_B[active] = max_new_tokens
    attention_NC, position_N = state.attention_and_position(start, max_new_tokens)
    decoder = token_decoder(state.model, state.cache, state.count) if max_new_tokens > 1 else None
    for t in range(max_new_tokens):
        token, logp = sample_token(state.logits_NV, uniform_BT[active, t], temperature, top_p, banned_ids)
        tokens_BT[active, t], logp_BT[active, t] = token, logp
        finished = is_finished(tokens_BT[active, : t + 1])
        if finished.any():
            length_B[active[finished]] = t + 1
            token, active = token[state.keep_active(~finished)], state.row_N
            attention_NC, position_N = state.attention_and_position(start, max_new_tokens)
        if len(active) == 0 or t + 1 == max_new_tokens:
            break
        state.forward_token(token, attention_NC[:, : start + t + 1], position_N + t, decoder)
    longest = int(length_B.max())
    column_T = torch.arange(max_new_tokens, device=device)
    state.attention_BC[:, start : start + max_new_tokens] = (column_T < length_B[:, None] - 1).long()
    state.next_B = state.next_B + (length_B - 1).clamp(min=0)
    return tokens_BT[:, :longest], logp_BT[:, :longest] * (column_T[:longest] < length_B[:, None]), length_B


@torch.no_grad()
def append(
    state: DecodeState, added: Mapping[int, EncodedPrompt], encode_images: EncodeImages, pad_id: int, room: int
) -> None:
    """Read further tokens in some rows, given by row; these rows are active then, and all others inactive.

    The tokens begin with the row's last generated one, which is not in the cache yet. There is memory for ``room``
    more tokens afterwards.
    """
    longest = max(map(len, added.values()))
    state.activate(torch.tensor(list(added), device=state.row_B.device), longest + room)
    prompts = [added[row] for row in state.row_N.tolist()]
    ids_NE, attention_NE, position_NAE = (x.to(state.row_B.device) for x in pad_left(prompts, pad_id))
    state.attention_BC[state.row_N, state.width : state.width + longest] = attention_NE
    position_NAE = position_NAE + state.next_B[state.row_N, None, None]
    attention_NC = state.attention_BC[state.row_N, : state.width + longest]
    state.forward(ids_NE, attention_NC, position_NAE, encode_images([prompt.images for prompt in prompts], ids_NE))
    state.next_B[state.row_N] = position_NAE.amax((1, 2)) + 1


def _forward(
    model: Any, ids: Tensor, attention: Tensor, position: Tensor, cache: Any, images: Mapping[str, Any]
) -> tuple[Any, Tensor]:
    """The cache and the logits after the last token."""
    # With a single token a row the products are too small to gain by it.
    with onednn_linears(model.get_decoder()) if ids.shape[1] > 1 else contextlib.nullcontext():
        out = model(
            input_ids=ids,
            attention_mask=attention,
            position_ids=position_ids(position),
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
            **images,
        )
    return out.past_key_values, out.logits[:, -1]


def sample_token(
    logits_BV: Tensor, uniform_B: Tensor, temperature: float, top_p: float, banned_ids: Sequence[int] = ()
) -> tuple[Tensor, Tensor]:
    """A token a row ``[B]`` and its log-prob ``[B]`` under softmax(logits / temperature), in float32.

    Temperature 0 takes the most likely token, with its log-prob at temperature 1. ``top_p`` < 1 samples from the
    smallest set of most likely tokens that holds this probability mass. ``banned_ids`` have probability 0.
    """
    logp_BV = tempered_logprobs(logits_BV, temperature, banned_ids)
    if temperature == 0:
        token_B1 = logp_BV.argmax(-1, keepdim=True)
    else:
        p = logp_BV.exp()
        cumulative = (p if top_p == 1 else nucleus(p, top_p)).cumsum(-1)
        # A float32 uniform is at most 1 - 2^-24, so the product stays below the total and the index inside.
        token_B1 = torch.searchsorted(cumulative, uniform_B[:, None] * cumulative[:, -1:], right=True)
        token_B1 = token_B1.clamp(max=p.shape[-1] - 1)  # outside only where logits are NaN, and then so is the log-prob
    return token_B1[:, 0], logp_BV.gather(1, token_B1)[:, 0]


LIKELIEST = 256
"""Tokens among which the most likely ones are sought first; all are sorted only where these hold too little."""


def nucleus(p_BV: Tensor, top_p: float) -> Tensor:
    """Probabilities of the most likely tokens that together hold ``top_p``, 0 for all others (not renormalized)."""
    ordered, index = p_BV.topk(min(LIKELIEST, p_BV.shape[-1]))
    if (ordered.sum(-1) < top_p).any():
        ordered, index = p_BV.sort(-1, descending=True)
    before = ordered.cumsum(-1) - ordered
    return torch.zeros_like(p_BV).scatter(-1, index, ordered.masked_fill(before >= top_p, 0.0))
