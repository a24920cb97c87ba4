"""Rollouts in environments: segments of running episodes to train on, and full episodes to evaluate.

Rows run side by side; a row whose episode ends begins the next one at once. An episode follows from its seed, which
decides the environment and the noise of the actions.
"""

from __future__ import annotations

import warnings
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from saccade.core import ActingPolicy, Action, ActorCriticPolicy, Environment, Problem, Rollout, Step
from saccade.envs.checks import LONGEST
from saccade.envs.episodes import Episode, RunningEpisodes, tensors
from saccade.random import stream
from saccade.training import video


class RolloutCollector:
    """A feed of on-policy segments: the next ``length`` steps of all rows at each call.

    Rollouts have B = environment.count rows and T = length decisions: ``decisions`` "observation.<name>_BT" and
    "action_BT", the reward "reward" ``[B, T]``, ``extras`` "value_BT", "next_value_BT" (of the observation after the
    step, at an end the true last one), "terminated_BT", "truncated_BT", "length_B" (= T) and "info.<name>_BT";
    ``outputs`` are the episodes that ended, a list for each row. The i-th episode begun has the i-th seed that follows
    from ``seed``. If a call fails, the state is that of before it, and the next call starts from there.
    """

    def __init__(self, environment: Environment, policy: ActorCriticPolicy, length: int, seed: int):
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
        segment = _Segment(self.environment.count, self.length)
        for t in range(self.length):
            observation, action = self.running.observation, self.running.act(self.policy)
            step, finished = self.running.step(action.action_B)
            rows = list(finished)
            segment.add(t, observation, action, step, finished, self._value(step.observation, rows))
            if rows:
                self._begin(rows)
        return segment.rollout(self.environment.name, self.policy.value(tensors(self.running.observation)))

    def _begin(self, rows: Sequence[int]) -> None:
        episode_seeds = [stream(self.seed, "episode", self.begun + i) for i in range(len(rows))]
        self.running.begin(list(rows), episode_seeds)
        self.begun += len(rows)

    def _value(self, observation: Mapping[str, np.ndarray], rows: list[int]) -> Tensor | None:
        if not rows:
            return None
        return self.policy.value(tensors({name: value[rows] for name, value in observation.items()}))


class _Segment:
    """The steps of a segment, as they are collected."""

    def __init__(self, rows: int, length: int):
        self.outputs: list[list[Episode]] = [[] for _ in range(rows)]
        self.decisions, self.extras, self.results = _Columns(length), _Columns(length), _Columns(length)
        self.last_values: list[tuple[int, list[int], Tensor]] = []

    def add(
        self,
        t: int,
        observation: Mapping[str, np.ndarray],
        action: Action,
        step: Step,
        finished: Mapping[int, Episode],
        last_value: Tensor | None,
    ) -> None:
        """Store step ``t``; ``last_value`` is that of the last observations of the finished episodes."""
        if action.value_B is None:
            raise ValueError("segments are collected by a policy that estimates values, and this one does not")
        self.decisions.put(t, "observation.", observation)
        self.decisions.put(t, "", {"action": action.action_B.cpu().numpy()})
        self.extras.put(
            t,
            "",
            {"terminated": step.terminated_B, "truncated": step.truncated_B, "value": action.value_B.cpu().numpy()},
        )
        self.extras.put(t, "info.", step.info)
        reward_B = np.asarray(step.reward_B, np.float32)
        self.results.put(t, "", {"reward": reward_B, "logp": action.logp_B.cpu().numpy()})
        if last_value is not None:
            self.last_values.append((t, list(finished), last_value))
        for row, episode in finished.items():
            self.outputs[row].append(episode)

    def rollout(self, name: str, value_B: Tensor) -> Rollout:
        """The segment, given the values ``[B]`` of the observations after it."""
        rows, extras, results = len(self.outputs), self.extras.by_row(), self.results.by_row()
        extras["next_value_BT"] = torch.cat([extras["value_BT"][:, 1:], value_B.cpu()[:, None]], 1)
        for t, ended, last_value in self.last_values:
            extras["next_value_BT"][ended, t] = last_value.cpu()
        logp_BT = results["logp_BT"]
        extras["length_B"] = torch.full((rows,), float(logp_BT.shape[1]))
        return Rollout(
            problems=[Problem(row, name) for row in range(rows)],
            decisions=self.decisions.by_row(),
            outputs=self.outputs,
            logp_BT=logp_BT,
            mask_BT=torch.ones_like(logp_BT),
            group_B=torch.arange(rows),
            rewards={"reward": results["reward_BT"]},
            extras=extras,
        )


class _Columns:
    """Arrays of T steps by name, ``[T, B, ...]``; steps are copied, since an environment may reuse its arrays."""

    def __init__(self, length: int):
        self.length = length
        self.of: dict[str, np.ndarray] = {}

    def put(self, t: int, prefix: str, arrays: Mapping[str, np.ndarray]) -> None:
        for name, value in arrays.items():
            column = self.of.get(prefix + name)
            if column is None:
                column = self.of[prefix + name] = np.empty((self.length, *value.shape), value.dtype)
            column[t] = value

    def by_row(self) -> dict[str, Tensor]:
        """All columns as ``"<name>_BT"``, ``[B, T, ...]``."""
        return {
            f"{name}_BT": torch.from_numpy(np.ascontiguousarray(column.swapaxes(0, 1)))
            for name, column in self.of.items()
        }


@torch.no_grad()
def run_episodes(
    environment: Environment,
    policy: ActingPolicy,
    seeds: Sequence[int] | Tensor,
    greedy: bool = True,
    videos: int = 0,
    longest: int = LONGEST,
) -> list[Episode]:
    """One full episode for each seed, in that order; a video is kept of the first ``videos`` of them.

    An episode that does not end is cut off after ``longest`` steps, which a warning says. Episodes that already run in
    ``environment`` are abandoned: training has an environment of its own.
    """
    wanted = [int(seed) for seed in seeds]
    if not wanted:
        return []
    rows, running = environment.count, RunningEpisodes(environment)
    queue = iter(enumerate(wanted))
    assigned: list[tuple[int | None, int]] = [next(queue, (None, wanted[0])) for _ in range(rows)]
    running.begin(list(range(rows)), [seed for _, seed in assigned])
    index_of = [index for index, _ in assigned]
    episodes: dict[int, Episode] = {}
    recorder = _VideoRecorder(environment, videos)
    recorder.record(index_of, range(rows))
    while len(episodes) < len(wanted):
        step, finished = running.step(running.act(policy, greedy).action_B)
        endless = [row for row in np.flatnonzero(running.step_B >= longest).tolist() if row not in finished]
        if any(index_of[row] is not None for row in endless):
            what = f"an episode of {environment.name} did not end and was cut off after {longest} steps"
            warnings.warn(what, stacklevel=2)
        finished |= {row: running.finished(row, step) for row in endless}
        recorder.record(index_of, range(rows), finished)
        for row, episode in finished.items():
            if (index := index_of[row]) is not None:
                episodes[index] = replace(episode, frames=recorder.frames_of(index))
        begun = {row: next(queue, (None, wanted[0])) for row in finished}
        for row, (index, _) in begun.items():
            index_of[row] = index
        if begun and len(episodes) < len(wanted):
            running.begin(list(begun), [seed for _, seed in begun.values()])
            recorder.record(index_of, begun)
    return [episodes[index] for index in range(len(wanted))]


class _VideoRecorder:
    """Videos of the first ``videos`` episodes, by the episode's index."""

    def __init__(self, environment: Environment, videos: int):
        self.environment = environment
        self.films: dict[int | None, _Film] = {index: _Film() for index in range(videos)}

    def record(self, index_of: Sequence[int | None], rows: Iterable[int], last: Container[int] = ()) -> None:
        """Render these rows, where they run an episode that needs the frame; it is the ``last`` one in some rows."""
        filmed = [row for row in rows if index_of[row] in self.films]
        needed = [row for row in filmed if self.films[index_of[row]].next(row in last)]
        if needed:
            for row, frame in zip(needed, self.environment.render(needed)):
                self.films[index_of[row]].add(video.smaller(frame))

    def frames_of(self, index: int) -> np.ndarray | None:
        return np.stack(self.films[index].frames) if index in self.films else None


class _Film:
    """Evenly spaced frames of an episode of unknown length, twice as many as a video shows at most, and the last."""

    def __init__(self) -> None:
        self.frames: list[np.ndarray] = []
        self.every, self.seen = 1, 0

    def next(self, last: bool) -> bool:
        """Whether the next frame is needed."""
        self.seen += 1
        return last or (self.seen - 1) % self.every == 0

    def add(self, frame: np.ndarray) -> None:
        """Add a frame that is needed."""
        if len(self.frames) == 2 * video.FRAMES:
            self.frames, self.every = self.frames[::2], 2 * self.every
        self.frames.append(frame)
