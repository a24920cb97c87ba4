"""Decoder layers on a CPU while rows write: one token a row through few large products, on weights laid out for them.

With so few tokens, transformers' layers spend more time on small operations, and on weights that lie badly for products this
narrow, than on arithmetic. The numbers are the same within rounding.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

KNOWN = ("LlamaDecoderLayer", "Qwen2DecoderLayer", "Qwen2_5_VLDecoderLayer")
"""Layers that are attention with rotary positions and a gated feed-forward part, each behind an RMS norm, and no more."""
PARTS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")

Product = Callable[[Tensor], Tensor]


@contextlib.contextmanager
def quickened(model: Any, cache: Any, rows: int) -> Iterator[bool]:
    """Within it known layers read one token in each of about ``rows`` rows, faster; False if they stay as they are.

    They want a mask ``[N, 1, 1, C]`` that is added to the scores. Only for float32 on a CPU without gradients and autocast,
    and with all of the past in the cache. It takes memory for a second copy of the weights, which must not change meanwhile.
    """
    from saccade.models.cache import remembers

    layers, head = list(getattr(model.get_decoder(), "layers", ())), model.get_output_embeddings()
    known = layers and type(head) is nn.Linear and all(map(_is_known, layers))
    quick = bool(known) and remembers(cache) and _usable([*layers, head])
    changed = [*layers, head] if quick else []
    for module in changed:
        module.forward = packed([head], rows) if module is head else TokenLayer(module, rows)
    try:
        yield quick
    finally:
        for module in changed:
            del module.forward


class TokenLayer:
    """What one decoder layer computes for one token a row ``[N, 1, D]``."""

    def __init__(self, layer: Any, rows: int):
        attention, mlp = layer.self_attn, layer.mlp
        self.before, self.between = layer.input_layernorm, layer.post_attention_layernorm
        self.number, self.width, self.scale = attention.layer_idx, attention.head_dim, attention.scaling
        self.asking, self.keeping = (p.out_features // self.width for p in (attention.q_proj, attention.k_proj))
        self.ask = packed([attention.q_proj, attention.k_proj, attention.v_proj], rows)
        self.answer = packed([attention.o_proj], rows)
        self.widen, self.narrow = packed([mlp.gate_proj, mlp.up_proj], rows), packed([mlp.down_proj], rows)

    def __call__(self, x_N1D: Tensor, *, attention_mask: Tensor, position_embeddings: Any, past_key_values: Any, **_: Any) -> Tensor:
        asked_NHE = self.ask(normed(self.before, x_N1D)).unflatten(-1, (-1, self.width))[:, 0]
        x_N1D = x_N1D + self.answer(self._attend(asked_NHE, attention_mask, *position_embeddings, past_key_values))
        gate, up = self.widen(normed(self.between, x_N1D)).chunk(2, -1)
        return x_N1D + self.narrow(F.silu(gate).mul_(up))

    def _attend(self, asked_NHE: Tensor, mask_N11C: Tensor, cos_N1E: Tensor, sin_N1E: Tensor, cache: Any) -> Tensor:
        """The heads' answers ``[N, 1, H E]``; ``asked_NHE`` has the queries' heads, the keys' and the values'."""
        turned_NHE, value_NHE = asked_NHE.split((self.asking + self.keeping, self.keeping), 1)
        left, right = turned_NHE.chunk(2, -1)
        turned_NHE = torch.addcmul(turned_NHE * cos_N1E, torch.cat((-right, left), -1), sin_N1E)
        query_NHE, key_NHE = turned_NHE.split((self.asking, self.keeping), 1)
        keys, values = cache.update(key_NHE[:, :, None], value_NHE[:, :, None], self.number)
        scores = query_NHE.unflatten(1, (self.keeping, -1)) @ keys.transpose(2, 3)
        return (torch.add(mask_N11C, scores, alpha=self.scale).softmax(-1) @ values).flatten(1)[:, None]


def packed(linears: Sequence[nn.Linear], rows: int) -> Product:
    """The outputs of linear layers side by side, by one product on a copy of their weights in oneDNN's own layout."""
    weight = torch.ops.mkldnn._reorder_linear_weight(torch.cat([one.weight for one in linears]), rows)
    bias = None if linears[0].bias is None else torch.cat([one.bias for one in linears])
    return partial(_product, weight=weight, bias=bias)


def _product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


def normed(norm: Any, x: Tensor) -> Tensor:
    """``norm(x)`` for a plain RMS norm, in fewer passes."""
    return (x.square().mean(-1, keepdim=True) + norm.variance_epsilon).rsqrt_() * x * norm.weight


def _is_known(layer: Any) -> bool:
    """Whether a layer is one of `KNOWN` and its weights are plain: no adapters beside them, not cut over processes."""
    if type(layer).__name__ not in KNOWN or not isinstance(layer.mlp.act_fn, type(_silu())):
        return False
    named = dict(layer.named_modules())
    parts = [named[f"self_attn.{p}"] if f"self_attn.{p}" in named else named[f"mlp.{p}"] for p in PARTS]
    return all(type(part) is nn.Linear for part in parts)


def _silu() -> nn.Module:
    from transformers.activations import ACT2FN

    return ACT2FN["silu"]


def _usable(modules: Sequence[nn.Module]) -> bool:
    plain = not torch.is_grad_enabled() and not torch.is_autocast_enabled("cpu") and torch.backends.mkldnn.is_available()
    weights = [p for module in modules for p in module.parameters()]
    return plain and all(p.dtype == torch.float32 and p.device.type == "cpu" for p in weights)
