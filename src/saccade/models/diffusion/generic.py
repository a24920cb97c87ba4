"""Any diffusers pipeline as a velocity network, through its own ``__call__``.

The state is what a pipeline hands its scheduler's ``step`` as ``sample``, the velocity follows from the
``model_output`` beside it: guidance, signs and packing are the pipeline's. To have it, the pipeline is called for one
step with a scheduler that holds one time, with latents in place of those that it prepares; to decode, for no step at
all. Rows of one prompt and one time share a call, so that a row does not depend on the other prompts of its batch.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Never

import numpy as np
import torch
from torch import Tensor

from saccade.core import Question
from saccade.math.pixels import picture_digest
from saccade.models.diffusion.lru import Memo
from saccade.models.diffusion.schedulers import Path, first_order, holding, path_of
from saccade.random import generator


@dataclass(frozen=True)
class Family:
    """What one class of pipelines has otherwise than the others."""

    guidance: Callable[[float, str], dict[str, Any]] = lambda scale, negative: (
        {"guidance_scale": scale, "negative_prompt": negative} if scale != 1 else {"guidance_scale": 1.0}
    )
    """Arguments for a scale of guidance (1 = off) and a negative prompt."""
    guidance_of: Callable[[dict[str, Any]], float] = lambda arguments: arguments["guidance_scale"]
    """The scale that arguments stand for."""
    fixed: dict[str, Any] = field(default_factory=dict)
    """Arguments that every call takes."""
    edits: bool = False
    """Whether a prompt has a picture, which is edited."""


def _true_cfg(scale: float, negative: str) -> dict[str, Any]:
    return {"true_cfg_scale": scale, "negative_prompt": negative or " "} if scale != 1 else {"true_cfg_scale": 1.0}


_TRUE_CFG: dict[str, Any] = {"guidance": _true_cfg, "guidance_of": lambda arguments: arguments["true_cfg_scale"]}
_FROM_ZERO: dict[str, Any] = {
    "guidance": lambda scale, negative: {"guidance_scale": scale - 1.0, "negative_prompt": negative},
    "guidance_of": lambda arguments: arguments["guidance_scale"] + 1.0,
}
"""Their scale is 0 where there is no guidance."""
_UNBINNED = {"use_resolution_binning": False}


FAMILIES: dict[str, Family] = {
    "StableDiffusionPipeline": Family(),
    "StableDiffusionXLPipeline": Family(),
    "QwenImagePipeline": Family(**_TRUE_CFG),
    "QwenImageEditPipeline": Family(**_TRUE_CFG, edits=True),
    "ZImagePipeline": Family(**_FROM_ZERO),
    "SanaPipeline": Family(fixed=_UNBINNED),
    "PixArtSigmaPipeline": Family(fixed=_UNBINNED),
    "Lumina2Pipeline": Family(),
    "AuraFlowPipeline": Family(),
    "ChromaPipeline": Family(),
    "Flux2Pipeline": Family(guidance=lambda scale, negative: {"guidance_scale": scale}),
    "Flux2KleinPipeline": Family(guidance=lambda scale, negative: {"guidance_scale": scale}),
    "OvisImagePipeline": Family(),
    "Krea2Pipeline": Family(**_FROM_ZERO),
    "HunyuanImagePipeline": Family(guidance=lambda scale, negative: {}, guidance_of=lambda arguments: 1.0),
}
"""The pipelines whose samples were compared with the plain pipeline's, and what each has otherwise."""


@dataclass(frozen=True)
class PromptRows:
    """Prompts as a pipeline is called with them: one a row, for pictures of ``size`` pixels."""

    prompts: tuple[str | Question, ...]
    size: int

    def __add__(self, other: PromptRows) -> PromptRows:
        """The rows of both."""
        return PromptRows(self.prompts + other.prompts, self.size)

    def to(self, dtype: torch.dtype) -> PromptRows:
        """The same: the pipeline encodes them."""
        return self

    def split(self, rows: int) -> list[PromptRows]:
        """The same in parts of so many rows."""
        cuts = range(0, len(self.prompts), rows)
        return [PromptRows(self.prompts[i : i + rows], self.size) for i in cuts]


COUNTS = ("num_images_per_prompt", "num_videos_per_prompt")
"""What pipelines call the number of rows of a prompt."""


def pipeline_defaults(pipe: Any) -> dict[str, Any]:
    """Names and defaults of the arguments of a pipeline's call."""
    return {name: p.default for name, p in inspect.signature(type(pipe).__call__).parameters.items()}


class _Reached(Exception):
    """Ends a pipeline's call where it has what was asked for."""


@dataclass(eq=False)
class GenericPipeline:
    """A pipeline of a class in `FAMILIES`; ``text_length`` None leaves the number of tokens to the pipeline.

    ValueError, one line, for a scheduler that is not proven.
    """

    pipe: Any
    text_length: int | None
    negative: str = ""
    """The text that guidance leads away from."""
    encodings: Memo = field(default_factory=Memo, repr=False)
    """What the pipeline's encoders said of texts and pictures; pipelines with the same encoders may share it."""
    guides_itself: bool = field(default=True, init=False)
    _grids: dict[tuple[int, int], tuple[Tensor, float]] = field(default_factory=dict, init=False, repr=False)
    _shapes: dict[int, tuple[int, ...]] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        self.pipe.scheduler = first_order(self.pipe.scheduler)

    @cached_property
    def path(self) -> Path:
        """How the scheduler's samples lie on the flow."""
        return path_of(self.pipe.scheduler)

    @property
    def family(self) -> Family:
        """What its class has otherwise."""
        return FAMILIES[type(self.pipe).__name__]

    @property
    def transformer(self) -> Any:
        return self.pipe.unet if hasattr(self.pipe, "unet") else self.pipe.transformer

    @property
    def edits(self) -> bool:
        return self.family.edits

    @property
    def embedded_guidance(self) -> bool:
        return bool(self.transformer.config.get("guidance_embeds"))

    def conditioner(self) -> Callable[[Sequence[str | Question], int], PromptRows]:
        """Prompts as rows; they are encoded, and remembered, when the pipeline is called."""
        return lambda prompts, size: PromptRows(tuple(prompts), size)

    def velocity(self, x: Tensor, t_B: Tensor, cond: PromptRows, guidance: float) -> Tensor:
        """Velocity of the shape of ``x``, guided; rows of one prompt and one time are one call of the pipeline."""
        calls: dict[Any, list[int]] = {}
        for row, (prompt, t) in enumerate(zip(cond.prompts, t_B.tolist())):
            calls.setdefault((*_identity(prompt), t), []).append(row)
        parts = [
            self._velocity(x[rows], key[-1], cond.prompts[rows[0]], guidance, cond.size) for key, rows in calls.items()
        ]
        order = torch.tensor([row for rows in calls.values() for row in rows], device=x.device)
        return torch.cat(parts)[order.argsort()]

    def times(self, steps: int, size: int) -> Tensor:
        return self._grid(steps, size)[0]

    def start(self, noise: Tensor, steps: int, size: int) -> Tensor:
        """Standard normal noise as the latents of the first of ``steps`` times."""
        times, scale = self._grid(steps, size)
        return self.path.start(float(times[0]), scale) * noise

    def latent_shape(self, size: int) -> tuple[int, ...]:
        """The shape of a row of latents."""
        if size not in self._shapes:
            found: list[Tensor] = []
            self._until_reached(
                size, holding(self.pipe.scheduler, torch.ones(1), None, _unreached), lambda x: found.append(x) or _end()
            )
            self._shapes[size] = tuple(found[0].shape[1:])
        return self._shapes[size]

    def decode(self, x0: Tensor, size: int, rows: int) -> Tensor:
        """Pictures ``[B, 3, H, W]`` in [0, 1] of latents, ``rows`` at a time, by the pipeline itself."""
        return torch.cat([self._decode(part, size) for part in x0.to(self.pipe.vae.dtype).split(rows)])

    def check_size(self, size: int) -> None:
        """ValueError, one line, where the pipeline refuses the size."""
        self.latent_shape(size)

    def own_size(self) -> int:
        """Edge of the pictures that the pipeline makes where it is not told. ValueError unless they are square."""
        asked: dict[str, Any] = {}
        prepare = inspect.signature(self.pipe.prepare_latents)

        def end(*args: Any, **kwargs: Any) -> Never:
            asked.update(prepare.bind(*args, **kwargs).arguments)
            raise _Reached

        with _standing_in(self.pipe, {"prepare_latents": end}):
            self._until_reached(None, holding(self.pipe.scheduler, torch.ones(1), None, _unreached), lambda x: x)
        height, width = int(asked["height"]), int(asked["width"])
        if height != width:
            raise ValueError(f"its own pictures are {height} x {width} pixels, not square: name a size")
        return height

    def guidance_of(self, arguments: dict[str, Any]) -> float:
        return self.family.guidance_of(arguments)

    def pipeline_arguments(self, steps: int, guidance: float, size: int | None) -> dict[str, Any]:
        own = {} if self.text_length is None else {"max_sequence_length": self.text_length}
        sized = {} if size is None else {"height": size, "width": size}
        guided = self.family.guidance(guidance, self.negative)
        return {"num_inference_steps": steps} | sized | own | self.family.fixed | guided

    # -- calls of the pipeline ------------------------------------------------------------------------------

    def _velocity(self, x: Tensor, t: float, prompt: str | Question, guidance: float, size: int) -> Tensor:
        scale = self.path.scale(t)
        sample = x if scale == 1 else (x.float() * scale).to(x.dtype)
        reached: list[Tensor] = []

        def step(model_output: Tensor, timestep: Any, state: Tensor, *_: Any, **__: Any) -> Never:
            if state.shape != sample.shape:
                raise ValueError(f"a {type(self.pipe).__name__} steps from {tuple(state.shape[1:])}: it is not proven")
            reached.append(model_output)
            raise _Reached

        timestep = torch.tensor([self.path.timestep(t)], device=x.device)
        timestep = timestep.long() if self.path.whole and timestep.frac().item() == 0 else timestep
        odds = t if self.path.kind == "flow" else t / max(1 - t, 1e-12)
        held = holding(self.pipe.scheduler, timestep, torch.tensor([odds, 0.0]), step)
        with contextlib.suppress(_Reached):
            self._call(held, lambda _: sample, prompt, len(x), guidance, size)
        return self.path.velocity(x.float(), reached[0].float(), t)

    def _decode(self, x0: Tensor, size: int) -> Tensor:
        held = holding(self.pipe.scheduler, torch.zeros(0, device=x0.device), torch.zeros(1), _unreached)
        return self._call(held, lambda _: x0, self._blank(size), len(x0), 1.0, size)[0]

    def _blank(self, size: int) -> str | Question:
        """A prompt that says nothing."""
        return Question("", (np.zeros((size, size, 3), np.uint8),)) if self.family.edits else ""

    def _grid(self, steps: int, size: int) -> tuple[Tensor, float]:
        """Times for pictures of a size, and the scale that the scheduler gives to initial noise."""
        if (steps, size) not in self._grids:
            real = holding(self.pipe.scheduler, torch.ones(1), None, _unreached)
            setting = type(self.pipe.scheduler).set_timesteps

            def set_timesteps(*args: Any, **kwargs: Any) -> Never:
                setting(real, *args, **kwargs)
                raise _Reached

            vars(set_timesteps)["__wrapped__"] = self.pipe.scheduler.set_timesteps
            real.set_timesteps = set_timesteps
            self._until_reached(size, real, lambda x: x, steps)
            self._grids[steps, size] = self.path.grid(real), float(getattr(real, "init_noise_sigma", 1.0))
        return self._grids[steps, size]

    @torch.no_grad()
    def _until_reached(
        self, size: int | None, scheduler: Any, prepared: Callable[[Tensor], Tensor], steps: int = 1
    ) -> None:
        prompt = self._blank(size or 1024)
        with contextlib.suppress(_Reached):
            self._call(scheduler, prepared, prompt, 1, 1.0, size, steps)

    def _call(
        self,
        scheduler: Any,
        prepared: Callable[[Tensor], Tensor],
        prompt: str | Question,
        rows: int,
        guidance: float,
        size: int | None,
        steps: int = 1,
    ) -> Any:
        """The pipeline's call; ``prepared`` is given the latents that it would start from and returns others."""
        pipe, prepare = self.pipe, self.pipe.prepare_latents

        def prepare_latents(*args: Any, **kwargs: Any) -> Any:
            made = prepare(*args, **kwargs)
            return (prepared(made[0]), *made[1:]) if isinstance(made, tuple) else prepared(made)

        arguments = self.pipeline_arguments(steps, guidance, size) | {
            "prompt": prompt.text if isinstance(prompt, Question) else prompt,
            "generator": generator(0, "latents that others take the place of"),
            "output_type": "pt",
            "return_dict": False,
        }
        if isinstance(prompt, Question) and prompt.pictures:
            arguments["image"] = _images(prompt)
        count = next(name for name in COUNTS if name in pipeline_defaults(pipe))
        stand_ins = {"scheduler": scheduler, "prepare_latents": prepare_latents, "safety_checker": None}
        stand_ins["encode_prompt"] = self.encodings.of("encode_prompt", pipe.encode_prompt)
        encode = {"encode": self.encodings.of("vae.encode", pipe.vae.encode)}
        with _standing_in(pipe, stand_ins), _standing_in(pipe.vae, encode):
            return inspect.unwrap(type(pipe).__call__)(pipe, **arguments, **{count: rows})


@contextlib.contextmanager
def _standing_in(owner: Any, attributes: dict[str, Any]) -> Iterator[None]:
    """Within it, ``owner`` has these attributes; no class of the library is asked."""
    before = {name: vars(owner)[name] for name in attributes if name in vars(owner)}
    vars(owner).update(attributes)
    try:
        yield
    finally:
        for name in attributes:
            del vars(owner)[name]
        vars(owner).update(before)


def _identity(prompt: str | Question) -> tuple[Any, ...]:
    if isinstance(prompt, Question):
        return (prompt.text, *(picture_digest(picture) for picture in prompt.pictures))
    return (prompt,)


def _images(prompt: Question) -> Any:
    from PIL import Image

    images = [Image.fromarray(picture) for picture in prompt.pictures]
    return images[0] if len(images) == 1 else images


def _end() -> Never:
    raise _Reached


def _unreached(*_: Any, **__: Any) -> Never:
    raise ValueError("the pipeline takes a step where none was asked for: it is not proven")
