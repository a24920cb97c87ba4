"""A decoder on a CPU while rows write: one token a row through few large products, on weights laid out for them.

With so few tokens transformers' layers spend more time on small operations, on weights that lie badly for products this
narrow, and on reading a prompt for each row that shares it, than on arithmetic. The numbers are the same within
rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial, reduce
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

KNOWN = ("LlamaModel", "Qwen2Model", "Qwen2_5_VLTextModel")
"""Decoders of attention with rotary positions and gated feed-forward parts, each behind an RMS norm, and no more."""

Product = Callable[[Tensor], Tensor]


class TokenDecoder:
    """From one more token in each of ``rows`` rows or fewer to logits, with a cache of slabs that grows by it.

    It holds a second copy of the weights, which must not change meanwhile.
    """

    def __init__(self, model: Any, cache: Any, rows: int):
        decoder = model.get_decoder()
        self.embed, self.turn, self.norm = model.get_input_embeddings(), decoder.rotary_emb, decoder.norm
        self.layers = [TokenLayer(layer, slab, rows) for layer, slab in zip(decoder.layers, cache.layers)]
        self.head = [packed([part], rows) if type(part) is nn.Linear else part for part in _head(model)]

    def __call__(self, token_N: Tensor, attention_NC: Tensor, place_N: Tensor) -> Tensor:
        """Logits ``[N, V]`` after tokens at ``place_N``; attention is over the whole cache, the new column included."""
        x_ND = self.embed(token_N)
        turn = self.turn(x_ND, place_N[:, None])
        mask_NC = torch.zeros(attention_NC.shape).masked_fill(attention_NC == 0, torch.finfo(torch.float32).min)
        for layer in self.layers:
            x_ND = layer(x_ND, mask_NC[:, None, None], turn)
        return reduce(lambda x, part: part(x), self.head, normed(self.norm, x_ND))


class TokenLayer:
    """What one decoder layer computes for one token a row ``[N, D]``."""

    def __init__(self, layer: Any, slab: Any, rows: int):
        attention, mlp = layer.self_attn, layer.mlp
        self.slab, self.before, self.between = slab, layer.input_layernorm, layer.post_attention_layernorm
        self.width, self.scale = attention.head_dim, attention.scaling
        self.asking, self.keeping = (p.out_features // self.width for p in (attention.q_proj, attention.k_proj))
        self.ask = packed([attention.q_proj, attention.k_proj, attention.v_proj], rows)
        self.answer = packed([attention.o_proj], rows)
        self.widen, self.narrow = packed([mlp.gate_proj, mlp.up_proj], rows), packed([mlp.down_proj], rows)

    def __call__(self, x_ND: Tensor, mask_N11C: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
        x_ND = x_ND + self.answer(self._attend(self.ask(normed(self.before, x_ND)), mask_N11C, *turn))
        gate, up = self.widen(normed(self.between, x_ND)).chunk(2, -1)
        return x_ND + self.narrow(F.silu(gate).mul_(up))

    def _attend(self, asked_ND: Tensor, mask_N11C: Tensor, cos_N1E: Tensor, sin_N1E: Tensor) -> Tensor:
        heads_NHE = asked_ND.unflatten(1, (-1, self.width))
        turned_NHE, value_NKE = heads_NHE.split((self.asking + self.keeping, self.keeping), 1)
        left, right = turned_NHE.chunk(2, -1)
        turned_NHE = torch.addcmul(turned_NHE * cos_N1E, torch.cat((-right, left), -1), sin_N1E)
        query_NHE, key_NKE = turned_NHE.split((self.asking, self.keeping), 1)
        self.slab.update(key_NKE[:, :, None], value_NKE[:, :, None])
        query_NKGE = (query_NHE * self.scale).unflatten(1, (self.keeping, -1))
        return attend(query_NKGE, self.slab, mask_N11C).flatten(1)


def token_decoder(model: Any, cache: Any, rows: int) -> TokenDecoder | None:
    """A `TokenDecoder` for a decoder of a known build in float32 on a CPU; None with gradients, autocast or adapters
    too.
    """
    from saccade.models.language.cache import remembers

    decoder = model.get_decoder()
    if torch.is_grad_enabled() or torch.is_autocast_enabled("cpu") or not torch.backends.mkldnn.is_available():
        return None
    known = type(decoder).__name__ in KNOWN and decoder.config.hidden_act == "silu" and remembers(cache)
    return TokenDecoder(model, cache, rows) if known and _is_plain(decoder, _head(model)) else None


def _head(model: Any) -> list[Any]:
    """The parts of a head, in order: mostly one linear layer, for pictures two of them around an activation."""
    head = model.get_output_embeddings()
    return list(head) if isinstance(head, nn.Sequential) else [head]


def _is_plain(decoder: Any, head: Sequence[Any]) -> bool:
    """Whether linear layers are nothing else and all weights are whole, in float32 and on a CPU."""
    parts = [part for layer in decoder.layers for part in (*layer.self_attn.children(), *layer.mlp.children())]
    linear = all(type(part) is nn.Linear for part in [*head, *parts] if next(part.parameters(), None) is not None)
    weights = [p for part in (decoder, *head) for p in part.parameters()]
    whole = all(type(w) in (Tensor, nn.Parameter) and w.device.type == "cpu" for w in weights)
    return linear and whole and all(w.dtype == torch.float32 for w in weights)


def attend(query_NKGE: Tensor, slab: Any, mask_N11C: Tensor) -> Tensor:
    """softmax(q k + mask) v ``[N, K, G, E]`` for G queries at each of K heads; a prompt is read once for all its
    rows.
    """
    keys, values = slab.keys, slab.values
    if slab.prompts is None:
        return (query_NKGE @ keys.transpose(2, 3)).add_(mask_N11C).softmax(-1) @ values
    prompt_keys, prompt_values = slab.prompts
    begin = prompt_keys.shape[2]
    row_PS, seat_N = slab.sharers.seats(len(query_NKGE))
    shared = lambda x, y: _together(x, y, row_PS, seat_N)
    scores = (shared(query_NKGE, prompt_keys.transpose(2, 3)), query_NKGE @ keys[:, :, begin:].transpose(2, 3))
    weights = torch.cat(scores, -1).add_(mask_N11C).softmax(-1)
    return shared(weights[..., :begin], prompt_values) + weights[..., begin:] @ values[:, :, begin:]


def _together(x_NKGE: Tensor, y_PKEL: Tensor, row_PS: Tensor, seat_N: Tensor) -> Tensor:
    """``x[n] @ y[p]`` ``[N, K, G, L]`` where p is the prompt of row n: one product for all rows of a prompt."""
    x_PKSE = x_NKGE.index_select(0, row_PS.flatten()).unflatten(0, row_PS.shape).transpose(1, 2).flatten(2, 3)
    y_PKSGL = (x_PKSE @ y_PKEL).unflatten(2, (row_PS.shape[1], -1))
    return y_PKSGL.transpose(1, 2).flatten(0, 1).index_select(0, seat_N)


def packed(linears: Sequence[Any], rows: int) -> Product:
    """The outputs of linear layers side by side, by one product on a copy of their weights in oneDNN's own layout."""
    weight = torch.ops.mkldnn._reorder_linear_weight(_joined([one.weight for one in linears]), rows)
    bias = None if linears[0].bias is None else _joined([one.bias for one in linears])
    return partial(_product, weight=weight, bias=bias)


def _joined(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


def normed(norm: Any, x: Tensor) -> Tensor:
    """``norm(x)`` for a plain RMS norm, in fewer passes."""
    return (x.square().mean(-1, keepdim=True) + norm.variance_epsilon).rsqrt_() * x * norm.weight
