"""What should have been written: a problem's own answer as a text, its boxes in the pixels that the model is shown."""

from __future__ import annotations

from collections.abc import Sequence

from saccade.core import Problem, Rollout
from saccade.math.frames import Box, Frame
from saccade.policies.dictation import dictated, shown
from saccade.policies.tokens import TokenPolicy
from saccade.worlds.questions import box_text, detection_text


def gold_rollout(policy: TokenPolicy, problems: Sequence[Problem], around: str = "{}") -> Rollout:
    """The gold answers as attempts of the policy, each written in place of the ``{}`` of ``around``."""
    if "{}" not in around:
        raise ValueError(f"{around!r} has no {{}} where the answer could stand")
    texts = [gold(problem, frames) for problem, frames in zip(problems, shown(policy, problems))]
    return dictated(policy, problems, [around.replace("{}", text) for text in texts])


def gold(problem: Problem, frames: Sequence[Frame]) -> str:
    """The expected answer; boxes are carried into the first of ``frames``. ValueError for a problem without an answer.

    One box is ``[x1,y1,x2,y2]``; where the expected text names labels, or there are none or several, it is a labelled list.
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
