"""The task of keeping a lane: the world with what sensors add to it, test episodes on unseen roads, how well they
went.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from saccade.core import Environment, LogSamples, Rollout
from saccade.envs.episodes import Episode
from saccade.envs.lane import HELD_OUT, SWAPPED, WEATHERS, WIDTH, Lane
from saccade.envs.lane.scenes import scenes
from saccade.envs.task import episode_scores, evaluate_episodes, record_video
from saccade.recipes.driving_navigation.blip_fuseppo.captioner import Captioner
from saccade.recipes.driving_navigation.blip_fuseppo.captions import CaptionObservation, Control, constant, shuffled
from saccade.recipes.driving_navigation.blip_fuseppo.pid import PIDObservation
from saccade.recipes.driving_navigation.blip_fuseppo.symmetry import SymmetryMap
from saccade.training import distributed
from saccade.training.run import Run


@dataclass(frozen=True)
class LaneTask:
    """Which roads are driven, and what the policy is shown of them."""

    image: tuple[int, int] = (18, 64)
    """Height and width of the policy's picture, the near part of the frame."""
    far: tuple[int, int] = (48, 64)
    """Of the captioner's picture, the far part of the frame."""
    rays: int = 36
    """Of the LiDAR, over 180 degrees."""
    road: float = 120.0
    """Of a road in metres."""
    error: Literal["exact", "vision"] = "exact"
    """Where reward and hint have the lane error from: the geometry, or edges and lines in the picture."""
    hint: bool = True
    """Whether a PID's advice is shown."""
    caption: Literal["none", "written", "shuffled", "constant"] = "written"
    """What stands in the place of words: nothing, the captioner's, its words of other times, random ones that never
    change.
    """
    every: int = 10
    """Steps from one caption to the next."""
    test_episodes: int = 100
    """Test episodes, on roads and in weathers that training never has."""
    test_rows: int = 25
    """Test episodes that run side by side."""
    shown: int = 4
    """The first test episodes, kept as clips to be looked at."""

    def make(self, count: int, captioner: Captioner | None, seed: int) -> Environment:
        """``count`` episodes side by side, with hint and captions. ``seed`` picks the captions of the controls."""
        distributed.require_one("the lane is driven")
        lane = self.world(count)
        world: Environment = PIDObservation(lane, lane.error) if self.hint else lane
        if self.caption == "none":
            return world
        words = _known(captioner)
        space = spaces.MultiDiscrete(np.full(words.length, words.vocabulary))
        return CaptionObservation(world, words, lane.camera, space, self.every, self._control(words, seed))

    def world(self, count: int) -> Lane:
        """The bare world."""
        return Lane(count, self.image, self.far, self.rays, self.road, error=self.error)

    def score(
        self, policy: Any, captioner: Captioner | None, seed: int, show: LogSamples | None = None
    ) -> dict[str, float]:
        """How well the test episodes go, acted greedily. ``show`` is given the first ones as clips from above."""
        world = self.make(min(self.test_rows, self.test_episodes), captioner, seed)
        return kept(
            evaluate_episodes(world, policy, list(HELD_OUT[: self.test_episodes]), "position", self.shown, show)
        )

    def drive(self, policy: Any, captioner: Captioner | None, seed: int, seeds: Sequence[int]) -> list[dict[str, Any]]:
        """One filmed episode for each seed, as `Run.samples` takes them."""
        return record_video(self.make(len(seeds), captioner, seed), policy, seeds)

    def flips(self, captioner: Captioner | None) -> SymmetryMap:
        """What a mirror makes of what is seen and of what is done."""
        found: dict[str, Callable[[Tensor], Tensor]] = {
            "seen.image_BT": lambda x: x.flip(-2),
            "seen.lidar_BT": lambda x: x.flip(-1),
            "action_BT": lambda x: x * torch.tensor([-1.0, 1.0]),
        }
        hint = {"seen.hint_BT": torch.neg} if self.hint else {}
        told = {} if self.caption == "none" else {"seen.caption_BT": _swap(_known(captioner))}
        return found | hint | told

    def _control(self, words: Captioner, seed: int) -> Control | None:
        if self.caption == "written":
            return None
        rng = np.random.default_rng([seed, 5])
        if self.caption == "shuffled":
            return shuffled(lambda: bank(words, self, seed))
        unswapped = np.flatnonzero(mirror_ids(words).numpy() == np.arange(words.vocabulary))
        return constant(rng.choice(unswapped, words.length))


def kept(episodes: Sequence[Episode]) -> dict[str, float]:
    """Of the lateral error in metres, every episode alike: "rmse", "std" of its size, "nrmse" in lane widths; share
    of episodes that came to the end, returns, captions a step, and "rmse" in each weather.
    """
    square, size = (np.array([e.info[name] for e in episodes]) for name in ("offset_square", "offset_size"))
    weather = np.array([e.info["weather"] for e in episodes])
    rmse = math.sqrt(square.mean())
    known = episode_scores(episodes)
    found = {"rmse": rmse, "std": math.sqrt(max(square.mean() - size.mean() ** 2, 0.0)), "nrmse": rmse / WIDTH}
    found |= {name: known[name] for name in ("success", "crashed", "lost", "return", "length")}
    asked = sum(e.info.get("captions", 0.0) for e in episodes) / sum(e.length for e in episodes)
    by_weather = {f"rmse, {WEATHERS[int(w)]}": math.sqrt(square[weather == w].mean()) for w in np.unique(weather)}
    return found | {"captions a step": asked} | by_weather


def driven(run: Run) -> Callable[[int, Rollout], None]:
    """Tells a run, after a training step, how the episodes went that ended in its segment."""

    def tell(step: int, rollout: Rollout) -> None:
        ended = [episode for row in rollout.outputs for episode in row]
        if ended:
            run.log(step + 1, {f"train/{name}": value for name, value in kept(ended).items() if ", " not in name})

    return tell


def bank(words: Captioner, task: LaneTask, seed: int, size: int = 1024, rows: int = 64) -> np.ndarray:
    """Captions that the captioner writes of places anywhere on training roads: ids ``[size, L]``."""
    lane = replace(task, error="exact").world(rows)
    return np.concatenate([words(scenes(lane, seed + 7919 * (part + 1))[0]) for part in range(-(-size // rows))])[:size]


def mirror_ids(words: Captioner) -> Tensor:
    """What each token id is in the mirror: left is right and right is left."""
    swapped = torch.arange(words.vocabulary)
    for word, other in SWAPPED.items():
        one, two = (words.processor.tokenizer.convert_tokens_to_ids(w) for w in (word, other))
        swapped[one] = two
    return swapped


def accuracy(words: Captioner, lane: Lane, seed: int = 0) -> dict[str, float]:
    """Share of right captions, and of right words by what they tell of, on roads and in weathers of tests."""
    pictures, true = scenes(lane, seed, held_out=True)
    told = [caption.split() for caption in words.words(words(pictures))]
    parts = {"weather": (0,), "soon": (2, 3), "later": (5,), "thing": (6, 7)}
    right = lambda places: float(
        np.mean([[w[i : i + 1] == t.split()[i : i + 1] for i in places] for w, t in zip(told, true)])
    )
    whole_right = float(np.mean([w == t.split() for w, t in zip(told, true)]))
    return {"caption": whole_right} | {name: right(places) for name, places in parts.items()}


def _swap(words: Captioner) -> Callable[[Tensor], Tensor]:
    swapped = mirror_ids(words)
    return lambda ids: swapped[ids]


def _known(captioner: Captioner | None) -> Captioner:
    if captioner is None:
        raise ValueError("captions are asked for, but there is no captioner")
    return captioner
