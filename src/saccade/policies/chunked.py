"""Frozen policies that propose actions one at a time and remember something between: the rest of a chunk, a recurrent state.

A chunk is planned at one moment and carried out over the next; where in it an episode stands decides what is proposed
next, so a proposal cannot be computed again later from what was seen.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from saccade.core import Loss, Problem, Rollout

Seen = Mapping[str, Tensor]
Hidden = dict[str, Tensor]
Advance = Callable[[Seen, Hidden], tuple[Tensor, Hidden]]
"""What some rows see and remember -> their actions [B, A], and what they remember next."""


@dataclass
class Proposer:
    """A base policy for ``count`` episodes side by side: a proposal for each moment, in the order of moments.

    ``start`` is what one episode remembers at its beginning, by name, without a row axis. Nothing here is ever trained.
    """

    advance: Advance
    start: Hidden
    count: int
    hidden: Hidden = field(init=False)

    def __post_init__(self) -> None:
        self.hidden = {name: value.expand(self.count, *value.shape).clone() for name, value in self.start.items()}

    def begin(self, rows: Sequence[int]) -> None:
        """Forget the episodes in these rows."""
        for name, value in self.start.items():
            self.hidden[name][list(rows)] = value

    @torch.no_grad()
    def propose(self, seen: Seen, rows: Sequence[int] | None = None) -> Tensor:
        """The next proposals ``[n, A]`` of these rows (None: all), which now have seen ``seen``; each call is one moment."""
        index = torch.arange(self.count) if rows is None else torch.tensor(list(rows), dtype=torch.int64)
        proposal, after = self.advance(seen, {name: value[index] for name, value in self.hidden.items()})
        for name, value in after.items():
            self.hidden[name][index] = value
        return proposal

    def state_dict(self) -> Hidden:
        return {name: value.clone() for name, value in self.hidden.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self.hidden = {name: state[name].clone() for name in self.start}


def in_chunks(plan: Callable[[Seen], Tensor], length: int, size: int, count: int) -> Proposer:
    """A policy that plans ``[B, length, size]`` actions at once and plans again when a row has carried them all out."""

    def advance(seen: Seen, hidden: Hidden) -> tuple[Tensor, Hidden]:
        chunk, place = hidden["chunk"], hidden["place"]
        empty = torch.nonzero(place == length).flatten()
        if len(empty):
            chunk[empty] = plan({name: value[empty] for name, value in seen.items()})
            place[empty] = 0
        return chunk[torch.arange(len(place)), place], {"chunk": chunk, "place": place + 1}

    return Proposer(advance, {"chunk": torch.zeros(length, size), "place": torch.tensor(length)}, count)


def memoryless(action: Callable[[Seen], Tensor], count: int) -> Proposer:
    """A policy that only looks at what is seen now."""
    return Proposer(lambda seen, hidden: (action(seen), hidden), {}, count)


def nothing(size: int, count: int) -> Proposer:
    """The base policy of learning from scratch: it always proposes zeros."""
    return memoryless(lambda seen: next(iter(seen.values())).new_zeros(len(next(iter(seen.values()))), size).float(), count)


class Cloned(nn.Module):
    """A policy cloned from demonstrations: ``net`` plans chunks ``[B, length, A]`` in units of the range ``low`` to ``high``."""

    def __init__(self, net: nn.Module, length: int, actions: int):
        super().__init__()
        self.net, self.length, self.actions = net, length, actions
        self.register_buffer("low", -torch.ones(actions, dtype=torch.float64))
        self.register_buffer("high", torch.ones(actions, dtype=torch.float64))

    def proposer(self, count: int) -> Proposer:
        """This policy, with its present weights at each moment, for ``count`` episodes side by side."""
        return in_chunks(lambda seen: self.net(seen).clamp(-1, 1), self.length, self.actions, count)

    def error(self, rollout: Rollout) -> Loss:
        """Mean absolute error of planned actions, over decisions of mask 1 and dimensions; rows as ``lessons`` makes them."""
        planned = self.net({k.removeprefix("seen.").removesuffix("_B"): v for k, v in rollout.decisions.items() if k.startswith("seen.")})
        error_BT = (planned - rollout.decisions["action_BT"]).abs().mean(-1)
        return Loss((error_BT * rollout.mask_BT).sum(), rollout.mask_BT.sum())

    def export(self, folder: str | Path) -> None:
        """Write the weights and the range of actions to base.safetensors."""
        from safetensors.torch import save_file

        save_file({name: value.contiguous() for name, value in self.state_dict().items()}, Path(folder) / "base.safetensors")


def lessons(episodes: Sequence[Mapping[str, np.ndarray]], length: int) -> Rollout:
    """Every moment of recorded episodes as a row: what was seen, and the next ``length`` actions, mask 0 past the end.

    Decisions: "seen.<name>_B" ``[B, ...]``, "action_BT" ``[B, length, A]``.
    """
    names = [name for name in episodes[0] if name.startswith("seen.")]
    joined = {f"{n}_B": np.concatenate([e[n][: len(e["action"])] for e in episodes]) for n in names}
    ahead = [np.arange(len(e["action"]))[:, None] + np.arange(length) for e in episodes]
    action = np.concatenate([e["action"][np.minimum(at, len(at) - 1)] for e, at in zip(episodes, ahead)])
    mask = torch.from_numpy(np.concatenate([at < len(at) for at in ahead]).astype(np.float32))
    decisions = {name: torch.from_numpy(value) for name, value in joined.items()} | {"action_BT": torch.from_numpy(action)}
    rows = len(mask)
    return Rollout([Problem(0, None)] * rows, decisions, None, torch.zeros_like(mask), mask, torch.arange(rows))


def proposals(proposer: Proposer, episode: Mapping[str, np.ndarray]) -> np.ndarray:
    """What a base policy of one row would have done at each of the T + 1 moments of a recorded episode: ``[T + 1, A]``."""
    proposer.begin([0])
    seen = {name.removeprefix("seen."): torch.from_numpy(value) for name, value in episode.items() if name.startswith("seen.")}
    moments = len(next(iter(seen.values())))
    return torch.cat([proposer.propose({n: v[t : t + 1] for n, v in seen.items()}) for t in range(moments)]).numpy()
