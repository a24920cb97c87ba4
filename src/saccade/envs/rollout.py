"""Attempts that are episodes of environments: segments of running ones to train on, whole ones to judge by.

Rows run side by side; a row whose episode ends begins the next one at once. An episode follows from its own seed: the
environment, and the noise of the actions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from saccade.core import Environment, Problem, Rollout, Step, seeds
from saccade.envs.episodes import Acted, Actor, Episode, RunningEpisodes, tensors


class RolloutCollector:
    """A feed of on-policy segments: the next ``length`` steps of all rows at each call.

    Rollouts have B = environment.count rows and T = length decisions: ``decisions`` "seen.<name>_BT" and "action_BT",
    the reward "reward" ``[B, T]``, ``extras`` "value_BT", "next_value_BT" (of what was seen after the step, at an end
    the true last observation), "terminated_BT", "truncated_BT", "length_B" (= T) and "info.<name>_BT"; ``outputs`` are
    the episodes that ended, a list for each row. The i-th episode begun has the i-th seed that follows from ``seed``.
    If a call fails, the state is that of before it, and the next call starts from there.
    """

    def __init__(self, environment: Environment, policy: Actor, length: int, seed: int):
        if length < 1:
            raise ValueError(f"segments of {length} steps; they have 1 or more")
        self.environment, self.policy, self.length, self.seed = environment, policy, length, seed
        self.running, self.begun = RunningEpisodes(environment), 0
        self.before: dict[str, Any] | None = None

    def __call__(self, step: int) -> Rollout:
        if self.before is not None:
            self.load_state_dict(self.before)
        before = self.state_dict()
        try:
            return self._segment()
        except BaseException:
            self.before = before
            raise

    def state_dict(self) -> dict[str, Any]:
        if self.before is not None:
            return self.before
        return {"begun": self.begun, "running": self.running.state_dict() if self.begun else None}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.before, self.begun, self.running = None, state["begun"], RunningEpisodes(self.environment)
        if self.begun:
            self.running.load_state_dict(state["running"])

    @torch.no_grad()
    def _segment(self) -> Rollout:
        if not self.begun:
            self._begin(range(self.environment.count))
        kept = _Kept(self.environment.count, self.length)
        for step in range(self.length):
            seen, acted = self.running.seen, self.running.acted(self.policy)
            told, finished = self.running.step(acted.action_B)
            rows = list(finished)
            kept.add(step, seen, acted, told, finished, self._value(told.seen, rows))
            if rows:
                self._begin(rows)
        return kept.rollout(self.environment.name, self.policy.value(tensors(self.running.seen)))

    def _begin(self, rows: Sequence[int]) -> None:
        own = [int(seeds(self.seed, 1, key=self.begun + i)) for i in range(len(rows))]
        self.running.begin(list(rows), own)
        self.begun += len(rows)

    def _value(self, seen: Mapping[str, np.ndarray], rows: list[int]) -> Tensor | None:
        return self.policy.value(tensors({name: value[rows] for name, value in seen.items()})) if rows else None


class _Kept:
    """What a segment stores."""

    def __init__(self, rows: int, length: int):
        self.outputs: list[list[Episode]] = [[] for _ in range(rows)]
        self.decisions, self.extras, self.judged = _Columns(length), _Columns(length), _Columns(length)
        self.last: list[tuple[int, list[int], Tensor]] = []

    def add(
        self, step: int, seen: Mapping, acted: Acted, told: Step, finished: Mapping[int, Episode], last: Tensor | None
    ) -> None:
        self.decisions.put(step, "seen.", seen)
        self.decisions.put(step, "", {"action": acted.action_B.cpu().numpy()})
        ends = {"terminated": told.terminated_B, "truncated": told.truncated_B, "value": acted.value_B.cpu().numpy()}
        self.extras.put(step, "", ends)
        self.extras.put(step, "info.", told.info)
        self.judged.put(step, "", {"reward": np.float32(told.reward_B), "logp": acted.logp_B.cpu().numpy()})
        if last is not None:
            self.last.append((step, list(finished), last))
        for row, episode in finished.items():
            self.outputs[row].append(episode)

    def rollout(self, name: str, value_B: Tensor) -> Rollout:
        """The segment, given the value of what is seen after it."""
        rows, extras, judged = len(self.outputs), self.extras.side_by_side(), self.judged.side_by_side()
        extras["next_value_BT"] = torch.cat([extras["value_BT"][:, 1:], value_B.cpu()[:, None]], 1)
        for step, ended, last in self.last:
            extras["next_value_BT"][ended, step] = last.cpu()
        logp_BT = judged["logp_BT"]
        extras["length_B"] = torch.full((rows,), float(logp_BT.shape[1]))
        return Rollout(
            problems=[Problem(row, name) for row in range(rows)],
            decisions=self.decisions.side_by_side(),
            outputs=self.outputs,
            logp_BT=logp_BT,
            mask_BT=torch.ones_like(logp_BT),
            group_B=torch.arange(rows),
            rewards={"reward": judged["reward_BT"]},
            extras=extras,
        )


class _Columns:
    """Arrays of T steps by name, ``[T, B, ...]``; a step is copied in, since a world may go on in what it told with."""

    def __init__(self, length: int):
        self.length = length
        self.of: dict[str, np.ndarray] = {}

    def put(self, step: int, prefix: str, arrays: Mapping[str, np.ndarray]) -> None:
        for name, value in arrays.items():
            column = self.of.get(prefix + name)
            if column is None:
                column = self.of[prefix + name] = np.empty((self.length, *value.shape), value.dtype)
            column[step] = value

    def side_by_side(self) -> dict[str, Tensor]:
        """All as ``"<name>_BT"``, ``[B, T, ...]``."""
        return {
            f"{name}_BT": torch.from_numpy(np.ascontiguousarray(column.swapaxes(0, 1)))
            for name, column in self.of.items()
        }


@torch.no_grad()
def run_episodes(
    environment: Environment, policy: Actor, seeds: Sequence[int] | Tensor, greedy: bool = True, film: int = 0
) -> list[Episode]:
    """One whole episode for each seed, in that order; frames are kept of the first ``film`` of them.

    Whatever ran in ``environment`` is given up: training has an environment of its own.
    """
    wanted = [int(seed) for seed in seeds]
    if not wanted:
        return []
    rows, running = environment.count, RunningEpisodes(environment)
    queue = enumerate(wanted)
    places = [next(queue, (None, wanted[0])) for _ in range(rows)]
    running.begin(list(range(rows)), [seed for _, seed in places])
    place_of = [place for place, _ in places]
    episodes: dict[int, Episode] = {}
    reel = _Reel(environment, film)
    reel.shoot(place_of, range(rows))
    while len(episodes) < len(wanted):
        _, finished = running.step(running.acted(policy, greedy).action_B)
        reel.shoot(place_of, range(rows))
        for row, episode in finished.items():
            if place_of[row] is not None:
                episodes[place_of[row]] = replace(episode, frames=reel.of(place_of[row]))
        begun = {row: next(queue, (None, wanted[0])) for row in finished}
        for row, (place, _) in begun.items():
            place_of[row] = place
        if begun and len(episodes) < len(wanted):
            running.begin(list(begun), [seed for _, seed in begun.values()])
            reel.shoot(place_of, begun)
    return [episodes[place] for place in range(len(wanted))]


class _Reel:
    """Frames of the first ``film`` episodes, by their place."""

    def __init__(self, environment: Environment, film: int):
        self.environment, self.frames = environment, {place: [] for place in range(film)}

    def shoot(self, place_of: Sequence[int | None], rows: Sequence[int]) -> None:
        filmed = [row for row in rows if place_of[row] in self.frames]
        if filmed:
            for row, frame in zip(filmed, self.environment.render(filmed)):
                self.frames[place_of[row]].append(frame)

    def of(self, place: int) -> np.ndarray | None:
        return np.stack(self.frames[place]) if place in self.frames else None
