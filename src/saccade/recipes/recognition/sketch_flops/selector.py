"""A policy that reads a sequence and chooses one of a few options, and the rewards that weigh its compute.

State: a sequence of any length. Action: the index of an option. log pi = log softmax(logits)[action]. The options are
canvas sizes here; they could be token budgets or numbers of frames.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from saccade.config import Count
from saccade.core import Likelihood, Problem, Reward, Rollout
from saccade.random import generator, initialized
from saccade.recipes.recognition.sketch_flops.retrieval import RetrievalGallery
from saccade.rewards.rubric import judge, weighted


class SequenceClassifier(nn.Module):
    """A GRU over ``[B, L, features]``; logits ``[B, options]`` follow from its state at each row's last element."""

    def __init__(self, features: int, width: int, options: int):
        super().__init__()
        self.gru = nn.GRU(features, width, batch_first=True)
        self.head = nn.Linear(width, options)
        # All options are equally likely before training.
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, sequence_BLF: Tensor, length_B: Tensor) -> Tensor:
        states_BLD, _ = self.gru(sequence_BLF)
        last_B = (length_B - 1).to(states_BLD.device)
        return self.head(states_BLD[torch.arange(len(last_B), device=last_B.device), last_B])


@dataclass(eq=False)
class CategoricalPolicy:
    """Chooses one of ``options`` for a problem; the outputs of its rollouts are the options chosen."""

    network: SequenceClassifier
    options: tuple[Any, ...]
    encode: Callable[[Any], Tensor]
    """A problem's inputs -> the sequence ``[L, features]`` that the network reads, L at least 1."""
    deterministic: bool = False
    """Whether the most likely option is chosen instead of a sampled one."""

    def rollout(self, problems: Sequence[Problem], seeds_B: Tensor) -> Rollout:
        """One decision for each problem, sampled with the problem's seed."""
        sequences = [self.encode(problem.inputs) for problem in problems]
        length_B = torch.tensor([len(sequence) for sequence in sequences])
        sequence_BLF = nn.utils.rnn.pad_sequence(sequences, batch_first=True)
        with torch.no_grad():
            logp_BK = self._logp(sequence_BLF, length_B)
        choice_B = logp_BK.argmax(1) if self.deterministic else sample_categorical(logp_BK, seeds_B)
        return Rollout(
            problems=list(problems),
            decisions={"sequence_B": sequence_BLF, "points_B": length_B, "choice_BT": choice_B[:, None]},
            outputs=[self.options[k] for k in choice_B.tolist()],
            logp_BT=logp_BK.gather(1, choice_B[:, None]),
            mask_BT=torch.ones(len(problems), 1, device=logp_BK.device),
            group_B=torch.arange(len(problems)),
            extras={"length_B": torch.ones(len(problems)), "seed_B": seeds_B.clone()},
        )

    def likelihood(self, rollout: Rollout) -> Likelihood:
        """Log-probabilities and entropies of the stored choices ``[B, 1]``."""
        logp_BK = self._logp(rollout.decisions["sequence_B"], rollout.decisions["points_B"])
        entropy_B = -(logp_BK.exp() * logp_BK).sum(1)
        return Likelihood(logp_BK.gather(1, rollout.decisions["choice_BT"]), entropy_BT=entropy_B[:, None])

    def greedy(self) -> CategoricalPolicy:
        """The same network with the most likely option chosen."""
        return replace(self, deterministic=True)

    @property
    def trained(self) -> list[nn.Parameter]:
        """The trained weights, which are all of them."""
        return list(self.network.parameters())

    def state_dict(self) -> dict[str, Tensor]:
        return self.network.state_dict()

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self.network.load_state_dict(state)

    def export(self, folder: Path) -> None:
        """Write the weights to ``selector.safetensors``."""
        from safetensors.torch import save_file

        weights = {name: value.contiguous() for name, value in self.state_dict().items()}
        save_file(weights, folder / "selector.safetensors")

    def _logp(self, sequence_BLF: Tensor, length_B: Tensor) -> Tensor:
        device = self.network.head.weight.device
        return self.network(sequence_BLF.to(device), length_B).float().log_softmax(1)


@dataclass(frozen=True)
class Selector:
    """The network that chooses."""

    width: Count = 32
    """Size of the GRU's state."""

    def build(
        self, options: tuple[Any, ...], encode: Callable[[Any], Tensor], features: int, seed: int
    ) -> CategoricalPolicy:
        """A policy for sequences of ``features`` numbers that chooses uniformly; its weights follow from ``seed``."""
        with initialized(seed, "selector"):
            network = SequenceClassifier(features, self.width, len(options))
        return CategoricalPolicy(network, options, encode)


def sample_categorical(logp_BK: Tensor, seeds_B: Tensor) -> Tensor:
    """The index of an option for each row ``[B]`` int64, by one uniform number of the row's seed."""
    uniforms = [torch.rand((), generator=generator(seed, "choice"), dtype=torch.float64) for seed in seeds_B.tolist()]
    below_BK = logp_BK.double().exp().cumsum(1) < torch.stack(uniforms).to(logp_BK.device)[:, None]
    return below_BK.sum(1).clamp(max=logp_BK.shape[1] - 1)


@dataclass(frozen=True)
class ComputeCost:
    """The reward -q / (q_max - q_min), where q is the cost of the chosen option (R_comp in 2505.23763).

    ``cost`` names every option. ValueError if all options cost the same, since nothing could be saved.
    """

    cost: Mapping[Any, float]

    def __post_init__(self) -> None:
        if max(self.cost.values()) <= min(self.cost.values()):
            raise ValueError(
                f"all options ({', '.join(map(str, self.cost))}) cost the same: there is nothing to choose"
            )

    def __call__(self, rollout: Rollout) -> Tensor:
        """Negative ``[B]``."""
        span = max(self.cost.values()) - min(self.cost.values())
        return torch.tensor([-self.cost[option] / span for option in rollout.outputs])


def entropy_bonus(rollout: Rollout) -> Tensor:
    """-log pi of the choice ``[B]``, whose mean is the policy's entropy: a small weight keeps the policy stochastic."""
    return -rollout.logp_BT.sum(1)


@dataclass(frozen=True)
class SelectorReward:
    """What a choice of canvas earns: retrieval weighed against compute, and an entropy bonus."""

    compute: float = 0.2
    """Weight of saved compute, from 0 to 1; retrieval has the rest."""
    rank: float = 1.0
    """Weight of 1 / rank in the reward for retrieval."""
    margin: float = 0.1
    """Weight of the margin reward in the reward for retrieval."""
    entropy: float = 0.01
    """Weight of the entropy bonus, -log pi of the choice; 0 leaves it out."""
    distractors: Count = 149
    """Photos beside the correct one in the random gallery of a training step; 0 takes the complete gallery."""

    def function(self, gallery: RetrievalGallery, cost: ComputeCost) -> Reward:
        """The reward of a rollout's choices ``[B]``; its parts are stored in the rollout."""
        retrieval = 1 - self.compute
        rewards = {
            "reciprocal_rank": gallery.reciprocal_rank,
            "margin": gallery.margin_reward,
            "compute": cost,
            "entropy": entropy_bonus,
        }
        weights = {
            "reciprocal_rank": retrieval * self.rank,
            "margin": retrieval * self.margin,
            "compute": self.compute,
            "entropy": self.entropy,
        }
        return lambda rollout: weighted(judge(rollout, rewards).rewards, weights, rollout.group_B)
