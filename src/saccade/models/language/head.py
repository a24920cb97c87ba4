"""From hidden states to log-probs of tokens, without the probabilities of all tokens in memory at once.

l = log softmax(z / temperature)[token], H = -sum p log p, with dl/dz = 1[token] - p and dH/dz = -p (log p + H).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from saccade.models.linear import onednn_linears

MAX_ELEMENTS = 2**27
"""Elements of a matrix of log-probs (512 MiB); a larger one is computed in parts, and again in the backward pass."""

BANNED_LOGIT = -1e30
"""Logit of a token that must not be generated: probability 0, and no NaN in sums over p log p."""


def token_logprobs(
    head: Callable[[Tensor], Tensor],
    hidden_ND: Tensor,
    token_N: Tensor,
    temperature: float,
    banned_ids: Sequence[int] = (),
    max_elements: int = MAX_ELEMENTS,
) -> tuple[Tensor, Tensor]:
    """Log-prob of ``token_N`` after each hidden state and the entropy there: two ``[N]``, in float32 at least.

    Temperature 0 counts as 1. The entropy's gradient is computed only where a loss uses it.
    """

    def part(hidden_ND: Tensor, token_N: Tensor) -> tuple[Tensor, Tensor]:
        with onednn_linears(head) if isinstance(head, nn.Module) else contextlib.nullcontext():
            logits_NV = head(hidden_ND)
        return _LogProbAndEntropy.apply(logits_NV, token_N, temperature or 1.0, list(banned_ids))

    vocabulary = head(hidden_ND[:0]).shape[-1]
    rows = max(max_elements // vocabulary, 1)
    if len(hidden_ND) <= rows:
        return part(hidden_ND, token_N)
    parts = [
        checkpoint(part, hidden, token, use_reentrant=False, preserve_rng_state=False)
        for hidden, token in zip(hidden_ND.split(rows), token_N.split(rows))
    ]
    return torch.cat([logp for logp, _ in parts]), torch.cat([entropy for _, entropy in parts])


def tempered_logprobs(logits: Tensor, temperature: float, banned_ids: Sequence[int] = ()) -> Tensor:
    """log softmax(logits / temperature) over the last axis, in float32 at least; temperature 0 counts as 1."""
    z = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if temperature not in (0, 1):
        z = z / temperature
    if banned_ids:
        z = z.index_fill(-1, torch.tensor(banned_ids, device=z.device), BANNED_LOGIT)
    return z.log_softmax(-1)


def entropy(logp_NV: Tensor, max_elements: int = 2**22) -> Tensor:
    """-sum p log p of each row ``[N]``, in parts of ``max_elements`` elements."""
    parts = logp_NV.split(max(max_elements // logp_NV.shape[1], 1))
    return -torch.cat([torch.einsum("nv,nv->n", part.exp(), part) for part in parts])


class _LogProbAndEntropy(torch.autograd.Function):
    """Saves one matrix for the backward pass: the log-probs of all tokens."""

    @staticmethod
    def forward(
        ctx: Any, logits_NV: Tensor, token_N: Tensor, temperature: float, banned_ids: list[int]
    ) -> tuple[Tensor, Tensor]:
        logp_NV = tempered_logprobs(logits_NV, temperature, banned_ids)
        entropy_N = entropy(logp_NV)
        ctx.save_for_backward(logp_NV, token_N, entropy_N)
        ctx.temperature, ctx.dtype = temperature, logits_NV.dtype
        ctx.set_materialize_grads(False)
        return logp_NV.gather(1, token_N[:, None])[:, 0], entropy_N

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor | None, ...]:
        logp_NV, token_N, entropy_N = ctx.saved_tensors
        logp_grad_N, entropy_grad_N = gradients
        if logp_grad_N is None and entropy_grad_N is None:
            return None, None, None, None
        logit_grad_NV = logp_NV.exp()
        if entropy_grad_N is not None:
            factor_NV = (logp_NV + entropy_N[:, None]).mul_(entropy_grad_N[:, None])
            logit_grad_NV.mul_(factor_NV if logp_grad_N is None else factor_NV.add_(logp_grad_N[:, None])).neg_()
        else:
            logit_grad_NV.mul_(-logp_grad_N[:, None])
        if logp_grad_N is not None:
            logit_grad_NV.scatter_add_(1, token_N[:, None], logp_grad_N[:, None].to(logit_grad_NV.dtype))
        return logit_grad_NV.div_(ctx.temperature).to(ctx.dtype), None, None, None
