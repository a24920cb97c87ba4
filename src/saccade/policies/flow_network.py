"""The network inside a flow policy: loaded from a pipeline, with or without LoRA, and its fast path where LoRA is
folded into the weights.
"""

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
from saccade.models.diffusion.pipelines import Backbone, Conditioning, Prompt, PromptCache, wordless


@contextlib.contextmanager
def fused(network: nn.Module) -> Iterator[nn.Module]:
    """Within it, the feed-forward layers of a diffusers transformer run fused, equal within rounding; without
    gradients.

    Nothing changes on other devices and where torch was built without oneDNN. Not for use under autocast.
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
    """What `FlowPolicy` asks of its backbone; the fields are the policy's own and are described there."""

    backbone: Backbone
    said: PromptCache
    size: int
    precision: torch.dtype
    one_call: bool
    merge: bool
    fold_trained: bool
    at_once: int

    def conditioning(self, prompts: Sequence[Prompt], guidance: float) -> tuple[Conditioning, Conditioning | None]:
        """What the prompts say and, where guidance needs it, what no words say; a picture to be edited is seen by
        both.
        """
        free = guidance != 1.0 and not self.backbone.embedded_guidance
        return self.said(prompts, self.size), self.said([*map(wordless, prompts)], self.size) if free else None

    def cond_uncond_velocity(
        self,
        x: Tensor,
        t_B: Tensor,
        said: Conditioning,
        unsaid: Conditioning | None,
        guidance: float,
        free: Tensor | None = None,
        through: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """The velocity with the prompt and, under guidance, without one (or ``free``, where that is known).

        The half without a prompt carries gradients only if they are to go ``through`` it.
        """
        if unsaid is None or free is not None:
            return self._rows(x, t_B, said, guidance), free
        alike = through or not torch.is_grad_enabled()
        if self.one_call and alike:
            v, v_free = self._rows(torch.cat([x, x]), torch.cat([t_B, t_B]), said + unsaid, guidance).chunk(2)
            return v, v_free
        if alike:
            v_free = self._rows(x, t_B, unsaid, guidance)
        else:
            with torch.no_grad(), self.form():
                v_free = self._rows(x, t_B, unsaid, guidance)
        return self._rows(x, t_B, said, guidance), v_free

    @contextlib.contextmanager
    def form(self) -> Iterator[None]:
        """The network in the form that is fastest, with gradients or without."""
        network, same = self.backbone.transformer, contextlib.nullcontext()
        if torch.is_grad_enabled():
            with merged(network) if self.fold_trained else same:
                yield
        else:
            # In bfloat16 a fused layer would round otherwise than the layers that replay it with gradients.
            whole = self.merge and self.precision == torch.float32
            with merged(network) if self.merge else same, fused(network) if whole else same:
                yield

    def _rows(self, x: Tensor, t_B: Tensor, said: Conditioning, guidance: float) -> Tensor:
        if not torch.is_grad_enabled() and len(x) > self.at_once:
            cut = zip(*(y.split(self.at_once) for y in (x, t_B, *said.parts)))
            return torch.cat([self._call(x, t, Conditioning(*parts), guidance) for x, t, *parts in cut])
        return self._call(x, t_B, said, guidance)

    def _call(self, x: Tensor, t_B: Tensor, said: Conditioning, guidance: float) -> Tensor:
        network = self.backbone.transformer
        said = Conditioning(*(part.to(network.dtype) for part in said.parts))
        with autocast(network, self.precision):
            return self.backbone.velocity(x.to(network.dtype), t_B, said, guidance).float()
