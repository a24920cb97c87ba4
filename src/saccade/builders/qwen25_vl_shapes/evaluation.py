"""Held-out scores of the miniature: questions of every skill, full views of canvases and crops of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from math import nan
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from saccade.builders.qwen25_vl_shapes.curriculum import BOX_PROMPT
from saccade.builders.qwen25_vl_shapes.packing import PackedRows, Segment, pack, turn
from saccade.builders.qwen25_vl_shapes.preprocessing import displayed, patches, resized
from saccade.builders.qwen25_vl_shapes.vision_data import CANVAS
from saccade.core import Problem
from saccade.evaluation.scoring import HELD_OUT_SEED
from saccade.evaluation.templates import SUFFIXES
from saccade.math.boxes import iou, match
from saccade.random import numpy_generator, stream
from saccade.rewards.text.parsing import parse_boxes, tagged_answer
from saccade.tools.render import Request, find_program, render_batch
from saccade.worlds import canvases, programs, questions
from saccade.worlds.questions.grounding import box_scores

VIEW_SIDE = 48

Generate = Callable[..., list[str]]
"""`generate_texts` with a model: conversations to the texts of their next turns."""


def held_out_scores(folder: Path, count: int = 64) -> dict[str, float]:
    """Scores of each skill on held-out pictures in held-out wordings, greedy unless their name says "sampled"."""
    from transformers import AutoModelForImageTextToText, AutoTokenizer

    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    generate = partial(generate_texts, model, AutoTokenizer.from_pretrained(folder))
    sample = lambda *skills: questions.sample_problems(count, HELD_OUT_SEED, skills, "held_out")
    found: dict[str, float] = {}
    for skill in (*questions.SKILLS, *questions.HELD_OUT_SKILLS):
        if skill.startswith("detection"):
            continue
        problems = sample(skill)
        conversations = [_asked(p) for p in problems]
        replies = generate(conversations)
        found[skill] = _mean(_right, problems, replies)
        if skill == "grounding":
            found["grounding, sampled"] = _mean(_right, problems, generate(conversations, sampled=True))
            found["grounding, mean overlap"] = _mean(_overlap, problems, replies)
    found |= _detection(generate, sample("detection")) | _tags(generate, sample("color", "relation", "verdict"))
    found |= _canvases(
        generate,
        canvases.sample_problems(2 * count, HELD_OUT_SEED, ("digit",), "held_out", CANVAS),
        numpy_generator(HELD_OUT_SEED, "canvases"),
    )
    return found | _programs(generate, programs.sample_problems(count, HELD_OUT_SEED, split="held_out", size=32))


@torch.no_grad()
def generate_texts(
    model: Any,
    tokenizer: Any,
    conversations: Sequence[Sequence[Segment]],
    max_new_tokens: int = 72,
    sampled: bool = False,
) -> list[str]:
    """The text of the model's next turn in each conversation."""
    texts: list[str] = []
    for start in range(0, len(conversations), 32):
        packed = pack(tokenizer, conversations[start : start + 32])
        torch.manual_seed(stream(HELD_OUT_SEED, "evaluation", start))
        given = {"do_sample": True, "top_k": 0} if sampled else {"do_sample": False}
        out = model.generate(**_flushed(packed, tokenizer.pad_token_id), max_new_tokens=max_new_tokens, **given)
        texts += tokenizer.batch_decode(out[:, packed.ids_BL.shape[1] :], skip_special_tokens=True)
    return texts


def _flushed(packed: PackedRows, pad: int) -> dict[str, Any]:
    """Inputs of transformers' ``generate``, padded on the left."""
    length = (packed.ids_BL != pad).sum(1)
    width = packed.ids_BL.shape[1]
    order = (torch.arange(width) + length[:, None]) % width
    attention = (torch.arange(width) >= width - length[:, None]).long()
    ids = packed.ids_BL.gather(1, order).masked_fill(attention == 0, pad)
    shown, grids = zip(*(patches(picture[None]) for picture in packed.pictures))
    return {
        "input_ids": ids,
        "attention_mask": attention,
        "mm_token_type_ids": packed.is_image_BL.gather(1, order).long() * attention,
        "pixel_values": torch.cat(shown),
        "image_grid_thw": torch.cat(grids),
    }


def _asked(problem: Problem, added: str = "") -> list[Segment]:
    return turn([displayed(p) for p in problem.inputs.pictures], problem.inputs.text + added, "")[:-1]


def _right(problem: Problem, reply: str) -> bool:
    """Whether the reply is the exact answer, or a box that overlaps the correct one by half or more."""
    return _overlap(problem, reply) >= 0.5 if "boxes" in problem.answer else _exact(problem, reply)


def _exact(problem: Problem, reply: str) -> bool:
    return reply.strip() == problem.answer["text"]


def _overlap(problem: Problem, reply: str) -> float:
    """Overlap (IoU) of the reply's only box with the correct one; 0 without a box or with several."""
    found = _boxes(reply)
    return iou(found, torch.tensor(problem.answer["boxes"])).item() if len(found) == 1 else 0.0


def _boxes(reply: str) -> Tensor:
    """The boxes of a reply ``[N, 4]``."""
    return torch.tensor([box.corners for box in parse_boxes(reply) or ()]).reshape(-1, 4)


def _mean(measure: Callable[[Problem, str], float], problems: Sequence[Problem], replies: Sequence[str]) -> float:
    return float(np.mean([measure(problem, reply) for problem, reply in zip(problems, replies)]))


def _detection(generate: Generate, problems: Sequence[Problem]) -> dict[str, float]:
    """Precision and recall of boxes (overlap of half, each target once)."""
    tally = []
    for problem, reply in zip(problems, generate([_asked(p) for p in problems])):
        found, right = _boxes(reply), torch.tensor(problem.answer["boxes"]).reshape(-1, 4)
        hits = int((match(iou(found, right)) >= 0).sum()) if len(found) and len(right) else 0
        tally.append((hits, len(found), len(right)))
    found = box_scores(torch.tensor(tally))
    return {f"detection, {name}": found[name] for name in ("precision", "recall")}


def _tags(generate: Generate, problems: Sequence[Problem]) -> dict[str, float]:
    """Share of sampled answers in tags where the prompt asks for tags, of questions with words as answers."""
    replies = generate([_asked(p, SUFFIXES["answer"]) for p in problems], sampled=True)
    return {"answer tags, sampled": float(np.mean([tagged_answer(reply) is not None for reply in replies]))}


def _canvases(generate: Generate, problems: Sequence[Problem], rng: np.random.Generator) -> dict[str, float]:
    """Accuracy of digits from full views, share of sufficient sampled boxes, and accuracy from a sufficient crop."""
    first, direct, second = [], [], []
    for problem in problems:
        (picture,), text = problem.inputs.pictures, problem.inputs.text
        glance = resized(picture, VIEW_SIDE, VIEW_SIDE)
        margin = np.concatenate([rng.integers(-14, -5, 2), rng.integers(6, 15, 2)])
        window = np.clip(np.array(problem.answer["boxes"][0]) + margin, 0, CANVAS).astype(int)
        x1, y1, x2, y2 = window
        crop = displayed(picture[y1:y2, x1:x2], VIEW_SIDE * VIEW_SIDE)
        pointed = turn([glance], text + BOX_PROMPT, questions.box_text(window * VIEW_SIDE / CANVAS))
        first.append(pointed[:-1])
        direct.append(turn([glance], text, "")[:-1])
        second.append(pointed + turn([crop], text, "", first=False)[:-1])
    found = [_boxes(reply) * CANVAS / VIEW_SIDE for reply in generate(first, sampled=True)]
    enough = [len(box) == 1 and canvases.sufficient(box[0].tolist(), p) for box, p in zip(found, problems)]
    return {
        "digit at a glance": _mean(_exact, problems, generate(direct)),
        "box holds the digit, sampled": float(np.mean(enough)),
        "digit from a good crop": _mean(_exact, problems, generate(second)),
    }


def _programs(generate: Generate, problems: Sequence[Problem]) -> dict[str, float]:
    """Share of greedy programs that render, and the mean error of their pixels, in [0, 1]."""
    replies = generate([_asked(p) for p in problems], max_new_tokens=160)
    rendered = render_batch([Request(find_program(reply, "svg"), size=32) for reply in replies])
    pairs = [(p.answer["picture"], one.picture) for p, one in zip(problems, rendered) if one.status == "ok"]
    error = [np.abs(found.astype(float) - right).mean() / 255 for right, found in pairs]
    return {
        "programs that draw": len(pairs) / len(problems),
        "their error in pixels": float(np.mean(error)) if pairs else nan,
    }
