"""From hidden states to log-probs of tokens, without ever holding the probabilities of all tokens everywhere at once.

l = log softmax(z / temperature)[token], H = -sum p log p, with dl/dz = 1[token] - p and dH/dz = -p (log p + H).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

AT_ONCE = 2**27
"""Numbers of a matrix of log-probs (512 MiB); a larger one is computed in parts, and again in the backward pass."""

NEVER = -1e30
"""The logit of a token that must not be written: probability 0, and no NaN in sums over p log p."""


def token_logprobs(
    head: Callable[[Tensor], Tensor],
    hidden_ND: Tensor,
    token_N: Tensor,
    temperature: float,
    banned: Sequence[int] = (),
    at_once: int = AT_ONCE,
) -> tuple[Tensor, Tensor]:
    """Log-prob of ``token_N`` after each hidden state and the entropy there: two ``[N]``, in float32 at least.

    Temperature 0 counts as 1. The entropy's gradient is computed only where a loss uses it.
    """
    part = lambda hidden, token: _Weigh.apply(head(hidden), token, temperature or 1.0, list(banned))
    vocabulary = head(hidden_ND[:0]).shape[-1]
    rows = max(at_once // vocabulary, 1)
    if len(hidden_ND) <= rows:
        return part(hidden_ND, token_N)
    parts = [
        checkpoint(part, hidden, token, use_reentrant=False, preserve_rng_state=False)
        for hidden, token in zip(hidden_ND.split(rows), token_N.split(rows))
    ]
    return torch.cat([logp for logp, _ in parts]), torch.cat([entropy for _, entropy in parts])


def tempered(logits: Tensor, temperature: float, banned: Sequence[int] = ()) -> Tensor:
    """log softmax(logits / temperature) over the last axis, in float32 at least; temperature 0 counts as 1."""
    z = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if temperature not in (0, 1):
        z = z / temperature
    if banned:
        z = z.index_fill(-1, torch.tensor(banned, device=z.device), NEVER)
    return z.log_softmax(-1)


def entropy(logp_NV: Tensor, at_once: int = 2**22) -> Tensor:
    """-sum p log p of each row, without a second matrix of this size."""
    parts = logp_NV.split(max(at_once // logp_NV.shape[1], 1))
    return -torch.cat([torch.einsum("nv,nv->n", part.exp(), part) for part in parts])


class _Weigh(torch.autograd.Function):
    """Keeps one matrix, the log-probs, for the backward pass."""

    @staticmethod
    def forward(
        ctx: Any, logits_NV: Tensor, token_N: Tensor, temperature: float, banned: list[int]
    ) -> tuple[Tensor, Tensor]:
        logp_NV = tempered(logits_NV, temperature, banned)
        entropy_N = entropy(logp_NV)
        ctx.save_for_backward(logp_NV, token_N, entropy_N)
        ctx.temperature, ctx.dtype = temperature, logits_NV.dtype
        ctx.set_materialize_grads(False)
        return logp_NV.gather(1, token_N[:, None])[:, 0], entropy_N

    @staticmethod
    def backward(ctx: Any, by_logp_N: Tensor | None, by_entropy_N: Tensor | None) -> tuple[Tensor | None, ...]:
        logp_NV, token_N, entropy_N = ctx.saved_tensors
        if by_logp_N is None and by_entropy_N is None:
            return None, None, None, None
        by_logit_NV = logp_NV.exp()
        if by_entropy_N is not None:
            pull_NV = (logp_NV + entropy_N[:, None]).mul_(by_entropy_N[:, None])
            by_logit_NV.mul_(pull_NV if by_logp_N is None else pull_NV.add_(by_logp_N[:, None])).neg_()
        else:
            by_logit_NV.mul_(-by_logp_N[:, None])
        if by_logp_N is not None:
            by_logit_NV.scatter_add_(1, token_N[:, None], by_logp_N[:, None].to(by_logit_NV.dtype))
        return by_logit_NV.div_(ctx.temperature).to(ctx.dtype), None, None, None
