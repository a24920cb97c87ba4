"""Models by name, folder or hub id, without a run: what kind of model it is follows from its own files."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from saccade import catalog
from saccade.api.run import TrainedRun, is_run, open_run, repeated, with_images
from saccade.core import mean_scores
from saccade.naming import suggestion
from saccade.random import seeds

Kind = Literal["pipeline", "image tokens", "vision-language", "language"]

MINIATURE = "saccade_miniature"
"""The entry of a model's config.json that names the miniature it is or was trained from."""


class Model:
    """A model that draws, edits or writes; ``name`` is a miniature's, a folder or a hub id."""

    def __init__(self, name: str):
        """ValueError for a name that is none of these."""
        self.name = str(name)
        self.kind = kind_of(self.name)

    def __repr__(self) -> str:
        return f"Model({self.name!r}, {self.kind})"

    @cached_property
    def policy(self) -> Any:
        """The model as a policy."""
        return writing_policy(self.name) if self.kind in ("language", "vision-language") else drawing_policy(self.name)

    def sample(self, prompts: str | Sequence[str], seed: int = 0, count: int = 1) -> list[dict[str, Any]]:
        """What it makes of prompts: ``count`` items each, with prompt, and image or text.

        A prompt of an editor or a vision-language model may begin with picture files.
        """
        from saccade.core import Problem
        from saccade.worlds.questions.task import question_of

        listed = repeated(prompts, count)
        shown = self.kind == "vision-language" or (self.kind != "language" and edits(self.policy))
        problems = [Problem(i, question_of(prompt) if shown else prompt) for i, prompt in enumerate(listed)]
        writes = self.kind in ("language", "vision-language")
        policy = self.policy if writes else self.policy.greedy()
        made = policy.rollout(problems, seeds(seed, len(listed), "samples")).outputs
        if writes:
            return [{"prompt": prompt, "text": text} for prompt, text in zip(listed, made)]
        return with_images([{"prompt": prompt, "image": image} for prompt, image in zip(listed, made)])

    def evaluate(self) -> dict[str, float]:
        """Its scores on the held-out problems of an embedded world.

        A model that says in its config.json which miniature it is, or was trained from, is scored as that miniature is;
        else one that draws on scenes of shapes, an editor on edits of them, a vision-language model on questions about
        them. ValueError for any other.
        """
        place = _place(self.name)
        builder = builder_of(str(_config(place).get(MINIATURE, "")))
        if builder and hasattr(builder, "evaluate"):
            return dict(builder.evaluate(place))
        if self.kind == "language":
            raise ValueError(
                f"{self.name} is a language model, and its config.json names no {MINIATURE}, so there is nothing to"
                " evaluate it on; evaluate the run that trained it"
            )
        if self.kind == "vision-language":
            from saccade.worlds.questions.task import AnsweringTask

            return mean_scores(AnsweringTask().score(self.policy.greedy().rollout))
        return drawing_scores(self.policy)


def open_model(name: str | Path) -> Model:
    """A model by the name of a miniature, its folder or a hub id. ValueError for anything else."""
    return Model(str(name))


def open_path(path: str, recipe: str = "", trust: bool = False) -> TrainedRun | Model:
    """The run or the model that a path names; ``recipe`` and ``trust`` as in `open_run`. ValueError if a model is given
    them.
    """
    if is_run(path):
        return open_run(path, recipe=recipe, trust=trust)
    if recipe or trust:
        raise ValueError(f"{path} is no run: it names no recipe and no code")
    return Model(path)


def kind_of(name: str) -> Kind:
    """What kind of model it is, by model_index.json and config.json; a hub id is taken for a pipeline.

    ValueError for a folder that holds neither, and for a name that is neither a run, a miniature nor a hub id.
    """
    from saccade.models.loading import miniatures

    place = _place(name)
    if not place.is_dir():
        if "/" not in name:
            raise ValueError(f"'{name}' is no run, model folder or miniature{suggestion(name, miniatures())}")
        return "pipeline"
    if (place / "model_index.json").is_file():
        return "pipeline"
    if not (place / "config.json").is_file():
        raise ValueError(f"{name} is neither a run nor a model: it holds no config.json and no model_index.json")
    config = _config(place)
    if config.get("model_type") == "janus":
        return "image tokens"
    return "vision-language" if "vision_config" in config else "language"


def drawing_policy(name: str, **options: Any) -> Any:
    """A policy that draws: a FlowPolicy over a diffusers pipeline, or an ImageTokenPolicy over a Janus model.

    ``options`` are fields of FlowModel or ImageTokenModel. The size of pictures is the one that the pipeline was made
    for, where its folder tells it.
    """
    from saccade.policies import flow, image_tokens

    if kind_of(name) == "image tokens":
        return image_tokens.build_image_token_policy(image_tokens.ImageTokenModel(name=name, **options))
    chosen: dict[str, Any] = {**native(_place(name)), **options}
    return flow.build_flow_policy(flow.FlowModel(name=name, **chosen), stochastic=())


def writing_policy(name: str, max_new_tokens: int = 128) -> Any:
    """A TokenPolicy over a language model that answers a user's message, with pictures where it takes them."""
    from saccade.models.language.model import load_language_model
    from saccade.policies.tokens import TokenPolicy, inputs_as_prompt

    plain = lambda problem: [{"role": "user", "content": str(problem.inputs)}]
    prompt = inputs_as_prompt if kind_of(name) == "vision-language" else plain
    return TokenPolicy(load_language_model(name), [], prompt=prompt, max_new_tokens=max_new_tokens)


def edits(policy: Any) -> bool:
    """Whether a model that draws can be given a picture to edit."""
    from saccade.policies.flow import FlowPolicy

    return isinstance(policy, FlowPolicy) and policy.backbone.edits


def drawing_scores(policy: Any) -> dict[str, float]:
    """Scores of pictures of held-out shapes by wording and by tag; of an editor, scores of held-out edits."""
    from saccade.worlds.edits.task import EditingTask
    from saccade.worlds.shapes.task import DrawingTask

    sampler = policy.greedy().rollout
    return mean_scores(EditingTask().score(sampler) if edits(policy) else DrawingTask().score_by_tag(sampler))


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


def builders() -> dict[str, str]:
    """The miniatures that can be built, by the names that their files in builders/ begin with, and their modules."""
    root = catalog.PACKAGE / "builders"
    files = sorted([*root.glob("[a-z]*.py"), *root.glob("*/build.py")])
    module = lambda file: ".".join(file.relative_to(root).with_suffix("").parts)
    return {file.read_text(encoding="utf-8").split("`")[1]: module(file) for file in files}


def builder_of(miniature: str) -> ModuleType | None:
    """The module that builds a miniature, None if there is none of that name."""
    module = builders().get(miniature)
    return import_module(f"saccade.builders.{module}") if module else None


def _place(name: str) -> Path:
    from saccade.models.loading import locate

    return Path(locate(name))


def _config(folder: Path) -> dict[str, Any]:
    return _read(folder / "config.json")


def _read(file: Path) -> dict[str, Any]:
    from saccade.training import files

    try:
        return files.read(file, "a config")
    except (OSError, ValueError):
        return {}
