"""A task for a model that draws by code: pictures or texts to be drawn, some kept back, and who judges the drawings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from saccade.core import LogSamples, Problem, Question, Reward, Rollout, Sampler
from saccade.evaluation.scoring import score
from saccade.math.pixels import to_unit
from saccade.rewards.registry import PROGRAMS, reward
from saccade.rewards.render.rendering import drawn, program
from saccade.rewards.render.strip_text import strip_text
from saccade.rewards.rubric import gated, judge, weighted
from saccade.tools.render import find
from saccade.worlds import programs, text_files
from saccade.worlds.programs.problems import TEXT
from saccade.worlds.questions.task import question_of

MONITORS = ("error", "foreground_iou", "ssim", "validity", "length_ratio")
"""Always measured; none but `validity` is trained on unless asked for."""

SPOKEN = ("length", "length_ratio", "overlap")
"""Judged from the text as it was written; all others see what it draws."""

_CAPTION = "Write an SVG program that draws this: "


@dataclass(frozen=True)
class ProgramTask:
    """What programs are asked to draw and who judges what they draw."""

    programs: str = "shapes"
    """The embedded world, a folder of *.svg, or JSON lines with the columns "Svg" and, for texts, "caption"."""
    held_out: str = ""
    """A folder or file of such programs kept back; the embedded world keeps back meanings of its own."""
    asked: Literal["picture", "text"] = "picture"
    """What the model is given: a picture to be drawn again, or a caption in words."""
    rewards: tuple[str, ...] = ("l2", "edge_l2", "structure", "length", "validity")
    """Rewards that are added up; one that has no verdict on a program is left out there."""
    weights: tuple[float, ...] = (1.0, 0.5, 0.5, 0.5, 0.25)
    """The weight of each of them."""
    length_gate: float = 0.5
    """The first reward from which on `length` counts at all: below it a short program earns nothing by being short."""
    size: int = 32
    """Side in pixels of the pictures that are compared; the embedded world's are shown in this size too."""
    train_size: int = 8192
    """Training programs drawn from the embedded world."""
    held_out_size: int = 256
    """Programs kept back in the embedded world."""
    larger_size: int = 128
    """Programs of more shapes than any that is trained on, in the embedded world; 0 leaves them out."""

    def __post_init__(self) -> None:
        if len(self.rewards) != len(self.weights) or not self.rewards:
            raise ValueError(
                f"{len(self.weights)} weights are given for {len(self.rewards)} rewards; there must be one for each"
            )
        if self.asked == "text" and self.programs == "shapes":
            raise ValueError("the embedded world of programs has no captions; a task of texts needs a file")

    def training(self, seed: int) -> Sequence[Problem]:
        """The problems to train on, each with a reference program."""
        if self.programs != "shapes":
            return self._load(self.programs)
        return made(self.train_size, seed, programs.TRAIN, "train", self.size)

    def held_out_problems(self) -> dict[str, Sequence[Problem]]:
        """Problems that are never trained on: of the usual number of shapes, and of more."""
        if self.programs != "shapes":
            return {"held out": self._load(self.held_out)} if self.held_out else {}
        counts = {"held out": (self.held_out_size, programs.TRAIN), "more shapes": (self.larger_size, programs.OOD)}
        return {name: made(n, 12_345, shapes, "held_out", self.size) for name, (n, shapes) in counts.items() if n}

    def judge(self, rollout: Rollout, known: Mapping[str, Reward] = PROGRAMS) -> Tensor:
        """Fill ``rollout.rewards`` with rewards and monitors, those that ``known`` names; returns their weighted sum
        ``[B]``.
        """
        names = dict.fromkeys((*self.rewards, *(name for name in MONITORS if name in known)))
        abstain = tuple(names) if len(self.rewards) > 1 else MONITORS
        spoken = {name: reward(name, known) for name in names if name in SPOKEN}
        judge(strip_text(rollout), {name: reward(name, known) for name in names if name not in SPOKEN}, abstain)
        values = judge(rollout, spoken, abstain).rewards
        counted = {name: values[name] for name in self.rewards}
        if "length" in counted and self.rewards[0] != "length":
            counted["length"] = gated(values["length"], (values[self.rewards[0]] >= self.length_gate).float())
        return weighted(counted, dict(zip(self.rewards, self.weights)))

    def score(
        self, attempt: Sampler, known: Mapping[str, Reward], show: LogSamples | None = None, rows: int = 96
    ) -> dict[str, float]:
        """The mean of every reward and monitor over each set kept back, "<set>, <name>", and of their sum, "<set>,
        total".
        """
        scores: dict[str, float] = {}
        for name, (parts, total_B) in score(
            self.held_out_problems(), attempt, lambda r: self.judge(r, known), rows
        ).items():
            found = {each: torch.cat([part.rewards[each] for part in parts]) for each in parts[0].rewards}
            scores |= {
                f"{name}, {each}": float(value_B.nanmean()) for each, value_B in (found | {"total": total_B}).items()
            }
            if show:
                show(name, drawings(parts[0], total_B))
        return scores

    def wanted(self, number: int, prompt: str) -> Problem:
        """A prompt of `saccade sample` as a problem: words, or a picture's file, which is its own reference."""
        pictures = question_of(f"{prompt} {TEXT}").pictures[:1]
        if not pictures:
            return Problem(number, wish(prompt), {"caption": prompt, "box": "own"})
        question = Question(TEXT, pictures)
        return Problem(number, question, {"picture": square(pictures[0], self.size), "box": "own"})

    def _load(self, path: str) -> Sequence[Problem]:
        found = programs.load(path, self.size)
        return found if self.asked == "picture" else captioned(found, captions(path), path)


def programs_for(task: ProgramTask, attempt: Sampler, prompts: Sequence[str], seeds_B: Tensor) -> list[dict[str, Any]]:
    """A program for each prompt, as `saccade sample` shows them: prompt, text (the program), image (what it draws)."""
    rollout = attempt([task.wanted(i, prompt) for i, prompt in enumerate(prompts)], seeds_B)
    rows = zip(prompts, rollout.outputs, painted(rollout))
    return [{"prompt": prompt, "text": program(text), "image": picture} for prompt, text, picture in rows]


@lru_cache(maxsize=8)
def made(count: int, seed: int, shapes: tuple[int, int], split: str, size: int) -> Sequence[Problem]:
    """Problems of the embedded world, drawn once a process."""
    return programs.problems(count, seed, shapes, split, size)


def captions(path: str) -> dict[str, str]:
    """The column "caption" of JSON lines, by program. ValueError for a folder, or a line that has none."""
    if Path(path).is_dir():
        raise ValueError(f"{path}: is a folder; captions need JSON lines with the columns 'Svg' and 'caption'")
    return dict(pair for _, pair in text_files.parse_lines(Path(path), _captioned, "captions"))


def _captioned(line: str) -> tuple[str, str]:
    entry = text_files.entry_of(line)
    text_files.need(isinstance(entry.get("caption"), str), f"{line[:40]!r} has no text 'caption'")
    return find(entry["Svg"], "svg"), entry["caption"]


def captioned(problems: Sequence[Problem], by_code: Mapping[str, str], source: str) -> list[Problem]:
    """The same problems asked in words: the picture is what only rewards may see."""
    texts = [by_code[p.answer["code"]] for p in problems]
    return [replace(p, inputs=wish(text), answer=p.answer | {"caption": text}) for p, text in zip(problems, texts)]


def wish(caption: str) -> Question:
    """How a program that draws a text is asked for."""
    return Question(_CAPTION + caption)


def drawings(rollout: Rollout, total_B: Tensor, count: int = 16) -> list[dict[str, Any]]:
    """The first attempts of a rollout as a run shows them: the wanted picture, the drawn one, program, score."""
    return [
        {
            "prompt": p.inputs.text,
            "target": to_unit(p.answer["picture"]),
            "image": picture,
            "text": text,
            "score": float(r),
        }
        for p, picture, text, r in zip(rollout.problems[:count], painted(rollout), rollout.outputs, total_B)
    ]


def painted(rollout: Rollout) -> list[Tensor]:
    """What each attempt draws, ``[3, S, S]`` in [0, 1]; a white picture where it draws nothing."""
    renders = drawn(strip_text(rollout))
    size = next((len(one.picture) for one in renders if one.picture is not None), 0)
    sides = [len(p.answer["picture"]) if "picture" in p.answer else size or 64 for p in rollout.problems]
    return [torch.ones(3, s, s) if one.picture is None else to_unit(one.picture) for s, one in zip(sides, renders)]


def square(picture: Any, size: int) -> Any:
    """A picture uint8 ``[H, W, 3]`` as ``[size, size, 3]``, whole, on white."""
    import numpy as np
    from PIL import Image, ImageOps

    return np.asarray(ImageOps.pad(Image.fromarray(picture), (size, size), Image.Resampling.BICUBIC, "white"))
