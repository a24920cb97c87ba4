"""Changes of a recipe's settings by dotted names, with short ones for the shared groups."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

SHORT = {
    "steps": "schedule.steps",
    "evaluate_every": "schedule.evaluate_every",
    "save_every": "schedule.save_every",
    "prompts_per_step": "batch.prompts_per_step",
    "group_size": "batch.group_size",
    "minibatches": "batch.minibatches",
    "lr": "optim.lr",
    "warmup": "optim.warmup",
}


def changed(settings: Any, **changes: Any) -> Any:
    """Settings with fields changed: ``steps=2``, ``model=…``, ``grpo__beta=0.0``. TypeError for an unknown field."""
    for name, value in changes.items():
        own = name if hasattr(settings, name) else SHORT.get(name, name.replace("__", "."))
        group, _, field = own.partition(".")
        settings = replace(settings, **{group: replace(getattr(settings, group), **{field: value}) if field else value})
    return settings
