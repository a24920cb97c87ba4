"""How RePo's encoder is aligned with a new domain, without rewards."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from saccade.algorithms.descent import ClippedAdam
from saccade.algorithms.lagrange import LagrangeMultiplier
from saccade.core import Rollout, generator, seeded, seeds
from saccade.math.gaussians import Gaussian, kl
from saccade.models.world_model.rssm import Observed, mlp
from saccade.policies.dreamer import DreamerPolicy


class Discriminator(nn.Module):
    """Features ``[N, E]`` and noise ``[N, code]`` -> verdicts ``[N]``, and the code's divergence from N(0, 1) in
    nats ``[N]``.
    """

    def __init__(self, features: int, hidden: int, code: int = 16):
        super().__init__()
        self.code = code
        self.encode, self.judge = mlp([features, hidden, 2 * code]), mlp([code, hidden, 1])

    def forward(self, x_NE: Tensor, noise_NC: Tensor) -> tuple[Tensor, Tensor]:
        mean, raw = self.encode(x_NE).chunk(2, -1)
        code = Gaussian(mean, softplus(raw) + 1e-4)
        told = kl(code, Gaussian(torch.zeros_like(mean), torch.ones_like(mean)))
        return self.judge(code.sample(noise_NC)).squeeze(-1), told


@dataclass(frozen=True)
class Adapting:
    """How an encoder is adapted."""

    align: Literal["support", "distribution"] = "support"
    """What target embeddings are aligned with: a part of the source's, or all of them as they are distributed."""
    align_weight: float = 1.0
    """Weight of the alignment."""
    dyn: float = 1.0
    """Weight of the dynamics' consistency on target states."""
    calib: float = 1.0
    """Weight of the paired frames."""
    code: float = 0.1
    """Most nats that the discriminator may know of an embedding."""
    penalty: float = 1.0
    """Weight of the discriminator's squared slope."""
    lr: float = 3e-4
    """Learning rate of Adam, for all networks."""


class Adaptation:
    """The learner: a batch has "source" and "target" sequences and "pairs" of both, each a Rollout ``[B, T]``.

    It trains ``policy.model.encoder`` and what it needs to do so; all else of the policy is frozen.
    """

    def __init__(self, policy: DreamerPolicy, cfg: Adapting, seed: int = 0):
        self.policy, self.cfg, self.seed, self.updates = policy, cfg, seed, 0
        sizes, model = policy.sizes, policy.model
        self.source = deepcopy(model.encoder).requires_grad_(False)
        policy.actor.requires_grad_(False)
        model.requires_grad_(False)
        model.encoder.requires_grad_(True)
        with seeded(seed):
            nets = {
                "discriminator": Discriminator(model.encoder.width, sizes.hidden),
                "density": mlp([model.encoder.width, sizes.hidden, 1]),
                "inverse": mlp([2 * (sizes.belief + sizes.latent), sizes.hidden, sizes.hidden, policy.actions]),
                "limit": LagrangeMultiplier(1e-2),
            }
        self.nets = nn.ModuleDict(nets).to(policy.device)
        self.even = nn.Parameter(torch.zeros((), device=policy.device))
        weights = {name: list(net.parameters()) for name, net in self.nets.items()}
        weights["density"] = [*weights["density"], self.even]
        weights["encoder"] = list(model.encoder.parameters())
        self.steps = {name: ClippedAdam(params, cfg.lr, 100.0) for name, params in weights.items()}

    def update(self, batch: Mapping[str, Rollout]) -> dict[str, float]:
        """One step of every network. FloatingPointError if a gradient is not finite."""
        noise = generator(int(seeds(self.seed, 1, key=self.updates)))
        with torch.no_grad():
            source_BTE, source = self._follow(self.source, batch["source"], self.policy.seen, noise)
        target_BTE, target = self._follow(self.policy.model.encoder, batch["target"], self.policy.seen, noise)
        found = self._judge(source_BTE.flatten(0, 1), target_BTE.detach().flatten(0, 1), noise)
        found["inverse"] = self._step("inverse", self._misguessed(source, batch["source"]))
        terms = {
            "align": self.cfg.align_weight * self._alignment(target_BTE.flatten(0, 1), noise),
            "dyn": self.cfg.dyn * self._misguessed(target, batch["target"]),
            "calib": self.cfg.calib * self._apart(batch["pairs"], noise),
        }
        self._step("encoder", torch.stack(list(terms.values())).sum())
        self.updates += 1
        return {f"loss/{name}": float(value.detach()) for name, value in (found | terms).items()}

    def _judge(self, source_NE: Tensor, target_NE: Tensor, noise: torch.Generator) -> dict[str, Tensor]:
        """One step of the discriminator and, for the support, of the density; their losses."""
        tau_N = self.nets["density"](source_NE).squeeze(-1).exp()
        source_NE, target_NE = source_NE.clone().requires_grad_(), target_NE.clone().requires_grad_()
        (f_s, told_s), (f_t, told_t) = self._verdict(source_NE, noise), self._verdict(target_NE, noise)
        support = self.cfg.align == "support"
        own = -gap(tau_N.detach(), f_s, f_t) if support else softplus(-f_s).mean() + softplus(f_t).mean()
        slopes = torch.autograd.grad(f_s.sum() + f_t.sum(), [source_NE, target_NE], create_graph=True)
        told = (told_s.mean() + told_t.mean()) / 2
        limit: LagrangeMultiplier = self.nets["limit"]
        held = limit.value.detach() * (told - self.cfg.code)
        steep = 0.5 * self.cfg.penalty * sum((slope**2).sum(-1).mean() for slope in slopes)
        found = {"discriminator": self._step("discriminator", own + held + steep), "code": told}
        self._step("limit", limit.loss(told - self.cfg.code))
        if support:
            found["density"] = self._step("density", density_loss(tau_N, f_s.detach(), self.even))
        return found

    def _alignment(self, target_NE: Tensor, noise: torch.Generator) -> Tensor:
        """What the encoder lowers; gradients pass through the discriminator but do not move it."""
        f_t, _ = self._verdict(target_NE, noise)
        return -fooled(f_t) if self.cfg.align == "support" else softplus(-f_t).mean()

    def _misguessed(self, seen: Observed, rollout: Rollout) -> Tensor:
        """-log p(a | s_t, s_{t+1}) of the inverse model, but for its constant."""
        features = seen.state.features
        told = self.nets["inverse"](torch.cat([features[:, :-1], features[:, 1:]], -1))
        nats_BT = 0.5 * ((told - rollout.decisions["action_BT"].to(told)[:, :-1]) ** 2).sum(-1)
        return _mean_within(nats_BT, rollout)

    def _apart(self, pairs: Rollout, noise: torch.Generator) -> Tensor:
        """Half the squared distance of the target's beliefs from those that the dynamics give from the source's
        states.
        """
        again = noise.get_state()
        with torch.no_grad():
            _, source = self._follow(self.source, pairs, "source", noise)
        noise.set_state(again)
        _, target = self._follow(self.policy.model.encoder, pairs, "target", noise)
        gap_BT = 0.5 * ((target.state.belief - source.state.belief)[:, 1:] ** 2).sum(-1)
        return _mean_within(gap_BT, pairs)

    def _follow(
        self, encoder: nn.Module, rollout: Rollout, seen: str, noise: torch.Generator
    ) -> tuple[Tensor, Observed]:
        """Embeddings ``[B, T, E]`` and states of sequences, as ``encoder`` sees them."""
        device = self.even.device
        embedding = encoder(rollout.decisions[f"seen.{seen}_BT"].to(device))
        action, first = rollout.decisions["action_BT"].to(device), rollout.extras["first_BT"].to(device)
        drawn = torch.randn(*first.shape, self.policy.sizes.latent, generator=noise).to(device)
        return embedding, self.policy.model.observe(embedding, action, first, drawn)

    def _verdict(self, x_NE: Tensor, noise: torch.Generator) -> tuple[Tensor, Tensor]:
        net: Discriminator = self.nets["discriminator"]
        return net(x_NE, torch.randn(len(x_NE), net.code, generator=noise).to(x_NE))

    def _step(self, name: str, loss: Tensor) -> Tensor:
        if not torch.isfinite(self.steps[name](loss)):
            raise FloatingPointError(f"the gradient of the {name} is not finite")
        return loss

    def state_dict(self) -> dict[str, Any]:
        held = {"updates": self.updates, "even": self.even.detach(), "nets": self.nets.state_dict()}
        return held | {
            "source": self.source.state_dict(),
            "optimizers": {name: one.optimizer.state_dict() for name, one in self.steps.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.updates = state["updates"]
        self.even.data.copy_(state["even"])
        self.nets.load_state_dict(state["nets"])
        self.source.load_state_dict(state["source"])
        for name, one in self.steps.items():
            one.optimizer.load_state_dict(state["optimizers"][name])


def fooled(f_N: Tensor) -> Tensor:
    """E[f + f^2/4]: what target embeddings add to the divergence, negated."""
    return (f_N + f_N**2 / 4).mean()


def gap(tau_N: Tensor, source_N: Tensor, target_N: Tensor) -> Tensor:
    """E_s[tau f] - E_t[f + f^2/4]: a lower bound of the divergence of the target from the re-weighed source."""
    return (tau_N * source_N).mean() - fooled(target_N)


def density_loss(tau_N: Tensor, f_N: Tensor, even: Tensor) -> Tensor:
    """E[tau f] + u (E[tau] - 1), which tau lowers and u, of either sign, raises."""
    excess = tau_N.mean() - 1
    return (tau_N * f_N).mean() + even.detach() * excess - even * excess.detach()


def _mean_within(nats_BT: Tensor, rollout: Rollout) -> Tensor:
    """The mean over decisions, all but the last, whose next moment is of the same episode."""
    known_BT = 1 - rollout.extras["first_BT"].to(nats_BT)[:, 1:]
    return (known_BT * nats_BT).sum() / known_BT.sum().clamp(min=1)
