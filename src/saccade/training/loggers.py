"""Loggers that receive metrics beside the run folder: TensorBoard, trackio and Weights & Biases."""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any, Protocol

from saccade.math.pixels import to_uint8
from saccade.naming import suggestion
from saccade.training import video

NAMES = ("tensorboard", "trackio", "wandb")


class Logger(Protocol):
    """Receives the metrics and samples of a run."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Log metrics by name."""
        ...

    def images(self, step: int, name: str, items: Sequence[Mapping[str, Any]]) -> None:
        """Log samples of a set: prompt, image ``[3, H, W]`` in [0, 1], and optionally text, note, score and clip.

        A clip uint8 ``[T, H, W, 3]`` is logged as a video, in place of the image, where the service has videos.
        """
        ...

    def stage(self, name: str, folder: Path, step: int) -> Logger:
        """The logger of a stage with files in ``folder`` that continues after ``step``."""
        ...

    def finish(self) -> None:
        """End logging."""
        ...


def open_loggers(names: Sequence[str], folder: Path, config: Mapping[str, Any], step: int = 0) -> list[Logger]:
    """Open loggers by name (see ``check``) for the run in ``folder`` that continues after ``step``."""
    check(names)
    kinds = {"tensorboard": TensorBoard, "trackio": Trackio, "wandb": Wandb}
    return [kinds[name](folder, config, step) for name in names]


def check(names: Sequence[str]) -> None:
    """ValueError for an unknown name, and for a package that is not installed; nothing is opened."""
    for name in names:
        if name not in NAMES:
            near = suggestion(name.lower(), NAMES)
            raise ValueError(f"there is no logger '{name}'{near} (of {', '.join(NAMES)})")
        _package(name)


class TensorBoard:
    """Event files in ``<run>/tensorboard``; a resumed run hides events after ``step``."""

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

    def stage(self, name: str, folder: Path, step: int) -> Logger:
        return TensorBoard(folder, {"stage": name}, step)

    def finish(self) -> None:
        self._writer.close()


class Trackio:
    """A trackio run of the project "saccade", grouped by recipe; trackio has one open run per process."""

    def __init__(self, folder: Path, config: Mapping[str, Any], step: int):
        self._trackio = _package("trackio")
        self._videos: TemporaryDirectory | None = None
        self._video_count = 0
        recipe = str(config.get("recipe", "run"))
        with redirect_stdout(sys.stderr):  # trackio prints, but standard output is for results
            self._run = self._trackio.init(
                project="saccade", name=f"{recipe}-{folder.name}", group=recipe, config=dict(config), resume="allow"
            )  # fmt: skip

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def images(self, step: int, name: str, items: Sequence[Mapping[str, Any]]) -> None:
        self._run.log({f"{name}/{i:02d}": self._media(item) for i, item in enumerate(items)}, step=step)

    def _media(self, item: Mapping[str, Any]) -> Any:
        """A picture, or a clip as a GIF file, since trackio cannot encode videos without ffmpeg."""
        if item.get("clip") is None:
            return self._trackio.Image(to_uint8(item["image"]), caption=_caption(item))
        self._videos = self._videos or TemporaryDirectory()
        path = Path(self._videos.name) / f"{self._video_count:06d}.gif"
        path.write_bytes(video.gif(item["clip"]))
        self._video_count += 1
        return self._trackio.Video(path, caption=_caption(item))

    def stage(self, name: str, folder: Path, step: int) -> Logger:
        return StageLogger(self, name)

    def finish(self) -> None:
        with redirect_stdout(sys.stderr):
            self._trackio.finish()
        if self._videos:
            self._videos.cleanup()


class Wandb:
    """A Weights & Biases run of the project "saccade", grouped by recipe, with files in the run folder."""

    def __init__(self, folder: Path, config: Mapping[str, Any], step: int):
        self._wandb = _package("wandb")
        recipe = str(config.get("recipe", "run"))
        run_id = re.sub(r"[^\w.-]", "-", f"{recipe}-{folder.name}")
        self._run = self._wandb.init(
            project="saccade",
            group=recipe,
            name=folder.name,
            id=run_id,
            dir=str(folder),
            config=dict(config),
            resume="allow",
        )
        # W&B ignores data of an older step in its own counter, such as pictures after metrics or a resumed step.
        self._run.define_metric("*", step_metric="step")

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log({**values, "step": step})

    def images(self, step: int, name: str, items: Sequence[Mapping[str, Any]]) -> None:
        self._run.log({name: [self._media(item) for item in items], "step": step})

    def _media(self, item: Mapping[str, Any]) -> Any:
        if item.get("clip") is None:
            return self._wandb.Image(to_uint8(item["image"]), caption=_caption(item))
        return self._wandb.Video(io.BytesIO(video.gif(item["clip"])), caption=_caption(item), format="gif")

    def stage(self, name: str, folder: Path, step: int) -> Logger:
        return StageLogger(self, name)

    def finish(self) -> None:
        self._run.finish()


class StageLogger:
    """A stage's view of its run's logger: names begin with that of the stage."""

    def __init__(self, run_logger: Logger, name: str):
        self._run_logger, self._name = run_logger, name

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._run_logger.log(step, {f"{self._name}/{name}": value for name, value in values.items()})

    def images(self, step: int, name: str, items: Sequence[Mapping[str, Any]]) -> None:
        self._run_logger.images(step, f"{self._name}/{name}", items)

    def stage(self, name: str, folder: Path, step: int) -> Logger:
        return StageLogger(self, name)

    def finish(self) -> None:
        """Nothing: the run ends its logger."""


def _package(name: str) -> ModuleType:
    try:
        return import_module(name)
    except ImportError as error:
        raise ValueError(f"the logger {name!r} needs a package: pip install 'saccade[{name}]' ({error})") from None


def _caption(item: Mapping[str, Any]) -> str:
    score = f"{float(item['score']):.3g}" if item.get("score") is not None else None
    return " | ".join(part for part in (item["prompt"], item.get("text"), item.get("note"), score) if part)
