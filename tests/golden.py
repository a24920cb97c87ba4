"""Short golden runs of every recipe: a change of structure leaves them the same bit for bit.

    python tests/golden.py record FILE [NAME ...]     run, and keep what came out
    python tests/golden.py compare FILE [NAME ...]    run again, and name what differs (exit status 1)

Kept are the values of all metrics but seconds, of all scores, and a hash of every tensor in the last checkpoint. Names
of metrics and of parts are not compared, so that they may change. Figures depend on the machine and on versions: record
before you begin.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import torch

from saccade import catalog
from saccade.training import checkpoint
from saccade.training.run import Run

DRAWING = {"task.held_out_size": 6, "task.train_size": 64, "prompts_per_step": 2, "group": 4, "steps": 2, "warmup": 1}
ANSWERS = {"task.held_out_size": 8, "task.train_size": 64, "prompts_per_step": 4, "group": 4, "steps": 2, "warmup": 1}
CONTROL = {"task.test_episodes": 4, "task.test_rows": 4, "task.shown": 1}
OFF_POLICY = CONTROL | {
    "course.env_steps": 300, "course.evaluate_every": 200, "course.save_every": 200, "learning.warm_up": 100, "learning.batch": 32,
}  # fmt: skip
WORLD_MODEL = CONTROL | {"memory.warm_up": 20, "memory.batch": 4, "memory.length": 6, "steps": 4}
DISTILLED = {"task.held_out_size": 6, "distilling.prompts_per_step": 4, "distilling.warmup": 1, "steps": 3}
UNGROUPED = {name: value for name, value in DRAWING.items() if name != "group"}
CRITIC = {"criticism.critic_steps": 3, "criticism.critic_lessons": 64}
PAIRS = {"prompts_per_step": 4, "pool": 8}
RESFIT = CONTROL | {
    "shown.episodes": 4, "clone.clone_steps": 6, "clone.clone_evaluate_every": 3, "env_steps": 200, "warm_up": 80, "critic_steps": 10,
    "evaluations": 2, "refresh": 60,
}  # fmt: skip
SEARCH = {"task.held_out_size": 8, "task.train_size": 32, "prompts_per_step": 3, "group": 4, "steps": 2, "warmup": 1}
SVG = {
    "task.held_out_size": 4, "task.larger_size": 2, "task.train_size": 32, "sft.steps": 2, "sft.batch": 4, "steps": 2, "group": 4,
    "prompts_per_step": 2, "candidates": 2, "model.max_new_tokens": 64,
}  # fmt: skip
EDITS = {
    "task.held_out_size": 4,
    "task.train_size": 32,
    "copy_steps": 1,
    "steps": 2,
    "edits_per_step": 8,
    "group": 4,
    "warmup": 1,
}
CODES = {"task.held_out_size": 4, "prompts_per_step": 3, "steps": 2, "candidates": 2, "dual_encoder.steps": 2, "warmup": 1}
SKETCHES = {
    "task.train_size": 24, "task.held_out_size": 12, "task.selector_size": 24, "teacher_steps": 2, "student_steps": 2, "batch": 8,
    "steps": 3, "sketches_per_step": 6, "group": 4, "others": 9,
}  # fmt: skip
LANE = {
    "task.road": 20.0, "task.test_episodes": 4, "task.test_rows": 4, "task.shown": 1, "speaker.speaker_steps": 2,
    "speaker.speaker_batch": 4, "speaker.tests": 8, "ppo.length": 24, "ppo.minibatch": 48, "ppo.epochs": 2, "rows": 2, "steps": 2,
}  # fmt: skip
PPO = CONTROL | {"ppo.length": 32, "ppo.minibatch": 16, "steps": 2}
"""What makes runs of a family short."""

RUNS: dict[str, tuple[str, str, Mapping[str, Any]]] = {
    "flow_grpo": ("flow_grpo", "tiny", DRAWING | {"grpo.beta": 0.01, "batch.minibatches": 2}),
    "flow_grpo, random window": (
        "flow_grpo",
        "tiny",
        DRAWING | {"window_place": "random", "grpo.std": "group", "shuffle_rewards": True},
    ),
    "flow_grpo, cps": ("flow_grpo", "tiny", DRAWING | {"flow.kernel": "cps", "flow.guidance": 2.0, "flow.lora_rank": 4}),
    "diffusion_nft": ("diffusion_nft", "tiny", DRAWING | {"beta_reference": 0.01}),
    "diffusion_dpo": ("diffusion_dpo", "online", DRAWING | PAIRS),
    "diffusion_dpo, offline": ("diffusion_dpo", "offline", DRAWING | PAIRS),
    "dmd": ("dmd", "dmd", DISTILLED),
    "dmd, four steps": ("dmd", "four-steps", DISTILLED),
    "diff_instruct_star": ("diff_instruct_star", "tiny", DISTILLED | CRITIC | {"distil_steps": 2}),
    "reward_gradient": ("reward_gradient", "refl", UNGROUPED | CRITIC),
    "reward_gradient, draft-lv": ("reward_gradient", "draft-lv", UNGROUPED | CRITIC),
    "reward_gradient, latents": ("reward_gradient", "latents", UNGROUPED | CRITIC),
    "promptrl": ("promptrl", "tiny", DRAWING),
    "promptrl, nothing retained": ("promptrl", "tiny", DRAWING | {"retained": 0, "train_flow": False}),
    "dpo_vs_grpo": ("dpo_vs_grpo", "tiny", CODES),
    "dpo_vs_grpo, dpo": ("dpo_vs_grpo", "tiny", CODES | {"method": "dpo", "reward": "dual_encoder"}),
    "grpo": ("grpo", "tiny", ANSWERS),
    **{f"grpo, {kin}": ("grpo", kin, ANSWERS) for kin in ("dr-grpo", "dapo", "gspo", "rloo", "cispo")},
    "sft": ("sft", "tiny", {k: v for k, v in ANSWERS.items() if k != "group"}),
    "vlm_r1": ("vlm_r1", "tiny", ANSWERS | {"cosine_length": 16, "repetition_penalty": True}),
    "vlm_r1, detection": ("vlm_r1", "tiny-detection", ANSWERS),
    "vlm_r1, sft": ("vlm_r1", "tiny", ANSWERS | {"method": "sft", "template": "answer", "other_templates": ()}),
    "ssl4rl": ("ssl4rl", "tiny", ANSWERS | {"task.held_out_size": 8, "transfer.downstream_size": 20}),
    "mgpo": ("mgpo", "tiny", SEARCH),
    "mgpo, swapped": ("mgpo", "tiny", SEARCH | {"back": "swapped"}),
    "rlrf": ("rlrf", "tiny", SVG),
    "np_edit": ("np_edit", "tiny", EDITS),
    "np_edit, grpo": ("np_edit", "tiny", EDITS | {"method": "grpo"}),
    "np_edit, pairs": ("np_edit", "tiny", EDITS | {"method": "pairs"}),
    "sketch_flops": ("sketch_flops", "tiny", SKETCHES),
    "sketch_flops, greedy": ("sketch_flops", "tiny", SKETCHES | {"credit": "greedy", "method": "triplets"}),
    "blip_fuseppo": ("blip_fuseppo", "tiny", LANE),
    "ppo": ("ppo", "tiny", PPO),
    "ppo, reach": ("ppo", "reach", PPO | {"rows": 2}),
    "ppo, scaled": ("ppo", "pendulum", PPO | {"ppo.scale_rewards": True, "ppo.anneal": True, "model.standardise": True}),
    "sac": ("sac", "tiny", OFF_POLICY),
    "sac, redq": ("sac", "redq", OFF_POLICY | {"course.env_steps": 150}),
    "sac, bfloat16": ("sac", "tiny", OFF_POLICY | {"learning.precision": "bfloat16", "learning.hidden": (32, 32)}),
    "td3": ("td3", "tiny", OFF_POLICY),
    "rlpd": ("rlpd", "tiny", OFF_POLICY | {"shown.episodes": 3}),
    "bc": ("bc", "tiny", CONTROL | {"shown.episodes": 3, "steps": 20, "evaluate_every": 20}),
    "resfit": ("resfit", "tiny", RESFIT),
    "resfit, scratch": ("resfit", "tiny", RESFIT | {"method": "scratch"}),
    "resfit, filtered": ("resfit", "tiny", RESFIT | {"method": "filtered"}),
    "dreamer": ("dreamer", "tiny", WORLD_MODEL),
    "repo": ("repo", "tiny", WORLD_MODEL | {"adapt": "align", "adapt_steps": 3, "paired_frames": 60}),
}  # fmt: skip


SHARED = {
    "steps": "schedule.steps",
    "evaluate_every": "schedule.evaluate_every",
    "prompts_per_step": "batch.prompts_per_step",
    "group": "batch.group_size",
    "warmup": "optim.warmup",
}
"""Where the names above stand in recipes with shared groups of settings."""


def changed(settings: Any, changes: Mapping[str, Any]) -> Any:
    """Settings with the fields at dotted places changed. AttributeError for a place that there is not."""
    shared = SHARED if hasattr(settings, "schedule") else {}
    for place, value in changes.items():
        place = shared.get(place, place)
        name, _, rest = place.partition(".")
        known = {field.name for field in fields(settings)} if is_dataclass(settings) else set()
        if name not in known:
            raise AttributeError(f"{type(settings).__name__} has no {name}; it has {', '.join(sorted(known))}")
        settings = replace(settings, **{name: changed(getattr(settings, name), {rest: value}) if rest else value})
    return settings


def outcome(name: str) -> dict[str, Any]:
    """What a run comes to: sorted values of metrics and scores, sorted hashes of tensors."""
    recipe, preset, changes = RUNS[name]
    module = catalog.load(recipe)
    cfg = changed(module.PRESETS[preset], changes)
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "run"
        with Run.start(folder, {"recipe": recipe}, display=False) as run:
            result = module.train(cfg, run)
        lines = [
            json.loads(line) for file in sorted(folder.rglob("metrics.jsonl")) for line in file.read_text().splitlines()
        ]
        tensors: list[str] = []
        for saved in sorted(folder.rglob("checkpoints")):
            _, state = checkpoint.read(checkpoint.latest(saved))
            tensors += [digest(tensor) for tensor in leaves(state)]
    print(f"{name}: {time.monotonic() - began:.1f} s, {len(tensors)} tensors", flush=True)
    metrics = [value for line in lines for key, value in line.items() if value is not None and not timed(key)]
    scores = [value for when in ("before", "after") for key, value in result[when].items() if not timed(key)]
    return {"metrics": sorted(metrics), "scores": sorted(map(repr, scores)), "tensors": sorted(tensors)}


def timed(name: str) -> bool:
    """Whether a metric is about time, memory or speed."""
    return name == "time" or any(word in name for word in ("second", "time", "memory", "per_", "_gb", "idle"))


def leaves(state: Any) -> Iterator[torch.Tensor]:
    """Every floating tensor of a checkpoint of more than one number; counters and names may be kept otherwise."""
    if isinstance(state, torch.Tensor):
        if state.numel() > 1 and state.is_floating_point():
            yield state
    elif isinstance(state, Mapping):
        for value in state.values():
            yield from leaves(value)
    elif isinstance(state, list | tuple):
        for value in state:
            yield from leaves(value)


def digest(tensor: torch.Tensor) -> str:
    """A hash of the values of a tensor."""
    return hashlib.sha256(tensor.detach().contiguous().cpu().flatten().view(torch.uint8).numpy().tobytes()).hexdigest()[
        :16
    ]


def main(action: str, file: str, *names: str) -> int:
    torch.set_num_threads(1)
    path = Path(file)
    kept = json.loads(path.read_text()) if path.exists() else {}
    wrong = []
    for name in names or RUNS:
        if action == "record" and name in kept:
            continue
        if action == "compare" and name not in kept:
            continue
        found = json.loads(json.dumps(outcome(name)))
        if action == "record":
            kept[name] = found
            path.write_text(json.dumps(kept))
        elif found != kept[name]:
            parts = [part for part in found if found[part] != kept[name][part]]
            wrong.append(name)
            print(f"{name} differs in {', '.join(parts)}", flush=True)
    print(
        f"{len(wrong)} of {len(names or RUNS)} differ" if action == "compare" else f"{len(kept)} recorded", flush=True
    )
    return int(bool(wrong))


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    sys.exit(main(*sys.argv[1:]))
