"""What the states of a world model are for: a list of terms on one forward pass, each with a weight or under a limit.

    Dreamer   reconstruction + reward + KL beyond its free nats
    RePo      reward, under the limit: balanced KL <= eps; a decoder only watches

    L = sum weight * term + sum beta * (term - most)        beta grows while term > most

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
from saccade.math.gaussians import kl
from saccade.models.world_model.rssm import RSSM, Observed, as_input


@dataclass(frozen=True)
class View:
    """One forward pass over sequences, and what it was about.

    ``picture_BT`` is uint8 ``[B, T, H, W, 3]``; ``reward_BT`` and ``terminated_BT`` are of the decision at each moment;
    ``first_BT`` is 1 where an episode begins.
    """

    model: RSSM
    picture_BT: Tensor
    reward_BT: Tensor
    terminated_BT: Tensor
    first_BT: Tensor
    observed: Observed


Term = Callable[[View], Tensor]
"""One forward pass -> a mean over its moments, in nats: a scalar."""


@dataclass(frozen=True)
class Weighted:
    """A term that is minimised, ``weight`` times."""

    term: Term
    weight: float = 1.0


@dataclass(frozen=True)
class Constraint:
    """A term that may be at most ``most``; the multiplier is what it weighs, and is learned."""

    term: Term
    most: float
    multiplier: LagrangeMultiplier


Terms = Mapping[str, Weighted | Constraint]


def values_of(terms: Terms, view: View) -> dict[str, Tensor]:
    """Each term once, by name."""
    return {name: one.term(view) for name, one in terms.items()}


def model_loss(terms: Terms, values: Mapping[str, Tensor]) -> Tensor:
    """What the world model minimises: a scalar. No gradient reaches a multiplier."""
    parts = []
    for name, one in terms.items():
        match one:
            case Weighted():
                parts.append(one.weight * values[name])
            case Constraint():
                parts.append(one.multiplier.value.detach() * (values[name] - one.most))
    return torch.stack(parts).sum()


def dual_loss(terms: Terms, values: Mapping[str, Tensor]) -> Tensor | None:
    """What the multipliers minimise: each grows while its term is above its limit. None without a limit."""
    parts = [one.multiplier.loss(values[name].detach() - one.most) for name, one in constraints(terms).items()]
    return torch.stack(parts).sum() if parts else None


def constraints(terms: Terms) -> dict[str, Constraint]:
    """The terms under a limit."""
    return {name: one for name, one in terms.items() if isinstance(one, Constraint)}


def reconstruction(view: View) -> Tensor:
    """-log p(o | h, z), summed over the numbers of a picture; gradients reach everything."""
    return _misdrawn(view, view.observed.state.features, view.picture_BT)


def detached_probe(every: int = 4) -> Term:
    """The same on detached states of every so many moments: it trains the decoder alone, for people to look at."""

    def term(view: View) -> Tensor:
        return _misdrawn(view, view.observed.state.features[:, ::every].detach(), view.picture_BT[:, ::every])

    return term


def reward(view: View) -> Tensor:
    """-log p(r | h, z) of each reward, under the state that it led to."""
    expected = view.model.reward(_after(view))
    return _mean_known(view, 0.5 * (expected - view.reward_BT[:, :-1]) ** 2)


def ending(view: View) -> Tensor:
    """-log p(d | h, z): whether coming to a state terminated the episode, for worlds that end early."""
    odds = view.model.end(_after(view))
    return _mean_known(view, binary_cross_entropy_with_logits(odds, view.terminated_BT[:, :-1], reduction="none"))


def divergence(prior_share: float | None = None, free_nats: float = 0.0) -> Term:
    """KL(posterior || prior), summed over the latent; the mean over moments of max(KL, ``free_nats``).

    ``prior_share`` is kappa, the part of the gradient with which the prior follows the posterior; the rest goes the
    other way. None gives both the whole gradient.
    """

    def term(view: View) -> Tensor:
        q, p = view.observed.posterior, view.observed.prior
        if prior_share is None:
            apart = kl(q, p)
        else:
            apart = prior_share * kl(q.detach(), p) + (1 - prior_share) * kl(q, p.detach())
        return apart.clamp(min=free_nats).mean()

    return term


def _after(view: View) -> Tensor:
    """Features of the state that each decision but the last led to: ``[B, T - 1, F]``."""
    return view.observed.state.features[:, 1:].contiguous()


def _mean_known(view: View, nats_BT: Tensor) -> Tensor:
    """The mean over decisions that did not lead out of what is stored of their episode."""
    known_BT = 1 - view.first_BT[:, 1:]
    return (known_BT * nats_BT).sum() / known_BT.sum().clamp(min=1)


def _misdrawn(view: View, features: Tensor, picture: Tensor) -> Tensor:
    error = view.model.decoder(features) - as_input(picture)
    return 0.5 * (error**2).sum((-3, -2, -1)).mean()
