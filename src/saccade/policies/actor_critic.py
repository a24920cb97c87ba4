"""An actor and a critic that see what an environment shows: actions, their log-probs, and what the state is worth.

Both may stand on one trunk (pictures) or on what is seen itself (vectors). Where they are small tanh networks on a CPU
they share one vector of weights (`policies.fused_actor_critic`), which acts ten times as fast and is the same policy within rounding.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from saccade.core import Likelihood, Rollout, seeded
from saccade.models.control.networks import MLP, Encoder
from saccade.models.device import device_of
from saccade.policies.fused_actor_critic import FusedActorCritic, fits

SEEN = "seen."


@dataclass(frozen=True)
class ActorCriticModel:
    """Sizes of an actor-critic; the defaults suit vectors, ``hidden`` () and "nature" suit Atari."""

    hidden: tuple[int, ...] = (64, 64)
    """Widths of the hidden layers of actor and of critic, behind the encoder of what is seen."""
    activation: str = "tanh"
    """tanh, relu, silu or elu."""
    width: int = 0
    """Features of each vector seen; 0 takes vectors as they are."""
    features: int = 512
    """Features of each picture seen."""
    convolutions: str = "nature"
    """nature for pictures of 84 pixels, small for 20 to 64."""
    standardise: bool = False
    """Whether vectors are seen less their running mean, over their running spread."""
    log_std: float = 0.0
    """Logarithm of the spread of Gaussian actions at the start."""
    precision: str = "float32"
    """Of the update's products: float32, or bfloat16 with weights kept in float32, twice as fast for pictures where
    the CPU has it.
    """


class Acted(NamedTuple):
    """Actions ``[B]`` or ``[B, A]``, their log-probs and the states' values, both ``[B]``; on the CPU, without
    gradients.
    """

    action_B: Tensor
    logp_B: Tensor
    value_B: Tensor


@dataclass(eq=False)
class ActorCritic:
    """Observations by name -> features -> an action and a value; ``model`` is how it was built, told when it is
    exported.
    """

    trunk: Encoder
    actor: MLP
    critic: MLP
    head: Head
    model: ActorCriticModel = ActorCriticModel()
    twin: FusedActorCritic | None = field(init=False)
    names: tuple[str, ...] = field(init=False)
    """Of what is seen, in the trunk's order."""

    def __post_init__(self) -> None:
        self.names = tuple(self.trunk.parts)
        plain = not list(self.trunk.parameters()) and self.model.precision == "float32"
        self.twin = (
            FusedActorCritic(self.actor, self.critic, list(self.head.parameters()))
            if plain and fits(self.actor, self.critic)
            else None
        )

    # -- acting ---------------------------------------------------------------------------------------------

    def act(self, seen: Mapping[str, Tensor], draw_BD: Tensor | None) -> Acted:
        """One action for each row; ``draw_BD`` is standard normal ``[B, A]``, uniform ``[B, 1]`` for a choice, None
        for the likeliest.
        """
        out, value_B = self._outputs(seen)
        action_B, logp_B = self.head.act(out, None if draw_BD is None else draw_BD.numpy())
        return Acted(torch.from_numpy(action_B), torch.from_numpy(logp_B), torch.from_numpy(value_B))

    def value(self, seen: Mapping[str, Tensor]) -> Tensor:
        """What each state is worth: ``[B]``."""
        return torch.from_numpy(self._outputs(seen)[1])

    def _outputs(self, seen: Mapping[str, Tensor]) -> tuple[np.ndarray, np.ndarray]:
        if self.twin is not None and self.trunk.plain:
            return self._of_twin(_side_by_side([seen[name].numpy() for name in self.names]))
        with torch.no_grad():
            x_NF = self._features(seen)
            if self.twin is not None:
                return self._of_twin(x_NF.numpy())
            return self.actor(x_NF).cpu().numpy(), self.critic(x_NF)[:, 0].cpu().numpy()

    def _of_twin(self, x_NF: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        out, value_N = self.twin.forward(x_NF)
        return out.copy(), value_N.copy()

    def _features(self, seen: Mapping[str, Tensor]) -> Tensor:
        return self.trunk({name: x.to(self.device) for name, x in seen.items()})

    # -- replay ---------------------------------------------------------------------------------------------

    def likelihood(self, rollout: Rollout) -> Likelihood:
        """Log-prob, entropy and value of each stored decision: ``[B, T]`` each, with gradients."""
        rows, width = rollout.logp_BT.shape
        action = rollout.decisions["action_BT"].flatten(0, 1).to(self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.model.precision == "bfloat16"):
            x_NF = self._features(self.seen(rollout))
            out, value_N = self.actor(x_NF).float(), self.critic(x_NF)[:, 0].float()
        found = (self.head.logp(out, action), self.head.entropy(out), value_N)
        logp, entropy, value = (x.view(rows, width).to(rollout.logp_BT.device) for x in found)
        return Likelihood(logp, entropy_BT=entropy, value_BT=value)

    @torch.no_grad()
    def features(self, rollout: Rollout) -> Tensor:
        """What actor and critic are given of each decision: ``[B T, F]``, for a trunk that is not trained."""
        return self._features(self.seen(rollout))

    def update_statistics(self, rollout: Rollout) -> None:
        """Take what was seen into the trunk's running means; log-probs stored before are no longer those of this
        policy.
        """
        self.trunk.update_statistics({name: x.to(self.device) for name, x in self.seen(rollout).items()})

    def seen(self, rollout: Rollout) -> dict[str, Tensor]:
        """What was seen at each decision, by name: ``[B T, ...]``."""
        parts = {name: x for name, x in rollout.decisions.items() if name.startswith(SEEN)}
        return {name.removeprefix(SEEN).removesuffix("_BT"): x.flatten(0, 1) for name, x in parts.items()}

    # -- weights --------------------------------------------------------------------------------------------

    @property
    def device(self) -> torch.device:
        return self.critic.layers[-1].weight.device

    @property
    def trained(self) -> list[nn.Parameter]:
        return list(self._modules().parameters())

    def parameters(self) -> list[nn.Parameter]:
        return self.trained

    def state_dict(self) -> dict[str, Tensor]:
        return {name: value.detach().clone() for name, value in self._modules().state_dict().items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take saved weights and running means; what shares the weights keeps sharing them."""
        self._modules().load_state_dict(state)

    def export(self, folder: str | Path) -> None:
        """Write the weights as policy.safetensors and the sizes as policy.json."""
        from safetensors.torch import save_file

        save_file(
            {name: value.cpu().contiguous() for name, value in self.state_dict().items()},
            Path(folder) / "policy.safetensors",
        )
        (Path(folder) / "policy.json").write_text(
            json.dumps(asdict(self.model) | {"head": type(self.head).__name__}, indent=1)
        )

    def _modules(self) -> nn.ModuleDict:
        return nn.ModuleDict({"trunk": self.trunk, "actor": self.actor, "critic": self.critic, "head": self.head})


def _side_by_side(parts: Sequence[np.ndarray]) -> np.ndarray:
    flat = [part.reshape(len(part), -1) for part in parts]
    return flat[0] if len(flat) == 1 else np.concatenate(flat, 1)


def build_actor_critic(
    model: ActorCriticModel, seen: spaces.Dict, action: spaces.Space, seed: int, device: str = "cpu"
) -> ActorCritic:
    """An actor-critic for what an environment shows and takes, its weights drawn from ``seed``. ValueError for other
    spaces or settings.
    """
    if model.precision not in ("float32", "bfloat16"):
        raise ValueError(f"unknown precision '{model.precision}': one of float32, bfloat16")
    place = device_of(device)
    with seeded(seed):
        trunk = Encoder(seen, model.width, model.features, model.convolutions, model.standardise)
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
    raise ValueError(f"actions are {action}; known are Discrete ones and vectors (Box of one axis)")


class Categorical(nn.Module):
    """One of K actions, from logits ``[N, K]``; actions int64 ``[N]``."""

    def __init__(self, actions: int):
        super().__init__()
        self.outputs = actions

    def act(self, logits_NK: np.ndarray, uniform_N1: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """The action at whose place of the cumulated probabilities the uniform number lies, and its log-prob
        ``[N]``.
        """
        logits_NK = logits_NK - logits_NK.max(1, keepdims=True)
        below_NK = np.exp(logits_NK).cumsum(1)
        total_N1 = below_NK[:, -1:]
        action_N = logits_NK.argmax(1) if uniform_N1 is None else (below_NK[:, :-1] <= uniform_N1 * total_N1).sum(1)
        return action_N, logits_NK[np.arange(len(logits_NK)), action_N] - np.log(total_N1[:, 0])

    def logp(self, logits_NK: Tensor, action_N: Tensor) -> Tensor:
        return logits_NK.log_softmax(-1).gather(-1, action_N[:, None]).squeeze(-1)

    def entropy(self, logits_NK: Tensor) -> Tensor:
        logp_NK = logits_NK.log_softmax(-1)
        return -(logp_NK.exp() * logp_NK).sum(-1)


class Gaussian(nn.Module):
    """A vector of A numbers, not squashed, from means ``[N, A]``; the spread is the same in every state. Actions
    ``[N, A]``.
    """

    def __init__(self, actions: int, log_std: float = 0.0):
        super().__init__()
        self.outputs = actions
        self.log_std = nn.Parameter(torch.full((actions,), log_std))

    def act(self, mean_NA: np.ndarray, normal_NA: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """The mean and so many spreads beside it, and the log-density there ``[N]``."""
        normal_NA = np.zeros_like(mean_NA) if normal_NA is None else normal_NA
        log_std = self.log_std.detach().cpu().numpy()
        at_mean = np.float32(log_std.sum() + 0.5 * math.log(2 * math.pi) * self.outputs)
        return mean_NA + np.exp(log_std) * normal_NA, -0.5 * (normal_NA * normal_NA).sum(1) - at_mean

    def logp(self, mean_NA: Tensor, action_NA: Tensor) -> Tensor:
        far_NA = (action_NA - mean_NA) * (-self.log_std).exp()
        return (-0.5 * far_NA**2 - self.log_std - 0.5 * math.log(2 * math.pi)).sum(-1)

    def entropy(self, mean_NA: Tensor) -> Tensor:
        return (self.log_std + 0.5 * math.log(2 * math.pi * math.e)).sum().expand(len(mean_NA))


Head = Categorical | Gaussian
