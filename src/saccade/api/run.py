"""A run as a handle: its figures, its samples, and what its trained models can do."""

from __future__ import annotations

import shlex
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from saccade import catalog
from saccade.api import cards, hub
from saccade.api.training import outside, settings_of, with_functions
from saccade.catalog import Recipe
from saccade.random import seeds


class TrainedRun:
    """The run in ``folder``, at its newest checkpoint, or the best one where ``checkpoints`` is "best".

    ``recipe`` is the recipe's module, ``settings`` are those of the run, ``settled`` says whether training ended early
    because ``patience`` evaluations brought no better score.
    """

    def __init__(
        self, folder: Path, recipe: Recipe, settings: Any, checkpoints: str = "checkpoints", settled: bool = False
    ):
        """Made by ``open_run`` and by training."""
        self.folder, self.recipe, self.settings, self.settled = folder, recipe, settings, settled
        self._checkpoints = checkpoints

    def __repr__(self) -> str:
        state = f"{self.result['steps']} steps" if self.result else "not finished"
        return f"TrainedRun({str(self.folder)!r}, {self.config['recipe']}, {state})"

    @property
    def config(self) -> dict[str, Any]:
        """Recipe, preset, settings, seed, versions, commit, machine and times, as config.json has them."""
        from saccade.training import folder as on_disk

        return on_disk.config(self.folder)

    @property
    def result(self) -> dict[str, Any] | None:
        """Run, steps, seconds and the scores before and after training; None while the run is not finished."""
        from saccade.training import folder as on_disk

        return on_disk.result(self.folder)

    def metrics(self, stage: str = "") -> list[dict[str, Any]]:
        """Every line of metrics: step, time in seconds, and values by name (``reward/…``, ``loss/…``, ``eval/…``).

        ``stage`` names a stage of the run in place of the run itself. ``pandas.DataFrame(run.metrics())`` is a table.
        """
        from saccade.training import files

        return files.records(self._stage(stage) / "metrics.jsonl")

    def samples(self, stage: str = "") -> list[dict[str, Any]]:
        """Every logged sample: step, set, prompt and, where there are, score, text, and paths of pictures."""
        from saccade.training import files

        folder = self._stage(stage).resolve()
        absolute = lambda item: {
            k: folder / v if k in ("image", "source", "target", "clip") else v for k, v in item.items()
        }
        lines = files.records(folder / "samples.jsonl")
        return [
            {"step": line["step"], "set": line["set"], **absolute(item)} for line in lines for item in line["items"]
        ]

    @cached_property
    def policies(self) -> Mapping[str, Any]:
        """The trained models by name, with the weights of the checkpoint. ValueError if nothing was saved yet."""
        from saccade.training import checkpoint

        saved = self._checkpoint()
        _, state = checkpoint.read(saved)
        policies = self.recipe.policies(self.settings)
        for name, policy in policies.items():
            if name not in state:
                raise ValueError(f"{saved} holds no '{name}'; it holds {', '.join(sorted(state))}")
            # Where weights are averaged, the average was evaluated, so it is what is sampled and exported.
            average = next((each for each in ("ema", "average") if each in state), None)
            policy.load_state_dict(state[average] if name == "policy" and average else state[name])
        return policies

    def sample(
        self, prompts: str | Sequence[str], seed: int = 0, count: int = 1, without: Sequence[str] = ()
    ) -> list[dict]:
        """What the trained models make of prompts: ``count`` items each, with prompt, and image or text, or both.

        An image is one of Pillow's. The same ``seed`` gives the same items. ``without`` names models to leave out, such
        as "rewriter". ValueError for a prompt that does not fit.
        """
        listed = repeated(prompts, count)
        absent = [name for name in without if name not in self.policies]
        if absent:
            raise ValueError(f"the run in {self.folder} has no {absent[0]}; it has {', '.join(self.policies)}")
        used = {name: policy for name, policy in self.policies.items() if name not in without}
        return with_images(self.recipe.sample(self.settings, used, listed, seeds(seed, len(listed), "samples")))

    def evaluate(self) -> dict[str, float]:
        """The scores of the trained models on held-out problems, with the standard errors of means over problems."""
        from saccade.core import mean_scores

        return mean_scores(self.recipe.evaluate(self.settings, self.policies))

    def export(self, folder: str | Path, lora: bool = False) -> Path:
        """Write the trained models as plain diffusers and transformers folders, LoRA folded in, and return ``folder``.

        One model is written to the folder itself, several to a folder each, with a README that says how to load it.
        ``lora`` writes the adapters alone: ``pytorch_lora_weights.safetensors`` of diffusers, an adapter of peft.
        ValueError if the folder holds anything, and for ``lora`` where all weights of a model were trained.
        """
        target = Path(folder)
        if target.exists() and (not target.is_dir() or any(target.iterdir())):
            raise ValueError(f"{target} exists and is not empty: name a new folder")
        for name, place in self.exported(target).items():
            policy = self.policies[name]
            if lora and not hasattr(policy, "export_lora"):
                raise ValueError(f"'{name}' has no LoRA: export without --lora")
            place.mkdir(parents=True, exist_ok=True)
            base = policy.export_lora(place) if lora else policy.export(place) or ""
            (place / "README.md").write_text(self._card(place, str(place), base), encoding="utf-8")
        return target

    def exported(self, folder: str | Path) -> dict[str, Path]:
        """Where ``export`` writes each model."""
        alone = len(self.policies) == 1
        return {name: Path(folder) if alone else Path(folder) / name for name in self.policies}

    def push_to_hub(self, repository: str, private: bool = False) -> str:
        """Upload what ``export`` writes, with a model card, to a repository ("owner/name") of the Hugging Face hub.

        Returns its address.
        """
        with tempfile.TemporaryDirectory() as scratch:
            folder = self.export(Path(scratch) / "model")
            for place in self.exported(folder).values():
                inside = place.relative_to(folder).as_posix().strip(".")
                (place / "README.md").write_text(self._card(place, f"{repository}/{inside}".strip("/")), "utf-8")
            return hub.upload(folder, repository, private)

    def report(self, out: str | Path | None = None) -> Path:
        """Write the run's HTML page, RUN/report.html if not told otherwise, and return its path."""
        from saccade.api.comparing import report

        return report([self.folder], Path(out) if out else self.folder / "report.html")

    def _stage(self, name: str) -> Path:
        folder = self.folder / name
        if name and not (folder / "config.json").is_file():
            stages = [path.parent.name for path in self.folder.glob("*/config.json")]
            raise ValueError(f"the run in {self.folder} has no stage '{name}'; it has {', '.join(stages) or 'none'}")
        return folder

    def _checkpoint(self) -> Path:
        """The newest whole checkpoint of the run or, before it has one, of its latest stage."""
        from saccade.training import checkpoint

        kind = self._checkpoints
        stages = sorted(self.folder.glob(f"*/{kind}"), key=lambda path: -path.stat().st_mtime)
        found = next((path for place in (self.folder / kind, *stages) if (path := checkpoint.latest(place))), None)
        if found is None and kind == "best":
            raise ValueError(f"the run in {self.folder} kept no best checkpoint, as --keep-best SCORE would")
        if found is None:
            raise ValueError(f"the run in {self.folder} has no checkpoint yet")
        return found

    def _card(self, folder: Path, place: str, base: str = "") -> str:
        """The README.md of a model that was exported to ``folder`` and is loaded from ``place``, onto a ``base``."""
        notes = catalog.head(Path(self.recipe.__file__))  # pyrefly: ignore[missing-attribute]
        return cards.card(
            place.rpartition("/")[2],
            f"{notes['title']}.\n\nTrained by the recipe `{self.config['recipe']}` of Saccade. {notes['idea']}",
            cards.usage(folder, place, base),
            (self.result or {}).get("after") or {},
            self.config["settings"],
        )


def open_run(
    path: str | Path, functions: Sequence[Callable] = (), recipe: str | Path = "", trust: bool = False
) -> TrainedRun:
    """The run in a folder, finished or not, at its newest checkpoint; "RUN/best" is the one that ``keep_best`` kept.

    ``functions`` are those among the run's rewards, which a folder cannot keep; only ``evaluate`` needs them. Python
    files that the folder names (a recipe, rewards) are not executed unless asked for: ``recipe`` is the recipe's file,
    ``trust`` runs those that it names outside of itself. ValueError if it is no run, if its recipe has other settings
    now, or for a recipe file that was not asked for.
    """
    from saccade.training import folder as on_disk

    folder = Path(path)
    best = folder.name == "best" and not (folder / "config.json").is_file()
    folder = folder.parent if best else folder
    config = on_disk.config(folder)
    if "settings" not in config:
        raise ValueError(f"{path} is not a run")
    module = catalog.load(str(recipe) or _named_recipe(config, folder, trust))
    settings = settings_of(module, config, folder, trust)
    settings = with_functions(settings, functions) if functions else settings
    return TrainedRun(folder, module, settings, "best" if best else "checkpoints")


def _named_recipe(config: Mapping[str, Any], folder: Path, trust: bool) -> str:
    """The recipe that a folder names. ValueError for a file, unless it is trusted and lies elsewhere."""
    name = str(config.get("file") or config.get("recipe") or "")
    if not name.endswith(".py"):
        return name
    if not trust:
        raise ValueError(
            f"the run in {folder} was trained by the recipe {name}, which is executed only if you ask for it: add"
            f" --recipe {shlex.quote(name)} (in Python recipe=…)"
        )
    return str(outside(Path(name), folder))


def is_run(path: str | Path) -> bool:
    """Whether a folder is a run's, or its ``best`` (rather than a model's, which has a config.json too)."""
    folder = Path(path)
    file = folder / "config.json"
    file = file if file.is_file() or folder.name != "best" else folder.parent / "config.json"
    from saccade.training import files

    try:
        return "settings" in files.read(file, "a config")
    except (OSError, ValueError):
        return False


def with_images(items: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Items whose images are Pillow's."""
    from saccade.api.pictures import as_image

    shown = lambda item: {"image": as_image(item["image"])} if item.get("image") is not None else {}
    return [{**item, **shown(item)} for item in items]


def repeated(prompts: str | Sequence[str], count: int) -> list[str]:
    """Each prompt ``count`` times. ValueError where this is none."""
    if count < 1:
        raise ValueError(f"count must be 1 or more, not {count}")
    listed = [prompts] if isinstance(prompts, str) else list(prompts)
    if not listed:
        raise ValueError("no prompts to sample from")
    return [prompt for prompt in listed for _ in range(count)]
