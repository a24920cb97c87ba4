"""The velocity network inside a flow policy, and its faster forms: LoRA folded into the weights, layers fused."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from saccade.models.adapters import merged
from saccade.models.device import autocast
from saccade.models.diffusion.pipelines import Backbone, Conditioning, Prompt, PromptCache, without_text


@contextlib.contextmanager
def fused(network: nn.Module) -> Iterator[nn.Module]:
    """Within it, the feed-forward layers of a diffusers transformer run fused, without gradients.

    Outputs are equal within rounding. Only layers on a CPU are fused, and only where torch was built with oneDNN. It
    must not be used under autocast.
    """
    from diffusers.models.activations import GELU

    layers = [m for m in network.modules() if isinstance(m, GELU) and m.approximate == "tanh"]
    usable = torch.backends.mkldnn.is_available()
    chosen = [m for m in layers if usable and type(m.proj) is nn.Linear and m.proj.weight.device.type == "cpu"]
    for layer in chosen:
        layer.forward = partial(_linear_gelu, layer.proj)
    try:
        yield network
    finally:
        for layer in chosen:
            del layer.forward


def _linear_gelu(linear: Any, x: Tensor) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, linear.weight, linear.bias, "gelu", [], "tanh")


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

    def conditioning(self, prompts: Sequence[Prompt], guidance: float) -> tuple[Conditioning, Conditioning | None]:
        """Conditioning of the prompts and, where guidance needs it, of empty texts with the same source pictures."""
        cond = self.prompt_cache(prompts, self.size)
        if guidance == 1.0 or self.backbone.embedded_guidance:
            return cond, None
        return cond, self.prompt_cache([without_text(prompt) for prompt in prompts], self.size)

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
            with torch.no_grad(), self.optimized():
                v_uncond = self._rows(x, t_B, uncond, guidance)
        return self._rows(x, t_B, cond, guidance), v_uncond

    @contextlib.contextmanager
    def optimized(self) -> Iterator[None]:
        """Within it the network has its fastest form for the present gradient mode."""
        network, unchanged = self.backbone.transformer, contextlib.nullcontext()
        if torch.is_grad_enabled():
            with merged(network) if self.fold_trained else unchanged:
                yield
        else:
            # In bfloat16 a fused layer would round differently from the layers that replay it with gradients.
            fuse = self.merge and self.precision == torch.float32
            with merged(network) if self.merge else unchanged, fused(network) if fuse else unchanged:
                yield

    def _rows(self, x: Tensor, t_B: Tensor, cond: Conditioning, guidance: float) -> Tensor:
        if not torch.is_grad_enabled() and len(x) > self.forward_batch_size:
            cuts = zip(*(y.split(self.forward_batch_size) for y in (x, t_B, *cond.parts)))
            return torch.cat([self._call(x, t, Conditioning(*parts), guidance) for x, t, *parts in cuts])
        return self._call(x, t_B, cond, guidance)

    def _call(self, x: Tensor, t_B: Tensor, cond: Conditioning, guidance: float) -> Tensor:
        network = self.backbone.transformer
        dtype = network.dtype
        cond = Conditioning(*(part.to(dtype) for part in cond.parts))
        with autocast(network, self.precision):
            return self.backbone.velocity(x.to(dtype), t_B, cond, guidance).float()
