"""What a wrong name was meant to be: the one voice of all messages that end in "nearest: …"."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches

STANDARD_ERROR = ", standard error"
"""What follows a score's name in the name of its standard error."""


def nearest(name: object, known: Iterable[str]) -> str:
    """The most similar of the known names, however far it is; "none" where there are none."""
    return next(iter(get_close_matches(str(name), list(known), n=1, cutoff=0.0)), "none")


def suggestion(name: object, known: Iterable[str]) -> str:
    """What a message of an unknown name ends in: "; nearest: NAME", or "" where no known name is similar."""
    found = get_close_matches(str(name), list(known), n=1)
    return f"; nearest: {found[0]}" if found else ""


SYNONYMS = {
    "batch_size": ("prompts_per_step",),
    "clip_range": ("clip",),
    "data": ("prompts", "questions"),
    "dataset": ("prompts", "questions"),
    "dataset_name": ("prompts", "questions"),
    "ent_coef": ("entropy_coef",),
    "env_id": ("env",),
    "epochs": ("steps",),
    "epsilon": ("clip",),
    "epsilon_high": ("clip_high",),
    "eval_freq": ("evaluate_every",),
    "eval_steps": ("evaluate_every",),
    "gradient_accumulation_steps": ("micro_rows",),
    "gradient_checkpointing": ("checkpointing",),
    "guidance_scale": ("guidance",),
    "kl_coef": ("beta",),
    "learning_rate": ("lr",),
    "logging_steps": ("log_every",),
    "lora_r": ("lora_rank",),
    "max_completion_length": ("max_new_tokens",),
    "max_steps": ("steps",),
    "max_train_steps": ("steps",),
    "mixed_precision": ("precision",),
    "model_name_or_path": ("model",),
    "n_timesteps": ("steps",),
    "noise_level": ("noise",),
    "num_envs": ("n_envs",),
    "num_generations": ("group_size",),
    "num_image_per_prompt": ("group_size",),
    "num_inference_steps": ("sampling_steps",),
    "num_steps": ("sampling_steps", "steps"),
    "num_train_epochs": ("steps",),
    "output_dir": ("out",),
    "per_device_train_batch_size": ("prompts_per_step",),
    "pretrained_model_name_or_path": ("model",),
    "report_to": ("logger",),
    "resolution": ("size",),
    "resume": ("out",),
    "resume_from_checkpoint": ("out",),
    "reward": ("rewards",),
    "reward_funcs": ("rewards",),
    "save_freq": ("save_every",),
    "save_steps": ("save_every",),
    "scale_rewards": ("std",),
    "timesteps": ("steps",),
    "total_timesteps": ("steps",),
    "vf_coef": ("value_coef",),
    "warmup_steps": ("warmup",),
}
"""Names of settings in TRL, flow_grpo, diffusers and stable-baselines3, and the last part of ours."""


def suggested_setting(given: str, known: Sequence[str]) -> str:
    """`suggestion` for a setting: those that others call so, else the most similar whole name or last part."""
    ours = SYNONYMS.get(given.strip("-").replace("-", "_"), ())
    last = lambda name: name.strip("-").replace("-", "_").rpartition(".")[2]
    if found := next((same for one in ours if (same := [name for name in known if last(name) == one])), None):
        return f"; nearest: {' or '.join(found)}"
    parts = [("--" if name.startswith("--") else "") + last(name) for name in known if "." in name]
    shown = [part.replace("_", "-") if part.startswith("--") else part for part in parts if parts.count(part) == 1]
    return suggestion(given, [*known, *shown])


def require(name: str, value: str, known: Sequence[str]) -> None:
    """ValueError that names the nearest known value where ``value`` is none of them."""
    if value not in known:
        raise ValueError(f"unknown {name} '{value}'{suggestion(value, known)} (of {', '.join(known)})")
