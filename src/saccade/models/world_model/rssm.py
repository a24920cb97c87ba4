"""A recurrent state-space model (RSSM): observations and actions summarized in a deterministic belief and a Gaussian
latent, which can be rolled forward.

    h_t = GRU(h_{t-1}, W[z_{t-1}, a_{t-1}])   belief
    p(z_t | h_t)                              prior, before the observation
    q(z_t | h_t, e(o_t))                      posterior, after the observation

PlaNet 1811.04551, Dreamer 1912.01603. Pictures are scaled to [-1, 1]; actions are numbers in [-1, 1].
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import elu, softplus

from saccade.config import Count
from saccade.math.gaussians import Gaussian, stack_gaussians

KERNEL = 4
"""Side of every convolution kernel in pixels."""


@dataclass(frozen=True)
class RSSMConfig:
    """Sizes of a world model; the defaults suit one processor core."""

    pixels: Count = 32
    """Side of the square pictures in pixels: 32 or 64."""
    depth: Count = 8
    """Number of channels of the first convolution; each of the following has twice as many as the one before."""
    belief: Count = 64
    """Width of the GRU."""
    latent: Count = 16
    """Number of dimensions of the Gaussian latent."""
    hidden: Count = 64
    """Width of all hidden layers."""
    min_std: float = 0.1
    """Smallest standard deviation of a latent, which is added to that of the network."""

    @property
    def features(self) -> int:
        """Number of features of a state: belief and latent."""
        return self.belief + self.latent


class State(NamedTuple):
    """The model's state at a time step: belief ``[..., H]`` and latent ``[..., Z]``."""

    belief: Tensor
    latent: Tensor

    @property
    def features(self) -> Tensor:
        """Belief and latent joined: ``[..., H + Z]``."""
        return torch.cat([self.belief, self.latent], -1)

    def flat(self) -> State:
        """Every time step a row, without gradients: ``[N, …]``."""
        return State(*(x.detach().flatten(0, -2) for x in self))

    def reset_unless(self, keep_B: Tensor) -> State:
        """The state with the rows where ``keep_B`` is 0 reset to the initial state (zeros)."""
        return State(*(x * keep_B[:, None] for x in self))


class Observed(NamedTuple):
    """Inference on sequences: states with sampled latents, priors and posteriors, each ``[B, T, …]``."""

    state: State
    prior: Gaussian
    posterior: Gaussian


Act = Callable[[Tensor, int], Tensor]
"""Features ``[N, F]`` and the index of the imagined step -> actions ``[N, A]``."""


class RSSM(nn.Module):
    """World model of pictures ``[H, W, 3]`` uint8 and actions of ``actions`` numbers, with heads that predict the
    reward and the end of the episode.
    """

    def __init__(self, config: RSSMConfig, actions: int):
        super().__init__()
        self.config, self.actions = config, actions
        belief, latent, hidden = config.belief, config.latent, config.hidden
        self.encoder = PictureEncoder(config.pixels, config.depth)
        self.gru_input = nn.Linear(latent + actions, hidden)
        self.gru = nn.GRUCell(hidden, belief)
        self.prior_head = mlp([belief, hidden, 2 * latent])
        self.from_belief = nn.Linear(belief, hidden)
        self.from_picture = nn.Linear(self.encoder.width, hidden, bias=False)
        self.posterior_head = nn.Linear(hidden, 2 * latent)
        self.decoder = PictureDecoder(config.features, config.pixels, config.depth)
        self.reward_head = mlp([config.features, hidden, hidden, 1])
        self.end_head = mlp([config.features, hidden, hidden, 1])

    def start(self, rows: int) -> State:
        """The initial state of an episode: zeros."""
        zeros = self.gru_input.weight.new_zeros
        return State(zeros(rows, self.config.belief), zeros(rows, self.config.latent))

    def next_belief(self, state: State, action: Tensor) -> Tensor:
        """The belief after ``action`` ``[N, A]``: ``[N, H]``."""
        return self.gru(elu(self.gru_input(torch.cat([state.latent, action], -1))), state.belief)

    def prior(self, belief: Tensor) -> Gaussian:
        """Distribution of the latent before the observation."""
        return self._gaussian(self.prior_head(belief))

    def posterior(self, belief: Tensor, embedding: Tensor) -> Gaussian:
        """Distribution of the latent after an observation, given as the encoder's ``embedding``."""
        return self._gaussian(self.posterior_head(elu(self.from_belief(belief) + self.from_picture(embedding))))

    def observe(self, embedding_BTE: Tensor, action_BTA: Tensor, first_BT: Tensor, noise_BTZ: Tensor) -> Observed:
        """Infer the states of sequences from their observations.

        ``action_BTA[:, t]`` was taken at time step t; ``first_BT`` is 1 where an episode begins. What preceded a
        sequence is unknown, so that its first time step counts as the beginning of an episode too.
        """
        projected = self.from_picture(embedding_BTE).unbind(1)
        state, action = self.start(len(first_BT)), torch.zeros_like(action_BTA[:, 0])
        keep_BT = 1 - first_BT.to(action.dtype)
        states, posteriors = [], []
        for t, noise in enumerate(noise_BTZ.unbind(1)):
            keep_B = keep_BT[:, t] if t else torch.zeros_like(keep_BT[:, 0])
            belief = self.next_belief(state.reset_unless(keep_B), action * keep_B[:, None])
            posterior = self._gaussian(self.posterior_head(elu(self.from_belief(belief) + projected[t])))
            state, action = State(belief, posterior.sample(noise)), action_BTA[:, t]
            states.append(state)
            posteriors.append(posterior)
        joined = State(*(torch.stack(x, 1) for x in zip(*states)))
        return Observed(joined, self.prior(joined.belief), stack_gaussians(posteriors, 1))

    def filter(self, state: State, action: Tensor, picture: Tensor) -> State:
        """The state after ``action`` ``[N, A]`` and one observed picture; its latent is the posterior's mean."""
        belief = self.next_belief(state, action)
        return State(belief, self.posterior(belief, self.encoder(picture)).mean)

    def imagine(self, start: State, act: Act, noise_NHZ: Tensor) -> State:
        """Roll the prior forward for H steps from ``start`` ``[N, …]``: states ``[N, H + 1, …]``, the start first.

        Gradients flow through the dynamics; ``act`` is given detached features.
        """
        states = [start]
        for t, noise in enumerate(noise_NHZ.unbind(1)):
            action = act(states[-1].features.detach(), t)
            belief = self.next_belief(states[-1], action)
            states.append(State(belief, self.prior(belief).sample(noise)))
        return State(*(torch.stack(x, 1) for x in zip(*states)))

    def reward(self, features: Tensor) -> Tensor:
        """Mean of the reward for arriving in a state: ``[...]``."""
        return self.reward_head(features).squeeze(-1)

    def end(self, features: Tensor) -> Tensor:
        """Log-odds that arriving in a state terminated the episode: ``[...]``."""
        return self.end_head(features).squeeze(-1)

    def _gaussian(self, numbers: Tensor) -> Gaussian:
        mean, raw = numbers.chunk(2, -1)
        return Gaussian(mean, softplus(raw) + self.config.min_std)


class PictureEncoder(nn.Module):
    """Convolutions (kernel 4, stride 2) down to 2 x 2: pictures uint8 ``[..., H, W, 3]`` -> ``[..., width]``."""

    def __init__(self, pixels: int, depth: int):
        super().__init__()
        sides = _sides(pixels)
        channels = [3, *(depth * 2**i for i in range(len(sides) - 1))]
        self.layers = nn.ModuleList(nn.Conv2d(a, b, KERNEL, stride=2) for a, b in pairwise(channels))
        self.width = channels[-1] * sides[-1] ** 2

    def forward(self, picture: Tensor) -> Tensor:
        x = as_input(picture).flatten(0, -4)
        for layer in self.layers:
            x = elu(layer(x))
        return x.reshape(*picture.shape[:-3], self.width)


class PictureDecoder(nn.Module):
    """Transposed convolutions from 2 x 2: features ``[..., F]`` -> pictures ``[..., 3, H, W]`` around [-1, 1]."""

    def __init__(self, features: int, pixels: int, depth: int):
        super().__init__()
        sides = _sides(pixels)[::-1]
        channels = [*(depth * 2**i for i in reversed(range(len(sides) - 1))), 3]
        self.shape = channels[0], sides[0], sides[0]
        self.project = nn.Linear(features, math.prod(self.shape))
        steps = zip(channels, channels[1:], sides, sides[1:])
        self.layers = nn.ModuleList(nn.ConvTranspose2d(a, b, n - 2 * (m - 1), stride=2) for a, b, m, n in steps)

    def forward(self, features: Tensor) -> Tensor:
        x = self.project(features.flatten(0, -2)).unflatten(-1, self.shape)
        for layer in self.layers:
            x = layer(elu(x))
        return x.unflatten(0, features.shape[:-1])


def as_input(picture: Tensor) -> Tensor:
    """uint8 ``[..., H, W, 3]`` -> ``[..., 3, H, W]`` in [-1, 1]."""
    return picture.movedim(-1, -3).to(torch.float32) / 127.5 - 1


def as_picture(decoded: Tensor) -> Tensor:
    """A decoder's output as a picture ``[..., 3, H, W]`` in [0, 1]."""
    return ((decoded + 1) / 2).clamp(0, 1)


def mlp(sizes: Sequence[int]) -> nn.Sequential:
    """Linear layers with ELU between them."""
    layers: list[nn.Module] = [nn.Linear(sizes[0], sizes[1])]
    for a, b in pairwise(sizes[1:]):
        layers += [nn.ELU(), nn.Linear(a, b)]
    return nn.Sequential(*layers)


def _sides(pixels: int) -> list[int]:
    """Sides of the feature maps in pixels, that of the picture first: 32, 15, 6, 2."""
    if pixels not in (32, 64):
        raise ValueError(f"a world model takes pictures of 32 or 64 pixels a side, not {pixels}")
    sides = [pixels]
    while sides[-1] > 2:
        sides.append((sides[-1] - KERNEL) // 2 + 1)
    return sides
