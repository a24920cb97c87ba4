"""The task of editing pictures: training edits, held-out edits, rewards and scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from saccade.config import Count
from saccade.core import LogSamples, Problem, ProblemScores, Reward, Rollout, Sampler
from saccade.evaluation.scoring import HELD_OUT_SEED, score
from saccade.math.pixels import to_float
from saccade.rewards.image.pictures import diversity, sharpness
from saccade.rewards.learned.vqa_judge import VQAJudge
from saccade.rewards.registry import reward
from saccade.rewards.rubric import judge, weighted
from saccade.worlds import edits
from saccade.worlds.edits.prompts import Words
from saccade.worlds.edits.rewards import exact_rewards
from saccade.worlds.questions.task import by_source, question_of

MONITORS = (*edits.SCORES, "sharpness")
"""Rewards that are always measured, and trained on only where the settings name them."""

_EMBEDDED = ("shapes", "photographs")


@dataclass(frozen=True)
class EditingTask:
    """Which edits are trained and evaluated, and their rewards."""

    edits: str = "shapes"
    """Training edits: an embedded world (shapes, photographs), or a JSONL file with image and instruction."""
    held_out: str = ""
    """File of held-out edits; the embedded worlds hold out edits, photographs and wordings."""
    kinds: tuple[str, ...] = ()
    """Kinds of edits in the embedded worlds; none means all."""
    rewards: tuple[str, ...] = ("overall",)
    """Rewards that are added up: success, keep, quality, overall (exact), vqa_judge, sharpness, diversity."""
    vqa: VQAJudge = VQAJudge()
    side: Count = 32
    """Side of the embedded worlds' pictures in pixels."""
    train_size: Count = 2048
    """Number of training edits of an embedded world."""
    held_out_size: Count = 140
    """Number of held-out edits in each set."""
    held_out_seed: int = HELD_OUT_SEED
    """Seed of the held-out problems of the embedded world; a check draws others for every training seed."""

    def training(self, seed: int) -> Sequence[Problem]:
        """The training edits."""
        if self.edits not in _EMBEDDED:
            return edits.load_edits(self.edits)
        return self._problems(self.train_size, seed, "train", "split")

    def held_out_problems(self) -> dict[str, Sequence[Problem]]:
        """Held-out edits by set; for shapes the same edits in training wordings and in held-out wordings."""
        if self.edits not in _EMBEDDED:
            return {"held out": edits.load_edits(self.held_out)} if self.held_out else {}
        sets: dict[str, Words] = {"held out": "split"}
        if self.edits == "shapes":
            sets = {"held out": "train", "paraphrase": "held_out"}
        return {
            name: self._problems(self.held_out_size, self.held_out_seed, "held_out", words)
            for name, words in sets.items()
        }

    def vqa_judge(self, about: Sequence[str] = ("edit", "keep")) -> VQAJudge:
        """The judge of questions ``about`` these topics; about photographs it compares source and result always."""
        return replace(self.vqa, about=tuple(about), compare=self.vqa.compare or self.edits == "photographs")

    @torch.no_grad()
    def judge(self, rollout: Rollout) -> Tensor:
        """Fill ``rollout.rewards`` with the rewards and monitors; returns the sum of the rewards ``[B]``.

        A reward that is NaN for a result is left out of its sum.
        """
        known = self._rewards(rollout)
        names = dict.fromkeys((*self.rewards, *MONITORS))
        may_abstain = names if len(self.rewards) > 1 else names.keys() - set(self.rewards)
        judge(rollout, {name: reward(name, known) for name in names}, tuple(may_abstain))
        return weighted(rollout.rewards, dict.fromkeys(self.rewards, 1.0), rollout.group_B)

    def score(self, edit: Sampler, show: LogSamples | None = None, rows: int = 128) -> ProblemScores:
        """Each reward and monitor of the edits of each held-out set, and the exact success of each kind of edit.

        ``edit`` gives one result for each edit, ``rows`` at a time; ``show`` takes some results of each set with their
        sources.
        """
        found = score(self.held_out_problems(), edit, self.judge, rows)
        scores: ProblemScores = {}
        for name, (parts, rewards_B) in found.items():
            values = {each: torch.cat([part.rewards[each] for part in parts]) for each in parts[0].rewards}
            scores |= {f"{name}, {each}": value_B for each, value_B in values.items() if value_B.isfinite().any()}
            if show:
                show(name, logged_samples(parts[0], rewards_B))
        every = [part for parts, _ in found.values() for part in parts]
        success = torch.cat([part.rewards["success"] for part in every]) if every else torch.zeros(0)
        return scores | by_source([p for part in every for p in part.problems], success)

    def _problems(self, count: int, seed: int, split: str, words: Words) -> list[Problem]:
        if self.edits == "photographs":
            kinds = self.kinds or tuple(edits.PHOTOGRAPH_INSTRUCTIONS)
            return edits.photographs.sample_problems(count, seed, kinds, split, self.side)
        return edits.sample_problems(count, seed, self.kinds or tuple(edits.KINDS), split, self.side, words)

    def _rewards(self, rollout: Rollout) -> dict[str, Reward]:
        """All rewards by name; the exact ones are computed once for all of them."""
        exact = {name: lambda _, value_B=value_B: value_B for name, value_B in exact_rewards(rollout).items()}
        return {**exact, "vqa_judge": self.vqa_judge(), "sharpness": sharpness, "diversity": diversity}


def logged_samples(rollout: Rollout, rewards_B: Tensor, count: int = 16) -> list[dict[str, Any]]:
    """The first results of a rollout for a run's log: prompt, source, image, score and, where it is known, target."""
    items = []
    for problem, picture, value in zip(rollout.problems[:count], rollout.outputs, rewards_B.tolist()):
        target = problem.answer.get("picture") if isinstance(problem.answer, dict) else None
        item = {"prompt": problem.inputs.text, "source": to_float(problem.inputs.pictures[0]), "image": picture}
        items.append(item | {"score": value} | ({} if target is None else {"target": to_float(target)}))
    return items


def edited(edit: Sampler, prompts: Sequence[str], seeds_B: Tensor) -> list[dict[str, Any]]:
    """One result for each prompt, as `saccade sample` takes them: prompt, image. A prompt begins with a picture file.

    ValueError for a prompt that does not.
    """
    problems = [Problem(i, question_of(prompt)) for i, prompt in enumerate(prompts)]
    for prompt, problem in zip(prompts, problems):
        if len(problem.inputs.pictures) != 1:
            raise ValueError(f"{prompt!r} must begin with one picture file, then say what to change")
    return [{"prompt": prompt, "image": picture} for prompt, picture in zip(prompts, edit(problems, seeds_B).outputs)]
