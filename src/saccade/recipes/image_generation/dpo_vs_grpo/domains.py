"""Drawing in two domains: long prompts about bindings and places, which are trained on, and short ones, which never
are.

In the manner of T2I-CompBench and GenEval: wordings, kinds of scenes and combinations of attributes differ.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from saccade.core import LogSamples, Problem, Sampler, seeded
from saccade.evaluation.scoring import logged_samples, score
from saccade.math.pixels import to_unit
from saccade.recipes.image_generation.dpo_vs_grpo.dual_encoder import Batches, DualEncoder, DualEncoderReward, fit
from saccade.rewards.registry import reward
from saccade.rewards.rubric import judge
from saccade.worlds import shapes
from saccade.worlds.shapes.captions import vocabulary

INSIDE = ("color_attr", "position")

OUTSIDE = ("single_object", "two_object", "counting", "colors", "position", "color_attr")

DESCRIPTIVE = tuple(w for w in shapes.TRAIN_WORDINGS if shapes.style(w) == "descriptive")

TERSE = tuple(w for w in shapes.TRAIN_WORDINGS if shapes.style(w) == "terse")


@dataclass(frozen=True)
class DomainsTask:
    """Prompts of two domains and who says whether a picture shows what was asked."""

    prompts: str = "shapes"
    """Training prompts: the embedded world's, or a file with one a line or of GenEval's JSONL."""
    in_domain: str = ""
    """A file of prompts like those that are kept back; the embedded world has its own."""
    out_of_domain: str = ""
    """A file of prompts of the other domain."""
    verdict: str = "geneval"
    """What the kept-back prompts are scored by: a reward by name or FILE.py:FUNCTION."""
    train_size: int = 4096
    """Training prompts drawn from the embedded world."""
    held_out_size: int = 256
    """Prompts of each domain that are kept back."""

    def training(self, seed: int) -> list[Problem]:
        """The prompts to train on."""
        if self.prompts != "shapes":
            return shapes.load_prompts(self.prompts)
        return shapes.problems(self.train_size, seed, INSIDE, DESCRIPTIVE, "train")

    def held_out_problems(self) -> dict[str, list[Problem]]:
        """Prompts that are never trained on, by domain. Those of the embedded world combine other attributes."""
        if self.prompts != "shapes":
            files = {"in domain": self.in_domain, "out of domain": self.out_of_domain}
            return {name: shapes.load_prompts(file) for name, file in files.items() if file}
        return {
            "in domain": shapes.problems(self.held_out_size, 12_345, INSIDE, DESCRIPTIVE, "held_out"),
            "out of domain": shapes.problems(self.held_out_size, 12_346, OUTSIDE, TERSE, "held_out"),
        }

    def score(self, draw: Sampler, show: LogSamples | None = None, rows: int = 128) -> dict[str, float]:
        """Mean verdict of each domain; always the same prompts and seeds. ``show`` is given some pictures of each."""
        verdict = lambda rollout: judge(rollout, {"verdict": reward(self.verdict)}).rewards["verdict"]
        found = score(self.held_out_problems(), draw, verdict, rows)
        if show:
            for name, (parts, verdict_B) in found.items():
                show(name, logged_samples(parts[0], verdict_B))
        return {name: float(verdict_B.nanmean()) for name, (_, verdict_B) in found.items()}


def dual_encoder_reward(
    both: bool, size: int, steps: int, seed: int, seen: Callable[[Tensor], Tensor]
) -> DualEncoderReward:
    """A small reward model for pictures of ``size`` px, taught with ``steps`` batches of `lessons`."""
    with seeded(seed):
        untaught = DualEncoder(size, words())
    fit(untaught, batches(both, size, 4096, 128, seed, seen), steps)
    return DualEncoderReward(untaught)


def batches(both: bool, size: int, count: int, batch: int, seed: int, seen: Callable[[Tensor], Tensor]) -> Batches:
    """Pictures and captions of the embedded world for a reward model: of training prompts alone, or half of the other
    domain.

    ``seen`` is how pictures come out of the policy's own codes ``[N, 3, H, W]``. Meanings are training meanings inside
    the domain, all meanings outside of it.
    """
    rng = np.random.default_rng([seed, 7])
    inside = shapes.meanings_of(count // 2 if both else count, rng, INSIDE, "train")
    meanings = inside + (shapes.meanings_of(count - len(inside), rng, OUTSIDE) if both else [])
    pixels = to_unit(shapes.render(shapes.depict(meanings, rng), size))
    pictures, number = seen(pixels), {}
    same = torch.tensor([number.setdefault(repr(meaning), len(number)) for meaning in meanings])

    def lesson(step: int) -> tuple[Tensor, Sequence[str], Tensor]:
        index = rng.integers(len(meanings), size=batch)
        worded = [DESCRIPTIVE if i < len(inside) else TERSE for i in index]
        captions = [shapes.caption(meanings[i], int(rng.choice(known))) for i, known in zip(index, worded)]
        return pictures[index], captions, same[index]

    return lesson


def words() -> list[str]:
    """All words that a caption of the embedded world can hold."""
    return [*vocabulary(), ",", ":"]
