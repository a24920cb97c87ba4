"""Denoising as decisions: a policy over any velocity network of the flow-matching kind (SD3, FLUX.1, Kontext).

State (x_t, t, prompt), action x_t'. The steps in ``stochastic`` draw from a kernel and are stored with their
log-probs; all others follow the ODE and are not stored. Windows of steps (Flow-GRPO-Fast, MixGRPO) are other choices of
``stochastic``, nothing else. A generator of one step, or of a few between which its pictures are noised again, is a
policy whose steps are that few; `unroll` makes its attempts once more with gradients.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from saccade.core import Likelihood, Problem, Question, Rollout, noise, spawn
from saccade.math.flow import flow_kernel, gaussian_logp, guided, ode, to_data
from saccade.models.adapters import load_weights, merged, trainable, weights
from saccade.models.device import device_of
from saccade.models.diffusion.pipelines import Backbone, Conditioning, Prompt, PromptCache, load_backbone
from saccade.models.sharding import shard
from saccade.policies.flow_network import Network
from saccade.policies.flow_presets import FlowModel

LATENT_DIMS = 3


def inputs_as_prompt(problem: Problem) -> Prompt:
    return problem.inputs if isinstance(problem.inputs, Question) else str(problem.inputs)


@dataclass(eq=False)
class FlowPolicy:
    """Draws pictures ``[B, 3, size, size]`` from prompts, or edits those that come with them; ``trained`` weights move.

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
    prompt: Callable[[Problem], Prompt] = inputs_as_prompt
    said: PromptCache | None = field(default=None, repr=False)
    """What prompts say to the network, kept; policies over the same text encoders may share it."""
    network: Network = field(init=False, repr=False)

    def __post_init__(self) -> None:
        grain = 2 * self.backbone.pipe.vae_scale_factor  # a token is 2 x 2 latents
        if self.size < grain or self.size % grain:
            raise ValueError(f"size {self.size} is not a multiple of {grain}, the pixels of a token's edge")
        if self.steps < 1:
            raise ValueError(f"a picture takes 1 denoising step or more, not {self.steps}")
        outside = [i for i in self.stochastic if not 0 <= i < self.steps]
        if outside:
            raise ValueError(
                f"stochastic step {outside[0]} is not one of the {self.steps} steps (0 to {self.steps - 1})"
            )
        if self.through_unconditional and self.reuse_unconditional:
            raise ValueError("reuse_unconditional has no gradient, but through_unconditional asks for it")
        self.said = self.said or PromptCache(self.backbone)
        self.network = Network(
            self.backbone,
            self.said,
            self.size,
            self.precision,
            self.one_call,
            self.merge,
            self.fold_trained,
            self.at_once,
        )

    # -- acting ---------------------------------------------------------------------------------------------

    @torch.no_grad()
    def rollout(self, problems: Sequence[Problem], seeds_B: Tensor, stochastic: Sequence[int] | None = None) -> Rollout:
        """One picture for each problem; ``stochastic`` overrides the policy's own choice of drawn steps."""
        drawn = sorted(self.stochastic if stochastic is None else stochastic)
        stored: list[dict[str, Tensor]] = []
        x0 = self._walk(self._noise(seeds_B, 0), range(self.steps), problems, seeds_B, drawn, stored)
        return self._record(problems, seeds_B, drawn, stored, x0)

    def greedy(self) -> FlowPolicy:
        """The same policy, sampling as the checkpoint's own scheduler does: how the model is used and evaluated.

        It follows the ODE, with no noise but the first, or, where the scheduler samples stochastically (generators of a
        few steps), predicts x0 and adds noise again up to the next time.
        """
        if not self.renoises:
            return replace(self, stochastic=())
        return replace(self, kernel="renoise", stochastic=range(self.steps - 1))

    def unroll(self, problems: Sequence[Problem], seeds_B: Tensor, through: int | None = None) -> Tensor:
        """The latents x0 ``[B, C, h, w]`` of `rollout`, from the same seeds, as functions of the weights.

        Gradients flow through the last ``through`` steps (None: all) and both halves of the guidance. ValueError if
        there are not so many.
        """
        through = self.steps if through is None else through
        if not 1 <= through <= self.steps:
            raise ValueError(f"gradients cannot go through {through} of {self.steps} steps")
        first = self.steps - through
        with torch.no_grad():
            x = self._walk(self._noise(seeds_B, 0), range(first), problems, seeds_B, self.stochastic)
        return self._walk(x, range(first, self.steps), problems, seeds_B, self.stochastic)

    def predict_x0_at(self, problems: Sequence[Problem], seeds_B: Tensor, step_B: Tensor) -> Tensor:
        """The x0 ``[B, C, h, w]`` that each attempt predicts at a step of its own, gradients through that step alone.

        All rows walk to the last step, so that networks which are cut over processes are called in step.
        """
        visited: list[Tensor] = []
        with torch.no_grad():
            last = self._walk(
                self._noise(seeds_B, 0), range(self.steps - 1), problems, seeds_B, self.stochastic, visited=visited
            )
            x = torch.stack([*visited, last])[step_B, torch.arange(len(step_B))]
        t_B = self.times[step_B].to(x.device)
        return to_data(x, self.velocity(x, t_B, problems, self.guidance, through=True), t_B)

    def _walk(
        self,
        x: Tensor,
        part: range,
        problems: Sequence[Problem],
        seeds_B: Tensor,
        drawn: Sequence[int],
        stored: list[dict[str, Tensor]] | None = None,
        visited: list[Tensor] | None = None,
    ) -> Tensor:
        """The state behind the steps in ``part``.

        Where there are such lists, drawn steps are put into ``stored`` and the states that steps began from into
        ``visited``.
        """
        if not part:
            return x
        times = self.times.to(x.device)
        kernel = flow_kernel(self.kernel, self.noise, times)
        said, unsaid = self._conditioning(problems, self.guidance)
        with self.network.form():
            for i in part:
                if visited is not None:
                    visited.append(x)
                t, t_next = times[i].expand(len(x)), times[i + 1].expand(len(x))
                halves = self.network.cond_uncond_velocity(x, t, said, unsaid, self.guidance, through=True)
                v = guided(*halves, self.guidance)
                if i not in drawn:
                    x = ode(x, v, t, t_next)[0]
                    continue
                mean, std = kernel(x, v, t, t_next)
                x_next = mean + std * self._noise(seeds_B, i + 1)
                if stored is not None:
                    logp = gaussian_logp(x_next, mean, std, LATENT_DIMS, self.reduce)
                    stored.append({"x": x, "next": x_next, "logp": logp})
                    if self.reuse_unconditional and unsaid is not None:
                        stored[-1]["free"] = halves[1]
                x = x_next
        return x

    def _noise(self, seeds_B: Tensor, key: int) -> Tensor:
        return noise(spawn(seeds_B, key), self.latent_shape, self.device)

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

    def decode(self, x0: Tensor, rows: int = 64) -> Tensor:
        """Latents to pictures ``[B, 3, H, W]`` in [0, 1], on the CPU in float32, whole pictures (no tiles);
        gradients flow.
        """
        vae = self.backbone.pipe.vae
        z = x0 / vae.config.scaling_factor + (vae.config.shift_factor or 0.0)
        parts = [vae.decode(part.to(vae.dtype), return_dict=False)[0] for part in z.split(rows)]
        return (torch.cat(parts).float() / 2 + 0.5).clamp(0, 1).cpu()

    @torch.no_grad()
    def encode(self, pictures: Tensor, rows: int = 64) -> Tensor:
        """Pictures ``[B, 3, H, W]`` in [0, 1] to latents, the means of the encoder's distributions."""
        vae = self.backbone.pipe.vae
        cut = (2 * pictures - 1).to(self.device, vae.dtype).split(rows)
        z = torch.cat([vae.encode(part).latent_dist.mean for part in cut]).float()
        return (z - (vae.config.shift_factor or 0.0)) * vae.config.scaling_factor

    # -- being weighed --------------------------------------------------------------------------------------

    def likelihood(self, rollout: Rollout) -> Likelihood:
        """The stored steps under the present weights; all rows and decisions in one call."""
        rows, decisions = rollout.logp_BT.shape
        if "x_BT" not in rollout.decisions:
            raise ValueError("no denoising step of these attempts was stochastic, so there is nothing to be weighed")
        x, x_next = (rollout.decisions[k].flatten(0, 1) for k in ("x_BT", "next_BT"))
        step = rollout.decisions["step_BT"].flatten()
        times = self.times.to(x.device)
        said, unsaid = self._conditioning(rollout.problems, self.guidance, repeat=decisions)
        # Passes without gradients are of other weights (the reference): what sampling stored is not theirs.
        free = rollout.decisions.get("free_BT") if torch.is_grad_enabled() else None
        free = None if free is None else free.flatten(0, 1)
        with self.network.form():
            halves = self.network.cond_uncond_velocity(
                x, times[step], said, unsaid, self.guidance, free, self.through_unconditional
            )
        v = guided(*halves, self.guidance)
        mean, std = flow_kernel(self.kernel, self.noise, times)(x, v, times[step], times[step + 1])
        logp = gaussian_logp(x_next, mean, std, LATENT_DIMS, self.reduce)
        shape = (rows, decisions)
        return Likelihood(
            logp_BT=logp.reshape(shape), mean_BTD=mean.reshape(*shape, *mean.shape[1:]), std_BT=std.reshape(shape)
        )

    def velocity(
        self,
        x: Tensor,
        t_B: Tensor,
        problems: Sequence[Problem],
        guidance: float | None = None,
        through: bool | None = None,
    ) -> Tensor:
        """The network's velocity at states of one's own choice; gradients flow, those of the half without a prompt only
        ``through`` (None: ``through_unconditional``). ``guidance`` None is that of the prompt alone: 1, or what a
        network that was distilled with guidance is always told.
        """
        if guidance is None:
            guidance = self.guidance if self.backbone.embedded_guidance else 1.0
        through = self.through_unconditional if through is None else through
        said, unsaid = self._conditioning(problems, guidance)
        with self.network.form():
            return guided(*self.network.cond_uncond_velocity(x, t_B, said, unsaid, guidance, through=through), guidance)

    def _conditioning(
        self, problems: Sequence[Problem], guidance: float, repeat: int = 1
    ) -> tuple[Conditioning, Conditioning | None]:
        return self.network.conditioning([self.prompt(p) for p in problems for _ in range(repeat)], guidance)

    # -- weights and shapes ---------------------------------------------------------------------------------

    @property
    def device(self) -> torch.device:
        return self.backbone.transformer.device

    @property
    def times(self) -> Tensor:
        """The grid ``[steps + 1]``, 1 down to 0, of the checkpoint's own scheduler."""
        return self.backbone.times(self.steps, self.size)

    @property
    def renoises(self) -> bool:
        """Whether the checkpoint's scheduler predicts x0 at each step and noises it again, as generators of a few
        steps do.
        """
        return bool(self.backbone.pipe.scheduler.config.get("stochastic_sampling"))

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
        """Write the pipeline, LoRA folded in, as a plain diffusers folder.

        Beside it ``sampling.json`` says how the pipeline is to be called for our pictures: steps, guidance, size.
        """
        with merged(self.backbone.transformer):
            self.backbone.pipe.save_pretrained(folder)
        call = self.backbone.call(self.steps, self.guidance, self.size)
        (Path(folder) / "sampling.json").write_text(json.dumps(call, indent=2) + "\n")


def build_flow_policy(
    cfg: FlowModel, stochastic: Sequence[int], seed: int = 0, beside: FlowPolicy | None = None
) -> FlowPolicy:
    """Load the checkpoint and open its trained weights. ValueError with one line if it cannot be had.

    A policy ``beside`` lends its text encoders and its autoencoder, so that only a network of its own is read.
    """
    if cfg.lora_folded and cfg.checkpointing:
        raise ValueError("lora_folded cannot be recomputed in the backward pass; leave checkpointing off")
    if cfg.lora_folded and cfg.sharded:
        raise ValueError("lora_folded needs whole matrices, and sharded cuts them; choose one")
    # Frozen weights may rest in the lower precision; weights that are trained stay in float32.
    backbone = _backbone(cfg, getattr(torch, cfg.precision) if cfg.lora_rank else torch.float32, beside)
    trained = trainable(backbone.transformer, cfg.lora_rank, cfg.lora_alpha if cfg.lora_rank else None, seed=seed)
    if cfg.sharded:
        trained = shard(backbone.transformer)
    return _policy(cfg, backbone, trained, stochastic, beside)


def frozen(cfg: FlowModel, beside: FlowPolicy) -> FlowPolicy:
    """A policy none of whose weights move, with a network of its own: a reference that gradients may pass through.

    Both halves of its guidance depend on the state. It borrows from ``beside`` as with `build`.
    """
    backbone = _backbone(cfg, getattr(torch, cfg.precision), beside)
    return replace(_policy(cfg, backbone, [], (), beside), through_unconditional=True, reuse_unconditional=False)


def _backbone(cfg: FlowModel, resting: torch.dtype, beside: FlowPolicy | None) -> Backbone:
    device = device_of(cfg.device)
    lender = beside.backbone if beside else None
    backbone = load_backbone(cfg.name, text_length=cfg.text_length, dtype=resting, device=device, beside=lender)
    if cfg.checkpointing:
        backbone.transformer.enable_gradient_checkpointing()
        backbone.pipe.vae.enable_gradient_checkpointing()
    if cfg.kernel == "renoise":
        backbone.pipe.scheduler.register_to_config(stochastic_sampling=True)
    return backbone


def _policy(
    cfg: FlowModel,
    backbone: Backbone,
    trained: list[nn.Parameter],
    stochastic: Sequence[int],
    beside: FlowPolicy | None,
) -> FlowPolicy:
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
        precision=getattr(torch, cfg.precision),
        said=beside.said if beside else None,
    )
