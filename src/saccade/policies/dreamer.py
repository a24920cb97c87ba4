"""Acting on the state of a world model: each row carries the belief from the observations of its episode so far.

`DreamerPolicy` holds the weights; `RecurrentActor` is that policy in a number of episodes side by side, with their
states. Several of these (one that collects experience, one that is evaluated) share the weights and nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import softplus

from saccade.core import Action
from saccade.math.gaussians import Gaussian, squashed_log_prob
from saccade.models.world_model.rssm import RSSM, RSSMConfig, State, mlp
from saccade.random import initialized

MEAN_BOUND = 5.0
"""Bound of an action's mean before tanh, so that tanh does not saturate for good (as in Dreamer)."""


class SquashedGaussian(nn.Module):
    """Features ``[..., F]`` -> the Gaussian whose tanh is the action ``[..., A]``.

    ``init_std`` is its standard deviation at the start.
    """

    def __init__(self, features: int, actions: int, hidden: int, init_std: float = 1.0):
        super().__init__()
        self.layers = mlp([features, hidden, hidden, 2 * actions])
        self.offset = float(torch.tensor(init_std).expm1().log())

    def forward(self, features: Tensor) -> Gaussian:
        mean, raw = self.layers(features).chunk(2, -1)
        return Gaussian(MEAN_BOUND * torch.tanh(mean / MEAN_BOUND), softplus(raw + self.offset) + 1e-4)


class DreamerPolicy:
    """A world model and the actor that is trained inside it; ``picture`` is the name of the observation it acts on."""

    def __init__(self, config: RSSMConfig, actions: int, picture: str = "image", init_std: float = 1.0, seed: int = 0):
        with initialized(seed, "world model and actor"):
            self.model = RSSM(config, actions)
            self.actor = SquashedGaussian(config.features, actions, config.hidden, init_std)
        self.config, self.actions, self.picture = config, actions, picture

    def recurrent(self, rows: int) -> RecurrentActor:
        """This policy in ``rows`` episodes side by side."""
        return RecurrentActor(self, rows)

    @property
    def device(self) -> torch.device:
        return next(self.actor.parameters()).device

    def parameters(self) -> list[nn.Parameter]:
        return [*self.model.parameters(), *self.actor.parameters()]

    def to(self, device: torch.device | str) -> DreamerPolicy:
        """The same policy, with its weights moved to a device."""
        self.model.to(device)
        self.actor.to(device)
        return self

    def state_dict(self) -> dict[str, Any]:
        return {"model": self.model.state_dict(), "actor": self.actor.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.actor.load_state_dict(state["actor"])

    def export(self, folder: Path) -> None:
        """Write the weights to model.safetensors and the sizes to config.json in ``folder``."""
        weights = {f"{part}.{k}": v.contiguous() for part, named in self.state_dict().items() for k, v in named.items()}
        save_file(weights, folder / "model.safetensors")
        sizes = {"model": asdict(self.config), "actions": self.actions, "picture": self.picture}
        (folder / "config.json").write_text(json.dumps(sizes, indent=1))


class RecurrentActor:
    """A policy in B episodes side by side, with the model's state of each; all rows start in the initial state."""

    def __init__(self, policy: DreamerPolicy, rows: int):
        self.policy = policy
        self.state = policy.model.start(rows)
        self.action_B = self.state.belief.new_zeros(rows, policy.actions)

    def begin(self, rows: Sequence[int]) -> None:
        """Reset the state of these rows, in which episodes begin."""
        keep_B = torch.ones_like(self.action_B[:, 0])
        keep_B[list(rows)] = 0.0
        self.state, self.action_B = self.state.reset_unless(keep_B), self.action_B * keep_B[:, None]

    @torch.no_grad()
    def observe(self, observation: Mapping[str, Tensor]) -> State:
        """Update the state of each row with its observation after the last action."""
        picture = observation[self.policy.picture].to(self.action_B.device)
        self.state = self.policy.model.filter(self.state, self.action_B, picture)
        return self.state

    def set_action(self, action_B: Tensor) -> None:
        """Set the last actions, where they were others than this policy's."""
        self.action_B = action_B.to(self.action_B)

    @torch.no_grad()
    def act(self, observation: Mapping[str, Tensor], noise_BA: Tensor | None) -> Action:
        """Observe, then act in all rows; ``noise_BA`` is standard normal ``[B, A]``, None takes tanh of the mean."""
        gaussian = self.policy.actor(self.observe(observation).features)
        before = gaussian.mean if noise_BA is None else gaussian.sample(noise_BA.to(gaussian.mean))
        self.action_B = torch.tanh(before)
        return Action(self.action_B.cpu(), squashed_log_prob(gaussian, before).cpu())

    def state_dict(self) -> dict[str, Any]:
        return {"belief": self.state.belief, "latent": self.state.latent, "action": self.action_B}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.state = State(*(state[k].to(self.action_B) for k in ("belief", "latent")))
        self.action_B = state["action"].to(self.action_B)
