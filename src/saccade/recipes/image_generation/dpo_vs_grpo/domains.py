"""Prompts of two domains: long ones about attribute binding and position, for training, and short ones of all kinds.

The domains follow T2I-CompBench and GenEval: wordings, kinds of scenes and combinations of attributes differ.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from saccade.config import Count
from saccade.core import LogSamples, Problem, ProblemScores, Sampler
from saccade.evaluation.scoring import HELD_OUT_SEED, logged_samples, score
from saccade.math.pixels import to_float
from saccade.random import initialized, numpy_generator, stream
from saccade.recipes.image_generation.dpo_vs_grpo.dual_encoder import (
    ContrastiveBatches,
    DualEncoder,
    DualEncoderModel,
    DualEncoderReward,
)
from saccade.rewards.registry import reward
from saccade.rewards.rubric import judge
from saccade.worlds import shapes
from saccade.worlds.shapes.captions import vocabulary

IN_DOMAIN_TAGS = ("color_attr", "position")
OUT_OF_DOMAIN_TAGS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
DESCRIPTIVE = tuple(w for w in shapes.TRAIN_WORDINGS if shapes.style(w) == "descriptive")
TERSE = tuple(w for w in shapes.TRAIN_WORDINGS if shapes.style(w) == "terse")


@dataclass(frozen=True)
class DomainsTask:
    """Prompts of two domains, and the reward that scores held-out pictures."""

    prompts: str = "shapes"
    """Training prompts: the embedded world's, or a file with one prompt a line or of GenEval's JSONL."""
    in_domain: str = ""
    """File of held-out prompts of the training domain; the embedded world has its own."""
    out_of_domain: str = ""
    """File of held-out prompts of the other domain; the embedded world has its own."""
    scorer: str = "shapes"
    """Reward that scores held-out prompts: a name or FILE.py:FUNCTION."""
    train_size: Count = 4096
    """Number of training prompts sampled from the embedded world."""
    held_out_size: Count = 256
    """Number of held-out prompts of each domain in the embedded world."""
    held_out_seed: int = HELD_OUT_SEED
    """Seed of the held-out problems of the embedded world; a check draws others for every training seed."""

    def training(self, seed: int) -> list[Problem]:
        """The training prompts."""
        if self.prompts != "shapes":
            return shapes.load_prompts(self.prompts)
        return shapes.sample_problems(self.train_size, seed, IN_DOMAIN_TAGS, DESCRIPTIVE, "train")

    def held_out_problems(self) -> dict[str, list[Problem]]:
        """The held-out prompts by domain. Those of the embedded world have combinations that training has not."""
        if self.prompts != "shapes":
            files = {"in domain": self.in_domain, "out of domain": self.out_of_domain}
            return {name: shapes.load_prompts(file) for name, file in files.items() if file}
        outside = stream(self.held_out_seed, "out of domain")
        return {
            "in domain": shapes.sample_problems(
                self.held_out_size, self.held_out_seed, IN_DOMAIN_TAGS, DESCRIPTIVE, "held_out"
            ),
            "out of domain": shapes.sample_problems(self.held_out_size, outside, OUT_OF_DOMAIN_TAGS, TERSE, "held_out"),
        }

    def score(self, sampler: Sampler, show: LogSamples | None = None, rows: int = 128) -> ProblemScores:
        """Score of each prompt by domain, always with the same seeds; ``show`` logs some pictures of each domain."""
        scorer = lambda rollout: judge(rollout, {"score": reward(self.scorer)}).rewards["score"]
        scored = score(self.held_out_problems(), sampler, scorer, rows)
        if show:
            for name, (parts, score_B) in scored.items():
                show(name, logged_samples(parts[0], score_B))
        return {name: score_B for name, (_, score_B) in scored.items()}


def dual_encoder_reward(
    cfg: DualEncoderModel, both_domains: bool, size: int, seed: int, reconstruct: Callable[[Tensor], Tensor]
) -> DualEncoderReward:
    """A reward model for pictures of ``size`` x ``size`` pixels, trained on `contrastive_batches`."""
    with initialized(seed, "dual encoder"):
        model = DualEncoder(size, caption_words(), cfg.width)
    cfg.train(model, contrastive_batches(cfg, both_domains, size, seed, reconstruct))
    return DualEncoderReward(model)


def contrastive_batches(
    cfg: DualEncoderModel, both_domains: bool, size: int, seed: int, reconstruct: Callable[[Tensor], Tensor]
) -> ContrastiveBatches:
    """Pictures and captions of the embedded world, of the training domain or half of them of the other domain.

    ``reconstruct`` encodes and decodes pictures ``[N, 3, H, W]`` with the policy's codes. Meanings of the training
    domain are training meanings, those of the other domain any.
    """
    rng = numpy_generator(seed, "pictures of the dual encoder")
    inside = shapes.meanings_of(cfg.pictures // 2 if both_domains else cfg.pictures, rng, IN_DOMAIN_TAGS, "train")
    outside = shapes.meanings_of(cfg.pictures - len(inside), rng, OUT_OF_DOMAIN_TAGS) if both_domains else []
    meanings = inside + outside
    pixels = to_float(shapes.render(shapes.depict(meanings, rng), size))
    pictures, number = reconstruct(pixels), {}
    meaning_N = torch.tensor([number.setdefault(repr(meaning), len(number)) for meaning in meanings])

    def batch_at(step: int) -> tuple[Tensor, Sequence[str], Tensor]:
        index = rng.integers(len(meanings), size=cfg.batch)
        wordings = [DESCRIPTIVE if i < len(inside) else TERSE for i in index]
        captions = [shapes.caption(meanings[i], int(rng.choice(choices))) for i, choices in zip(index, wordings)]
        return pictures[index], captions, meaning_N[index]

    return batch_at


def caption_words() -> list[str]:
    """All words that a caption of the embedded world can hold."""
    return [*vocabulary(), ",", ":"]
