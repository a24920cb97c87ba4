"""Run folders for the report's tests, written by ``Run`` itself: a believable course of training, and a hostile one."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw

from saccade.naming import STANDARD_ERROR
from saccade.training.run import Run
from saccade.worlds import canvases

COLORS = {
    "red": (214, 69, 65),
    "blue": (52, 101, 196),
    "green": (46, 154, 92),
    "yellow": (233, 185, 44),
    "purple": (130, 80, 180),
}
PROMPTS = [
    (
        "a red ring above two blue squares",
        [("red", "ring", 16, 8), ("blue", "square", 9, 23), ("blue", "square", 23, 23)],
    ),
    ("three green circles", [("green", "circle", 7, 16), ("green", "circle", 17, 9), ("green", "circle", 24, 23)]),
    ("a yellow square to the left of a purple circle", [("yellow", "square", 8, 16), ("purple", "circle", 23, 16)]),
    ("a blue ring", [("blue", "ring", 16, 16)]),
    (
        "two red circles below a green square",
        [("green", "square", 16, 8), ("red", "circle", 9, 23), ("red", "circle", 23, 23)],
    ),
    ("a purple ring to the right of a yellow ring", [("yellow", "ring", 8, 16), ("purple", "ring", 23, 16)]),
]
HOSTILE = "<script>alert('x')</script><img src=x onerror=alert(1)>\"'&{{ 7*7 }}</script>"


def picture(objects: list[tuple], rng: np.random.Generator, spoiled: float) -> torch.Tensor:
    """A picture [3, 32, 32] of the objects; ``spoiled`` in [0, 1] moves, recolours, loses and blurs them with noise."""
    canvas = Image.new("RGB", (128, 128), (244, 241, 234))
    draw = ImageDraw.Draw(canvas)
    for color, shape, x, y in objects:
        if rng.random() < 0.35 * spoiled:
            continue
        color = rng.choice(list(COLORS)) if rng.random() < 0.5 * spoiled else color
        x, y, r = (
            4 * x + rng.normal() * 18 * spoiled,
            4 * y + rng.normal() * 18 * spoiled,
            4 * (5.2 - 1.5 * spoiled * rng.random()),
        )
        box = (x - r, y - r, x + r, y + r)
        if shape == "square":
            draw.rectangle(box, fill=COLORS[color])
        elif shape == "circle":
            draw.ellipse(box, fill=COLORS[color])
        else:
            draw.ellipse(box, outline=COLORS[color], width=10)
    small = np.asarray(canvas.resize((32, 32), Image.Resampling.BOX), np.float32) / 255
    small = small + rng.normal(size=small.shape) * 0.09 * spoiled
    return torch.tensor(small).permute(2, 0, 1)


def make(
    folder: Path, recipe: str = "flow_grpo", lift: float = 0.45, seed: int = 0, steps: int = 120, stages: bool = False
) -> Path:
    """A finished run that climbs by ``lift``; with ``stages`` it consists of a warm-up and a main stage."""
    settings = {
        "steps": steps,
        "seed": seed,
        "learning_rate": 3e-4,
        "group_size": 16,
        "clip": 0.2,
        "kl": 0.04 * lift,
        "noise": "sde",
    }
    config = {
        "recipe": recipe,
        "preset": "tiny",
        "settings": settings,
        "seed": seed,
        "command": f"saccade train {recipe}",
    }
    with Run.start(folder, config, display=False) as run:
        parts = [run.stage("warm-up"), run.stage("main")] if stages else [run]
        for number, part in enumerate(parts):
            _course(part, np.random.default_rng(seed), lift, steps, rewrites=stages and number == 1)
        after = {"eval/shapes": 0.31 + lift, "eval/paraphrase": 0.29 + 0.8 * lift, "eval/untouched": 0.62 + 0.08 * lift}
        run.table("Score by kind of prompt", ["kind", "prompts", "before", "after"], [
            ["one object", 64, 0.71, 0.71 + 0.55 * lift], ["position", 64, 0.18, 0.18 + lift],
            ["counting", 64, 0.22, None],
        ])  # fmt: skip
        before = {"eval/shapes": 0.31, "eval/paraphrase": 0.29, "eval/untouched": 0.62}
        strip = lambda scores: {name.removeprefix("eval/"): value for name, value in scores.items()}
        run.finish({"before": strip(before), "after": strip(after)})
    return folder


def _course(run: Run, rng: np.random.Generator, lift: float, steps: int, rewrites: bool) -> None:
    for step in range(1, steps + 1):
        done = 1 - math.exp(-3 * step / steps)
        noise = lambda scale: float(rng.normal() * scale)
        run.log(step, {
            "reward/shapes": 0.31 + lift * done + noise(0.03),
            "reward/alignment": 0.22 + 0.3 * lift * done + noise(0.02),
            "loss/flow": 0.02 * (1 - done) + noise(0.004), "health/ratio": 1 + noise(0.01),
            "health/clip_fraction": abs(noise(0.03)),
            "health/kl": 0.01 * done + abs(noise(0.001)), "health/diversity": 0.9 - 0.2 * done + noise(0.01),
            "cost/images": 128, "cost/network_calls": 1280,
        })  # fmt: skip
        if step % 20 == 0 or step == 1:
            run.log(
                step,
                {
                    "eval/shapes": 0.31 + lift * done + noise(0.01),
                    "eval/untouched": 0.62 + 0.08 * lift * done + noise(0.01),
                },
            )
            _pictures(run, step, done, lift, rewrites)
        run._begun -= 1.7  # the clock of a run that takes its time


def _pictures(run: Run, step: int, done: float, lift: float, rewrites: bool) -> None:
    items = []
    for i, (prompt, objects) in enumerate(PROMPTS):
        spoiled = max(0.0, 1 - done * (0.6 + lift)) if step > 1 else 1.0
        item = {
            "prompt": prompt,
            "image": picture(objects, np.random.default_rng(i + 3), spoiled),
            "score": round(1 - 0.9 * spoiled, 2),
        }
        if rewrites:
            item["text"] = (
                prompt if step == 1 else f"{prompt}, evenly spaced on plain paper, bold flat colours, nothing else"
            )
        items.append(item)
    run.samples(step, "held-out", items)


def seeing(folder: Path, recipe: str = "mgpo", lift: float = 0.4, steps: int = 40) -> Path:
    """A run of models that look closer and that draw by code: conversations with boxes, programs beside their
    renders.
    """
    settings = {"steps": steps, "first_view": 1024, "lift": lift}
    with Run.start(folder, {"recipe": recipe, "settings": settings, "seed": 0}, display=False) as run:
        for step in (0, steps):
            done = step / steps
            run.log(step, {"eval/accuracy": 0.3 + lift * done, "eval/sufficient box": 0.2 + lift * done})
            run.samples(
                step, "held out", [_conversation(p, lift * done) for p in canvases.sample_problems(6, 1, choices=4)]
            )
            run.samples(step, "drawings", [_drawing(i, done) for i in range(len(PROMPTS))])
        run.finish({"before": {"accuracy": 0.3}, "after": {"accuracy": 0.3 + lift}})
    return folder


def _conversation(problem, skill: float) -> dict:
    """A look at a canvas: the less ``skill``, the further off the box; no box at all for a first problem without
    any.
    """
    question, canvas, true = (
        canvases.split_choices(problem.inputs.text)[0],
        problem.inputs.pictures[0],
        problem.answer["boxes"][0],
    )
    rng = np.random.default_rng(problem.id)
    x, y = (
        np.clip(np.array(true[:2]) - 12 + rng.normal(size=2) * 60 * (0.4 - min(skill, 0.4)), 0, 62).astype(int).tolist()
    )
    box, missing = [x, y, x + 34, y + 30], problem.id == 0 and not skill
    image = lambda pixels: torch.tensor(np.array(pixels)).permute(2, 0, 1) / 255
    view = image(Image.fromarray(canvas).resize((32, 32), Image.Resampling.BICUBIC))
    seen = [{"corners": [v / 3 for v in true], "label": problem.answer["labels"][0], "kind": "true"}]
    boxes = [*seen] if missing else [*seen, {"corners": [v / 3 for v in box]}]
    back = {"image": view} if missing else {"image": image(canvas[box[1] : box[3], box[0] : box[2]])}
    notice = "This box cannot be used, here is the whole picture. " if missing else ""
    letter = problem.answer["text"] if skill else "D"
    told = lambda text, picture: {"who": "user", "text": text, "pictures": [picture]}
    model_turn = lambda text: {"who": "model", "text": text, "trained": True}
    turns = [
        told(f"{question} Give the box of the place to look at.", {"image": view, "boxes": boxes}),
        model_turn("near the middle" if missing else f"[{','.join(str(round(v / 3)) for v in box)}]"),
        told(notice + problem.inputs.text, back), model_turn(letter),
    ]  # fmt: skip
    score = float(letter == problem.answer["text"])
    return {"prompt": problem.inputs.text, "image": image(canvas), "text": letter, "score": score, "turns": turns}


def _drawing(i: int, done: float) -> dict:
    """A program that is to draw a picture, and what it draws."""
    prompt, objects = PROMPTS[i]
    code = "".join(f'\n  <circle cx="{x}" cy="{y}" r="{5 * done + 2:g}" fill="{color}"/>' for color, _, x, y in objects)
    draw = lambda spoiled: picture(objects, np.random.default_rng(i + 3), spoiled)
    return {
        "prompt": prompt, "image": draw(1 - done), "target": draw(0), "score": round(0.2 + 0.7 * done, 2),
        "text": f'<svg viewBox="0 0 32 32" xmlns="here">{code}\n</svg>',
        "boxes": [{"corners": [2, 3, 30, 31], "label": "canvas"}] * (i == 0),
    }  # fmt: skip


def hostile(folder: Path) -> Path:
    """A run whose every word tries to break out of the page, with a torn last line and gaps in its metrics."""
    evil = HOSTILE
    config = {"recipe": evil, "preset": evil, "settings": {evil: evil}, "seed": 0, "command": evil}
    with Run.start(folder, config, display=False) as run:
        for step in (1, 2, 3):
            run.log(
                step,
                {
                    f"reward/{evil}": step if step != 2 else float("nan"),
                    "reward/never": float("nan"),
                    "health/one": 1.0,
                },
            )
        run.samples(1, "s", [{"prompt": evil, "text": evil, "image": torch.rand(3, 600, 700), "score": float("nan")}])
        picture = {
            "image": torch.rand(3, 20, 700),
            "boxes": [{"corners": [-1e9, 3, 1e9, 9], "label": evil}, {"corners": [5, 5, 5, 5]}],
        }
        turns = [{"who": evil, "text": evil, "pictures": [picture, picture], "trained": True}, {"who": "", "text": ""}]
        run.samples(1, "conversation", [{"prompt": evil, "text": evil, **picture, "score": 1e9, "turns": turns}])
        run.samples(1, "code", [{"prompt": evil, "text": evil * 30, **picture, "target": torch.rand(3, 900, 20)}])
        run.samples(
            1,
            "episode",
            [
                {
                    "prompt": evil,
                    "note": evil,
                    "clip": np.zeros((1, 300, 9, 3), np.uint8),
                    "path": [[1e300, 0], [1e300, 0]],
                    "score": 1e9,
                }
            ],
        )
        run.table(evil, [evil], [[evil]])
        run.finish({"before": {evil: 1}, "after": {evil: None}})
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "rew')
    return folder


def check(path: Path, verdict: str = "holds") -> Path:
    """The result of a check, as ``saccade check --json`` prints it."""
    scores = {
        "method": {str(seed): {"shapes": 0.75 + 0.01 * seed, "shapes@20": 0.5, "untouched": 0.64} for seed in range(3)},
        "shuffled rewards": {str(seed): {"shapes": 0.30 + 0.02 * seed, "untouched": 0.60} for seed in range(3)},
    }
    claims = [
        {
            "claim": "The reward of held-out prompts rises",
            "least": 0.05,
            "margins": [0.44, 0.45, 0.46],
            "mean": 0.45,
            "interval": [0.425, 0.475],
            "verdict": "holds",
        },
        {"claim": f"Nothing escapes {HOSTILE}", "least": 0.0, "margins": [None], "mean": None, "verdict": verdict},
    ]
    result = {
        "name": "flow_grpo", "verdict": verdict, "arms": {arm: {"steps": 60} for arm in scores}, "seeds": [0, 1, 2],
        "seconds": 431.0, "scores": scores, "claims": claims, "date": "2026-01-02",
        "machine": {"cpu": "a fast one", "cores": 2, "gpu": None},
    }  # fmt: skip
    path.write_text(json.dumps(result))
    return path


def acting(folder: Path, lift: float = 1.0, seed: int = 0, steps: int = 4000) -> Path:
    """A run of a policy that acts: four episodes before and after, more and more straight to the goal, returns with
    errors.
    """
    config = {"recipe": "ppo", "settings": {"seed": seed, "environment": "reach", "lift": lift}, "seed": seed}
    with Run.start(folder, config, display=False) as run:
        rng = np.random.default_rng(seed)
        for step in range(0, steps + 1, steps // 8):
            done = lift * (1 - math.exp(-3 * step / steps))
            run.log(
                step,
                {
                    "eval/return": 3 + 14 * done + rng.normal() * 0.5,
                    f"eval/return{STANDARD_ERROR}": 1.3 - 0.9 * done,
                    "eval/success": 0.1 + 0.8 * done,
                },
            )
            if step in (0, steps):
                run.samples(step, "test", [_walk(i, done if step else 0.0) for i in range(4)])
        before, after = (
            {"return": 3 + 14 * d, f"return{STANDARD_ERROR}": 1.3 - 0.9 * d, "success": 0.1 + 0.8 * d}
            for d in (0, 0.95 * lift + 0.01 * seed)
        )
        run.finish({"before": before, "after": after})
    return folder


def _walk(number: int, skill: float) -> dict:
    """A dot that walks to a ring on a 64 x 64 floor, filmed, with its path in [0, 1] x [0, 1]."""
    rng = np.random.default_rng(number)
    place, goal = rng.uniform(0.1, 0.9, (2, 2))
    path = [place]
    while len(path) < 60 and np.abs(path[-1] - goal).max() > 0.04:
        step = skill * (goal - path[-1]) / max(np.linalg.norm(goal - path[-1]), 0.05) * 0.04 + rng.normal(
            size=2
        ) * 0.03 * (1 - 0.8 * skill)
        path.append(np.clip(path[-1] + step, 0, 1))
    frames = np.stack([_floor(at, goal) for at in path])
    won = len(path) < 60
    return {
        "prompt": f"episode {number + 1}",
        "clip": frames,
        "path": np.array(path),
        "score": 20 - 0.3 * len(path) if won else -1.5 - number,
        "note": f"{len(path)} steps{', success' * won}",
    }


def _floor(place: np.ndarray, goal: np.ndarray) -> np.ndarray:
    canvas = Image.new("RGB", (64, 64), (238, 235, 228))
    draw = ImageDraw.Draw(canvas)
    (gx, gy), (x, y) = ((64 * p[0], 64 - 64 * p[1]) for p in (goal, place))
    draw.ellipse((gx - 6, gy - 6, gx + 6, gy + 6), outline=COLORS["green"], width=2)
    draw.ellipse((x - 4, y - 4, x + 4, y + 4), fill=COLORS["red"])
    return np.asarray(canvas)
