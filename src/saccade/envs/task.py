"""A task for a policy that acts: an environment, the test episodes in it, how well they went, and some of them to
look at.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from saccade.core import Environment, LogSamples, Observation, Step, seeds
from saccade.envs import environment
from saccade.envs.episodes import Episode
from saccade.envs.rollout import run_episodes
from saccade.training import distributed
from saccade.training.folder import ERROR
from saccade.training.run import Run
from saccade.training.video import thumbnails


@dataclass(frozen=True)
class ControlTask:
    """Which environment is acted in, and on which episodes it is tested."""

    env: str = "reach"
    """An own world (reach, push, lane …), or a name that gymnasium.make knows."""
    settings: tuple[str, ...] = ()
    """Settings of the environment, each ``name=value`` with a value as JSON writes it, or a word."""
    test_episodes: int = 64
    """Episodes of a test, always the same ones."""
    test_seed: int = 12_345
    """Their seeds follow from it."""
    test_rows: int = 16
    """Test episodes that run side by side."""
    shown: int = 6
    """The first test episodes, kept as clips to be looked at."""
    place: str = "position"
    """The fact of the environment that is a place in the plane; where it has it, clips come with the path."""

    def make(self, count: int) -> Environment:
        """``count`` episodes of the environment side by side. ValueError for an unknown environment or setting, or for
        several processes, which would all act alike.
        """
        distributed.require_one(f"{self.env} is acted in")
        return environment(self.env, count, **dict(map(_setting, self.settings)))

    def seeds(self) -> list[int]:
        """The seeds of the test episodes."""
        return seeds(self.test_seed, self.test_episodes).tolist()

    def score(self, policy: Any, show: LogSamples | None = None) -> dict[str, float]:
        """Over the test episodes, acted greedily: mean "return" and its standard error, "length", and all facts at the
        end.

        ``policy`` acts as `envs.rollout.whole` asks. ``show`` is given the first episodes as clips.
        """
        return episode_scores(self.run_episodes(self.make(min(self.test_rows, self.test_episodes)), policy, show))

    def run_episodes(self, world: Environment, policy: Any, show: LogSamples | None = None) -> list[Episode]:
        """The test episodes in ``world``, whatever is built around the task's own, acted greedily."""
        return evaluate_episodes(world, policy, self.seeds(), self.place, self.shown, show)

    def record_video(self, policy: Any, seeds: Sequence[int] | Tensor) -> list[dict[str, Any]]:
        """One whole episode for each seed, acted greedily, as `films`."""
        return record_video(self.make(len(seeds)), policy, seeds, self.place)


PENDULUM = ControlTask("Pendulum-v1", test_episodes=32, test_rows=32, shown=1)

HALF_CHEETAH = ControlTask("HalfCheetah-v5", test_episodes=10, test_rows=10, shown=1)


def evaluate_episodes(
    world: Environment, policy: Any, seeds: Sequence[int], place: str, shown: int, show: LogSamples | None = None
) -> list[Episode]:
    """One whole episode for each seed, acted greedily. ``show`` is given the first ``shown`` as clips."""
    tracked = PathRecorder(world, place)
    found = run_episodes(tracked, policy, seeds, film=shown if show else 0)
    if show:
        show("episodes", logged_samples(found[:shown], tracked.paths))
    return found


def record_video(
    world: Environment, policy: Any, seeds: Sequence[int] | Tensor, place: str = "position"
) -> list[dict[str, Any]]:
    """One whole episode for each seed, acted greedily: its clip, a few frames of it as the image, its path where
    there is one.
    """
    tracked = PathRecorder(world, place)
    items = logged_samples(run_episodes(tracked, policy, seeds, film=len(seeds)), tracked.paths)
    return [item | {"image": thumbnails(item["clip"])} for item in items]


def evaluate(cfg: Any, policies: Mapping[str, Any]) -> dict[str, float]:
    """Of a recipe: scores of test episodes, always the same ones, acted greedily."""
    return cfg.task.score(policies["policy"])


def sample(cfg: Any, policies: Mapping[str, Any], prompts: Sequence[str], seeds_B: Tensor) -> list[dict]:
    """Of a recipe: one filmed episode for each seed; there is nothing to prompt."""
    return cfg.task.record_video(policies["policy"], seeds_B)


def log_returns(run: Run) -> Callable[[int, Sequence[Episode]], None]:
    """Tells a run, after a training step, of the episodes that it ended: their mean return, and how many there are."""

    def tell(step: int, finished: Sequence[Episode]) -> None:
        if finished:
            mean = sum(episode.total for episode in finished) / len(finished)
            run.log(step + 1, {"reward/return": mean, "cost/episodes": len(finished)})

    return tell


def episode_scores(episodes: Sequence[Episode]) -> dict[str, float]:
    """Means over episodes: "return" with its standard error, "length", and every fact at the end that is one number."""
    total = np.array([episode.total for episode in episodes], np.float64)
    found = {"return": float(total.mean()), "length": float(np.mean([episode.length for episode in episodes]))}
    if len(total) > 1:
        found[f"return{ERROR}"] = float(total.std(ddof=1) / math.sqrt(len(total)))
    facts = {name: [np.asarray(episode.info[name], np.float64) for episode in episodes] for name in episodes[0].info}
    known = {name: np.array(values) for name, values in facts.items() if all(value.size == 1 for value in values)}
    return found | {name: float(np.nanmean(values)) for name, values in known.items() if not np.isnan(values).all()}


def logged_samples(episodes: Sequence[Episode], paths: Mapping[int, Sequence[np.ndarray]]) -> list[dict[str, Any]]:
    """Episodes that were filmed as `Run.samples` takes them: prompt, clip, score (the return), note, path where
    there is one.
    """
    return [_exhibit(number, episode, paths.get(episode.seed, ())) for number, episode in enumerate(episodes, 1)]


def _exhibit(number: int, episode: Episode, path: Sequence[np.ndarray]) -> dict[str, Any]:
    won = np.asarray(episode.info.get("success", np.nan), np.float64)
    verdict = ", success" if won.size == 1 and won > 0 else ""
    item = {
        "prompt": f"episode {number}",
        "clip": episode.frames,
        "score": episode.total,
        "note": f"{episode.length} steps{verdict}",
    }
    return item | ({"path": np.array(path)} if len(path) > 1 else {})


@dataclass
class PathRecorder:
    """An environment that also notes the places which one of its facts (``place``, ``[B, 2]``) tells: a path for
    each seed.
    """

    world: Environment
    place: str
    paths: dict[int, list[np.ndarray]] = field(default_factory=dict)
    running: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.name, self.count = self.world.name, self.world.count
        self.observation_space, self.action_space = self.world.observation_space, self.world.action_space
        self.render, self.state_dict, self.load_state_dict = (
            self.world.render,
            self.world.state_dict,
            self.world.load_state_dict,
        )

    def begin(self, rows: Sequence[int], seeds: Sequence[int]) -> Observation:
        """Begin episodes; one whose seed has been seen before is not noted again."""
        for row, seed in zip(rows, seeds):
            if seed in self.paths:
                self.running.pop(row, None)
            else:
                self.running[row], self.paths[seed] = seed, []
        return self.world.begin(rows, seeds)

    def step(self, action_B: np.ndarray) -> Step:
        step = self.world.step(action_B)
        place_B2 = step.info.get(self.place)
        if place_B2 is not None and place_B2.shape[1:] == (2,):
            for row, seed in self.running.items():
                self.paths[seed].append(place_B2[row].copy())
        for row in np.flatnonzero(step.terminated_B | step.truncated_B).tolist():
            self.running.pop(row, None)
        return step


def _setting(words: str) -> tuple[str, Any]:
    """``"size=84"`` as a name and a value. ValueError for words without "="."""
    name, equal, value = words.partition("=")
    if not equal or not name:
        raise ValueError(f"setting {words!r} of an environment must be name=value")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value
