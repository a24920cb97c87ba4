"""Runs recipes with their networks on a device where tensors of the CPU are refused: python tests/far_worker.py NAME …

Names are those of `golden.RUNS`. Prints a line for each that ends with an error; exit status 1 if any does.
"""

from __future__ import annotations

import sys
import tempfile
import traceback
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import golden
import torch
from far import far_device

from saccade import catalog
from saccade.models import device
from saccade.training.run import Run

SHORT = {"steps": 1, "task.held_out_size": 2, "task.train_size": 8, "prompts_per_step": 2, "group": 2}


def device_of(name: str) -> str:
    return "far" if name == "auto" else name


def on_far(settings: Any) -> Any:
    """Settings whose every ``device`` is the stand-in."""
    for field in fields(settings):
        value = getattr(settings, field.name)
        if field.name == "device":
            settings = replace(settings, device="far")
        elif is_dataclass(value):
            settings = replace(settings, **{field.name: on_far(value)})
    return settings


def run(name: str) -> None:
    recipe, preset, changes = golden.RUNS[name]
    module = catalog.load(recipe)
    for loaded in list(sys.modules.values()):
        if getattr(loaded, "device_of", None) is device_of_machine:
            loaded.device_of = device_of
    short = {place: value for place, value in SHORT.items() if place in changes}
    cfg = on_far(golden.changed(module.PRESETS[preset], {**changes, **short}))
    with (
        tempfile.TemporaryDirectory() as place,
        far_device(),
        Run.start(Path(place) / "run", {"recipe": recipe}, display=False) as started,
    ):
        module.train(cfg, started)


device_of_machine = device.device_of

if __name__ == "__main__":
    torch.set_num_threads(1)
    wrong = 0
    for name in sys.argv[1:]:
        try:
            run(name)
        except Exception as error:
            cause = error.__cause__ or error
            where = [f"{Path(x.filename).name}:{x.lineno}" for x in traceback.extract_tb(cause.__traceback__)]
            own = [x for x in where if not x.startswith("far")][-6:]
            print(f"{name}: {type(cause).__name__}: {str(cause)[:200]} ({' '.join(own)})", flush=True)
            wrong += 1
    sys.exit(int(wrong > 0))
