"""Supervised fine-tuning: batches of given answers under teacher forcing, and their negative log-likelihood."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from saccade.core import LikelihoodPolicy, Loss, Problem, Rollout
from saccade.math.frames import Box, Frame
from saccade.math.surrogates import decision_weight, mean_weight
from saccade.models.language.model import LanguageModel
from saccade.models.language.prompts import EncodedPrompt, PerRow, beside
from saccade.policies.tokens import TokenPolicy, distinct
from saccade.worlds.questions import box_text, detection_text


def teacher_forced(policy: TokenPolicy, problems: Sequence[Problem], texts: Sequence[str]) -> Rollout:
    """One given text for each problem, closed by an end token, for `TokenPolicy.likelihood` to weigh.

    Nothing goes through the network. Only the text and its end are decisions, prompt and pictures are not. ``logp_BT``
    is NaN at decisions, since nobody drew them. ValueError with one line for a text that holds tokens which end a text
    or stand for pictures, and for one that is too long for the model's positions.
    """
    if len(problems) != len(texts) or not problems:
        raise ValueError(f"{len(texts)} texts are given for {len(problems)} problems; there must be one for each")
    language, (passages, index) = policy.language, _read(policy, problems)
    prompts, end = [passages[i] for i in index], eos_id(policy, problems[0])
    written = [_tokens(language, text, end, len(prompt)) for prompt, text in zip(prompts, texts)]
    length_B = torch.tensor([len(ids) for ids in written], device=language.model.device)
    own_BT = torch.arange(int(length_B.max()), device=length_B.device) < length_B[:, None]
    return Rollout(
        problems=list(problems),
        decisions={**_side_by_side(language, prompts, written), "sights_B": PerRow(tuple((p.sight,) for p in prompts))},
        outputs=list(texts),
        logp_BT=own_BT.float().masked_fill(own_BT, math.nan),
        mask_BT=own_BT.float(),
        group_B=torch.arange(len(written)),
        extras={
            "length_B": length_B.float(),
            "turn_BT": own_BT.long() - 1,
            "frames_B": PerRow(tuple(p.frames for p in prompts)),
            "prompt_B": policy.asked(problems),
        },
    )


def shown(policy: TokenPolicy, problems: Sequence[Problem]) -> list[tuple[Frame, ...]]:
    """The frames of each problem's pictures as the model is shown them: boxes in its text are in these pixels."""
    passages, index = _read(policy, problems)
    return [passages[i].frames for i in index]


def tokenize(policy: TokenPolicy, text: str) -> tuple[int, ...]:
    """A text as the policy's tokenizer cuts it, without an end."""
    return tuple(_cut(policy.language, text))


def eos_id(policy: TokenPolicy, problem: Problem) -> int:
    """The token that ends a text: the one that closes a turn in the chat template, after a plain prompt the
    tokenizer's.
    """
    language, prompt = policy.language, policy.prompt(problem)
    after = [] if isinstance(prompt, str) else language.reply(prompt, ()).ids_L[:1].tolist()
    end = after[0] if set(after) & set(language.ends) else language.tokenizer.eos_token_id
    if end is None:
        raise ValueError(f"the tokenizer of {language.model.name_or_path} has no token that ends a text")
    return end


def _read(policy: TokenPolicy, problems: Sequence[Problem]) -> tuple[list[EncodedPrompt], list[int]]:
    """Each different prompt once, and for each problem the number of its own."""
    prompts, index = distinct([policy.prompt(problem) for problem in problems])
    return [policy.language.passage(prompt) for prompt in prompts], index


def _tokens(language: LanguageModel, text: str, end: int, before: int) -> Tensor:
    """The tokens of a text and the one that ends it."""
    ids = _cut(language, text)
    wrong = {*language.ends, *language.banned} & set(ids)
    if wrong:
        raise ValueError(f"the text {text[:60]!r} holds {language.tokenizer.decode([min(wrong)])!r}, which no text may")
    if language.room is not None and before + len(ids) + 1 > language.room:
        many = f"a prompt of {before} tokens and a text of {len(ids) + 1}"
        raise ValueError(f"{many} exceed the model's {language.room} positions")
    return torch.tensor([*ids, end])


def _cut(language: LanguageModel, text: str) -> list[int]:
    return language.tokenizer(text, add_special_tokens=False)["input_ids"]


def _side_by_side(
    language: LanguageModel, prompts: Sequence[EncodedPrompt], written: Sequence[Tensor]
) -> dict[str, Tensor]:
    """Prompts that end in one column and what follows them; keys as `TokenPolicy.likelihood` reads them."""
    ids_PL, attention_PL, place_PAL = beside(prompts, language.pad)
    begin, axes = ids_PL.shape[1], place_PAL.shape[1]
    count = [torch.arange(len(ids)) for ids in written]
    place_BT = pad_sequence([prompt.after + steps for prompt, steps in zip(prompts, count)], True)
    found = {
        "ids_BL": torch.cat([ids_PL, pad_sequence(list(written), True, language.pad)], 1),
        "attention_BL": torch.cat([attention_PL, pad_sequence([torch.ones_like(ids) for ids in written], True)], 1),
        "place_BAL": torch.cat([place_PAL, place_BT[:, None].expand(-1, axes, -1)], 2),
        "position_BT": pad_sequence([begin + steps for steps in count], True),
        "begin_B": torch.full((len(written),), begin),
    }
    return {key: value.to(language.model.device) for key, value in found.items()}


@dataclass(frozen=True)
class SupervisedLoss:
    """Mean of -log pi over the decisions whose mask is 1; neither the stored log-probs nor any credit is read.

    ``average``: "decisions" (each token alike, the usual one), "rows" (each answer alike), "constant" (over
    ``longest``) or "sum". Micro-batches may cut rows and decisions. Metrics: the mean probability of a token, and the
    entropy.
    """

    policy: LikelihoodPolicy
    average: str = "decisions"
    longest: int | None = None

    def __call__(self, rollout: Rollout) -> Loss:
        seen = self.policy.likelihood(rollout)
        own, length_B = rollout.mask_BT > 0, rollout.extras["length_B"].to(seen.logp_BT.device)
        logp = torch.where(own, seen.logp_BT, 0.0)
        weight = decision_weight(rollout.mask_BT, length_B, self.average, self.longest)
        share = mean_weight(rollout.mask_BT, length_B, self.average)
        metrics = {"probability": logp.exp()} | ({} if seen.entropy_BT is None else {"entropy": seen.entropy_BT})
        return Loss(-(weight * logp).sum(), share.sum(), {k: (share * m.detach()).sum() for k, m in metrics.items()})


def sft_batch(policy: TokenPolicy, problems: Sequence[Problem], around: str = "{}") -> Rollout:
    """The gold answers as attempts of the policy, each written in place of the ``{}`` of ``around``."""
    if "{}" not in around:
        raise ValueError(f"{around!r} has no {{}} where the answer could stand")
    texts = [gold(problem, frames) for problem, frames in zip(problems, shown(policy, problems))]
    return teacher_forced(policy, problems, [around.replace("{}", text) for text in texts])


def gold(problem: Problem, frames: Sequence[Frame]) -> str:
    """The expected answer; boxes are carried into the first of ``frames``. ValueError for a problem without an answer.

    One box is ``[x1,y1,x2,y2]``; where the expected text names labels, or there are none or several, it is a labelled
    list.
    """
    answer = problem.answer if isinstance(problem.answer, dict) else {}
    if not isinstance(answer.get("text"), str):
        raise ValueError(f"problem {problem.id} has no expected answer, so there is nothing to learn from it")
    if answer.get("kind") != "boxes":
        return answer["text"]
    place = lambda box: Box(*box, frames[0].original).into(frames[0]).corners if frames else tuple(box)
    boxes = [place(box) for box in answer["boxes"]]
    if len(boxes) == 1 and "bbox_2d" not in answer["text"]:
        return box_text(boxes[0])
    return detection_text(boxes, answer.get("labels") or [""] * len(boxes))
