"""A choice from a small menu as a decision: a policy that reads a sequence and picks one of a few options.

State = a sequence of any length, action = the number of an option, log pi = log softmax(logits)[action]. What the
options are is the recipe's: canvases, budgets of tokens, numbers of steps or of frames.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from saccade.core import Likelihood, Problem, Rollout, generator, seeded


class Reader(nn.Module):
    """A GRU over ``[B, L, features]``; logits ``[B, options]`` come from its state at each row's last element."""

    def __init__(self, features: int, width: int, options: int):
        super().__init__()
        self.gru = nn.GRU(features, width, batch_first=True)
        self.head = nn.Linear(width, options)
        # Every option is as likely as any other before anything is learnt.
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, sequence_BLF: Tensor, length_B: Tensor) -> Tensor:
        states_BLD, _ = self.gru(sequence_BLF)
        last_B = (length_B - 1).to(states_BLD.device)
        return self.head(states_BLD[torch.arange(len(last_B), device=last_B.device), last_B])


@dataclass(eq=False)
class CategoricalPolicy:
    """Picks one of ``options`` for a problem, after ``read(problem.inputs)``, a sequence ``[L, features]``, L at least
    1.

    Outputs are the options picked. ``likely`` picks the likeliest one, whatever the seed.
    """

    reader: Reader
    options: tuple[Any, ...]
    read: Callable[[Any], Tensor]
    likely: bool = False

    def rollout(self, problems: Sequence[Problem], seeds_B: Tensor) -> Rollout:
        """One decision for each problem, drawn by its own seed."""
        sequences = [self.read(problem.inputs) for problem in problems]
        length_B = torch.tensor([len(sequence) for sequence in sequences])
        sequence_BLF = nn.utils.rnn.pad_sequence(sequences, batch_first=True)
        with torch.no_grad():
            logp_BK = self._logp(sequence_BLF, length_B)
        choice_B = logp_BK.argmax(1) if self.likely else drawn(logp_BK, seeds_B)
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
        """Log-probs and entropies of the stored choices ``[B, 1]``."""
        logp_BK = self._logp(rollout.decisions["sequence_B"], rollout.decisions["points_B"])
        entropy_B = -(logp_BK.exp() * logp_BK).sum(1)
        return Likelihood(logp_BK.gather(1, rollout.decisions["choice_BT"]), entropy_BT=entropy_B[:, None])

    def greedy(self) -> CategoricalPolicy:
        """The same weights, the likeliest option each time."""
        return replace(self, likely=True)

    @property
    def trained(self) -> list[nn.Parameter]:
        """The weights that move: all of them."""
        return list(self.reader.parameters())

    def state_dict(self) -> dict[str, Tensor]:
        return self.reader.state_dict()

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.reader.load_state_dict(state)

    def export(self, folder: Path) -> None:
        """The weights as ``reader.safetensors``."""
        from safetensors.torch import save_file

        save_file(
            {name: value.contiguous() for name, value in self.state_dict().items()}, folder / "reader.safetensors"
        )

    def _logp(self, sequence_BLF: Tensor, length_B: Tensor) -> Tensor:
        device = self.reader.head.weight.device
        return self.reader(sequence_BLF.to(device), length_B).float().log_softmax(1)


def build_selector(
    options: tuple[Any, ...], read: Callable[[Any], Tensor], features: int, width: int, seed: int
) -> CategoricalPolicy:
    """A policy that has no preference yet, for sequences of ``features`` numbers, its weights drawn from ``seed``."""
    with seeded(seed):
        reader = Reader(features, width, len(options))
    return CategoricalPolicy(reader, options, read)


def drawn(logp_BK: Tensor, seeds_B: Tensor) -> Tensor:
    """An option for each row by one uniform of its own seed, whatever else is in the batch: ``[B]`` int64."""
    uniform_B = torch.stack(
        [torch.rand((), generator=generator(seed), dtype=torch.float64) for seed in seeds_B.tolist()]
    )
    reached_BK = logp_BK.double().exp().cumsum(1) < uniform_B.to(logp_BK.device)[:, None]
    return reached_BK.sum(1).clamp(max=logp_BK.shape[1] - 1)
