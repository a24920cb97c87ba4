"""An actor and a critic on an environment's observations: actions, their log-probabilities and values of states.

Both may share one trunk (pictures) or stand on the observations themselves (vectors). ``fused`` may hold both networks
as one function of numpy arrays on the same weights, which small networks need to act fast on a CPU; it is attached by
`saccade.algorithms.acceleration`, and without it the policy is the same within rounding.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from saccade.config import Count, Signed
from saccade.core import Action, Likelihood, Rollout
from saccade.models.control.networks import MLP, Encoder, FeatureExtractor
from saccade.models.device import device_of
from saccade.random import initialized

OBSERVATION = "observation."
"""Prefix of the names of observations in the decisions of a rollout."""


@dataclass(frozen=True)
class ActorCriticModel:
    """Sizes of an actor-critic; the defaults suit vectors, ``hidden`` () and "nature" suit Atari."""

    hidden: tuple[int, ...] = (64, 64)
    """Widths of the hidden layers of the actor and of the critic, behind the encoder of the observations."""
    activation: str = "tanh"
    """Activation of the hidden layers: tanh, relu, silu or elu."""
    vector_features: int = 0
    """Number of features of each observed vector; 0 takes vectors as they are."""
    picture_features: Count = 512
    """Number of features of each observed picture."""
    convolutions: str = "nature"
    """Convolutions of pictures: nature for 84 pixels a side, small for 20 to 64."""
    normalize_observations: bool = False
    """Normalize observed vectors by their running mean and standard deviation."""
    log_std: Signed = 0.0
    """Logarithm of the standard deviation of Gaussian actions at the start."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Precision of the update's matrix products: float32, or bfloat16 with float32 weights, which is twice as fast for
    pictures where the CPU supports it.
    """


class FusedNetworks(Protocol):
    """Actor and critic as one function of numpy arrays, on the weights of both modules."""

    def forward(self, x_NF: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Outputs of the actor ``[N, K]`` and of the critic ``[N]``, overwritten by the next call with N rows."""
        ...


@dataclass(eq=False)
class ActorCritic:
    """Observations by name -> features -> an action and a value; ``model`` holds the sizes and is exported with it."""

    trunk: FeatureExtractor
    actor: MLP
    critic: MLP
    head: Head
    model: ActorCriticModel = ActorCriticModel()
    fused: FusedNetworks | None = None

    # -- acting ---------------------------------------------------------------------------------------------

    def act(self, observation: Mapping[str, Tensor], noise_BD: Tensor | None) -> Action:
        """One action for each row, with its value; ``noise_BD`` as in `core.ActingPolicy`."""
        output, value_B = self._outputs(observation)
        action_B, logp_B = self.head.act(output, None if noise_BD is None else noise_BD.numpy())
        return Action(torch.from_numpy(action_B), torch.from_numpy(logp_B), torch.from_numpy(value_B))

    def value(self, observation: Mapping[str, Tensor]) -> Tensor:
        """Value estimate of each state: ``[B]``."""
        return torch.from_numpy(self._outputs(observation)[1])

    def _outputs(self, observation: Mapping[str, Tensor]) -> tuple[np.ndarray, np.ndarray]:
        if self.fused is not None and self.trunk.plain:
            return _copied(self.fused.forward(_joined([observation[name].numpy() for name in self.trunk.parts])))
        with torch.no_grad():
            x_NF = self._features(observation)
            if self.fused is not None:
                return _copied(self.fused.forward(x_NF.numpy()))
            return self.actor(x_NF).cpu().numpy(), self.critic(x_NF)[:, 0].cpu().numpy()

    def _features(self, observation: Mapping[str, Tensor]) -> Tensor:
        return self.trunk({name: x.to(self.device) for name, x in observation.items()})

    # -- replay ---------------------------------------------------------------------------------------------

    def likelihood(self, rollout: Rollout) -> Likelihood:
        """Log-probability, entropy and value of each stored decision: ``[B, T]`` each, with gradients."""
        rows, steps = rollout.logp_BT.shape
        action = rollout.decisions["action_BT"].flatten(0, 1).to(self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.model.precision == "bfloat16"):
            x_NF = self._features(self.observations(rollout))
            output, value_N = self.actor(x_NF).float(), self.critic(x_NF)[:, 0].float()
        parts = (self.head.logp(output, action), self.head.entropy(output), value_N)
        logp, entropy, value = (x.view(rows, steps).to(rollout.logp_BT.device) for x in parts)
        return Likelihood(logp, entropy_BT=entropy, value_BT=value)

    @torch.no_grad()
    def features(self, rollout: Rollout) -> Tensor:
        """Inputs of actor and critic at each decision: ``[B T, F]``, for a trunk that is not trained."""
        return self._features(self.observations(rollout))

    def update_statistics(self, rollout: Rollout) -> None:
        """Add the observations to the trunk's running means; log-probabilities stored before no longer hold then."""
        self.trunk.update_statistics({name: x.to(self.device) for name, x in self.observations(rollout).items()})

    def observations(self, rollout: Rollout) -> dict[str, Tensor]:
        """The observation at each decision, by name: ``[B T, ...]``."""
        parts = {name: x for name, x in rollout.decisions.items() if name.startswith(OBSERVATION)}
        return {name.removeprefix(OBSERVATION).removesuffix("_BT"): x.flatten(0, 1) for name, x in parts.items()}

    # -- weights --------------------------------------------------------------------------------------------

    @property
    def device(self) -> torch.device:
        return next(self.critic.parameters()).device

    @property
    def trained(self) -> list[nn.Parameter]:
        return list(self._modules().parameters())

    def parameters(self) -> list[nn.Parameter]:
        return self.trained

    def state_dict(self) -> dict[str, Tensor]:
        return {name: value.detach().clone() for name, value in self._modules().state_dict().items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Load weights and running means in place, so that ``fused`` keeps sharing the weights."""
        self._modules().load_state_dict(state)

    def export(self, folder: str | Path) -> None:
        """Write the weights to policy.safetensors and the sizes to policy.json."""
        from safetensors.torch import save_file

        weights = {name: value.cpu().contiguous() for name, value in self.state_dict().items()}
        save_file(weights, Path(folder) / "policy.safetensors")
        sizes = asdict(self.model) | {"head": type(self.head).__name__}
        (Path(folder) / "policy.json").write_text(json.dumps(sizes, indent=1))

    def _modules(self) -> nn.ModuleDict:
        return nn.ModuleDict({"trunk": self.trunk, "actor": self.actor, "critic": self.critic, "head": self.head})


def _joined(parts: Sequence[np.ndarray]) -> np.ndarray:
    flat = [part.reshape(len(part), -1) for part in parts]
    return flat[0] if len(flat) == 1 else np.concatenate(flat, 1)


def _copied(arrays: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    return arrays[0].copy(), arrays[1].copy()


def build_actor_critic(
    model: ActorCriticModel, observation: spaces.Dict, action: spaces.Space, seed: int, device: str = "cpu"
) -> ActorCritic:
    """An actor-critic for these observation and action spaces, its weights initialized from ``seed``.

    ValueError for spaces that it cannot handle and for an unknown setting.
    """
    if model.precision not in ("float32", "bfloat16"):
        raise ValueError(f"unknown precision '{model.precision}': one of float32, bfloat16")
    place = device_of(device)
    with initialized(seed, "actor and critic"):
        trunk = Encoder(
            observation,
            model.vector_features,
            model.picture_features,
            model.convolutions,
            model.normalize_observations,
        )
        head = _head(action, model.log_std)
        nets = [_net(model, trunk.size, size, gain) for size, gain in ((head.outputs, 0.01), (1, 1.0))]
    return ActorCritic(trunk.to(place), nets[0].to(place), nets[1].to(place), head.to(place), model)


def _net(model: ActorCriticModel, size: int, outputs: int, gain: float) -> MLP:
    return MLP((size, *model.hidden, outputs), model.activation, gain=gain)


def _head(action: spaces.Space, log_std: float) -> Head:
    if isinstance(action, spaces.Discrete):
        return Categorical(int(action.n))
    if isinstance(action, spaces.Box) and len(action.shape) == 1:
        return Gaussian(action.shape[0], log_std)
    raise ValueError(f"actions are {action}; supported are Discrete ones and vectors (Box of one axis)")


class Categorical(nn.Module):
    """One of K actions, from logits ``[N, K]``; actions are int64 ``[N]``."""

    def __init__(self, actions: int):
        super().__init__()
        self.outputs = actions

    def act(self, logits_NK: np.ndarray, uniform_N1: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """Actions ``[N]`` by inversion of the cumulative distribution at uniform numbers, and their log-probabilities
        ``[N]``; without numbers the most probable actions.
        """
        logits_NK = logits_NK - logits_NK.max(1, keepdims=True)
        cumulative_NK = np.exp(logits_NK).cumsum(1)
        total_N1 = cumulative_NK[:, -1:]
        if uniform_N1 is None:
            action_N = logits_NK.argmax(1)
        else:
            action_N = (cumulative_NK[:, :-1] <= uniform_N1 * total_N1).sum(1)
        return action_N, logits_NK[np.arange(len(logits_NK)), action_N] - np.log(total_N1[:, 0])

    def logp(self, logits_NK: Tensor, action_N: Tensor) -> Tensor:
        """Log-probability of each action: ``[N]``."""
        return logits_NK.log_softmax(-1).gather(-1, action_N[:, None]).squeeze(-1)

    def entropy(self, logits_NK: Tensor) -> Tensor:
        """Entropy in nats: ``[N]``."""
        logp_NK = logits_NK.log_softmax(-1)
        return -(logp_NK.exp() * logp_NK).sum(-1)


class Gaussian(nn.Module):
    """A vector of A numbers, not squashed, from means ``[N, A]``; the standard deviation is the same in every state.

    Actions are ``[N, A]``.
    """

    def __init__(self, actions: int, log_std: float = 0.0):
        super().__init__()
        self.outputs = actions
        self.log_std = nn.Parameter(torch.full((actions,), log_std))

    def act(self, mean_NA: np.ndarray, normal_NA: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """Actions ``[N, A]`` from standard normal numbers (None: the means), and their log-densities ``[N]``."""
        normal_NA = np.zeros_like(mean_NA) if normal_NA is None else normal_NA
        log_std = self.log_std.detach().cpu().numpy()
        normalizer = np.asarray(log_std.sum() + 0.5 * math.log(2 * math.pi) * self.outputs, np.float32)
        return mean_NA + np.exp(log_std) * normal_NA, -0.5 * (normal_NA * normal_NA).sum(1) - normalizer

    def logp(self, mean_NA: Tensor, action_NA: Tensor) -> Tensor:
        """Log-density of each action: ``[N]``."""
        z_NA = (action_NA - mean_NA) * (-self.log_std).exp()
        return (-0.5 * z_NA**2 - self.log_std - 0.5 * math.log(2 * math.pi)).sum(-1)

    def entropy(self, mean_NA: Tensor) -> Tensor:
        """Differential entropy in nats: ``[N]``."""
        return (self.log_std + 0.5 * math.log(2 * math.pi * math.e)).sum().expand(len(mean_NA))


Head = Categorical | Gaussian
