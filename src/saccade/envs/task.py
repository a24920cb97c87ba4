"""A control task: an environment, the test episodes in it, their scores, and the episodes that are shown as videos."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from saccade.config import Count
from saccade.core import ActingPolicy, Environment, LogSamples, Observation, ProblemScores, Run, Step
from saccade.envs import environment
from saccade.envs.checks import LONGEST
from saccade.envs.episodes import Episode
from saccade.envs.rollout import run_episodes
from saccade.envs.wrapper import EnvironmentWrapper
from saccade.random import seeds
from saccade.training import distributed
from saccade.training.video import thumbnails


@dataclass(frozen=True)
class ControlTask:
    """An environment and its test episodes."""

    env: str = "reach"
    """Environment: one of ours (reach, push, lane, backdrop) or any name that gymnasium.make knows."""
    settings: tuple[str, ...] = ()
    """Settings of the environment, each ``name=value``; the value is JSON or a word."""
    test_episodes: Count = 64
    """Number of test episodes, the same ones in every evaluation."""
    held_out_seed: int = 12_345
    """Seed of the test episodes; a check draws others for every training seed."""
    test_rows: Count = 16
    """Number of test episodes that run side by side."""
    max_episode_steps: Count = LONGEST
    """Steps after which a test episode that does not end is cut off."""
    video_episodes: int = 6
    """Number of test episodes that are shown as videos, the first ones."""
    position: str = "position"
    """Name of the environment's info that is a position in the plane; where there is one, videos come with the path."""

    def make(self, count: int) -> Environment:
        """``count`` episodes of the environment side by side.

        ValueError for an unknown environment or setting, and for several processes, which would all act alike.
        """
        distributed.require_one(f"{self.env} is acted in")
        return environment(self.env, count, **dict(map(_setting, self.settings)))

    def make_test(self) -> Environment:
        """The environment in which test episodes run side by side."""
        return self.make(min(self.test_rows, self.test_episodes))

    def seeds(self) -> list[int]:
        """The seeds of the test episodes."""
        return seeds(self.held_out_seed, self.test_episodes, "test episodes").tolist()

    def score(self, policy: ActingPolicy, show: LogSamples | None = None) -> ProblemScores:
        """Scores of the test episodes, acted greedily, as `episode_scores`; ``show`` is given the first ones."""
        return episode_scores(self.run_episodes(self.make_test(), policy, show))

    def run_episodes(
        self, environment: Environment, policy: ActingPolicy, show: LogSamples | None = None
    ) -> list[Episode]:
        """The test episodes, acted greedily in ``environment``, which may be the task's own in a wrapper."""
        return evaluate_episodes(
            environment, policy, self.seeds(), self.position, self.video_episodes, show, self.max_episode_steps
        )

    def record_video(self, policy: ActingPolicy, seeds: Sequence[int] | Tensor) -> list[dict[str, Any]]:
        """One full episode for each seed, acted greedily, as `record_video`."""
        return record_video(self.make(len(seeds)), policy, seeds, self.position)


PENDULUM = ControlTask("Pendulum-v1", test_episodes=32, test_rows=32, video_episodes=1)

HALF_CHEETAH = ControlTask("HalfCheetah-v5", test_episodes=10, test_rows=10, video_episodes=1)


def evaluate_episodes(
    environment: Environment,
    policy: ActingPolicy,
    seeds: Sequence[int],
    position: str,
    video_episodes: int,
    show: LogSamples | None = None,
    longest: int = LONGEST,
) -> list[Episode]:
    """One full episode for each seed, of at most ``longest`` steps, acted greedily; ``show`` is given the first
    ``video_episodes`` as samples.
    """
    recorder = PathRecorder(environment, position)
    episodes = run_episodes(recorder, policy, seeds, videos=video_episodes if show else 0, longest=longest)
    if show:
        show("episodes", logged_samples(episodes[:video_episodes], recorder.paths))
    return episodes


def record_video(
    environment: Environment, policy: ActingPolicy, seeds: Sequence[int] | Tensor, position: str = "position"
) -> list[dict[str, Any]]:
    """One full episode for each seed, acted greedily, as `logged_samples` and with a few of its frames as "image"."""
    recorder = PathRecorder(environment, position)
    items = logged_samples(run_episodes(recorder, policy, seeds, videos=len(seeds)), recorder.paths)
    return [item | {"image": thumbnails(item["clip"])} for item in items]


class ControlSettings(Protocol):
    """Settings of a recipe with a control task."""

    @property
    def task(self) -> ControlTask: ...


def evaluate(cfg: ControlSettings, policies: Mapping[str, ActingPolicy]) -> ProblemScores:
    """A recipe's `evaluate`: scores of the test episodes, acted greedily by "policy"."""
    return cfg.task.score(policies["policy"])


def sample(
    cfg: ControlSettings, policies: Mapping[str, ActingPolicy], prompts: Sequence[str], seeds_B: Tensor
) -> list[dict[str, Any]]:
    """A recipe's `sample`: a video of one episode for each seed; prompts have no effect."""
    return cfg.task.record_video(policies["policy"], seeds_B)


def log_returns(run: Run) -> Callable[[int, Sequence[Episode]], None]:
    """A function that logs the mean return and the number of the episodes that ended in a training step."""

    def log(step: int, finished: Sequence[Episode]) -> None:
        if finished:
            mean = sum(episode.total for episode in finished) / len(finished)
            run.log(step + 1, {"reward/return": mean, "cost/episodes": len(finished)})

    return log


def episode_scores(episodes: Sequence[Episode]) -> ProblemScores:
    """Of each episode "return", "length", and every fact at its end that is one number."""
    of_all = lambda value: torch.tensor([value(episode) for episode in episodes], dtype=torch.float64)
    scores = {"return": of_all(lambda episode: episode.total), "length": of_all(lambda episode: episode.length)}
    facts = {name: [np.asarray(episode.info[name], np.float64) for episode in episodes] for name in episodes[0].info}
    numbers = {name: np.array(values).ravel() for name, values in facts.items() if all(v.size == 1 for v in values)}
    return {**scores, **{name: torch.from_numpy(v) for name, v in numbers.items() if not np.isnan(v).all()}}


def logged_samples(episodes: Sequence[Episode], paths: Mapping[int, Sequence[np.ndarray]]) -> list[dict[str, Any]]:
    """Episodes with frames as `Run.samples` takes them: prompt, clip, score (the return), note, path if there is one.

    ``paths`` are positions ``[2]`` by the episode's seed.
    """
    return [_logged_sample(number, episode, paths.get(episode.seed, ())) for number, episode in enumerate(episodes, 1)]


def _logged_sample(number: int, episode: Episode, path: Sequence[np.ndarray]) -> dict[str, Any]:
    success = np.asarray(episode.info.get("success", np.nan), np.float64)
    note = ", success" if success.size == 1 and success > 0 else ""
    item = {
        "prompt": f"episode {number}",
        "clip": episode.frames,
        "score": episode.total,
        "note": f"{episode.length} steps{note}",
    }
    return item | ({"path": np.array(path)} if len(path) > 1 else {})


class PathRecorder(EnvironmentWrapper):
    """An environment that also records the path of each episode: the values of the info ``position`` ``[B, 2]``.

    ``paths`` are lists of positions by the episode's seed; a seed that comes again is not recorded again.
    """

    def __init__(self, environment: Environment, position: str):
        super().__init__(environment)
        self.position = position
        self.paths: dict[int, list[np.ndarray]] = {}
        self.recorded: dict[int, int] = {}
        """The seed of each row whose episode is recorded."""

    def begin(self, rows: Sequence[int], seeds: Sequence[int]) -> Observation:
        for row, seed in zip(rows, seeds):
            if seed in self.paths:
                self.recorded.pop(row, None)
            else:
                self.recorded[row], self.paths[seed] = seed, []
        return self.environment.begin(rows, seeds)

    def step(self, action_B: np.ndarray) -> Step:
        step = self.environment.step(action_B)
        position_B2 = step.info.get(self.position)
        if position_B2 is not None and position_B2.shape[1:] == (2,):
            for row, seed in self.recorded.items():
                self.paths[seed].append(position_B2[row].copy())
        for row in np.flatnonzero(step.terminated_B | step.truncated_B).tolist():
            self.recorded.pop(row, None)
        return step


def _setting(text: str) -> tuple[str, Any]:
    """``"size=84"`` as a name and a value. ValueError for a text without "="."""
    name, equal, value = text.partition("=")
    if not equal or not name:
        raise ValueError(f"setting {text!r} of an environment must be name=value")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value
