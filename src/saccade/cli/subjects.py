"""What a path on the command line names: a run with its recipe and trained policies, or a model that draws or
writes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from saccade import catalog
from saccade.cli.settings import revive
from saccade.naming import nearest


@dataclass(frozen=True)
class TrainedRun:
    """A run's recipe, its settings, and its policies with the weights of the newest checkpoint."""

    recipe: ModuleType
    settings: Any
    policies: Mapping[str, Any]


def is_run(path: str) -> bool:
    """Whether a folder is a run's, or its ``best`` (rather than a model's, which has a config.json too)."""
    return "settings" in _config(_run_of(path)[0])


def _run_of(path: str) -> tuple[Path, str]:
    """The folder of a run, and which of its checkpoints are meant: "RUN/best" names those that --keep-best kept."""
    folder = Path(path)
    meant = folder.name == "best" and not (folder / "config.json").is_file()
    return (folder.parent, "best") if meant else (folder, "checkpoints")


def recipe_of(config: Mapping[str, Any]) -> ModuleType:
    """The recipe that a run's config.json names."""
    return catalog.load(str(config.get("file") or config["recipe"]))


def settings_of(recipe: ModuleType, config: Mapping[str, Any], place: object) -> Any:
    """The settings that a run was started with. ValueError if the recipe has other ones by now."""
    template = recipe.PRESETS.get(config.get("preset")) or next(iter(recipe.PRESETS.values()))
    return revive(template, config["settings"], f"the run in {place}")


def open_run(path: str) -> TrainedRun:
    """A run as it was at its newest whole checkpoint, or RUN/best. ValueError if it is no run or has saved nothing
    yet.
    """
    from saccade.training import checkpoint
    from saccade.training import folder as on_disk

    run, kind = _run_of(path)
    config = on_disk.config(run)
    if "settings" not in config:
        raise ValueError(f"{path} is not a run")
    recipe = recipe_of(config)
    settings = settings_of(recipe, config, path)
    places = [run / kind, *sorted(run.glob(f"*/{kind}"), key=lambda p: -p.stat().st_mtime)]
    saved = next((found for place in places if (found := checkpoint.latest(place))), None)
    if saved is None:
        none = (
            "has no checkpoint yet" if kind == "checkpoints" else "kept no best checkpoint, as --keep-best SCORE would"
        )
        raise ValueError(f"the run in {run} {none}")
    _, state = checkpoint.read(saved)
    policies = recipe.policies(settings)
    for name, policy in policies.items():
        if name not in state:
            raise ValueError(f"{saved} holds no '{name}'; it holds {', '.join(sorted(state))}")
        # Where weights are averaged, it is the average that was evaluated and is meant.
        policy.load_state_dict(state["average"] if name == "policy" and "average" in state else state[name])
    return TrainedRun(recipe, settings, policies)


def draws(name: str) -> bool:
    """Whether a model is a diffusers pipeline or writes pictures (else words); a hub id is taken for a pipeline."""
    from saccade.models.loading import locate, miniatures

    place = Path(locate(name))
    if not place.is_dir() and "/" not in name:
        raise ValueError(f"'{name}' is no run, model folder or miniature; nearest: {nearest(name, miniatures())}")
    if place.is_dir() and not any((place / file).is_file() for file in ("config.json", "model_index.json")):
        raise ValueError(f"{name} is neither a run nor a model: it holds no config.json and no model_index.json")
    if _config(place).get("model_type") == "janus":
        return True
    return not place.is_dir() or (place / "model_index.json").is_file() or not (place / "config.json").is_file()


def drawing_policy(name: str, **options: Any) -> Any:
    """A policy that draws by name, folder or hub id: a FlowPolicy over a diffusers pipeline, or one over a Janus model.

    ``options`` are fields of FlowModel or ImageTokenModel. The size of pictures is the one that the pipeline was made
    for, where its folder tells it.
    """
    from saccade.models.loading import locate
    from saccade.policies import flow, image_tokens

    if _config(Path(locate(name))).get("model_type") == "janus":
        return image_tokens.build_image_token_policy(image_tokens.ImageTokenModel(name=name, **options))
    made_for = {key: value for key, value in native(Path(locate(name))).items() if key not in options}
    return flow.build_flow_policy(flow.FlowModel(name=name, **options, **made_for), stochastic=())


def edits(policy: Any) -> bool:
    """Whether a model that draws can be shown a picture that it shall edit."""
    from saccade.models.loading import EDITING_PIPELINES
    from saccade.policies.flow import FlowPolicy

    return isinstance(policy, FlowPolicy) and type(policy.backbone.pipe).__name__ in EDITING_PIPELINES


def native(folder: Path) -> dict[str, int]:
    """Size of the pictures that a pipeline was made for, and T5 tokens of a prompt if it has a T5; {} if unknown."""
    if call := _read(folder / "sampling.json"):
        return {"size": call["height"], "text_length": call["max_sequence_length"]}
    edge = _config(folder / "transformer").get("sample_size")
    levels = _config(folder / "vae").get("block_out_channels")
    if not edge or not levels:
        return {}
    return {"size": edge * 2 ** (len(levels) - 1)} | (
        {"text_length": 256} if (folder / "text_encoder_3").is_dir() else {}
    )


def writing_policy(name: str) -> Any:
    """A TokenPolicy over a language model that rewrites prompts as the miniature was taught to."""
    from saccade.builders.qwen2_rewriter import as_messages
    from saccade.models.language.model import load_language_model
    from saccade.policies.tokens import TokenPolicy

    return TokenPolicy(
        load_language_model(name), [], prompt=lambda problem: as_messages(problem.inputs), max_new_tokens=40
    )


def _config(folder: Path) -> dict[str, Any]:
    return _read(folder / "config.json")


def _read(file: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(file.read_text()))
    except (OSError, ValueError, TypeError):
        return {}
