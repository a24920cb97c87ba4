"""A task for a model that edits: instructions to train on, instructions kept back, and the rewards that judge a
result.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from saccade.core import LogSamples, Problem, Reward, Rollout, Sampler
from saccade.evaluation.scoring import score
from saccade.math.pixels import to_unit
from saccade.rewards.image.pictures import diversity, sharpness
from saccade.rewards.learned.vqa_judge import VQAJudge
from saccade.rewards.registry import reward
from saccade.rewards.rubric import judge, weighted
from saccade.worlds import edits
from saccade.worlds.edits.rewards import judge as exactly
from saccade.worlds.questions.task import mean_by_source, question_of

MONITORS = (*edits.VERDICTS, "sharpness")
"""Never trained on unless asked for, always measured."""

_EMBEDDED = ("shapes", "photographs")


@dataclass(frozen=True)
class EditingTask:
    """What is to be edited and who judges it."""

    edits: str = "shapes"
    """An embedded world (shapes, photographs), or a file: JSONL with image and instruction."""
    held_out: str = ""
    """A file of edits kept back; the embedded worlds keep back edits, photographs and wordings of their own."""
    kinds: tuple[str, ...] = ()
    """Kinds of edits in the embedded worlds; none means all."""
    rewards: tuple[str, ...] = ("overall",)
    """Rewards that are added up: success, keep, quality, overall (exact), verdict (a model that sees), sharpness,
    diversity.
    """
    verdict_model: str = "qwen2.5-vl-shapes"
    """Hub id, folder or miniature of the model that gives the verdict."""
    compare: bool = False
    """Whether it is shown the source beside the result; photographs' questions compare the two always."""
    side: int = 32
    """Side of the embedded worlds' pictures in pixels."""
    train_size: int = 2048
    """Training edits drawn from an embedded world."""
    held_out_size: int = 140
    """Edits kept back, in each set."""

    def training(self, seed: int) -> Sequence[Problem]:
        """The edits to train on."""
        return (
            self._drawn(self.train_size, seed, "train", "split") if self.edits in _EMBEDDED else edits.load(self.edits)
        )

    def held_out_problems(self) -> dict[str, Sequence[Problem]]:
        """Edits that are never trained on; those of shapes by the wording they use, the same edits in each."""
        if self.edits not in _EMBEDDED:
            return {"held out": edits.load(self.held_out)} if self.held_out else {}
        words = (
            {"train wording": "train", "paraphrase": "held_out"} if self.edits == "shapes" else {"held out": "split"}
        )
        return {name: self._drawn(self.held_out_size, 12_345, "held_out", own) for name, own in words.items()}

    @property
    def verdict(self) -> VQAJudge:
        """The model that sees, as a reward and, for pictures with a graph, as a differentiable one."""
        return VQAJudge(self.verdict_model, compare=self.compare or self.edits == "photographs")

    @torch.no_grad()
    def judge(self, rollout: Rollout) -> Tensor:
        """Fill ``rollout.rewards`` with the rewards and monitors; returns the sum of the rewards ``[B]``.

        One that has no verdict on a result is left out there.
        """
        known = self._known(rollout)
        names = dict.fromkeys((*self.rewards, *MONITORS))
        abstaining = names if len(self.rewards) > 1 else names.keys() - set(self.rewards)
        judge(rollout, {name: reward(name, known) for name in names}, tuple(abstaining))
        return weighted(rollout.rewards, dict.fromkeys(self.rewards, 1.0))

    def score(self, edit: Sampler, show: LogSamples | None = None, rows: int = 128) -> dict[str, float]:
        """Mean of each reward and monitor over each set of kept-back edits, and the exact success by kind over all of
        them.

        ``edit`` makes one result an edit. ``show`` is given some results of each set beside what they were made from.
        """
        found = score(self.held_out_problems(), edit, self.judge, rows)
        scores: dict[str, float] = {}
        for name, (parts, rewards_B) in found.items():
            means = {each: torch.cat([part.rewards[each] for part in parts]).nanmean() for each in parts[0].rewards}
            scores |= {f"{name}, {each}": float(mean) for each, mean in means.items() if mean.isfinite()}
            if show:
                show(name, logged_samples(parts[0], rewards_B))
        every = [part for parts, _ in found.values() for part in parts]
        success = torch.cat([part.rewards["success"] for part in every]) if every else torch.zeros(0)
        return scores | mean_by_source([p for part in every for p in part.problems], success)

    def _drawn(self, count: int, seed: int, split: str, words: str) -> list[Problem]:
        if self.edits == "photographs":
            return edits.photographs.problems(count, seed, self.kinds or tuple(edits.PHOTOGRAPHS), split, self.side)
        return edits.problems(count, seed, self.kinds or tuple(edits.KINDS), split, self.side, words)

    def _known(self, rollout: Rollout) -> dict[str, Reward]:
        """All rewards by name; the exact ones share one look at the pictures."""
        seen = exactly(rollout)
        exact = {name: lambda _, value_B=value_B: value_B for name, value_B in seen.items()}
        return {**exact, "verdict": self.verdict, "sharpness": sharpness, "diversity": diversity}


def logged_samples(rollout: Rollout, rewards_B: Tensor, count: int = 16) -> list[dict[str, Any]]:
    """The first results of a rollout as a run shows them: prompt, source, image, score and, where it is known, the
    target.
    """
    items = []
    for problem, picture, value in zip(rollout.problems[:count], rollout.outputs, rewards_B.tolist()):
        target = problem.answer.get("picture") if isinstance(problem.answer, dict) else None
        shown = {"source": to_unit(problem.inputs.pictures[0]), "image": picture, "score": value}
        items.append({"prompt": problem.inputs.text, **shown} | ({} if target is None else {"target": to_unit(target)}))
    return items


def edited(edit: Sampler, prompts: Sequence[str], seeds_B: Tensor) -> list[dict[str, Any]]:
    """One result for each prompt, as `saccade sample` shows them: prompt, image. A prompt begins with a picture file.

    ValueError for a prompt that does not.
    """
    problems = [Problem(i, question_of(prompt)) for i, prompt in enumerate(prompts)]
    for prompt, problem in zip(prompts, problems):
        if len(problem.inputs.pictures) != 1:
            raise ValueError(f"{prompt!r} must begin with one picture file, then say what to change")
    return [{"prompt": prompt, "image": picture} for prompt, picture in zip(prompts, edit(problems, seeds_B).outputs)]
