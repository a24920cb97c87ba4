"""Task of writing drawing programs: training and held-out problems, and the rewards of renders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from saccade.config import Count, Fraction
from saccade.core import LogSamples, Problem, ProblemScores, Question, Reward, Rollout, Sampler
from saccade.evaluation.scoring import HELD_OUT_SEED, score
from saccade.math.pixels import to_float
from saccade.rewards.registry import PROGRAMS, reward
from saccade.rewards.render.rendering import extract_program, render_rollout
from saccade.rewards.render.strip_text import strip_text
from saccade.rewards.rubric import gated, judge, weighted
from saccade.worlds import programs
from saccade.worlds.programs.prompts import TEXT
from saccade.worlds.questions.task import question_of

MONITORS = ("error", "foreground_iou", "ssim", "validity", "length_ratio")
"""Rewards that are always measured; only those among the task's rewards are trained on."""

TEXT_REWARDS = ("length", "length_ratio", "overlap")
"""Rewards on the text of a program; all others are on its render."""

_CAPTION = "Write an SVG program that draws this: "


@dataclass(frozen=True)
class ProgramTask:
    """What programs shall draw, and the rewards of their renders."""

    programs: str = "shapes"
    """Training programs: "shapes" (the embedded world), a folder of *.svg, or JSON lines with "Svg" and "caption"."""
    held_out: str = ""
    """Held-out programs: a folder or a file; the embedded world has held-out meanings."""
    condition: Literal["picture", "text"] = "picture"
    """Input of the model: a picture that its program shall draw, or a caption."""
    rewards: tuple[str, ...] = ("l2", "edge_l2", "structure", "length", "validity")
    """Names of the rewards that are summed; a reward that is NaN for a program is left out of its sum."""
    weights: tuple[float, ...] = (1.0, 0.5, 0.5, 0.5, 0.25)
    """Weight of each reward in the sum."""
    length_gate: Fraction = 0.5
    """Smallest value of the first reward at which the reward `length` counts."""
    size: Count = 32
    """Height and width in pixels of the pictures that are compared, and of the embedded world's input pictures."""
    train_size: Count = 8192
    """Number of training programs sampled from the embedded world."""
    held_out_size: Count = 256
    """Number of held-out programs of the embedded world."""
    held_out_seed: int = HELD_OUT_SEED
    """Seed of the held-out problems of the embedded world; a check draws others for every training seed."""
    larger_size: int = 128
    """Number of held-out programs with more shapes than training programs, in the embedded world; 0 for none."""

    def __post_init__(self) -> None:
        if len(self.rewards) != len(self.weights) or not self.rewards:
            raise ValueError(
                f"{len(self.weights)} weights are given for {len(self.rewards)} rewards; there must be one for each"
            )
        if self.condition == "text" and self.programs == "shapes":
            raise ValueError("the embedded world of programs has no captions; a task of texts needs a file")

    def training(self, seed: int) -> Sequence[Problem]:
        """The training problems, each with a reference program."""
        if self.programs != "shapes":
            return self._load_file(self.programs)
        return cached_problems(self.train_size, seed, programs.TRAIN, "train", self.size)

    def held_out_problems(self) -> dict[str, Sequence[Problem]]:
        """The held-out problems: with as many shapes as in training, and with more."""
        if self.programs != "shapes":
            return {"held out": self._load_file(self.held_out)} if self.held_out else {}
        counts = {"held out": (self.held_out_size, programs.TRAIN), "more shapes": (self.larger_size, programs.OOD)}
        return {
            name: cached_problems(n, self.held_out_seed, shapes, "held_out", self.size)
            for name, (n, shapes) in counts.items()
            if n
        }

    def judge(self, rollout: Rollout, known: Mapping[str, Reward] = PROGRAMS) -> Tensor:
        """Fill ``rollout.rewards`` with rewards and monitors; returns the weighted sum of the rewards ``[B]``.

        ``known`` holds the rewards by name; monitors that it does not hold are left out.
        """
        names = dict.fromkeys((*self.rewards, *(name for name in MONITORS if name in known)))
        abstain = tuple(names) if len(self.rewards) > 1 else MONITORS
        on_text = {name: reward(name, known) for name in names if name in TEXT_REWARDS}
        on_render = {name: reward(name, known) for name in names if name not in TEXT_REWARDS}
        judge(strip_text(rollout), on_render, abstain)
        values = judge(rollout, on_text, abstain).rewards
        counted = {name: values[name] for name in self.rewards}
        if "length" in counted and self.rewards[0] != "length":
            first_B = values[self.rewards[0]]
            gate_B = (first_B >= self.length_gate).float().masked_fill(first_B.isnan(), float("nan"))
            counted["length"] = gated(values["length"], gate_B)
        return weighted(counted, dict(zip(self.rewards, self.weights)), rollout.group_B)

    def score(
        self, sampler: Sampler, known: Mapping[str, Reward], show: LogSamples | None = None, rows: int = 96
    ) -> ProblemScores:
        """Scores of each held-out problem: "<set>, <name>" of every reward and monitor, "<set>, total" of the sum."""
        scores: ProblemScores = {}
        scored = score(self.held_out_problems(), sampler, lambda rollout: self.judge(rollout, known), rows)
        for name, (parts, total_B) in scored.items():
            values = {each: torch.cat([part.rewards[each] for part in parts]) for each in parts[0].rewards}
            values["total"] = total_B
            scores |= {f"{name}, {each}": value_B for each, value_B in values.items()}
            if show:
                show(name, logged_renders(parts[0], total_B))
        return scores

    def problem_of(self, number: int, prompt: str) -> Problem:
        """A prompt of `saccade sample` as a problem: a text, or the file of a picture, which is then the reference."""
        pictures = question_of(f"{prompt} {TEXT}").pictures[:1]
        if not pictures:
            return Problem(number, caption_question(prompt), {"caption": prompt, "box": "own"})
        question = Question(TEXT, pictures)
        return Problem(number, question, {"picture": pad_to_square(pictures[0], self.size), "box": "own"})

    def _load_file(self, path: str) -> Sequence[Problem]:
        if self.condition == "picture":
            return programs.load_programs(path, self.size)
        if Path(path).is_dir():
            raise ValueError(f"{path}: is a folder; captions need JSON lines with the columns 'Svg' and 'caption'")
        return with_captions(programs.load_programs(path, self.size, captions=True))


def sample_programs(
    task: ProgramTask, sampler: Sampler, prompts: Sequence[str], seeds_B: Tensor
) -> list[dict[str, Any]]:
    """A program for each prompt, as `saccade sample` shows them: prompt, text (the program), image (its render)."""
    rollout = sampler([task.problem_of(i, prompt) for i, prompt in enumerate(prompts)], seeds_B)
    rows = zip(prompts, rollout.outputs, rendered_pictures(rollout))
    return [{"prompt": prompt, "text": extract_program(text), "image": picture} for prompt, text, picture in rows]


@lru_cache(maxsize=8)
def cached_problems(count: int, seed: int, shapes: tuple[int, int], split: str, size: int) -> Sequence[Problem]:
    """Problems of the embedded world, sampled once a process."""
    return programs.sample_problems(count, seed, shapes, split, size)


def with_captions(problems: Sequence[Problem]) -> list[Problem]:
    """The same problems with their captions as inputs, so that pictures are seen by rewards alone."""
    return [replace(problem, inputs=caption_question(problem.answer["caption"])) for problem in problems]


def caption_question(caption: str) -> Question:
    """The request for a program that draws a caption."""
    return Question(_CAPTION + caption)


def logged_renders(rollout: Rollout, total_B: Tensor, count: int = 16) -> list[dict[str, Any]]:
    """The first samples of a rollout as a run logs them: reference picture, rendered picture, program, score."""
    rows = zip(rollout.problems[:count], rendered_pictures(rollout), rollout.outputs, total_B.tolist())
    return [
        {
            "prompt": p.inputs.text,
            "target": to_float(p.answer["picture"]),
            "image": picture,
            "text": text,
            "score": total,
        }
        for p, picture, text, total in rows
    ]


def rendered_pictures(rollout: Rollout) -> list[Tensor]:
    """The render of each output, ``[3, S, S]`` in [0, 1]; a white picture if it does not render."""
    pictures = [render.picture for render in render_rollout(strip_text(rollout))]
    size = next((len(picture) for picture in pictures if picture is not None), 64)
    sides = [len(p.answer["picture"]) if "picture" in p.answer else size for p in rollout.problems]
    return [torch.ones(3, s, s) if picture is None else to_float(picture) for s, picture in zip(sides, pictures)]


def pad_to_square(picture: Any, size: int) -> Any:
    """A picture uint8 ``[H, W, 3]`` resized into ``[size, size, 3]``, padded with white."""
    import numpy as np
    from PIL import Image, ImageOps

    return np.asarray(ImageOps.pad(Image.fromarray(picture), (size, size), Image.Resampling.BICUBIC, "white"))
