"""The velocity network inside a flow policy, and its faster forms: LoRA folded into the weights, layers fused."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from saccade.models.adapters import merged
from saccade.models.device import autocast
from saccade.models.diffusion.pipelines import Backbone, Conditioning, Prompt, PromptCache, with_text
from saccade.models.linear import can_use_onednn, linear_gelu, onednn_linears, replaced_forwards


@contextlib.contextmanager
def fused(network: nn.Module) -> Iterator[nn.Module]:
    """Within it, the linear layers of a diffusers transformer on a CPU run by oneDNN, in float32.

    Without gradients those of a feed-forward layer are joined with their GELU. Outputs are equal within rounding. It
    must not be used under autocast.
    """
    from diffusers.models.activations import GELU

    layers = () if torch.is_grad_enabled() else network.modules()
    gelus = [m for m in layers if isinstance(m, GELU) and m.approximate == "tanh" and can_use_onednn(m.proj)]
    with onednn_linears(network), replaced_forwards({gelu: partial(linear_gelu, gelu.proj) for gelu in gelus}):
        yield network


@dataclass(frozen=True, eq=False)
class Network:
    """The backbone as `FlowPolicy` calls it; the fields are described there."""

    backbone: Backbone
    prompt_cache: PromptCache
    size: int
    precision: torch.dtype
    one_call: bool
    merge: bool
    fold_trained: bool
    forward_batch_size: int

    @property
    def rounds(self) -> bool:
        """Whether the network's fastest form is rounded differently from the one that is trained."""
        return self.precision != torch.float32

    def conditioning(self, prompts: Sequence[Prompt], guidance: float) -> tuple[Conditioning, Conditioning | None]:
        """Conditioning of the prompts and, where guidance needs it, of the negative text with their source pictures."""
        cond = self.prompt_cache(prompts, self.size)
        if guidance == 1.0 or self.backbone.guides_itself:
            return cond, None
        return cond, self.prompt_cache([with_text(prompt, self.backbone.negative) for prompt in prompts], self.size)

    def cond_uncond_velocity(
        self,
        x: Tensor,
        t_B: Tensor,
        cond: Conditioning,
        uncond: Conditioning | None,
        guidance: float,
        cached_uncond: Tensor | None = None,
        grad_through_uncond: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Conditional and, where there is ``uncond``, unconditional velocity, each ``[B, C, h, w]``.

        ``cached_uncond`` is returned as the unconditional velocity instead of computing it. Gradients flow through the
        unconditional velocity only with ``grad_through_uncond``.
        """
        if uncond is None or cached_uncond is not None:
            return self._rows(x, t_B, cond, guidance), cached_uncond
        same_gradients = grad_through_uncond or not torch.is_grad_enabled()
        if self.one_call and same_gradients:
            v, v_uncond = self._rows(torch.cat([x, x]), torch.cat([t_B, t_B]), cond + uncond, guidance).chunk(2)
            return v, v_uncond
        if same_gradients:
            v_uncond = self._rows(x, t_B, uncond, guidance)
        else:
            with torch.no_grad(), self.optimized(as_trained=self.rounds):
                v_uncond = self._rows(x, t_B, uncond, guidance)
        return self._rows(x, t_B, cond, guidance), v_uncond

    @contextlib.contextmanager
    def optimized(self, as_trained: bool = False) -> Iterator[None]:
        """Within it the network has its fastest form for the present gradient mode.

        ``as_trained`` keeps the form that it has with gradients: in a precision below float32 a folded LoRA is rounded
        with the weights, and likelihoods would differ from those of the update by more than ratios are clipped to.
        """
        network, unchanged = self.backbone.transformer, contextlib.nullcontext()
        fold = self.fold_trained if torch.is_grad_enabled() or as_trained else self.merge
        # In bfloat16 a fused layer would round differently from the layers that replay it with gradients.
        fuse = self.merge and self.precision == torch.float32
        with merged(network) if fold else unchanged, fused(network) if fuse else unchanged:
            yield

    def _rows(self, x: Tensor, t_B: Tensor, cond: Conditioning, guidance: float) -> Tensor:
        if not torch.is_grad_enabled() and len(x) > self.forward_batch_size:
            cuts = zip(*(y.split(self.forward_batch_size) for y in (x, t_B, cond)))
            return torch.cat([self._call(x, t_B, cond, guidance) for x, t_B, cond in cuts])
        return self._call(x, t_B, cond, guidance)

    def _call(self, x: Tensor, t_B: Tensor, cond: Conditioning, guidance: float) -> Tensor:
        network = self.backbone.transformer
        dtype = network.dtype
        with autocast(network, self.precision):
            return self.backbone.velocity(x.to(dtype), t_B, cond.to(dtype), guidance).float()
