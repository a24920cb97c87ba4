"""Joint attention of pictures and text as SD3 has it, softmax(q k / sqrt(d)) v over the tokens of both, for its blocks.

The same numbers as diffusers' own within rounding, in less time: streams are joined while their memory is still whole,
the last block's text tokens ask nothing since nobody reads their answer, and bfloat16 on a CPU goes through plain
products.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WIDEST = 1024
"""Keys up to which a matrix of scores is small enough to be kept for the backward pass."""


class JointAttention:
    """An attention processor of diffusers: picture tokens ``[B, N, D]`` and, if there are any, text tokens ``[B, L,
    D]``.

    SD3 masks nothing, and diffusers hands over None for the mask.
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
        answers = attend(torch.cat(q, 1), torch.cat(k, 1), torch.cat(v, 1)).flatten(2)
        seen, read = answers[:, : picture.shape[1]], answers[:, picture.shape[1] :]
        seen = attn.to_out[1](attn.to_out[0](seen))
        if text is None:
            return seen
        return seen, read if attn.context_pre_only else attn.to_add_out(read)


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q k / sqrt(d)) v for ``[B, tokens, heads, d]``, of the same shape as ``q``."""
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    if q.dtype != torch.bfloat16 or q.device.type != "cpu" or k.shape[2] > WIDEST:
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2)
    # The fused kernel multiplies bfloat16 at float32 speed on a CPU, and its backward pass is slower still.
    rows, keys, values = ((q * q.shape[-1] ** -0.5).flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1))
    scores = torch.bmm(rows, keys.transpose(1, 2))
    return torch.bmm(scores.softmax(-1), values).unflatten(0, q.shape[:2]).transpose(1, 2)


def _heads(attn: Any, project: nn.Module, norm: nn.Module | None, tokens: Tensor) -> Tensor:
    split = project(tokens).unflatten(-1, (attn.heads, -1))
    return split if norm is None else norm(split)
