"""A small reward model of pictures or of noisy latents, as a differentiable reward."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from saccade.core import Problem, Rollout
from saccade.math.flow import add_noise
from saccade.random import noise

RequestedKinds = Callable[[Problem], Tensor]
"""The kinds that answer each thing a problem asks for, 0 or 1 ``[things, K]``; NaN where the problem has no score."""


class RewardNetwork(nn.Module):
    """Pictures ``[B, C, H, W]`` -> logits ``[B, K]`` that each of K kinds of things is present.

    Three channels are RGB in [0, 1], downsampled four times; any other number are latents, which are not downsampled.
    Each place has a logit for each kind; log-sum-exp over places makes the network indifferent to where a thing lies.
    """

    def __init__(self, kinds: int, width: int = 24, channels: int = 3):
        super().__init__()
        self.pixels = channels == 3
        stride = 2 if self.pixels else 1
        layers = (
            nn.Conv2d(channels, width, 5, stride, 2),
            nn.Conv2d(width, 2 * width, 3, stride, 1),
            nn.Conv2d(2 * width, 2 * width, 3, 1, 1),
            nn.Conv2d(2 * width, 2 * width, 3, 1, 1),
        )
        self.trunk = nn.ModuleList(layers)
        self.head = nn.Conv2d(2 * width, kinds, 1)
        for layer in layers:
            nn.init.kaiming_normal_(layer.weight)
            _fill_bias(layer, 0.0)
        # Most kinds are absent from most pictures, and log-sum-exp adds up the probabilities of all places.
        _fill_bias(self.head, -7.5)

    def forward(self, pictures: Tensor) -> Tensor:
        """Logits of presence ``[B, K]``."""
        return torch.logsumexp(self.head(self._feature_map(pictures)), (2, 3))

    def features(self, pictures: Tensor) -> Tensor:
        """Features ``[B, D]`` before the head, averaged over the four quarters of a picture."""
        return F.adaptive_avg_pool2d(self._feature_map(pictures), 2).flatten(1)

    def _feature_map(self, x: Tensor) -> Tensor:
        if self.pixels:
            x = 4 * (x - 0.85)  # the background is bright, and things on it are dark
        for layer in self.trunk:
            x = F.silu(layer(x))
        return x


def _fill_bias(layer: nn.Conv2d, value: float) -> None:
    if layer.bias is not None:
        nn.init.constant_(layer.bias, value)


@dataclass(frozen=True, eq=False)
class RewardModel:
    """Reward of pictures in [0, 1] ``[B]`` (`reward_of_logits`), NaN for problems without a score.

    Checkpoints hold the weights of the network.
    """

    network: RewardNetwork
    requested: RequestedKinds

    def __call__(self, rollout: Rollout) -> Tensor:
        return reward_of_logits(self.network(rollout.outputs), self.requested, rollout.problems)

    @torch.no_grad()
    def features(self, pictures: Tensor, rows: int = 256) -> Tensor:
        """Features of pictures, whatever their prompts: ``[B, D]``; ``rows`` pictures are processed at a time."""
        return torch.cat([self.network.features(part) for part in pictures.split(rows)])

    def state_dict(self) -> dict[str, Tensor]:
        return self.network.state_dict()

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self.network.load_state_dict(dict(state))


def reward_of_logits(logit_BK: Tensor, requested: RequestedKinds, problems: Sequence[Problem]) -> Tensor:
    """`soft_points` of logits of presence ``[B]``, NaN where a problem requests no kinds."""
    requested_BTK = torch.stack([requested(problem) for problem in problems]).to(logit_BK.device)
    known_B = requested_BTK.isfinite().flatten(1).all(1)
    points_B = soft_points(logit_BK, torch.where(known_B[:, None, None], requested_BTK, 0.0))
    return torch.where(known_B, points_B, torch.nan)


def soft_points(logit_BK: Tensor, requested_BTK: Tensor) -> Tensor:
    """Recall x precision of the requested things under independent probabilities of presence: in [0, 1] ``[B]``.

    A thing is found with probability 1 - prod_k (1 - p_k) over the kinds that answer it. Recall is the expected share
    of requested things found, precision the expected share of requested things among all things; 0 where nothing is.
    """
    absent_BK = F.softplus(logit_BK)
    found_BT = -torch.expm1(-(requested_BTK * absent_BK[:, None]).sum(2))
    other_B = (logit_BK.sigmoid() * (1 - requested_BTK.amax(1))).sum(1)
    things_B, found_B = requested_BTK.any(2).sum(1).clamp(min=1), found_BT.sum(1)
    return found_B / things_B * found_B / (found_B + other_B).clamp(min=1e-6)


@dataclass(frozen=True, eq=False)
class LatentReward:
    """`reward_of_logits` of ``rollout.decisions["x0_B"]`` under noise, a mean over ``times``: in [0, 1] ``[B]``.

    NaN for problems without a score. The noise of a row follows from its seed. Gradients flow into the latents.
    Checkpoints hold the weights of the network.
    """

    network: RewardNetwork
    requested: RequestedKinds
    times: tuple[float, ...] = (0.1, 0.3, 0.5)
    latent: bool = True
    """Marks a reward of latents: no picture is decoded for it."""

    def __call__(self, rollout: Rollout) -> Tensor:
        return torch.stack([self.at(rollout, t, i) for i, t in enumerate(self.times)]).mean(0)

    def at(self, rollout: Rollout, time: float, number: int) -> Tensor:
        """Reward of the latents noised to one time ``[B]``; each number of a time has noise of its own."""
        x0 = rollout.decisions["x0_B"]
        eps = noise(rollout.extras["seed_B"], x0.shape[1:], "latent reward", number, device=x0.device)
        t_B = torch.full((len(x0),), time, device=x0.device)
        logit_BK = self.network(with_time_channel(add_noise(x0, eps, t_B), t_B))
        return reward_of_logits(logit_BK, self.requested, rollout.problems)

    def state_dict(self) -> dict[str, Tensor]:
        return self.network.state_dict()

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self.network.load_state_dict(dict(state))


def with_time_channel(x_t: Tensor, t_B: Tensor) -> Tensor:
    """Latents ``[B, C, h, w]`` with their time as a further channel: ``[B, C + 1, h, w]``."""
    return torch.cat([x_t, t_B[:, None, None, None].expand_as(x_t[:, :1])], 1)
