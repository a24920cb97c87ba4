"""A learned reward that reads latents under noise, so that nothing is decoded, and states on the way can be judged.

What a critic is taught on x_t = (1 - t) x0 + t eps, with t beside it, it can say of any state of a sampler's walk (LRM
2502.01051). Here x0 is noised to a few times, which also smooths the reward: a detail that noise hides earns nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from saccade.core import Problem, Rollout, noise, spawn
from saccade.math.paths import add_noise
from saccade.models.critic import Critic
from saccade.rewards.critic import verdict

_SEEN = 1 << 26
"""Key of the noise under which latents are judged."""


@dataclass(frozen=True, eq=False)
class LatentReward:
    """`verdict` on ``rollout.decisions["x0_B"]`` under noise, a mean over ``times``: ``[B]`` in [0, 1], NaN for no verdict.

    Each row's noise comes from its own seed. Gradients flow into the latents.
    """

    critic: Critic
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
