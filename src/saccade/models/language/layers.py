"""A decoder for one token a row on a CPU, from few large matrix products on weights in oneDNN's layout.

With so few tokens transformers' layers spend more time on small operations, on weights whose layout suits wide
products, and on reading a shared prompt for each of its rows, than on arithmetic. The results are equal within
rounding.

Suffixes here: N active rows, C cache columns, H query heads, K key-value heads, G queries a key-value head, E head
size, P prompts, S slots of a prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial, reduce
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

if TYPE_CHECKING:
    from saccade.models.language.cache import StaticKVCache

SUPPORTED_DECODERS = ("LlamaModel", "Qwen2Model", "Qwen2_5_VLTextModel")
"""Decoders of attention with rotary positions and gated feed-forward parts, each after an RMS norm, and no more."""

Linear = Callable[[Tensor], Tensor]


class TokenDecoder:
    """Maps one more token in each of at most ``rows`` rows to logits; every `StaticKVCache` grows by one column.

    It holds a second copy of the weights, which must not change meanwhile.
    """

    def __init__(self, model: Any, cache: Any, rows: int):
        decoder = model.get_decoder()
        self.embed, self.rotary, self.norm = model.get_input_embeddings(), decoder.rotary_emb, decoder.norm
        self.layers = [TokenLayer(layer, kv, rows) for layer, kv in zip(decoder.layers, cache.layers)]
        self.head = [fused_linear([part], rows) if type(part) is nn.Linear else part for part in _head_modules(model)]

    def __call__(self, token_N: Tensor, attention_NC: Tensor, position_N: Tensor) -> Tensor:
        """Logits ``[N, V]`` after tokens at ``position_N``; the attention mask includes the new column."""
        x_ND = self.embed(token_N)
        rotary = self.rotary(x_ND, position_N[:, None])
        mask_NC = torch.zeros(attention_NC.shape).masked_fill(attention_NC == 0, torch.finfo(torch.float32).min)
        for layer in self.layers:
            x_ND = layer(x_ND, mask_NC[:, None, None], rotary)
        return reduce(lambda x, part: part(x), self.head, rms_norm(self.norm, x_ND))


class TokenLayer:
    """One decoder layer on one token a row ``[N, D]``."""

    def __init__(self, layer: Any, kv: StaticKVCache, rows: int):
        attention, mlp = layer.self_attn, layer.mlp
        self.kv, self.input_norm, self.mlp_norm = kv, layer.input_layernorm, layer.post_attention_layernorm
        self.head_size, self.scale = attention.head_dim, attention.scaling
        self.query_heads = attention.q_proj.out_features // self.head_size
        self.kv_heads = attention.k_proj.out_features // self.head_size
        self.qkv = fused_linear([attention.q_proj, attention.k_proj, attention.v_proj], rows)
        self.output = fused_linear([attention.o_proj], rows)
        self.gate_up, self.down = fused_linear([mlp.gate_proj, mlp.up_proj], rows), fused_linear([mlp.down_proj], rows)

    def __call__(self, x_ND: Tensor, mask_N11C: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
        x_ND = x_ND + self.output(self._attention(self.qkv(rms_norm(self.input_norm, x_ND)), mask_N11C, *rotary))
        gate, up = self.gate_up(rms_norm(self.mlp_norm, x_ND)).chunk(2, -1)
        return x_ND + self.down(F.silu(gate).mul_(up))

    def _attention(self, qkv_ND: Tensor, mask_N11C: Tensor, cos_N1E: Tensor, sin_N1E: Tensor) -> Tensor:
        heads_NHE = qkv_ND.unflatten(1, (-1, self.head_size))
        rotated_NHE, value_NKE = heads_NHE.split((self.query_heads + self.kv_heads, self.kv_heads), 1)
        left, right = rotated_NHE.chunk(2, -1)
        rotated_NHE = torch.addcmul(rotated_NHE * cos_N1E, torch.cat((-right, left), -1), sin_N1E)
        query_NHE, key_NKE = rotated_NHE.split((self.query_heads, self.kv_heads), 1)
        self.kv.update(key_NKE[:, :, None], value_NKE[:, :, None])
        query_NKGE = (query_NHE * self.scale).unflatten(1, (self.kv_heads, -1))
        return grouped_query_attention(query_NKGE, self.kv, mask_N11C).flatten(1)


def token_decoder(model: Any, cache: Any, rows: int) -> TokenDecoder | None:
    """A `TokenDecoder` for a supported decoder in float32 on a CPU, else None.

    None also while gradients or autocast are on, and for models with adapters.
    """
    from saccade.models.language.cache import keeps_inactive_rows

    decoder = model.get_decoder()
    if torch.is_grad_enabled() or torch.is_autocast_enabled("cpu") or not torch.backends.mkldnn.is_available():
        return None
    supported = type(decoder).__name__ in SUPPORTED_DECODERS and decoder.config.hidden_act == "silu"
    plain = supported and keeps_inactive_rows(cache) and _is_plain(decoder, _head_modules(model))
    return TokenDecoder(model, cache, rows) if plain else None


def _head_modules(model: Any) -> list[Any]:
    """The modules of a head, in order: mostly one linear layer, for image tokens two of them around an activation."""
    head = model.get_output_embeddings()
    return list(head) if isinstance(head, nn.Sequential) else [head]


def _is_plain(decoder: Any, head: Sequence[Any]) -> bool:
    """Whether linear layers are exactly `nn.Linear` and all weights are unsharded float32 tensors on a CPU."""
    parts = [part for layer in decoder.layers for part in (*layer.self_attn.children(), *layer.mlp.children())]
    linear = all(type(part) is nn.Linear for part in [*head, *parts] if next(part.parameters(), None) is not None)
    weights = [p for part in (decoder, *head) for p in part.parameters()]
    unsharded = all(type(w) in (Tensor, nn.Parameter) and w.device.type == "cpu" for w in weights)
    return linear and unsharded and all(w.dtype == torch.float32 for w in weights)


def grouped_query_attention(query_NKGE: Tensor, kv: StaticKVCache, mask_N11C: Tensor) -> Tensor:
    """softmax(q k + mask) v ``[N, K, G, E]`` for G queries at each of K heads.

    A prompt that rows share is read once for all of them.
    """
    keys, values = kv.keys, kv.values
    if kv.prompts is None:
        return (query_NKGE @ keys.transpose(2, 3)).add_(mask_N11C).softmax(-1) @ values
    prompt_keys, prompt_values = kv.prompts
    begin = prompt_keys.shape[2]
    row_PS, slot_N = kv.sharing.slots(len(query_NKGE))
    shared = lambda x, y: _product_by_prompt(x, y, row_PS, slot_N)
    scores = (shared(query_NKGE, prompt_keys.transpose(2, 3)), query_NKGE @ keys[:, :, begin:].transpose(2, 3))
    weights = torch.cat(scores, -1).add_(mask_N11C).softmax(-1)
    return shared(weights[..., :begin], prompt_values) + weights[..., begin:] @ values[:, :, begin:]


def _product_by_prompt(x_NKGE: Tensor, y_PKEL: Tensor, row_PS: Tensor, slot_N: Tensor) -> Tensor:
    """``x[n] @ y[p]`` ``[N, K, G, L]`` where p is the prompt of row n: one product for all rows of a prompt."""
    x_PKSE = x_NKGE.index_select(0, row_PS.flatten()).unflatten(0, row_PS.shape).transpose(1, 2).flatten(2, 3)
    y_PKSGL = (x_PKSE @ y_PKEL).unflatten(2, (row_PS.shape[1], -1))
    return y_PKSGL.transpose(1, 2).flatten(0, 1).index_select(0, slot_N)


def fused_linear(linears: Sequence[Any], rows: int) -> Linear:
    """The concatenated outputs of linear layers, by one product on a copy of their weights in oneDNN's layout."""
    weight = torch.ops.mkldnn._reorder_linear_weight(_concatenated([one.weight for one in linears]), rows)
    bias = None if linears[0].bias is None else _concatenated([one.bias for one in linears])
    return partial(_linear, weight=weight, bias=bias)


def _concatenated(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


def rms_norm(norm: Any, x: Tensor) -> Tensor:
    """``norm(x)`` for a plain RMS norm, in fewer passes over memory."""
    return (x.square().mean(-1, keepdim=True) + norm.variance_epsilon).rsqrt_() * x * norm.weight
