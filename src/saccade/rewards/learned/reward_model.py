"""A small reward model of pictures or of noisy latents, as a differentiable reward."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from saccade.core import Problem, Rollout, noise, spawn
from saccade.math.flow import add_noise


class RewardNetwork(nn.Module):
    """Pictures ``[B, C, H, W]`` -> logits ``[B, K]``: how sure it is that each kind is somewhere to be seen.

    Pictures are RGB in [0, 1] and halved twice, or, with other ``channels``, latents that are small already. Then comes
    a logit for each kind at each place, joined by log-sum-exp, so that a thing counts wherever it lies.
    """

    def __init__(self, kinds: int, width: int = 24, channels: int = 3):
        super().__init__()
        self.pixels = channels == 3
        halving = 2 if self.pixels else 1
        shapes = (
            (channels, width, 5, halving), (width, 2 * width, 3, halving), (2 * width, 2 * width, 3, 1), (2 * width, 2 * width, 3, 1),
        )  # fmt: skip
        self.eye = nn.ModuleList(nn.Conv2d(a, b, size, stride, size // 2) for a, b, size, stride in shapes)
        self.name = nn.Conv2d(2 * width, kinds, 1)
        for layer in self.eye:
            nn.init.kaiming_normal_(layer.weight)
            nn.init.zeros_(layer.bias)
        nn.init.constant_(self.name.bias, -7.5)  # most kinds are absent from most pictures, and places add up

    def forward(self, pictures: Tensor) -> Tensor:
        """Logits of presence ``[B, K]``."""
        return torch.logsumexp(self.name(self._look(pictures)), (2, 3))

    def features(self, pictures: Tensor) -> Tensor:
        """What a picture is like before anything is named: the map averaged over its quarters, ``[B, D]``."""
        return F.adaptive_avg_pool2d(self._look(pictures), 2).flatten(1)

    def _look(self, x: Tensor) -> Tensor:
        if self.pixels:
            x = 4 * (x - 0.85)  # pictures are light, and what is on them is dark
        for layer in self.eye:
            x = F.silu(layer(x))
        return x


@dataclass(frozen=True, eq=False)
class RewardModel:
    """r in [0, 1] ``[B]``; ``wanted`` gives the kinds that answer each thing of a problem, ``[things, K]``, NaN for no
    verdict.

    Saved and loaded with the critic's weights.
    """

    critic: RewardNetwork
    wanted: Callable[[Problem], Tensor]

    def __call__(self, rollout: Rollout) -> Tensor:
        return verdict(self.critic(rollout.outputs), self.wanted, rollout.problems)

    @torch.no_grad()
    def features(self, pictures: Tensor, rows: int = 256) -> Tensor:
        """Features of pictures, whatever was asked: ``[B, D]``."""
        return torch.cat([self.critic.features(part) for part in pictures.split(rows)])

    def state_dict(self) -> dict[str, Tensor]:
        return self.critic.state_dict()

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self.critic.load_state_dict(dict(state))


def verdict(logit_BK: Tensor, wanted: Callable[[Problem], Tensor], problems: Sequence[Problem]) -> Tensor:
    """r ``[B]`` of logits of presence, NaN for a problem that wants no kinds."""
    want_BTK = torch.stack([wanted(problem) for problem in problems]).to(logit_BK.device)
    known_B = want_BTK.isfinite().flatten(1).all(1)
    return torch.where(known_B, soft_points(logit_BK, torch.where(known_B[:, None, None], want_BTK, 0.0)), torch.nan)


def soft_points(logit_BK: Tensor, want_BTK: Tensor) -> Tensor:
    """r ``[B]`` of logits of presence and of the kinds wanted; 0 where nothing is."""
    absent_BK = F.softplus(logit_BK)
    won_BT = -torch.expm1(-(want_BTK * absent_BK[:, None]).sum(2))
    strangers_B = (logit_BK.sigmoid() * (1 - want_BTK.amax(1))).sum(1)
    things_B, won_B = want_BTK.any(2).sum(1).clamp(min=1), won_BT.sum(1)
    return won_B / things_B * won_B / (won_B + strangers_B).clamp(min=1e-6)


_SEEN = 1 << 26
"""Key of the noise under which latents are judged."""


@dataclass(frozen=True, eq=False)
class LatentReward:
    """`verdict` on ``rollout.decisions["x0_B"]`` under noise, a mean over ``times``: ``[B]`` in [0, 1], NaN for no
    verdict.

    Each row's noise comes from its own seed. Gradients flow into the latents.
    """

    critic: RewardNetwork
    wanted: Callable[[Problem], Tensor]
    times: tuple[float, ...] = (0.1, 0.3, 0.5)
    latent: bool = True
    """That it reads latents, not pictures."""

    def __call__(self, rollout: Rollout) -> Tensor:
        return torch.stack([self.at(rollout, t, _SEEN + number) for number, t in enumerate(self.times)]).mean(0)

    def at(self, rollout: Rollout, time: float, key: int) -> Tensor:
        """The verdict on latents noised to one time ``[B]``."""
        x0 = rollout.decisions["x0_B"]
        eps = noise(spawn(rollout.extras["seed_B"], key), x0.shape[1:], x0.device)
        t_B = torch.full((len(x0),), time, device=x0.device)
        return verdict(self.critic(timed(add_noise(x0, eps, t_B), t_B)), self.wanted, rollout.problems)

    def state_dict(self) -> dict[str, Tensor]:
        return self.critic.state_dict()

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self.critic.load_state_dict(dict(state))


def timed(x_t: Tensor, t_B: Tensor) -> Tensor:
    """Latents ``[B, C, h, w]`` with their time as one channel more."""
    return torch.cat([x_t, t_B[:, None, None, None].expand_as(x_t[:, :1])], 1)
