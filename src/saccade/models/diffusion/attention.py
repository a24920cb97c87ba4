"""Joint attention of pictures and text as in SD3: softmax(q k / sqrt(d)) v over the tokens of both (2403.03206).

Equal to diffusers' attention within rounding, and faster: the two streams are concatenated while their memory is
contiguous, the last block computes no queries for text tokens, whose output is not used, and bfloat16 on a CPU uses
plain matrix products.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MAX_KEYS = 1024
"""Number of keys up to which the matrix of attention scores is kept for the backward pass."""


class JointAttention:
    """An attention processor of diffusers: picture tokens ``[B, N, D]``, and text tokens ``[B, L, D]`` or none.

    SD3 masks nothing; diffusers passes None as the mask.
    """

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: None = None,
    ) -> Any:
        picture, text = hidden_states, encoder_hidden_states
        q = [_heads(attn, attn.to_q, attn.norm_q, picture)]
        k = [_heads(attn, attn.to_k, attn.norm_k, picture)]
        v = [_heads(attn, attn.to_v, None, picture)]
        if text is not None:
            k.append(_heads(attn, attn.add_k_proj, attn.norm_added_k, text))
            v.append(_heads(attn, attn.add_v_proj, None, text))
            if not attn.context_pre_only:
                q.append(_heads(attn, attn.add_q_proj, attn.norm_added_q, text))
        attended = attend(torch.cat(q, 1), torch.cat(k, 1), torch.cat(v, 1)).flatten(2)
        picture_out, text_out = attended[:, : picture.shape[1]], attended[:, picture.shape[1] :]
        picture_out = attn.to_out[1](attn.to_out[0](picture_out))
        if text is None:
            return picture_out
        return picture_out, text_out if attn.context_pre_only else attn.to_add_out(text_out)


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q k / sqrt(d)) v for ``[B, tokens, heads, d]``, of the same shape as ``q``."""
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    if q.dtype != torch.bfloat16 or q.device.type != "cpu" or k.shape[2] > MAX_KEYS:
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2)
    # On a CPU the fused kernel multiplies bfloat16 at float32 speed, and its backward pass is slower than that.
    rows, keys, values = ((q * q.shape[-1] ** -0.5).flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1))
    scores = torch.bmm(rows, keys.transpose(1, 2))
    return torch.bmm(scores.softmax(-1), values).unflatten(0, q.shape[:2]).transpose(1, 2)


def _heads(attn: Any, project: nn.Module, norm: nn.Module | None, tokens: Tensor) -> Tensor:
    split = project(tokens).unflatten(-1, (attn.heads, -1))
    return split if norm is None else norm(split)
