"""Acting on the state of a world model: what was seen since an episode began is in its belief, which each row carries
along.

`DreamerPolicy` has the weights; `Acting` is it in so many episodes side by side, with their states. Several of these
(one that gathers experience, one that is evaluated) share the weights and nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import softplus

from saccade.core import Environment, Observation, Step, seeded
from saccade.math.gaussians import Gaussian, squashed_log_prob
from saccade.models.world_model.rssm import RSSM, Sizes, State, mlp
from saccade.policies.actors import Acted

REACH = 5.0
"""Bound of an action's mean before tanh, so that it never saturates for good (as in Dreamer)."""


class SquashedGaussian(nn.Module):
    """Features ``[..., F]`` -> the Gaussian whose tanh is the action ``[..., A]``; its spread begins at ``std``."""

    def __init__(self, features: int, actions: int, hidden: int, std: float = 1.0):
        super().__init__()
        self.layers = mlp([features, hidden, hidden, 2 * actions])
        self.offset = float(torch.tensor(std).expm1().log())

    def forward(self, features: Tensor) -> Gaussian:
        mean, raw = self.layers(features).chunk(2, -1)
        return Gaussian(REACH * torch.tanh(mean / REACH), softplus(raw + self.offset) + 1e-4)


class DreamerPolicy:
    """A world model and the actor that was trained inside it; acts on the picture that is called ``seen``."""

    def __init__(self, sizes: Sizes, actions: int, seen: str = "image", std: float = 1.0, seed: int = 0):
        with seeded(seed):
            self.model = RSSM(sizes, actions)
            self.actor = SquashedGaussian(sizes.belief + sizes.latent, actions, sizes.hidden, std)
        self.sizes, self.actions, self.seen = sizes, actions, seen

    def acting(self, rows: int) -> Acting:
        """This policy in ``rows`` episodes side by side."""
        return Acting(self, rows)

    @property
    def device(self) -> torch.device:
        return self.actor.layers[0].weight.device

    def parameters(self) -> list[nn.Parameter]:
        return [*self.model.parameters(), *self.actor.parameters()]

    def to(self, device: torch.device | str) -> DreamerPolicy:
        """The same policy, its weights moved."""
        self.model.to(device)
        self.actor.to(device)
        return self

    def state_dict(self) -> dict[str, Any]:
        return {"model": self.model.state_dict(), "actor": self.actor.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.actor.load_state_dict(state["actor"])

    def export(self, folder: Path) -> None:
        """Write the weights (model.safetensors) and the widths (config.json) to ``folder``."""
        weights = {f"{part}.{k}": v.contiguous() for part, named in self.state_dict().items() for k, v in named.items()}
        save_file(weights, folder / "model.safetensors")
        widths = {"sizes": asdict(self.sizes), "actions": self.actions, "seen": self.seen}
        (folder / "config.json").write_text(json.dumps(widths, indent=1))


class Acting:
    """A policy in B episodes: ``begin`` forgets, ``act`` looks and decides. A row that never began is at its
    beginning.
    """

    def __init__(self, policy: DreamerPolicy, rows: int):
        self.policy = policy
        self.state = policy.model.start(rows)
        self.action_B = self.state.belief.new_zeros(rows, policy.actions)

    def begin(self, rows: Sequence[int]) -> None:
        """Episodes begin in these rows."""
        keep_B = torch.ones_like(self.action_B[:, 0])
        keep_B[list(rows)] = 0.0
        self.state, self.action_B = self.state.kept(keep_B), self.action_B * keep_B[:, None]

    @torch.no_grad()
    def look(self, seen: Mapping[str, Tensor]) -> State:
        """Take in what each row shows after the action of the last step."""
        picture = seen[self.policy.seen].to(self.action_B.device)
        self.state = self.policy.model.look(self.state, self.action_B, picture)
        return self.state

    def took(self, action_B: Tensor) -> None:
        """The actions that were taken, where others than this policy's."""
        self.action_B = action_B.to(self.action_B)

    @torch.no_grad()
    def act(self, seen: Mapping[str, Tensor], draw: Tensor | None) -> Acted:
        """Actions of all rows; ``draw`` is standard normal ``[B, A]``, None for the middle of the distribution."""
        gaussian = self.policy.actor(self.look(seen).features)
        before = gaussian.mean if draw is None else gaussian.sample(draw.to(gaussian.mean))
        self.action_B = torch.tanh(before)
        return Acted(self.action_B.cpu(), squashed_log_prob(gaussian, before).cpu())

    def state_dict(self) -> dict[str, Any]:
        return {"belief": self.state.belief, "latent": self.state.latent, "action": self.action_B}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.state = State(*(state[k].to(self.action_B) for k in ("belief", "latent")))
        self.action_B = state["action"].to(self.action_B)


class RecurrentStateWrapper:
    """An environment whose episodes ``acting`` follows: it is told where they begin and what was done in them."""

    def __init__(self, world: Environment, acting: Acting):
        self.world, self.acting, self.name, self.count = world, acting, world.name, world.count
        self.observation_space, self.action_space = world.observation_space, world.action_space
        self.render = world.render

    def begin(self, rows: Sequence[int], seeds: Sequence[int]) -> Observation:
        self.acting.begin(rows)
        return self.world.begin(rows, seeds)

    def step(self, action_B: np.ndarray) -> Step:
        self.acting.took(torch.from_numpy(np.float32(action_B)))
        return self.world.step(action_B)

    def state_dict(self) -> dict[str, Any]:
        return {"world": self.world.state_dict(), "acting": self.acting.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.world.load_state_dict(state["world"])
        self.acting.load_state_dict(state["acting"])
