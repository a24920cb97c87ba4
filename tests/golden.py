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
CONTROL = {"task.test_episodes": 4, "task.test_rows": 4, "task.video_episodes": 1}
OFF_POLICY = CONTROL | {
    "steps": 300, "evaluate_every": 200, "schedule.save_every": 200, "algo.learning_starts": 100, "algo.batch_size": 32,
}  # fmt: skip
WORLD_MODEL = CONTROL | {"replay.random_steps": 20, "replay.batch_size": 4, "replay.sequence_length": 6, "steps": 4}
DISTILLED = {
    "task.held_out_size": 6,
    "prompts_per_step": 4,
    "distillation.generator_optim.warmup": 1,
    "distillation.score_optim.warmup": 1,
    "steps": 3,
}
TWO_POLICIES = {name: value for name, value in DRAWING.items() if name != "warmup"} | {
    "flow_optim.warmup": 1,
    "rewriter_optim.warmup": 1,
}
UNGROUPED = {name: value for name, value in DRAWING.items() if name != "group"}
LEARNED = {"reward_model.steps": 3, "reward_model.pictures": 64}
PAIRS = {"prompts_per_step": 4, "pool": 8}
RESFIT = CONTROL | {
    "demonstrations.episodes": 4, "cloning.steps": 6, "cloning.evaluate_every": 3, "steps": 200, "evaluate_every": 60,
    "schedule.save_every": 60, "algo.learning_starts": 80, "residual.critic_steps": 10, "refresh_every": 60,
}  # fmt: skip
SEARCH = {"task.held_out_size": 8, "task.train_size": 32, "prompts_per_step": 3, "group": 4, "steps": 2, "warmup": 1}
SVG = {
    "task.held_out_size": 4,
    "task.larger_size": 2,
    "task.train_size": 32,
    "sft.steps": 2,
    "sft.batch": 4,
    "steps": 2,
    "group": 4,
    "prompts_per_step": 2,
    "candidates": 2,
    "model.max_new_tokens": 64,
}
EDITS = {
    "task.held_out_size": 4,
    "task.train_size": 32,
    "copy.steps": 1,
    "copy.optim.warmup": 1,
    "np_edit.score_optim.warmup": 1,
    "steps": 2,
    "prompts_per_step": 8,
    "warmup": 1,
}
CODES = {
    "task.held_out_size": 4,
    "prompts_per_step": 3,
    "steps": 2,
    "candidates": 2,
    "dual_encoder.steps": 2,
    "warmup": 1,
}
SKETCHES = {
    "task.train_size": 24,
    "task.held_out_size": 12,
    "task.selector_size": 24,
    "steps": 3,
    "prompts_per_step": 6,
    "group": 4,
    "teacher.steps": 2,
    "teacher.batch_size": 8,
    "teacher.optim.warmup": 0,
    "student.steps": 2,
    "student.batch_size": 8,
    "student.optim.warmup": 0,
    "reward.distractors": 9,
}
LANE = {
    "task.road_length": 20.0, "task.test_episodes": 4, "task.test_rows": 4, "task.video_episodes": 1, "n_envs": 2,
    "captioner.steps": 2, "captioner.batch_size": 4, "captioner.test_pictures": 8,
    "ppo.n_steps": 24, "ppo.batch_size": 48, "ppo.n_epochs": 2, "steps": 2,
}  # fmt: skip
SCALED = {"ppo.normalize_rewards": True, "ppo.anneal_lr": True, "model.normalize_observations": True}
PPO = CONTROL | {"ppo.n_steps": 32, "ppo.batch_size": 16, "steps": 2}
"""What makes runs of a family short."""

RUNS: dict[str, tuple[str, str, Mapping[str, Any]]] = {
    "flow_grpo": ("flow_grpo", "tiny", DRAWING | {"grpo.beta": 0.01, "batch.minibatches": 2}),
    "flow_grpo, random window": (
        "flow_grpo",
        "tiny",
        DRAWING | {"window_place": "random", "grpo.std": "group", "shuffle_rewards": True},
    ),
    "flow_grpo, cps": (
        "flow_grpo",
        "tiny",
        DRAWING | {"flow.kernel": "cps", "flow.guidance": 2.0, "flow.lora_rank": 4},
    ),
    "diffusion_nft": ("diffusion_nft", "tiny", DRAWING | {"nft.reference_weight": 0.01}),
    "diffusion_dpo": ("diffusion_dpo", "online", DRAWING | PAIRS),
    "diffusion_dpo, offline": ("diffusion_dpo", "offline", DRAWING | PAIRS),
    "dmd": ("dmd", "dmd", DISTILLED),
    "dmd, four steps": ("dmd", "four-steps", DISTILLED),
    "diff_instruct_star": ("diff_instruct_star", "tiny", DISTILLED | LEARNED | {"initialization.steps": 2}),
    "reward_gradient": ("reward_gradient", "refl", UNGROUPED | LEARNED),
    "reward_gradient, draft-lv": ("reward_gradient", "draft-lv", UNGROUPED | LEARNED),
    "reward_gradient, latents": ("reward_gradient", "latents", UNGROUPED | LEARNED),
    "promptrl": ("promptrl", "tiny", TWO_POLICIES),
    "promptrl, nothing retained": ("promptrl", "tiny", TWO_POLICIES | {"retained": 0, "train_flow": False}),
    "dpo_vs_grpo": ("dpo_vs_grpo", "tiny", CODES),
    "dpo_vs_grpo, dpo": ("dpo_vs_grpo", "tiny", CODES | {"method": "dpo", "reward": "dual_encoder"}),
    "grpo": ("grpo", "tiny", ANSWERS),
    **{f"grpo, {kin}": ("grpo", kin, ANSWERS) for kin in ("dr-grpo", "dapo", "gspo", "rloo", "cispo")},
    "sft": ("sft", "tiny", {k: v for k, v in ANSWERS.items() if k != "group"}),
    "vlm_r1": ("vlm_r1", "tiny", ANSWERS | {"cosine_length": 16, "repetition_penalty": True}),
    "vlm_r1, detection": ("vlm_r1", "tiny-detection", ANSWERS),
    "vlm_r1, sft": ("vlm_r1", "tiny", ANSWERS | {"method": "sft", "template": "answer", "eval_templates": ()}),
    "ssl4rl": ("ssl4rl", "tiny", ANSWERS | {"task.held_out_size": 8, "transfer.size": 20}),
    "mgpo": ("mgpo", "tiny", SEARCH),
    "mgpo, swapped": ("mgpo", "tiny", SEARCH | {"second_view": "swapped"}),
    "rlrf": ("rlrf", "tiny", SVG),
    "np_edit": ("np_edit", "tiny", EDITS),
    "np_edit, grpo": ("np_edit", "tiny", EDITS | {"method": "grpo", "prompts_per_step": 2, "group": 4}),
    "np_edit, pairs": ("np_edit", "tiny", EDITS | {"method": "pairs"}),
    "sketch_flops": ("sketch_flops", "tiny", SKETCHES),
    "sketch_flops, greedy": ("sketch_flops", "tiny", SKETCHES | {"advantage": "greedy", "method": "triplets"}),
    "blip_fuseppo": ("blip_fuseppo", "tiny", LANE),
    "ppo": ("ppo", "tiny", PPO),
    "ppo, reach": ("ppo", "reach", PPO | {"n_envs": 2}),
    "ppo, scaled": ("ppo", "pendulum", PPO | SCALED),
    "sac": ("sac", "tiny", OFF_POLICY),
    "sac, redq": ("sac", "redq", OFF_POLICY | {"steps": 150}),
    "sac, bfloat16": ("sac", "tiny", OFF_POLICY | {"algo.precision": "bfloat16", "algo.hidden": (32, 32)}),
    "td3": ("td3", "tiny", OFF_POLICY),
    "rlpd": ("rlpd", "tiny", OFF_POLICY | {"demonstrations.episodes": 3}),
    "bc": ("bc", "tiny", CONTROL | {"demonstrations.episodes": 3, "steps": 20, "evaluate_every": 20}),
    "resfit": ("resfit", "tiny", RESFIT),
    "resfit, scratch": ("resfit", "tiny", RESFIT | {"method": "scratch"}),
    "resfit, filtered": ("resfit", "tiny", RESFIT | {"method": "filtered"}),
    "dreamer": ("dreamer", "tiny", WORLD_MODEL),
    "repo": ("repo", "tiny", WORLD_MODEL | {"adapt": "align", "alignment.steps": 3, "alignment.paired_frames": 60}),
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
    known = [field.name for field in fields(settings)] if hasattr(settings, "schedule") else []
    shared = {short: place for short, place in SHARED.items() if place.partition(".")[0] in known}
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
