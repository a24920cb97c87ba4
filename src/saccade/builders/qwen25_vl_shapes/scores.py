"""How good the miniature is: held-out questions of every skill, glances at canvases and crops of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from math import nan
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from saccade.builders.qwen25_vl_shapes.course import POINT
from saccade.builders.qwen25_vl_shapes.rows import Piece, Rows, lay, turn
from saccade.builders.qwen25_vl_shapes.scenery import CANVAS
from saccade.builders.qwen25_vl_shapes.shown import displayed, patches, resized
from saccade.core import Problem
from saccade.evaluation.templates import ADDED
from saccade.math.boxes import iou, match
from saccade.rewards.text.parsing import answer
from saccade.rewards.text.reading import boxes
from saccade.tools.render import Request, find_program, render_batch
from saccade.worlds import canvases, programs, questions
from saccade.worlds.questions.grounding import measures

GLANCE = 48

Say = Callable[..., list[str]]
"""`write` with a model: conversations to what is said next."""


def scores(folder: Path, count: int = 64, seed: int = 7) -> dict[str, float]:
    """Greedy scores of each skill on held-out pictures in held-out wordings, and sampled ones where chance is
    wanted.
    """
    from transformers import AutoModelForImageTextToText, AutoTokenizer

    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    say = partial(write, model, AutoTokenizer.from_pretrained(folder))
    pose = lambda *skills: questions.problems(count, seed, skills, "held_out")
    found: dict[str, float] = {}
    for skill in (*questions.SKILLS, *questions.HELD_OUT_SKILLS):
        if skill.startswith("detection"):
            continue
        problems = pose(skill)
        talks = [_asked(p) for p in problems]
        replies = say(talks)
        found[skill] = _mean(_right, problems, replies)
        if skill == "grounding":
            found["grounding, sampled"] = _mean(_right, problems, say(talks, sampled=True))
            found["grounding, mean overlap"] = _mean(_overlap, problems, replies)
    found |= _detection(say, pose("detection")) | _tags(say, pose("color", "relation", "verdict"))
    found |= _canvases(
        say, canvases.problems(2 * count, seed, ("digit",), "held_out", CANVAS), np.random.default_rng(seed)
    )
    return found | _programs(say, programs.problems(count, seed, split="held_out", size=32))


@torch.no_grad()
def write(
    model: Any, tokenizer: Any, talks: Sequence[Sequence[Piece]], most: int = 72, sampled: bool = False
) -> list[str]:
    """What the model says next in each conversation."""
    texts: list[str] = []
    for start in range(0, len(talks), 32):
        laid = lay(tokenizer, talks[start : start + 32])
        torch.manual_seed(start)
        given = {"do_sample": True, "top_k": 0} if sampled else {"do_sample": False}
        out = model.generate(**_flushed(laid, tokenizer.pad_token_id), max_new_tokens=most, **given)
        texts += tokenizer.batch_decode(out[:, laid.ids_BL.shape[1] :], skip_special_tokens=True)
    return texts


def _flushed(laid: Rows, pad: int) -> dict[str, Any]:
    """Rows as transformers' generate takes them, padded on the left."""
    length = (laid.ids_BL != pad).sum(1)
    width = laid.ids_BL.shape[1]
    order = (torch.arange(width) + length[:, None]) % width
    attention = (torch.arange(width) >= width - length[:, None]).long()
    ids = laid.ids_BL.gather(1, order).masked_fill(attention == 0, pad)
    shown, grids = zip(*(patches(picture[None]) for picture in laid.pictures))
    return {
        "input_ids": ids,
        "attention_mask": attention,
        "mm_token_type_ids": laid.seen_BL.gather(1, order).long() * attention,
        "pixel_values": torch.cat(shown),
        "image_grid_thw": torch.cat(grids),
    }


def _asked(problem: Problem, added: str = "") -> list[Piece]:
    return turn([displayed(p) for p in problem.inputs.pictures], problem.inputs.text + added, "")[:-1]


def _right(problem: Problem, reply: str) -> bool:
    """The exact answer, or a box that overlaps the right one by half or more."""
    return _overlap(problem, reply) >= 0.5 if "boxes" in problem.answer else _exact(problem, reply)


def _exact(problem: Problem, reply: str) -> bool:
    return reply.strip() == problem.answer["text"]


def _overlap(problem: Problem, reply: str) -> float:
    """Intersection over union of the reply's only box with the right one; 0 if it has none or several."""
    found = _boxes(reply)
    return iou(found, torch.tensor(problem.answer["boxes"])).item() if len(found) == 1 else 0.0


def _boxes(reply: str) -> Tensor:
    """The boxes of a reply [N, 4]."""
    return torch.tensor([box.corners for box in boxes(reply) or ()]).reshape(-1, 4)


def _mean(measure: Callable[[Problem, str], float], problems: Sequence[Problem], replies: Sequence[str]) -> float:
    return float(np.mean([measure(problem, reply) for problem, reply in zip(problems, replies)]))


def _detection(say: Say, problems: Sequence[Problem]) -> dict[str, float]:
    """Right boxes (overlap of half, each target once) over boxes written, and over targets."""
    tally = []
    for problem, reply in zip(problems, say([_asked(p) for p in problems])):
        found, right = _boxes(reply), torch.tensor(problem.answer["boxes"]).reshape(-1, 4)
        hits = int((match(iou(found, right)) >= 0).sum()) if len(found) and len(right) else 0
        tally.append((hits, len(found), len(right)))
    found = measures(torch.tensor(tally))
    return {f"detection, {name}": found[name] for name in ("precision", "recall")}


def _tags(say: Say, problems: Sequence[Problem]) -> dict[str, float]:
    """Sampled answers in tags where they are asked for, of questions with words as answers."""
    replies = say([_asked(p, ADDED["answer"]) for p in problems], sampled=True)
    return {"answer tags, sampled": float(np.mean([answer(reply) is not None for reply in replies]))}


def _canvases(say: Say, problems: Sequence[Problem], rng: np.random.Generator) -> dict[str, float]:
    """Digits at a first glance, whether sampled boxes hold them, and digits read off a good crop."""
    first, direct, second = [], [], []
    for problem in problems:
        (picture,), text = problem.inputs.pictures, problem.inputs.text
        glance = resized(picture, GLANCE, GLANCE)
        margin = np.concatenate([rng.integers(-14, -5, 2), rng.integers(6, 15, 2)])
        window = np.clip(np.array(problem.answer["boxes"][0]) + margin, 0, CANVAS).astype(int)
        x1, y1, x2, y2 = window
        crop = displayed(picture[y1:y2, x1:x2], GLANCE * GLANCE)
        pointed = turn([glance], text + POINT, questions.box_text(window * GLANCE / CANVAS))
        first.append(pointed[:-1])
        direct.append(turn([glance], text, "")[:-1])
        second.append(pointed + turn([crop], text, "", first=False)[:-1])
    found = [_boxes(reply) * CANVAS / GLANCE for reply in say(first, sampled=True)]
    enough = [len(box) == 1 and canvases.sufficient(box[0].tolist(), p) for box, p in zip(found, problems)]
    return {
        "digit at a glance": _mean(_exact, problems, say(direct)),
        "box holds the digit, sampled": float(np.mean(enough)),
        "digit from a good crop": _mean(_exact, problems, say(second)),
    }


def _programs(say: Say, problems: Sequence[Problem]) -> dict[str, float]:
    """Whether greedy programs draw anything, and how far their pixels are from those that were shown, in [0, 1]."""
    replies = say([_asked(p) for p in problems], most=160)
    drawn = render_batch([Request(find_program(reply, "svg"), size=32) for reply in replies])
    pairs = [(p.answer["picture"], one.picture) for p, one in zip(problems, drawn) if one.status == "ok"]
    error = [np.abs(found.astype(float) - right).mean() / 255 for right, found in pairs]
    return {
        "programs that draw": len(pairs) / len(problems),
        "their error in pixels": float(np.mean(error)) if pairs else nan,
    }
