"""Alignment of RePo's encoder with a new domain, without rewards."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from saccade.algorithms.descent import Descent
from saccade.algorithms.lagrange import LagrangeMultiplier
from saccade.config import Count
from saccade.core import Rollout
from saccade.math.exponential import bounded_exp
from saccade.math.gaussians import Gaussian, kl
from saccade.models.world_model.rssm import Observed, mlp
from saccade.policies.dreamer import DreamerPolicy
from saccade.random import generator, initialized
from saccade.training.settings import AdamW, StageSteps


@dataclass(frozen=True)
class Alignment:
    """How an encoder is aligned with a target domain."""

    steps: StageSteps = 1000
    """Number of updates of the encoder."""
    paired_frames: Count = 500
    """Number of frames of the same states in both domains."""
    match: Literal["support", "distribution"] = "support"
    """Target embeddings match a part of the source embeddings' support, or their distribution."""
    weight: float = 1.0
    """Weight of the matching loss."""
    dynamics_weight: float = 1.0
    """Weight of the inverse model's loss on target states, which keeps the dynamics consistent."""
    pairs_weight: float = 1.0
    """Weight of the distance between the beliefs of paired frames."""
    code_limit: float = 0.1
    """Largest divergence of the discriminator's code from N(0, 1), in nats."""
    gradient_penalty: float = 1.0
    """Weight of the squared gradient of the discriminator's output in its input."""
    optim: AdamW = AdamW(lr=3e-4, max_grad_norm=100.0, fused=True)


class Discriminator(nn.Module):
    """Embeddings ``[N, E]`` and noise ``[N, code]`` -> scores ``[N]``, and the code's KL from N(0, 1) ``[N]``."""

    def __init__(self, features: int, hidden: int, code: int = 16):
        super().__init__()
        self.code = code
        self.encode, self.head = mlp([features, hidden, 2 * code]), mlp([code, hidden, 1])

    def forward(self, x_NE: Tensor, noise_NC: Tensor) -> tuple[Tensor, Tensor]:
        mean, raw = self.encode(x_NE).chunk(2, -1)
        code = Gaussian(mean, softplus(raw) + 1e-4)
        nats_N = kl(code, Gaussian(torch.zeros_like(mean), torch.ones_like(mean)))
        return self.head(code.sample(noise_NC)).squeeze(-1), nats_N

    def score(self, x_NE: Tensor, noise: torch.Generator) -> tuple[Tensor, Tensor]:
        """Scores and divergences with noise from a generator."""
        return self(x_NE, torch.randn(len(x_NE), self.code, generator=noise).to(x_NE))


class AlignmentLearner:
    """The learner: a batch has "source" and "target" sequences and "pairs" of both, each a Rollout ``[B, T]``.

    It trains ``policy.model.encoder`` and the networks that this takes; the rest of the policy is frozen.
    """

    def __init__(self, policy: DreamerPolicy, cfg: Alignment, seed: int = 0):
        self.policy, self.cfg, self.seed, self.updates = policy, cfg, seed, 0
        sizes, model = policy.config, policy.model
        self.source_encoder = deepcopy(model.encoder).requires_grad_(False)
        policy.actor.requires_grad_(False)
        model.requires_grad_(False)
        model.encoder.requires_grad_(True)
        with initialized(seed, "alignment networks"):
            self.discriminator = Discriminator(model.encoder.width, sizes.hidden)
            self.density = mlp([model.encoder.width, sizes.hidden, 1])
            self.inverse = mlp([2 * sizes.features, sizes.hidden, sizes.hidden, policy.actions])
            self.code_multiplier = LagrangeMultiplier(1e-2)
        self.networks = nn.ModuleDict(
            {
                "discriminator": self.discriminator,
                "density": self.density,
                "inverse": self.inverse,
                "code": self.code_multiplier,
            }
        ).to(policy.device)
        self.normalizer = nn.Parameter(torch.zeros((), device=policy.device))
        """Multiplier of the constraint that the density ratio has the mean 1."""
        weights = {name: list(network.parameters()) for name, network in self.networks.items()}
        weights["density"] = [*weights["density"], self.normalizer]
        weights["encoder"] = list(model.encoder.parameters())
        self.descents = {name: Descent(name, params, cfg.optim) for name, params in weights.items()}

    def update(self, batch: Mapping[str, Rollout]) -> dict[str, float]:
        """One step of every network. FloatingPointError if a gradient is not finite."""
        noise, picture = generator(self.seed, "alignment", self.updates), self.policy.picture
        with torch.no_grad():
            source_BTE, source = self._observe(self.source_encoder, batch["source"], picture, noise)
        target_BTE, target = self._observe(self.policy.model.encoder, batch["target"], picture, noise)
        losses = self._discriminate(source_BTE.flatten(0, 1), target_BTE.detach().flatten(0, 1), noise)
        losses["inverse"] = self._step("inverse", self._inverse_loss(source, batch["source"]))
        terms = {
            "align": self.cfg.weight * self._matching_loss(target_BTE.flatten(0, 1), noise),
            "dynamics": self.cfg.dynamics_weight * self._inverse_loss(target, batch["target"]),
            "pairs": self.cfg.pairs_weight * self._pairs_loss(batch["pairs"], noise),
        }
        self._step("encoder", torch.stack(list(terms.values())).sum())
        self.updates += 1
        return {f"loss/{name}": float(value.detach()) for name, value in (losses | terms).items()}

    def _discriminate(self, source_NE: Tensor, target_NE: Tensor, noise: torch.Generator) -> dict[str, Tensor]:
        """One step of the discriminator and, for the support, of the density ratio; their losses."""
        ratio_N = bounded_exp(self.density(source_NE).squeeze(-1))
        source_NE, target_NE = source_NE.clone().requires_grad_(), target_NE.clone().requires_grad_()
        source_N, source_nats_N = self.discriminator.score(source_NE, noise)
        target_N, target_nats_N = self.discriminator.score(target_NE, noise)
        if self.cfg.match == "support":
            loss = -divergence_bound(ratio_N.detach(), source_N, target_N)
        else:
            loss = softplus(-source_N).mean() + softplus(target_N).mean()
        slopes = torch.autograd.grad(source_N.sum() + target_N.sum(), [source_NE, target_NE], create_graph=True)
        nats = (source_nats_N.mean() + target_nats_N.mean()) / 2
        excess = nats - self.cfg.code_limit
        constraint = self.code_multiplier.value.detach() * excess
        penalty = 0.5 * self.cfg.gradient_penalty * torch.stack([(slope**2).sum(-1).mean() for slope in slopes]).sum()
        losses = {"discriminator": self._step("discriminator", loss + constraint + penalty), "code": nats}
        self._step("code", self.code_multiplier.loss(excess))
        if self.cfg.match == "support":
            losses["density"] = self._step("density", density_loss(ratio_N, source_N.detach(), self.normalizer))
        return losses

    def _matching_loss(self, target_NE: Tensor, noise: torch.Generator) -> Tensor:
        """The encoder's matching loss; gradients pass through the discriminator but do not change it."""
        target_N, _ = self.discriminator.score(target_NE, noise)
        return -target_divergence(target_N) if self.cfg.match == "support" else softplus(-target_N).mean()

    def _inverse_loss(self, observed: Observed, rollout: Rollout) -> Tensor:
        """-log p(a | s_t, s_{t+1}) of the inverse model, without its constant."""
        features = observed.state.features
        predicted = self.inverse(torch.cat([features[:, :-1], features[:, 1:]], -1))
        nats_BT = 0.5 * ((predicted - rollout.decisions["action_BT"].to(predicted)[:, :-1]) ** 2).sum(-1)
        return _mean_within_episodes(nats_BT, rollout)

    def _pairs_loss(self, pairs: Rollout, noise: torch.Generator) -> Tensor:
        """Half the squared distance of the target's beliefs from those of the frozen dynamics on the source's
        states.
        """
        state = noise.get_state()
        with torch.no_grad():
            _, source = self._observe(self.source_encoder, pairs, "source", noise)
        noise.set_state(state)  # both domains get the same noise
        _, target = self._observe(self.policy.model.encoder, pairs, "target", noise)
        distance_BT = 0.5 * ((target.state.belief - source.state.belief)[:, 1:] ** 2).sum(-1)
        return _mean_within_episodes(distance_BT, pairs)

    def _observe(
        self, encoder: nn.Module, rollout: Rollout, picture: str, noise: torch.Generator
    ) -> tuple[Tensor, Observed]:
        """Embeddings ``[B, T, E]`` and states of sequences, by ``encoder``."""
        device = self.normalizer.device
        embedding = encoder(rollout.decisions[f"observation.{picture}_BT"].to(device))
        action, first = rollout.decisions["action_BT"].to(device), rollout.extras["first_BT"].to(device)
        latent_noise = torch.randn(*first.shape, self.policy.config.latent, generator=noise).to(device)
        return embedding, self.policy.model.observe(embedding, action, first, latent_noise)

    def _step(self, name: str, loss: Tensor) -> Tensor:
        self.descents[name](loss)
        return loss

    def state_dict(self) -> dict[str, Any]:
        return {
            "updates": self.updates,
            "normalizer": self.normalizer.detach(),
            "networks": self.networks.state_dict(),
            "source_encoder": self.source_encoder.state_dict(),
            "optimizers": {name: descent.state_dict() for name, descent in self.descents.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.updates = state["updates"]
        self.normalizer.data.copy_(state["normalizer"])
        self.networks.load_state_dict(state["networks"])
        self.source_encoder.load_state_dict(state["source_encoder"])
        for name, descent in self.descents.items():
            descent.load_state_dict(state["optimizers"][name])


def target_divergence(target_N: Tensor) -> Tensor:
    """E_t[f + f^2/4]: the term of the target embeddings in the divergence, negated."""
    return (target_N + target_N**2 / 4).mean()


def divergence_bound(ratio_N: Tensor, source_N: Tensor, target_N: Tensor) -> Tensor:
    """E_s[tau f] - E_t[f + f^2/4]: a lower bound of the divergence of the target from the reweighted source."""
    return (ratio_N * source_N).mean() - target_divergence(target_N)


def density_loss(ratio_N: Tensor, source_N: Tensor, normalizer: Tensor) -> Tensor:
    """E[tau f] + u (E[tau] - 1), which the ratio tau minimizes and the multiplier u, of either sign, maximizes."""
    excess = ratio_N.mean() - 1
    return (ratio_N * source_N).mean() + normalizer.detach() * excess - normalizer * excess.detach()


def _mean_within_episodes(nats_BT: Tensor, rollout: Rollout) -> Tensor:
    """The mean over decisions, all but the last, whose next time step is of the same episode."""
    inside_BT = 1 - rollout.extras["first_BT"].to(nats_BT)[:, 1:]
    return (inside_BT * nats_BT).sum() / inside_BT.sum().clamp(min=1)
