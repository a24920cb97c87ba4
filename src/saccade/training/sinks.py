"""Where metrics also go, on demand: TensorBoard, trackio, Weights & Biases, behind three verbs."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

from torch import Tensor

NAMES = ("tensorboard", "trackio", "wandb")


class Sink(Protocol):
    """Receives what a run logs; ``items`` are dicts with prompt, image [3, H, W] in [0, 1], text?, score?."""

    def log(self, step: int, values: Mapping[str, float]) -> None: ...

    def images(self, step: int, name: str, items: Sequence[Mapping[str, Any]]) -> None: ...

    def finish(self) -> None: ...


def open_sinks(names: Sequence[str], folder: Path, config: Mapping[str, Any], step: int = 0) -> list[Sink]:
    """Open sinks by name (see ``check``) for the run in ``folder`` that continues after ``step``."""
    check(names)
    kinds = {"tensorboard": TensorBoard, "trackio": Trackio, "wandb": Wandb}
    return [kinds[name](folder, config, step) for name in names]


def check(names: Sequence[str]) -> None:
    """A name that is unknown, or whose package is not installed, is a ValueError; nothing is opened."""
    for name in names:
        if name not in NAMES:
            near = difflib.get_close_matches(name.lower(), NAMES, n=1, cutoff=0)[0]
            raise ValueError(f"there is no sink {name!r}; the nearest is {near!r} (of {', '.join(NAMES)})")
        _package(name)


class TensorBoard:
    """Event files in ``<run>/tensorboard``; what lies beyond ``step`` is hidden when a run is resumed."""

    def __init__(self, folder: Path, config: Mapping[str, Any], step: int):
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1 if step else None)
        if not step:
            self._writer.add_text("config", "\n".join(f"    {k}: {v}" for k, v in config.items()))

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def images(self, step: int, name: str, items: Sequence[Mapping[str, Any]]) -> None:
        for i, item in enumerate(items):
            self._writer.add_image(f"{name}/{i:02d}", item["image"].detach().float().cpu().clamp(0, 1), step)
        self._writer.add_text(name, "\n\n".join(_caption(item) for item in items), step)

    def finish(self) -> None:
        self._writer.close()


class Trackio:
    """A trackio run of the project "saccade", grouped by recipe."""

    def __init__(self, folder: Path, config: Mapping[str, Any], step: int):
        self._trackio = _package("trackio")
        recipe, name = _identity(folder, config)
        resume = "allow" if step else "never"
        self._run = self._trackio.init(project="saccade", name=name, group=recipe, config=dict(config), resume=resume)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def images(self, step: int, name: str, items: Sequence[Mapping[str, Any]]) -> None:
        pictures = {f"{name}/{i:02d}": self._trackio.Image(_array(x["image"]), caption=_caption(x)) for i, x in enumerate(items)}
        self._run.log(pictures, step=step)

    def finish(self) -> None:
        self._run.finish()


class Wandb:
    """A Weights & Biases run of the project "saccade", grouped by recipe; files lie in the run folder."""

    def __init__(self, folder: Path, config: Mapping[str, Any], step: int):
        self._wandb = _package("wandb")
        recipe, name = _identity(folder, config)
        same = re.sub(r"[^\w.-]", "-", f"{recipe}-{name}")
        self._run = self._wandb.init(
            project="saccade", group=recipe, name=name, id=same, dir=str(folder), config=dict(config),
            resume="allow", reinit="create_new",  # a stage is a run beside the one that it is part of
        )  # fmt: skip
        # W&B drops what comes with an older step of its own counter: pictures after metrics, or a resumed step.
        self._run.define_metric("*", step_metric="step")

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log({**values, "step": step})

    def images(self, step: int, name: str, items: Sequence[Mapping[str, Any]]) -> None:
        pictures = [self._wandb.Image(_array(item["image"]), caption=_caption(item)) for item in items]
        self._run.log({name: pictures, "step": step})

    def finish(self) -> None:
        self._run.finish()


def _package(name: str) -> ModuleType:
    try:
        return import_module(name)
    except ImportError:
        raise ValueError(f"the sink {name!r} needs a package: pip install 'saccade[{name}]'") from None


def _identity(folder: Path, config: Mapping[str, Any]) -> tuple[str, str]:
    """The recipe, and the run's name beneath it (with the stage, if it is one)."""
    stage = config.get("stage")
    return str(config.get("recipe", "run")), f"{folder.parent.name}-{stage}" if stage else folder.name


def _array(image: Tensor) -> Any:
    return (image.detach().float().cpu().clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()


def _caption(item: Mapping[str, Any]) -> str:
    score = f"{float(item['score']):.3g}" if item.get("score") is not None else None
    return " | ".join(part for part in (item["prompt"], item.get("text"), score) if part)
