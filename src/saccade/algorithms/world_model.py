"""Losses of a world model: a list of terms on one forward pass, each with a weight or under a constraint.

    Dreamer   reconstruction + reward + KL beyond its free nats
    RePo      reward, under the constraint: balanced KL <= limit; a decoder learns from detached states

    L = sum weight * term + sum lambda * (term - limit)        lambda grows while term > limit

Balanced KL 2010.02193: kappa KL(sg(q) || p) + (1 - kappa) KL(q || sg(p)). Likelihoods are those of Normal(., 1) without
their constant: half the squared error.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from saccade.algorithms.lagrange import LagrangeMultiplier
from saccade.math import gaussians
from saccade.models.world_model.rssm import RSSM, Observed, as_input


@dataclass(frozen=True)
class ForwardPass:
    """One forward pass over sequences, with its targets.

    ``picture_BT`` is uint8 ``[B, T, H, W, 3]``; ``reward_BT`` and ``terminated_BT`` are those of the decision at each
    time step; ``first_BT`` is 1 where an episode begins.
    """

    model: RSSM
    picture_BT: Tensor
    reward_BT: Tensor
    terminated_BT: Tensor
    first_BT: Tensor
    observed: Observed


Term = Callable[[ForwardPass], Tensor]
"""A forward pass -> a mean over its time steps, in nats: a scalar."""


@dataclass(frozen=True)
class Weighted:
    """A term that is minimized with a constant weight."""

    term: Term
    weight: float = 1.0


@dataclass(frozen=True)
class Constraint:
    """A term that may be at most ``limit``; its weight is the multiplier, which is learned."""

    term: Term
    limit: float
    multiplier: LagrangeMultiplier


Terms = Mapping[str, Weighted | Constraint]


def term_values(terms: Terms, forward: ForwardPass) -> dict[str, Tensor]:
    """The value of each term, by name."""
    return {name: entry.term(forward) for name, entry in terms.items()}


def model_loss(terms: Terms, values: Mapping[str, Tensor]) -> Tensor:
    """The loss of the world model: a scalar. No gradient reaches a multiplier."""
    parts = []
    for name, entry in terms.items():
        match entry:
            case Weighted():
                parts.append(entry.weight * values[name])
            case Constraint():
                parts.append(entry.multiplier.value.detach() * (values[name] - entry.limit))
    return torch.stack(parts).sum()


def multiplier_loss(terms: Terms, values: Mapping[str, Tensor]) -> Tensor | None:
    """The loss of the multipliers, each of which grows while its term is above its limit; None without constraints."""
    excess = {name: (entry, values[name].detach() - entry.limit) for name, entry in constraints(terms).items()}
    parts = [entry.multiplier.loss(over) for entry, over in excess.values()]
    return torch.stack(parts).sum() if parts else None


def constraints(terms: Terms) -> dict[str, Constraint]:
    """The terms under a constraint."""
    return {name: entry for name, entry in terms.items() if isinstance(entry, Constraint)}


def reconstruction(forward: ForwardPass) -> Tensor:
    """-log p(o | h, z), summed over the numbers of a picture; gradients reach the whole model."""
    return _picture_error(forward, forward.observed.state.features, forward.picture_BT)


def detached_probe(every: int = 4) -> Term:
    """The reconstruction error of every ``every``-th time step on detached states: it trains the decoder alone, whose
    pictures are shown to people.
    """

    def term(forward: ForwardPass) -> Tensor:
        features = forward.observed.state.features[:, ::every].detach()
        return _picture_error(forward, features, forward.picture_BT[:, ::every])

    return term


def reward(forward: ForwardPass) -> Tensor:
    """-log p(r | h, z) of each reward, given the state that its decision led to."""
    expected = forward.model.reward(_next_features(forward))
    return _mean_within_episodes(forward, 0.5 * (expected - forward.reward_BT[:, :-1]) ** 2)


def termination(forward: ForwardPass) -> Tensor:
    """-log p(d | h, z): whether arriving in a state terminated the episode, for environments that end early."""
    logits, terminated = forward.model.end(_next_features(forward)), forward.terminated_BT[:, :-1]
    return _mean_within_episodes(forward, binary_cross_entropy_with_logits(logits, terminated, reduction="none"))


def kl(balance: float | None = None, free_nats: float = 0.0) -> Term:
    """KL(posterior || prior), summed over the latent; the mean over time steps of max(KL, ``free_nats``).

    ``balance`` is kappa, the part of the gradient that moves the prior towards the posterior; the rest moves the
    posterior towards the prior. None gives the full gradient to both.
    """

    def term(forward: ForwardPass) -> Tensor:
        q, p = forward.observed.posterior, forward.observed.prior
        if balance is None:
            nats_BT = gaussians.kl(q, p)
        else:
            nats_BT = balance * gaussians.kl(q.detach(), p) + (1 - balance) * gaussians.kl(q, p.detach())
        return nats_BT.clamp(min=free_nats).mean()

    return term


def _next_features(forward: ForwardPass) -> Tensor:
    """Features of the state that each decision but the last led to: ``[B, T - 1, F]``."""
    return forward.observed.state.features[:, 1:].contiguous()


def _mean_within_episodes(forward: ForwardPass, nats_BT: Tensor) -> Tensor:
    """The mean over decisions whose next time step is of the same episode."""
    inside_BT = 1 - forward.first_BT[:, 1:]
    return (inside_BT * nats_BT).sum() / inside_BT.sum().clamp(min=1)


def _picture_error(forward: ForwardPass, features: Tensor, picture: Tensor) -> Tensor:
    error = forward.model.decoder(features) - as_input(picture)
    return 0.5 * (error**2).sum((-3, -2, -1)).mean()
