"""Denoising as decisions: a policy over the velocity network of a diffusers pipeline.

The state is (x_t, t, prompt), the action x_t'. Steps in ``stochastic`` sample x_t' from a Gaussian kernel and are
stored with their log-probabilities; all other steps follow the ODE and are not stored. A window of steps
(Flow-GRPO-Fast, MixGRPO) is a choice of ``stochastic``. A few-step generator is a policy with few ``steps``; `unroll`
repeats its sampling with gradients.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from saccade.core import Likelihood, Problem, Question, Rollout
from saccade.math.flow import flow_kernel, guided, kernel_logp, ode, to_data
from saccade.models.adapters import fingerprint, load_weights, lora_adapter, merged, trainable, weights
from saccade.models.checkpointing import checkpointed_block
from saccade.models.device import device_of
from saccade.models.diffusion.pipelines import Backbone, Conditioning, Prompt, load_backbone, own_settings
from saccade.models.sharding import shard
from saccade.policies.flow_network import Network
from saccade.policies.flow_presets import FlowModel
from saccade.random import noise, stream


def inputs_as_prompt(problem: Problem) -> Prompt:
    """The prompt of a problem: its inputs, as text unless they are a `Question` with a picture."""
    return problem.inputs if isinstance(problem.inputs, Question) else str(problem.inputs)


@dataclass(eq=False)
class FlowPolicy:
    """Generates pictures ``[B, 3, size, size]`` from prompts, or edits the picture of each prompt.

    With ``one_call`` and ``merge`` off, float32 replay is exact to the bit; with them it agrees within rounding.
    ValueError for a size or a number of steps that the checkpoint cannot sample.
    """

    backbone: Backbone
    trained: list[nn.Parameter]
    """Weights that an optimizer changes."""
    size: int
    """Edge of a picture in pixels."""
    steps: int = 10
    """Denoising steps of a picture."""
    guidance: float = 4.5
    """Scale of classifier-free guidance (1 = off), or the embedded guidance of a guidance-distilled network."""
    kernel: str = "flow_sde"
    """Transition of stochastic steps, a name that `flow_kernel` knows."""
    noise: float = 0.7
    """Noise scale of the kernel."""
    stochastic: tuple[int, ...] = tuple(range(9))
    """Numbers of the steps that are sampled from the kernel and stored; step 0 begins at pure noise."""
    reduce: str = "mean"
    """Log-probability of a step: the mean or the sum over the latent's elements."""
    grad_through_uncond: bool = False
    """Differentiate the unconditional velocity in guidance (DDPO) instead of detaching it."""
    one_call: bool = True
    """Evaluate the conditional and the unconditional velocity in one call of the network."""
    merge: bool = True
    """Fold LoRA into the weights and fuse feed-forward layers where no gradients are needed."""
    fold_trained: bool = False
    """Fold LoRA into the weights where gradients are needed, too."""
    reuse_uncond: bool = False
    """Take unconditional velocities from sampling in `likelihood` even after the weights have changed, when they are
    outdated by the optimizer steps taken. While the weights are those of sampling they are taken anyway.
    """
    forward_batch_size: int = 64
    """Largest number of rows in a call of the network without gradients."""
    precision: torch.dtype = torch.float32
    prompt: Callable[[Problem], Prompt] = inputs_as_prompt
    prompt_cache: Any = field(default=None, repr=False)
    """Conditioning of the prompts encoded so far; policies with the same text encoders may share it."""
    network: Network = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.backbone.check_size(self.size)
        if self.steps < 1:
            raise ValueError(f"a picture takes 1 denoising step or more, not {self.steps}")
        outside = [i for i in self.stochastic if not 0 <= i < self.steps]
        if outside:
            raise ValueError(
                f"stochastic step {outside[0]} is not one of the {self.steps} steps (0 to {self.steps - 1})"
            )
        limit = 1.0 if self.kernel == "cps" else math.inf
        if not 0 < self.noise <= limit or math.isinf(self.noise):
            raise ValueError(
                f"noise {self.noise} of kernel {self.kernel} is not above 0{' and at most 1' if limit == 1 else ''}: "
                "without noise a step has no log-probability"
            )
        if not (self.times.diff() < 0).all():
            raise ValueError(f"the scheduler's times do not fall in each of {self.steps} steps: take fewer")
        if self.grad_through_uncond and self.reuse_uncond:
            raise ValueError("reuse_uncond has no gradient, but grad_through_uncond asks for one")
        self.prompt_cache = self.prompt_cache or self.backbone.conditioner()
        self.network = Network(
            self.backbone,
            self.prompt_cache,
            self.size,
            self.precision,
            self.one_call,
            self.merge,
            self.fold_trained,
            self.forward_batch_size,
        )

    # -- sampling -------------------------------------------------------------------------------------------

    @torch.no_grad()
    def rollout(self, problems: Sequence[Problem], seeds_B: Tensor, stochastic: Sequence[int] | None = None) -> Rollout:
        """One picture of each problem; ``stochastic`` replaces the policy's choice of stochastic steps."""
        chosen = sorted(self.stochastic if stochastic is None else stochastic)
        stored: list[dict[str, Tensor]] = []
        x0 = self._denoise(self._start(seeds_B), range(self.steps), problems, seeds_B, chosen, stored)
        return self._rollout(problems, seeds_B, chosen, stored, x0)

    def greedy(self) -> FlowPolicy:
        """The same policy, sampling as the checkpoint's scheduler does: how the model is used and evaluated.

        It follows the ODE, so that only the initial latent is random, or, where the scheduler samples stochastically
        (few-step generators), predicts x0 and adds noise up to the next time.
        """
        if not self.renoises:
            return replace(self, stochastic=())
        return replace(self, kernel="renoise", stochastic=tuple(range(self.steps - 1)))

    def unroll(self, problems: Sequence[Problem], seeds_B: Tensor, grad_steps: int | None = None) -> Tensor:
        """The latents x0 ``[B, C, h, w]`` of `rollout`, from the same seeds, as functions of the weights.

        Gradients flow through the last ``grad_steps`` steps (None: all) and through conditional and unconditional
        velocities. ValueError unless ``grad_steps`` is between 1 and ``steps``.
        """
        grad_steps = self.steps if grad_steps is None else grad_steps
        if not 1 <= grad_steps <= self.steps:
            raise ValueError(f"gradients cannot go through {grad_steps} of {self.steps} steps")
        first = self.steps - grad_steps
        with torch.no_grad():
            x = self._denoise(self._start(seeds_B), range(first), problems, seeds_B, self.stochastic)
        return self._denoise(x, range(first, self.steps), problems, seeds_B, self.stochastic)

    def predict_x0_at(self, problems: Sequence[Problem], seeds_B: Tensor, step_B: Tensor) -> Tensor:
        """The x0 ``[B, C, h, w]`` that each row predicts at its step of ``step_B``, with gradients through that step.

        All rows are denoised to the last step, so that networks sharded over processes are called equally often.
        """
        visited: list[Tensor] = []
        with torch.no_grad():
            last = self._denoise(
                self._start(seeds_B),
                range(self.steps - 1),
                problems,
                seeds_B,
                self.stochastic,
                visited=visited,
            )
            x = torch.stack([*visited, last])[step_B, torch.arange(len(step_B))]
        t_B = self.times[step_B].to(x.device)
        return to_data(x, self.velocity(x, t_B, problems, self.guidance, grad_through_uncond=True), t_B)

    def _denoise(
        self,
        x: Tensor,
        steps: range,
        problems: Sequence[Problem],
        seeds_B: Tensor,
        stochastic: Sequence[int],
        stored: list[dict[str, Tensor]] | None = None,
        visited: list[Tensor] | None = None,
    ) -> Tensor:
        """The latents after ``steps``.

        Appends stochastic steps to ``stored`` and the latents before each step to ``visited`` where these are given.
        """
        if not steps:
            return x
        times = self.times.to(x.device)
        kernel = flow_kernel(self.kernel, self.noise, times)
        cond, uncond = self._conditioning(problems, self.guidance)

        def denoised(x: Tensor, i: int) -> Tensor:
            t, t_next = times[i].expand(len(x)), times[i + 1].expand(len(x))
            v_cond, v_uncond = self.network.cond_uncond_velocity(
                x, t, cond, uncond, self.guidance, grad_through_uncond=True
            )
            v = guided(v_cond, v_uncond, self.guidance)
            if i not in stochastic:
                return ode(x, v, t, t_next)[0]
            mean, std = kernel(x, v, t, t_next)
            x_next = mean + std * self.latent_noise(seeds_B, "denoising", i)
            if stored is not None:
                logp, _ = kernel_logp(self.kernel, x_next, mean, std, x.dim() - 1, self.reduce)
                stored.append({"x": x, "next_x": x_next, "logp": logp})
                if v_uncond is not None and not self.grad_through_uncond:
                    stored[-1]["uncond"] = v_uncond
            return x_next

        # Stored steps are evaluated as the update will; the steps around them take the fastest form of the network.
        is_stored = lambda i: self.network.rounds and stored is not None and i in stochastic
        for as_trained, stretch in groupby(steps, is_stored):
            with self.network.optimized(as_trained):
                for i in stretch:
                    if visited is not None:
                        visited.append(x)
                    x = denoised(x, i)
        return x

    def latent_noise(self, seeds_B: Tensor, *name: str | int) -> Tensor:
        """Standard normal noise ``[B, C, h, w]``: "start" is where a sample begins, ("denoising", i) that of step i."""
        return noise(seeds_B, self.latent_shape, *name, device=self.device)

    def _start(self, seeds_B: Tensor) -> Tensor:
        return self.backbone.start(self.latent_noise(seeds_B, "start"), self.steps, self.size)

    def _rollout(
        self,
        problems: Sequence[Problem],
        seeds_B: Tensor,
        stochastic: Sequence[int],
        stored: Sequence[dict[str, Tensor]],
        x0: Tensor,
    ) -> Rollout:
        decisions = {"x0_B": x0, "weights_B": torch.full((len(x0),), fingerprint(self.trained), device=x0.device)}
        step = torch.tensor(stochastic, dtype=torch.long, device=x0.device).expand(len(x0), -1)
        times = self.times.to(x0.device)
        logp_BT = torch.zeros(len(x0), len(stochastic), device=x0.device)
        if stored:
            parts = {f"{name}_BT": torch.stack([s[name] for s in stored], 1) for name in stored[0]}
            logp_BT = parts.pop("logp_BT")
            decisions |= parts | {"step_BT": step}
        return Rollout(
            problems=list(problems),
            decisions=decisions,
            outputs=self.decode(x0),
            logp_BT=logp_BT,
            mask_BT=torch.ones_like(logp_BT),
            group_B=torch.arange(len(x0)),
            extras={
                "length_B": torch.full((len(x0),), float(len(stochastic))),
                "seed_B": seeds_B.clone(),
                "span_BT": times[step] - times[step + 1],
            },
        )

    def decode(self, x0: Tensor, rows: int = 64) -> Tensor:
        """Latents ``[B, C, h, w]`` as pictures ``[B, 3, H, W]`` in [0, 1], float32 on the CPU; gradients flow.

        ``rows`` pictures are decoded at a time, without tiling.
        """
        return self.backbone.decode(x0, self.size, rows).float().cpu()

    @torch.no_grad()
    def encode(self, pictures: Tensor, rows: int = 64) -> Tensor:
        """Pictures ``[B, 3, H, W]`` in [0, 1] as latents ``[B, C, h, w]``, the means of the encoder's distributions."""
        vae = self.backbone.pipe.vae
        parts = (2 * pictures - 1).to(self.device, vae.dtype).split(rows)
        z = torch.cat([vae.encode(part).latent_dist.mean for part in parts]).float()
        return (z - (vae.config.shift_factor or 0.0)) * vae.config.scaling_factor

    def encode_sources(self, questions: Sequence[Question]) -> Tensor:
        """Latents ``[B, C, h, w]`` of the pictures of questions as an editor takes them, float32.

        ValueError for questions without a picture.
        """
        source = self.network.prompt_cache(questions, self.size).source
        if source is None:
            raise ValueError("these questions have no pictures to encode")
        return source.float()

    # -- likelihood -----------------------------------------------------------------------------------------

    def likelihood(self, rollout: Rollout) -> Likelihood:
        """Log-probabilities of the stored steps under the present weights; all rows and decisions in one call.

        ValueError for a rollout without stochastic steps.
        """
        rows, decisions = rollout.logp_BT.shape
        if "x_BT" not in rollout.decisions:
            raise ValueError("these samples have no stochastic denoising step, so they have no likelihood")
        x, x_next = (rollout.decisions[k].flatten(0, 1) for k in ("x_BT", "next_x_BT"))
        step = rollout.decisions["step_BT"].flatten()
        times = self.times.to(x.device)
        cond, uncond = self._conditioning(rollout.problems, self.guidance, repeat=decisions)
        cached = self._stored_uncond(rollout)
        with self.network.optimized(as_trained=self.network.rounds):
            velocities = self.network.cond_uncond_velocity(
                x, times[step], cond, uncond, self.guidance, cached, self.grad_through_uncond
            )
        v = guided(*velocities, self.guidance)
        mean, std = flow_kernel(self.kernel, self.noise, times)(x, v, times[step], times[step + 1])
        logp, std = kernel_logp(self.kernel, x_next, mean, std, x.dim() - 1, self.reduce)
        shape = (rows, decisions)
        return Likelihood(
            logp_BT=logp.reshape(shape), mean_BTD=mean.reshape(*shape, *mean.shape[1:]), std_BT=std.reshape(shape)
        )

    def _stored_uncond(self, rollout: Rollout) -> Tensor | None:
        """The unconditional velocities ``[B T, C, h, w]`` of sampling, where they may stand for those of these weights.

        Passes without gradients are often of other weights (the reference), which they would never belong to.
        """
        stored = None if self.grad_through_uncond else rollout.decisions.get("uncond_BT")
        if stored is None:
            return None
        outdated = self.reuse_uncond and torch.is_grad_enabled()
        same = outdated or bool((rollout.decisions["weights_B"] == fingerprint(self.trained)).all())
        return stored.flatten(0, 1) if same else None

    def velocity(
        self,
        x: Tensor,
        t_B: Tensor,
        problems: Sequence[Problem],
        guidance: float | None = None,
        grad_through_uncond: bool | None = None,
    ) -> Tensor:
        """The network's velocity ``[B, C, h, w]`` at any latents ``x`` of that shape and times ``t_B``; gradients flow.

        ``guidance`` None takes the conditional velocity alone, or the embedded guidance of a guidance-distilled
        network. ``grad_through_uncond`` None takes the policy's setting.
        """
        if guidance is None:
            guidance = self.guidance if self.backbone.embedded_guidance else 1.0
        if grad_through_uncond is None:
            grad_through_uncond = self.grad_through_uncond
        cond, uncond = self._conditioning(problems, guidance)
        with self.network.optimized():
            velocities = self.network.cond_uncond_velocity(
                x, t_B, cond, uncond, guidance, grad_through_uncond=grad_through_uncond
            )
        return guided(*velocities, guidance)

    def _conditioning(
        self, problems: Sequence[Problem], guidance: float, repeat: int = 1
    ) -> tuple[Conditioning, Conditioning | None]:
        return self.network.conditioning([self.prompt(p) for p in problems for _ in range(repeat)], guidance)

    # -- weights and shapes ---------------------------------------------------------------------------------

    @property
    def device(self) -> torch.device:
        return next(self.backbone.transformer.parameters()).device

    @property
    def times(self) -> Tensor:
        """The time grid ``[steps + 1]`` of the checkpoint's scheduler, from 1 down to 0."""
        return self.backbone.times(self.steps, self.size)

    @property
    def renoises(self) -> bool:
        """Whether the checkpoint's scheduler predicts x0 at each step and adds noise again (few-step generators)."""
        return bool(self.backbone.pipe.scheduler.config.get("stochastic_sampling"))

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """The shape of a picture's latents: channels, height and width, or as the pipeline packs them."""
        return self.backbone.latent_shape(self.size)

    def parameters(self) -> list[nn.Parameter]:
        return self.trained

    def state_dict(self) -> dict[str, Tensor]:
        return weights(self.trained)

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        load_weights(self.trained, state)

    def export(self, folder: str | Path) -> None:
        """Write the pipeline, LoRA folded in, as a diffusers folder.

        ``sampling.json`` beside it holds the arguments with which the pipeline samples as this policy does: steps,
        guidance, size.
        """
        with merged(self.backbone.transformer):
            self.backbone.pipe.save_pretrained(folder)
        self._write_sampling(folder)

    def export_lora(self, folder: str | Path) -> str:
        """Write LoRA alone, as diffusers' `load_lora_weights` reads it, and ``sampling.json``; the base's name.

        ValueError where all weights were trained.
        """
        lora = lora_adapter(self.backbone.transformer)
        told = {"r": lora.rank, "lora_alpha": lora.alpha, "target_modules": lora.targets}
        self.backbone.pipe.save_lora_weights(
            folder, transformer_lora_layers=lora.tensors, transformer_lora_adapter_metadata=told
        )
        self._write_sampling(folder)
        return self.backbone.pipe.name_or_path

    def _write_sampling(self, folder: str | Path) -> None:
        arguments = self.backbone.pipeline_arguments(self.steps, self.guidance, self.size)
        (Path(folder) / "sampling.json").write_text(json.dumps(arguments, indent=2) + "\n")


def build_flow_policy(
    cfg: FlowModel, stochastic: Sequence[int], seed: int = 0, share_with: FlowPolicy | None = None
) -> FlowPolicy:
    """Load a checkpoint as a policy whose transformer, or LoRA on it, is trained.

    The text encoders and the autoencoder of ``share_with`` are used instead of loading them again. ValueError with one
    line if the checkpoint cannot be loaded, or if settings contradict one another.
    """
    if cfg.lora_folded and cfg.sharded:
        raise ValueError("lora_folded needs unsharded matrices; choose lora_folded or sharded")
    # Frozen weights may be stored in the lower precision; weights that are trained stay in float32.
    backbone = _backbone(cfg, getattr(torch, cfg.precision) if cfg.lora_rank else torch.float32, share_with)
    trained = trainable(
        backbone.transformer, cfg.lora_rank, cfg.lora_alpha if cfg.lora_rank else None, seed=stream(seed, "flow")
    )
    if cfg.sharded:
        trained = shard(backbone.transformer)
    return _policy(cfg, backbone, trained, stochastic, share_with)


def build_frozen_policy(cfg: FlowModel, share_with: FlowPolicy) -> FlowPolicy:
    """A policy without trained weights, with a transformer of its own: a reference that gradients may pass through.

    Its conditional and its unconditional velocity depend on the latents. ``share_with`` as in `build_flow_policy`.
    """
    backbone = _backbone(cfg, getattr(torch, cfg.precision), share_with)
    return replace(_policy(cfg, backbone, [], (), share_with), grad_through_uncond=True, reuse_uncond=False)


def _backbone(cfg: FlowModel, dtype: torch.dtype, share_with: FlowPolicy | None) -> Backbone:
    device = device_of(cfg.device)
    shared = share_with.backbone if share_with else None
    backbone = load_backbone(
        cfg.name,
        text_length=cfg.text_length,
        negative=cfg.negative_prompt,
        dtype=dtype,
        device=device,
        share_with=shared,
    )
    if cfg.checkpointing:
        backbone.transformer.enable_gradient_checkpointing(checkpointed_block)
        if getattr(backbone.pipe.vae, "_supports_gradient_checkpointing", False):
            backbone.pipe.vae.enable_gradient_checkpointing()
    if cfg.kernel == "renoise":
        if "stochastic_sampling" not in backbone.pipe.scheduler.config:
            scheduler = type(backbone.pipe.scheduler).__name__
            raise ValueError(f"model '{cfg.name}': renoise needs a FlowMatchEulerDiscreteScheduler, not {scheduler}")
        backbone.pipe.scheduler.register_to_config(stochastic_sampling=True)
    return backbone


def _policy(
    cfg: FlowModel,
    backbone: Backbone,
    trained: list[nn.Parameter],
    stochastic: Sequence[int],
    share_with: FlowPolicy | None,
) -> FlowPolicy:
    own = own_settings(backbone, cfg.name)
    return FlowPolicy(
        backbone,
        trained,
        size=own.size() if cfg.size is None else cfg.size,
        steps=own.steps if cfg.sampling_steps is None else cfg.sampling_steps,
        guidance=own.guidance if cfg.guidance is None else cfg.guidance,
        kernel=cfg.kernel,
        noise=cfg.noise,
        stochastic=tuple(stochastic),
        merge=not cfg.sharded,
        fold_trained=cfg.lora_folded,
        reuse_uncond=cfg.reuse_uncond,
        forward_batch_size=cfg.forward_batch_size,
        precision=getattr(torch, cfg.precision),
        prompt_cache=share_with.prompt_cache if share_with else None,
    )
