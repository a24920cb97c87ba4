"""Rewards by their names on the command line; any other reward is given as ``FILE.py:FUNCTION``."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from saccade.config import Foreign
from saccade.core import Problem, Reward, Rollout
from saccade.naming import suggestion
from saccade.rewards import boxes
from saccade.rewards.image import ocr, pictures
from saccade.rewards.learned.reward_model import RewardModel
from saccade.rewards.learned.text_image import TextImage
from saccade.rewards.render import rendering
from saccade.rewards.rubric import timeout
from saccade.rewards.text import answers, reference
from saccade.tools.user_code import load_module


@dataclass(frozen=True)
class WorldReward:
    """A reward that belongs to a world: imported at its first call, since worlds import this module."""

    module: str
    name: str
    reason: str = ""
    """Name of the function that says why a problem cannot be judged."""

    def why_not(self, problem: Problem) -> str:
        """Why the reward cannot judge pictures of a problem, in words; "" where it can or where nothing is known."""
        return getattr(importlib.import_module(self.module), self.reason)(problem) if self.reason else ""

    def __call__(self, rollout: Rollout) -> Tensor:
        return getattr(importlib.import_module(self.module), self.name)(rollout)


_SHAPES = "saccade.worlds.shapes.rewards"
PICTURES: dict[str, Reward] = {
    "shapes": WorldReward(_SHAPES, "points", "why_not"),
    "shapes_strict": WorldReward(_SHAPES, "correct", "why_not"),
    "ocr": WorldReward(_SHAPES, "ocr", "why_not_read"),
    "rapidocr": ocr.ReadWords(),
    "sharpness": pictures.sharpness,
    "diversity": pictures.diversity,
}
"""Rewards on pictures."""

TEXTS: dict[str, Reward] = {
    "exact": answers.Answer(answers.exact),
    "number": answers.Answer(answers.Numeric()),
    "choice": answers.Answer(answers.choice),
    "yes_no": answers.Answer(answers.yes_no),
    "similar": answers.Answer(answers.similar),
    "positions": answers.Answer(answers.positions),
    "by_type": answers.DispatchByType(),
    "iou": boxes.BoxOverlap(),
    "map": boxes.DetectionPrecision(),
    "ap50": boxes.DetectionPrecision((0.5,)),
    "map_by_count": boxes.DetectionPrecision(by_count=True),
    "matched": boxes.MatchedBoxes(),
    "box_format": boxes.BoxFormat(),
    "think_answer": answers.think_answer,
}
"""Rewards on texts."""

PROGRAMS: dict[str, Reward] = {
    "l2": rendering.l2,
    "edge_l2": rendering.EdgeL2(),
    "structure": rendering.structure,
    "ssim": rendering.ssim,
    "foreground_iou": rendering.foreground_iou,
    "error": rendering.error,
    "validity": rendering.validity,
    "length": reference.RelativeLength(),
    "length_ratio": reference.LengthRatio(),
    "overlap": reference.TokenOverlap(),
}
"""Rewards on programs that draw; lengths are in characters, of `error` less is better."""


class Function(str):
    """A reward given as a function: its name is ``module:function``, which is what the config of a run keeps of it."""

    function: Reward

    def __new__(cls, function: Reward) -> Function:
        """The name of a function, or of the type of any other callable, and the function itself."""
        named = function if hasattr(function, "__qualname__") else type(function)
        made = super().__new__(cls, f"{named.__module__}:{named.__qualname__}")
        made.function = function
        return made


def reward(name: str, known: Mapping[str, Reward] = PICTURES, also: Sequence[str] = ()) -> Reward:
    """A reward by its name, as ``FILE.py:FUNCTION`` or a `Function`. ValueError, with the nearest name, otherwise.

    ``also`` are names that the caller knows besides, for that message.
    """
    if isinstance(name, Function):
        return name.function
    if isinstance(name, Foreign) and ".py:" in name:
        return _reward_from_file(name.asked() or Path(), name.rpartition(":")[2])
    if name in known:
        return known[name]
    file, _, function = name.rpartition(":")
    if file.endswith(".py"):
        return _reward_from_file(Path(file), function)
    if name.endswith(".py"):
        raise ValueError(f"reward '{name}' names no function in its file: {name}:FUNCTION")
    if file:
        raise ValueError(
            f"reward '{name}' is a function of the program that trained the run: give it again from Python"
        )
    names = [*known, *also]
    raise ValueError(
        f"unknown reward '{name}'{suggestion(name, names)} (of {', '.join(names)}); any other is FILE.py:FUNCTION"
    )


def why_none(reward: Reward, problems: Sequence[Problem]) -> str:
    """Why a reward can judge none of the problems: its reason for the first; "" where it can judge one, or may."""
    reasons = [getattr(reward, "why_not", _unknown)(problem) for problem in problems]
    return reasons[0] if reasons and all(reasons) else ""


def _unknown(problem: Problem) -> str:
    return ""


def _reward_from_file(file: Path, function: str) -> Reward:
    if not file.is_file():
        raise ValueError(f"reward file '{file}' does not exist")
    module = load_module(file, "reward file")
    found = getattr(module, function, None)
    if not callable(found):
        raise ValueError(f"reward file '{file}' has no function '{function}'")
    timeout(found)
    return found


def learned_reward(name: str, reward_model: RewardModel | None, encoders: str = "", device: str = "cpu") -> Reward:
    """A differentiable reward of pictures: reward_model, text_image over ``encoders``, or ``FILE.py:FUNCTION``.

    ValueError, with the nearest name, for a name that is none of these, or where what the name needs is not given.
    """
    known: dict[str, Reward] = {"reward_model": reward_model} if reward_model else {}
    if encoders:
        known["text_image"] = TextImage(encoders, device=device)
    if not known and ".py:" not in name:
        raise ValueError(f"reward '{name}': no reward model is trained (reward_model.steps 0) and encoders is empty")
    return reward(name, known)
