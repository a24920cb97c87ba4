"""Denoising as decisions: a policy over any velocity network of the flow-matching kind (SD3, FLUX.1).

State (x_t, t, prompt), action x_t'. The steps in ``stochastic`` draw from a kernel and are stored with their
log-probs; all others follow the ODE and are not stored. Windows of steps (Flow-GRPO-Fast, MixGRPO) are other choices of
``stochastic``, nothing else.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from saccade.core import Likelihood, Problem, Rollout, noise, spawn
from saccade.math.kernels import flow_kernel, gaussian_logp, ode
from saccade.models.adapters import load_weights, merged, trainable, weights
from saccade.models.diffusion import Backbone, Conditioning, PromptCache, load
from saccade.models.kernels import fused
from saccade.models.sharding import shard

LATENT_DIMS = 3


def guided(v: Tensor, v_free: Tensor | None, guidance: float) -> Tensor:
    """Classifier-free guidance: v_free + guidance (v - v_free)."""
    return v if v_free is None else v_free + guidance * (v - v_free)


def inputs_as_prompt(problem: Problem) -> str:
    return str(problem.inputs)


@dataclass(eq=False)
class FlowPolicy:
    """Draws pictures ``[B, 3, size, size]`` from prompts; ``trained`` are the weights that move.

    ``guidance`` is the classifier-free scale (1 = off) or, where the network was distilled, the embedded one.
    ``stochastic`` numbers the steps that are drawn and stored, of ``steps`` in all. ``noise`` is the kernel's scale.
    ``reduce`` says whether a log-prob is the mean or the sum over latent dimensions. ``through_unconditional`` lets
    gradients through both halves of the guidance (DDPO); the usual form detaches the unconditional half.
    ``one_call`` evaluates both halves in one call, ``merge`` folds LoRA in and fuses feed-forward layers where no
    gradients are needed. Both are faster and equal within rounding; with both off, float32 replay is exact to the bit.
    ``fold_trained`` folds LoRA in where gradients are needed, too. ``at_once`` bounds the rows of a call without them.
    ``reuse_unconditional`` stores the unconditional velocities of sampling and differentiates without computing them
    again: exact until the first optimiser step on a rollout, afterwards older than the weights by the steps taken.
    """

    backbone: Backbone
    trained: list[nn.Parameter]
    size: int
    steps: int = 10
    guidance: float = 4.5
    kernel: str = "flow_sde"
    noise: float = 0.7
    stochastic: tuple[int, ...] = tuple(range(9))
    reduce: str = "mean"
    through_unconditional: bool = False
    one_call: bool = True
    merge: bool = True
    fold_trained: bool = False
    reuse_unconditional: bool = False
    at_once: int = 64
    precision: torch.dtype = torch.float32
    prompt: Callable[[Problem], str] = inputs_as_prompt
    said: PromptCache = field(init=False)

    def __post_init__(self) -> None:
        outside = [i for i in self.stochastic if not 0 <= i < self.steps]
        if outside:
            raise ValueError(f"stochastic step {outside[0]} is not one of the {self.steps} steps (0 to {self.steps - 1})")
        if self.through_unconditional and self.reuse_unconditional:
            raise ValueError("reuse_unconditional has no gradient, but through_unconditional asks for it")
        self.said = PromptCache(self.backbone)

    # -- acting ---------------------------------------------------------------------------------------------

    @torch.no_grad()
    def rollout(
        self, problems: Sequence[Problem], seeds_B: Tensor, stochastic: Sequence[int] | None = None
    ) -> Rollout:
        """One picture for each problem; ``stochastic`` overrides the policy's own choice of drawn steps."""
        drawn = sorted(self.stochastic if stochastic is None else stochastic)
        times = self.times.to(self.device)
        kernel = flow_kernel(self.kernel, self.noise, times)
        said, unsaid = self._conditioning(problems, self.guidance)
        x = noise(spawn(seeds_B, 0), self.latent_shape, self.device)
        stored: list[dict[str, Tensor]] = []
        with self._form():
            for i in range(self.steps):
                t, t_next = times[i].expand(len(x)), times[i + 1].expand(len(x))
                halves = self._halves(x, t, said, unsaid, self.guidance)
                v = guided(*halves, self.guidance)
                if i not in drawn:
                    x = ode(x, v, t, t_next)[0]
                    continue
                mean, std = kernel(x, v, t, t_next)
                x_next = mean + std * noise(spawn(seeds_B, i + 1), self.latent_shape, self.device)
                logp = gaussian_logp(x_next, mean, std, LATENT_DIMS, self.reduce)
                stored.append({"x": x, "next": x_next, "logp": logp})
                if self.reuse_unconditional and unsaid is not None:
                    stored[-1]["free"] = halves[1]
                x = x_next
        return self._record(problems, seeds_B, drawn, stored, x)

    def best(self, problems: Sequence[Problem], seeds_B: Tensor) -> Rollout:
        """One picture for each problem along the ODE, no noise but the first: how the model is used and evaluated."""
        return self.rollout(problems, seeds_B, stochastic=())

    def _record(
        self, problems: Sequence[Problem], seeds_B: Tensor, drawn: Sequence[int], stored: list, x0: Tensor
    ) -> Rollout:
        decisions = {"x0_B": x0}
        step = torch.tensor(drawn, dtype=torch.long, device=x0.device).expand(len(x0), -1)
        times = self.times.to(x0.device)
        logp_BT = torch.zeros(len(x0), len(drawn), device=x0.device)
        if stored:
            kept = {f"{name}_BT": torch.stack([s[name] for s in stored], 1) for name in stored[0]}
            logp_BT = kept.pop("logp_BT")
            decisions |= kept | {"step_BT": step}
        return Rollout(
            problems=list(problems),
            decisions=decisions,
            outputs=self.decode(x0),
            logp_BT=logp_BT,
            mask_BT=torch.ones_like(logp_BT),
            group_B=torch.arange(len(x0)),
            extras={
                "length_B": torch.full((len(x0),), float(len(drawn))),
                "seed_B": seeds_B.clone(),
                "span_BT": times[step] - times[step + 1],
            },
        )

    @torch.no_grad()
    def decode(self, x0: Tensor, rows: int = 64) -> Tensor:
        """Latents to pictures ``[B, 3, H, W]`` in [0, 1], on the CPU in float32, whole pictures (no tiles)."""
        vae = self.backbone.pipe.vae
        z = x0 / vae.config.scaling_factor + (vae.config.shift_factor or 0.0)
        parts = [vae.decode(part.to(vae.dtype), return_dict=False)[0] for part in z.split(rows)]
        return (torch.cat(parts).float() / 2 + 0.5).clamp(0, 1).cpu()

    # -- being weighed --------------------------------------------------------------------------------------

    def likelihood(self, rollout: Rollout) -> Likelihood:
        """The stored steps under the present weights; all rows and decisions in one call."""
        rows, decisions = rollout.logp_BT.shape
        x, x_next = (rollout.decisions[k].flatten(0, 1) for k in ("x_BT", "next_BT"))
        step = rollout.decisions["step_BT"].flatten()
        times = self.times.to(x.device)
        said, unsaid = self._conditioning(rollout.problems, self.guidance, repeat=decisions)
        # Passes without gradients are of other weights (the reference): what sampling stored is not theirs.
        free = rollout.decisions.get("free_BT") if torch.is_grad_enabled() else None
        free = None if free is None else free.flatten(0, 1)
        with self._form():
            v = guided(*self._halves(x, times[step], said, unsaid, self.guidance, free), self.guidance)
        mean, std = flow_kernel(self.kernel, self.noise, times)(x, v, times[step], times[step + 1])
        logp = gaussian_logp(x_next, mean, std, LATENT_DIMS, self.reduce)
        shape = (rows, decisions)
        return Likelihood(
            logp_BT=logp.reshape(shape), mean_BTD=mean.reshape(*shape, *mean.shape[1:]), std_BT=std.reshape(shape)
        )

    def velocity(self, x: Tensor, t_B: Tensor, problems: Sequence[Problem], guidance: float = 1.0) -> Tensor:
        """The network's velocity at states of one's own choice; gradients flow."""
        with self._form():
            return self._velocity(x, t_B, *self._conditioning(problems, guidance), guidance)

    def _velocity(
        self, x: Tensor, t_B: Tensor, said: Conditioning, unsaid: Conditioning | None, guidance: float
    ) -> Tensor:
        return guided(*self._halves(x, t_B, said, unsaid, guidance), guidance)

    def _halves(
        self,
        x: Tensor,
        t_B: Tensor,
        said: Conditioning,
        unsaid: Conditioning | None,
        guidance: float,
        free: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """The velocity with the prompt and, under guidance, without one (or ``free``, where that is known)."""
        if unsaid is None or free is not None:
            return self._network(x, t_B, said, guidance), free
        if self.one_call and not torch.is_grad_enabled():
            v, v_free = self._network(torch.cat([x, x]), torch.cat([t_B, t_B]), said + unsaid, guidance).chunk(2)
            return v, v_free
        if self.through_unconditional:
            v_free = self._network(x, t_B, unsaid, guidance)
        else:
            with torch.no_grad(), self._form():
                v_free = self._network(x, t_B, unsaid, guidance)
        return self._network(x, t_B, said, guidance), v_free

    @contextlib.contextmanager
    def _form(self) -> Iterator[None]:
        """The network in the form that is fastest for what is asked of it, with gradients or without."""
        network, same = self.backbone.transformer, contextlib.nullcontext()
        if torch.is_grad_enabled():
            with merged(network) if self.fold_trained else same:
                yield
        else:
            # In bfloat16 a fused layer would round otherwise than the layers that replay it with gradients.
            whole = self.merge and self.precision == torch.float32
            with merged(network) if self.merge else same, fused(network) if whole else same:
                yield

    def _network(self, x: Tensor, t_B: Tensor, said: Conditioning, guidance: float) -> Tensor:
        if not torch.is_grad_enabled() and len(x) > self.at_once:
            cut = zip(*(y.split(self.at_once) for y in (x, t_B, said.tokens, said.pooled)))
            return torch.cat([self._call(x, t, Conditioning(*both), guidance) for x, t, *both in cut])
        return self._call(x, t_B, said, guidance)

    def _call(self, x: Tensor, t_B: Tensor, said: Conditioning, guidance: float) -> Tensor:
        weights = self.backbone.transformer.dtype
        said = Conditioning(said.tokens.to(weights), said.pooled.to(weights))
        lower = self.precision != torch.float32 and weights == torch.float32
        with torch.autocast(x.device.type, self.precision, enabled=lower):
            return self.backbone.velocity(x.to(weights), t_B, said, guidance).float()

    def _conditioning(
        self, problems: Sequence[Problem], guidance: float, repeat: int = 1
    ) -> tuple[Conditioning, Conditioning | None]:
        prompts = [self.prompt(p) for p in problems for _ in range(repeat)]
        free = guidance != 1.0 and not self.backbone.embedded_guidance
        return self.said(prompts), self.said([""] * len(prompts)) if free else None

    # -- weights and shapes ---------------------------------------------------------------------------------

    @property
    def device(self) -> torch.device:
        return self.backbone.transformer.device

    @property
    def times(self) -> Tensor:
        """The grid ``[steps + 1]``, 1 down to 0, of the checkpoint's own scheduler."""
        return self.backbone.times(self.steps, self.size)

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        edge = self.size // self.backbone.pipe.vae_scale_factor
        return self.backbone.pipe.vae.config.latent_channels, edge, edge

    def parameters(self) -> list[nn.Parameter]:
        return self.trained

    def state_dict(self) -> dict[str, Tensor]:
        return weights(self.trained)

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        load_weights(self.trained, state)

    def export(self, folder: str | Path) -> None:
        """Write the pipeline, LoRA folded in, as a plain diffusers folder."""
        with merged(self.backbone.transformer):
            self.backbone.pipe.save_pretrained(folder)


@dataclass(frozen=True)
class FlowModel:
    """Which checkpoint draws, how it is sampled, and which of its weights move."""

    model: str = "sd3-shapes"
    """Hub id, folder or miniature of a StableDiffusion3Pipeline or FluxPipeline."""
    size: int = 32
    """Edge of a picture in pixels."""
    sampling_steps: int = 8
    """Denoising steps of a picture."""
    guidance: float = 1.0
    """Classifier-free guidance (1 = off), or the embedded guidance of a distilled network."""
    kernel: Literal["flow_sde", "dance_sde", "cps"] = "flow_sde"
    """Transition of the stochastic steps."""
    noise: float = 0.7
    """Scale of the kernel's noise."""
    text_length: int = 1
    """T5 tokens of a prompt; pipelines without a T5 take zeros in their place."""
    lora_rank: int = 0
    """Rank of LoRA on the attention projections; 0 trains all weights of the transformer."""
    lora_alpha: float = 64.0
    """Scale of LoRA: its change is multiplied by alpha / rank."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Arithmetic of the network; formulas are float32 always."""
    device: str = "auto"
    """cpu, cuda or auto."""
    checkpointing: bool = False
    """Recompute activations in the backward pass to save memory."""
    sharded: bool = False
    """Cut the network over all processes (FSDP2) instead of keeping a copy in each."""
    lora_folded: bool = False
    """Train through W + LoRA as one matrix; faster where 6 x rank comes near the layers' width or exceeds it."""
    reuse_unconditional: bool = False
    """Take the unconditional velocities of sampling for an update; exact for the first optimiser step of a batch."""
    at_once: int = 64
    """Rows in one call of the network where no gradients are needed (guidance doubles the attempts)."""


def build(cfg: FlowModel, stochastic: Sequence[int], seed: int = 0) -> FlowPolicy:
    """Load the checkpoint and open its trained weights. ValueError with one line if it cannot be had."""
    device = cfg.device if cfg.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    if cfg.lora_folded and cfg.checkpointing:
        raise ValueError("lora_folded cannot be recomputed in the backward pass; leave checkpointing off")
    if cfg.lora_folded and cfg.sharded:
        raise ValueError("lora_folded needs whole matrices, and sharded cuts them; choose one")
    precision = getattr(torch, cfg.precision)
    # Frozen weights may rest in the lower precision; weights that are trained stay in float32.
    resting = precision if cfg.lora_rank else torch.float32
    backbone = load(cfg.model, text_length=cfg.text_length, dtype=resting, device=device)
    if cfg.checkpointing:
        backbone.transformer.enable_gradient_checkpointing()
    trained = trainable(backbone.transformer, cfg.lora_rank, cfg.lora_alpha if cfg.lora_rank else None, seed=seed)
    if cfg.sharded:
        trained = shard(backbone.transformer)
    return FlowPolicy(
        backbone,
        trained,
        size=cfg.size,
        steps=cfg.sampling_steps,
        guidance=cfg.guidance,
        kernel=cfg.kernel,
        noise=cfg.noise,
        stochastic=tuple(stochastic),
        merge=not cfg.sharded,
        fold_trained=cfg.lora_folded,
        reuse_unconditional=cfg.reuse_unconditional,
        at_once=cfg.at_once,
        precision=precision,
    )
