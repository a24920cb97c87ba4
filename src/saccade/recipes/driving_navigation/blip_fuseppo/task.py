"""The lane-keeping task: the environment with its added observations, test episodes on held-out roads, their scores."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from saccade.config import Count
from saccade.core import ActingPolicy, Environment, LogSamples, ProblemScores, Rollout, Run
from saccade.envs.episodes import Episode
from saccade.envs.lane import HELD_OUT, SWAPPED, WEATHERS, WIDTH, Lane
from saccade.envs.lane.scenes import scenes
from saccade.envs.task import episode_scores, evaluate_episodes, record_video
from saccade.evaluation.scoring import HELD_OUT_SEED
from saccade.random import numpy_generator, stream
from saccade.recipes.driving_navigation.blip_fuseppo.captioner import Captioner
from saccade.recipes.driving_navigation.blip_fuseppo.captions import (
    CaptionControl,
    CaptionObservation,
    constant,
    shuffled,
)
from saccade.recipes.driving_navigation.blip_fuseppo.pid import PIDObservation
from saccade.recipes.driving_navigation.blip_fuseppo.symmetry import SymmetryMap
from saccade.training import distributed


@dataclass(frozen=True)
class LaneTask:
    """The roads, and what the policy observes of them."""

    image_size: tuple[int, int] = (18, 64)
    """Height and width in pixels of the policy's picture, the near part of the camera's frame."""
    caption_image_size: tuple[int, int] = (48, 64)
    """Height and width in pixels of the captioner's picture, the far part of the camera's frame."""
    lidar_rays: Count = 36
    """Number of LiDAR rays over 180 degrees."""
    road_length: float = 120.0
    """Length of a road in metres."""
    lane_error: Literal["exact", "vision"] = "exact"
    """Source of the lane error in reward and hint: the geometry, or edges and lines in the picture."""
    pid_hint: bool = True
    """Let the policy observe the advice of a PID controller."""
    captions: Literal["none", "captioner", "shuffled", "constant"] = "captioner"
    """Captions that the policy observes: none, the captioner's, the captioner's of other times, constant random."""
    caption_every: Count = 10
    """Environment steps between captions."""
    test_episodes: Count = 100
    """Number of test episodes, on roads and in weathers that training never has."""
    held_out_seed: int = 0
    """Number of the first test road among the held-out ones; a check takes others for every training seed."""
    test_rows: Count = 25
    """Number of test episodes that run side by side."""
    video_episodes: int = 4
    """Number of test episodes that are shown as videos, the first ones."""

    def make(self, count: int, captioner: Captioner | None, seed: int) -> Environment:
        """``count`` episodes side by side, with hint and captions; ``seed`` decides the captions of the controls."""
        distributed.require_one("the lane is driven")
        lane = self.world(count)
        environment: Environment = PIDObservation(lane, lane.error) if self.pid_hint else lane
        if self.captions == "none":
            return environment
        model = _required(captioner)
        space = spaces.MultiDiscrete(np.full(model.length, model.vocab_size))
        control = self._control(model, seed)
        return CaptionObservation(environment, model, lane.camera, space, self.caption_every, control)

    def world(self, count: int) -> Lane:
        """The environment without added observations."""
        sizes = self.image_size, self.caption_image_size, self.lidar_rays, self.road_length
        return Lane(count, *sizes, error=self.lane_error)

    def score(
        self, policy: ActingPolicy, captioner: Captioner | None, seed: int, show: LogSamples | None = None
    ) -> ProblemScores:
        """Scores of the test episodes, acted greedily; ``show`` is given the first ones as videos from above."""
        environment = self.make(min(self.test_rows, self.test_episodes), captioner, seed)
        first = self.held_out_seed % (len(HELD_OUT) - self.test_episodes)
        roads = list(HELD_OUT[first : first + self.test_episodes])
        return lane_scores(evaluate_episodes(environment, policy, roads, "position", self.video_episodes, show))

    def record_video(
        self, policy: ActingPolicy, captioner: Captioner | None, seed: int, seeds: Sequence[int]
    ) -> list[dict[str, Any]]:
        """A video of one episode for each seed, as `Run.samples` takes them."""
        return record_video(self.make(len(seeds), captioner, seed), policy, seeds)

    def symmetry(self, captioner: Captioner | None) -> SymmetryMap:
        """The functions that mirror observations and actions."""
        functions: dict[str, Callable[[Tensor], Tensor]] = {
            "observation.image_BT": lambda x: x.flip(-2),
            "observation.lidar_BT": lambda x: x.flip(-1),
            "action_BT": lambda x: x * torch.tensor([-1.0, 1.0]),
        }
        if self.pid_hint:
            functions["observation.hint_BT"] = torch.neg
        if self.captions != "none":
            mirrored = mirror_ids(_required(captioner))
            functions["observation.caption_BT"] = lambda ids: mirrored[ids]
        return functions

    def _control(self, captioner: Captioner, seed: int) -> CaptionControl | None:
        if self.captions == "captioner":
            return None
        rng = numpy_generator(seed, "constant caption")
        if self.captions == "shuffled":
            return shuffled(lambda: caption_bank(captioner, self, seed))
        symmetric = np.flatnonzero(mirror_ids(captioner).numpy() == np.arange(captioner.vocab_size))
        return constant(rng.choice(symmetric, captioner.length))


def lane_scores(episodes: Sequence[Episode]) -> ProblemScores:
    """Scores of episodes, with equal weights: of the lateral error in metres "rmse", "std" of its absolute value and
    "nrmse" in lane widths; share of episodes that reached the end, returns, captions per step, "rmse" in each weather.
    """
    square, size = (np.array([e.info[name] for e in episodes]) for name in ("offset_square", "offset_size"))
    weather = np.array([e.info["weather"] for e in episodes])
    rmse = math.sqrt(square.mean())
    common = episode_scores(episodes)
    scores = {"rmse": rmse, "std": math.sqrt(max(square.mean() - size.mean() ** 2, 0.0)), "nrmse": rmse / WIDTH}
    scores |= {name: common[name] for name in ("success", "crashed", "lost", "return", "length")}
    calls = sum(e.info.get("captions", 0.0) for e in episodes) / sum(e.length for e in episodes)
    by_weather = {f"rmse, {WEATHERS[int(w)]}": math.sqrt(square[weather == w].mean()) for w in np.unique(weather)}
    return scores | {"captions per step": calls} | by_weather


def log_driving(run: Run) -> Callable[[int, Rollout], None]:
    """A function that logs the scores of the episodes that ended in a training step's segment."""

    def log(step: int, segment: Rollout) -> None:
        ended = [episode for row in segment.outputs for episode in row]
        if ended:
            scores = lane_scores(ended)
            run.log(step + 1, {f"train/{name}": value for name, value in scores.items() if ", " not in name})

    return log


def caption_bank(captioner: Captioner, task: LaneTask, seed: int, size: int = 1024, rows: int = 64) -> np.ndarray:
    """Captions that the captioner writes of places anywhere on training roads: ids ``[size, L]``."""
    lane = replace(task, lane_error="exact").world(rows)
    parts = range(-(-size // rows))
    return np.concatenate([captioner(scenes(lane, stream(seed, "caption bank", part))[0]) for part in parts])[:size]


def mirror_ids(captioner: Captioner) -> Tensor:
    """The mirror image of each token id ``[vocab_size]``: left is exchanged with right."""
    mirrored = torch.arange(captioner.vocab_size)
    for word, other in SWAPPED.items():
        one, two = (captioner.processor.tokenizer.convert_tokens_to_ids(w) for w in (word, other))
        mirrored[one] = two
    return mirrored


def caption_accuracy(captioner: Captioner, lane: Lane) -> dict[str, float]:
    """Share of correct captions, and of correct words by topic, on held-out roads and in their weathers."""
    pictures, targets = scenes(lane, HELD_OUT_SEED, held_out=True)
    written, wanted = ([text.split() for text in texts] for texts in (captioner.decode(captioner(pictures)), targets))
    parts = {"weather": (0,), "soon": (2, 3), "later": (5,), "object": (6, 7)}
    share = lambda places: float(
        np.mean([[w[i : i + 1] == t[i : i + 1] for i in places] for w, t in zip(written, wanted)])
    )
    complete = float(np.mean([w == t for w, t in zip(written, wanted)]))
    return {"caption": complete} | {name: share(places) for name, places in parts.items()}


def _required(captioner: Captioner | None) -> Captioner:
    if captioner is None:
        raise ValueError("captions are observed, but there is no captioner")
    return captioner
