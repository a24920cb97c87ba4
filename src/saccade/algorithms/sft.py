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
from saccade.models.language.prompts import EncodedPrompt, PerRow, pad_left
from saccade.policies.tokens import TokenPolicy, unique_prompts
from saccade.worlds.questions import box_text, detection_text


def teacher_forced(policy: TokenPolicy, problems: Sequence[Problem], texts: Sequence[str]) -> Rollout:
    """A rollout of given texts, one for each problem, each closed by an end token, for `TokenPolicy.likelihood`.

    The network is not called. Only the text and its end are decisions, prompt and pictures are not. ``logp_BT`` is NaN
    at decisions, since they were not sampled. ValueError with one line for a text with tokens that end a text or stand
    for pictures, and for one that is too long for the model's positions.
    """
    if len(problems) != len(texts) or not problems:
        raise ValueError(f"{len(texts)} texts are given for {len(problems)} problems; there must be one for each")
    language, (encoded, index) = policy.language, _encode_prompts(policy, problems)
    prompts, eos = [encoded[i] for i in index], eos_id(policy, problems[0])
    answers = [_encode_answer(language, text, eos, len(prompt)) for prompt, text in zip(prompts, texts)]
    length_B = torch.tensor([len(ids) for ids in answers], device=language.model.device)
    is_decision_BT = torch.arange(int(length_B.max()), device=length_B.device) < length_B[:, None]
    return Rollout(
        problems=list(problems),
        decisions={**_decisions(language, prompts, answers), "images_B": PerRow(tuple((p.images,) for p in prompts))},
        outputs=list(texts),
        logp_BT=is_decision_BT.float().masked_fill(is_decision_BT, math.nan),
        mask_BT=is_decision_BT.float(),
        group_B=torch.arange(len(answers)),
        extras={
            "length_B": length_B.float(),
            "turn_BT": is_decision_BT.long() - 1,
            "frames_B": PerRow(tuple(p.frames for p in prompts)),
            "prompt_B": policy.prompts(problems),
        },
    )


def resized_frames(policy: TokenPolicy, problems: Sequence[Problem]) -> list[tuple[Frame, ...]]:
    """The frames of each problem's pictures as resized for the model; boxes in its texts are in these pixels."""
    encoded, index = _encode_prompts(policy, problems)
    return [encoded[i].frames for i in index]


def tokenize(policy: TokenPolicy, text: str) -> tuple[int, ...]:
    """The token ids of a text, without an end token."""
    return tuple(_ids(policy.language, text))


def eos_id(policy: TokenPolicy, problem: Problem) -> int:
    """The token that ends a text: the end of a turn in the chat template, for plain text the tokenizer's."""
    language, prompt = policy.language, policy.prompt(problem)
    after = [] if isinstance(prompt, str) else language.encode_reply(prompt, ()).ids_L[:1].tolist()
    eos = after[0] if set(after) & set(language.eos_ids) else language.tokenizer.eos_token_id
    if eos is None:
        raise ValueError(f"the tokenizer of {language.model.name_or_path} has no token that ends a text")
    return eos


def _encode_prompts(policy: TokenPolicy, problems: Sequence[Problem]) -> tuple[list[EncodedPrompt], list[int]]:
    """Each different prompt once, and for each problem the number of its prompt."""
    prompts, index = unique_prompts([policy.prompt(problem) for problem in problems])
    return [policy.language.encode_prompt(prompt) for prompt in prompts], index


def _encode_answer(language: LanguageModel, text: str, eos: int, before: int) -> Tensor:
    """The token ids of a text and its end token, after ``before`` tokens of prompt."""
    ids = _ids(language, text)
    forbidden = {*language.eos_ids, *language.banned_ids} & set(ids)
    if forbidden:
        token = language.tokenizer.decode([min(forbidden)])
        raise ValueError(f"the text {text[:60]!r} holds {token!r}, which no text may")
    if language.max_length is not None and before + len(ids) + 1 > language.max_length:
        lengths = f"a prompt of {before} tokens and a text of {len(ids) + 1}"
        raise ValueError(f"{lengths} exceed the model's {language.max_length} positions")
    return torch.tensor([*ids, eos])


def _ids(language: LanguageModel, text: str) -> list[int]:
    return language.tokenizer(text, add_special_tokens=False)["input_ids"]


def _decisions(
    language: LanguageModel, prompts: Sequence[EncodedPrompt], answers: Sequence[Tensor]
) -> dict[str, Tensor]:
    """Prompts that end in one column and the answers after them; keys as in `TokenPolicy.likelihood`."""
    ids_BL, attention_BL, position_BAL = pad_left(prompts, language.pad_id)
    begin, axes = ids_BL.shape[1], position_BAL.shape[1]
    steps = [torch.arange(len(ids)) for ids in answers]
    position_BT = pad_sequence([prompt.next_position + step_T for prompt, step_T in zip(prompts, steps)], True)
    decisions = {
        "ids_BL": torch.cat([ids_BL, pad_sequence(list(answers), True, language.pad_id)], 1),
        "attention_BL": torch.cat([attention_BL, pad_sequence([torch.ones_like(ids) for ids in answers], True)], 1),
        "position_BAL": torch.cat([position_BAL, position_BT[:, None].expand(-1, axes, -1)], 2),
        "column_BT": pad_sequence([begin + step_T for step_T in steps], True),
        "begin_B": torch.full((len(answers),), begin),
    }
    return {key: value.to(language.model.device) for key, value in decisions.items()}


@dataclass(frozen=True)
class SupervisedLoss:
    """Mean of -log pi over the decisions whose mask is 1; stored log-probs and advantages are not used.

    ``average``: "decisions" (over all tokens, the usual one), "rows" (over tokens, then answers), "constant" (over
    ``max_length``) or "sum". Micro-batches may cut rows and decisions. Metrics: the mean probability of a token, and
    the entropy.
    """

    policy: LikelihoodPolicy
    average: str = "decisions"
    max_length: int | None = None

    def __call__(self, rollout: Rollout) -> Loss:
        current = self.policy.likelihood(rollout)
        length_B = rollout.extras["length_B"].to(current.logp_BT.device)
        logp = torch.where(rollout.mask_BT > 0, current.logp_BT, 0.0)
        weight = decision_weight(rollout.mask_BT, length_B, self.average, self.max_length)
        mean = mean_weight(rollout.mask_BT, length_B, self.average)
        metrics = {"probability": logp.exp()}
        if current.entropy_BT is not None:
            metrics["entropy"] = current.entropy_BT
        return Loss(-(weight * logp).sum(), mean.sum(), {k: (mean * m.detach()).sum() for k, m in metrics.items()})


def sft_batch(policy: TokenPolicy, problems: Sequence[Problem], template: str = "{}") -> Rollout:
    """The expected answers as a rollout of the policy, each in place of the ``{}`` of ``template``."""
    if "{}" not in template:
        raise ValueError(f"{template!r} has no {{}} for the answer")
    texts = [expected_text(problem, frames) for problem, frames in zip(problems, resized_frames(policy, problems))]
    return teacher_forced(policy, problems, [template.replace("{}", text) for text in texts])


def expected_text(problem: Problem, frames: Sequence[Frame]) -> str:
    """The expected answer, boxes in the pixels of the first of ``frames``. ValueError for a problem without an answer.

    One box is ``[x1,y1,x2,y2]``; if the expected text names labels, or there are none or several boxes, the answer is a
    labelled list.
    """
    answer = problem.answer if isinstance(problem.answer, dict) else {}
    if not isinstance(answer.get("text"), str):
        raise ValueError(f"problem {problem.id} has no expected answer, so there is nothing to learn from it")
    if answer.get("kind") != "boxes":
        return answer["text"]
    boxes = [_resized(box, frames[0]) if frames else tuple(box) for box in answer["boxes"]]
    if len(boxes) == 1 and "bbox_2d" not in answer["text"]:
        return box_text(boxes[0])
    return detection_text(boxes, answer.get("labels") or [""] * len(boxes))


def _resized(box: Sequence[float], frame: Frame) -> tuple[float, float, float, float]:
    """The corners of a box, given in the pixels of the original picture, in those of the resized one."""
    x1, y1, x2, y2 = box
    return Box(x1, y1, x2, y2, frame.original).into(frame).corners
