"""Which weights of a network are trained: LoRA, y = W x + (alpha / r) B A x with B = 0 at first (Hu et al. 2021), or
all.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from saccade.core import seeded
from saccade.models.sharding import like
from saccade.naming import nearest

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj", "out_proj", "c_attn", "query_key_value", "qkv_proj", "qkv") + (
    "to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out",
)  # fmt: skip
"""Names of attention projections in transformers' language and vision models and in diffusers' transformers."""


def trainable(
    module: nn.Module,
    lora_rank: int = 0,
    lora_alpha: float | None = None,
    targets: Sequence[str] | None = None,
    seed: int = 0,
) -> list[nn.Parameter]:
    """Freeze ``module`` but for the weights to be trained, and return these.

    Rank 0 trains the weights themselves: all, or those of the modules in ``targets``. A higher rank puts LoRA beside
    the linear layers in ``targets`` (default: the attention projections), scaled by ``lora_alpha / lora_rank`` (default
    alpha: twice the rank), in float32 whatever the base is, drawn from ``seed``. A target is a module's name or the end
    of it ("q_proj", "layers.0.mlp"). ValueError for a target that is not there, and for a module that has LoRA already.
    """
    if _lora_layers(module):
        raise ValueError(f"{type(module).__name__} carries LoRA already")
    module.requires_grad_(False)
    if lora_rank == 0:
        chosen = [module] if targets is None else [module.get_submodule(n) for n in _matches(module, targets)]
        return [p.requires_grad_(True) for p in nn.ModuleList(chosen).parameters() if p.is_floating_point()]
    _inject(module, lora_rank, 2.0 * lora_rank if lora_alpha is None else lora_alpha, targets, seed)
    return [p for p in module.parameters() if p.requires_grad]


@contextlib.contextmanager
def merged(module: nn.Module) -> Iterator[nn.Module]:
    """Within it, ``module`` is a plain network with LoRA folded in: W + (alpha / r) B A in place of W, no adapters.

    Faster to run, and ``module.state_dict()`` and ``module.save_pretrained()`` have the plain names. Where gradients
    are enabled they flow through the fold to A and B. Afterwards the original tensors are back by pointer, so nothing
    drifts. Nothing happens without LoRA. Weights that are changed inside are lost with the folded copy.
    """
    layers = _lora_layers(module)
    bases = {name: layer.get_base_layer() for name, layer in layers.items()}
    originals = {name: base.weight for name, base in bases.items()}
    try:
        for name, layer in layers.items():
            # Set past the module, which takes a Parameter only: this one may be the result of a computation.
            bases[name]._parameters["weight"] = _folded(layer)
            _place(module, name, bases[name])
        yield module
    finally:
        for name, layer in layers.items():
            bases[name]._parameters["weight"] = originals[name]
            _place(module, name, layer)


def weights(parameters: Sequence[nn.Parameter]) -> dict[str, Tensor]:
    """The trained weights as a flat dict, numbered in order; the tensors are shared, not copied."""
    return {str(i): p.detach() for i, p in enumerate(parameters)}


@torch.no_grad()
def load_weights(parameters: Sequence[nn.Parameter], state: Mapping[str, Tensor]) -> None:
    """Copy what `weights` gave into ``parameters``. ValueError if number or shapes differ."""
    if len(state) != len(parameters):
        raise ValueError(f"the checkpoint holds {len(state)} trained weights, this policy has {len(parameters)}")
    for i, p in enumerate(parameters):
        if state[str(i)].shape != p.shape:
            raise ValueError(f"trained weight {i} has shape {tuple(state[str(i)].shape)}, not {tuple(p.shape)}")
        p.copy_(like(p, state[str(i)]))


def _inject(module: nn.Module, rank: int, alpha: float, targets: Sequence[str] | None, seed: int) -> None:
    from peft import LoraConfig, inject_adapter_in_model

    if targets is None:
        targets = [t for t in ATTENTION if any(_ends(name, t) for name, _ in module.named_modules())]
        if not targets:
            raise ValueError(
                f"{type(module).__name__} has no known attention projections; name the layers in `targets`"
            )
    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=_matches(module, targets), lora_dropout=0.0)
    with seeded(seed):  # peft draws A from the global generator
        inject_adapter_in_model(config, module)
    for p in module.parameters():
        if p.requires_grad:
            p.data = p.data.float()


def _matches(module: nn.Module, targets: Sequence[str]) -> list[str]:
    names = [name for name, _ in module.named_modules()]
    for target in targets:
        if not any(_ends(name, target) for name in names):
            ends = sorted({".".join(name.split(".")[-1 - target.count(".") :]) for name in names if name})
            raise ValueError(f"{type(module).__name__} has no module '{target}'; nearest: {nearest(target, ends)}")
    return [name for name in names if any(_ends(name, target) for target in targets)]


def _ends(name: str, target: str) -> bool:
    return name == target or name.endswith("." + target)


def _lora_layers(module: nn.Module) -> dict[str, nn.Module]:
    from peft.tuners.lora import LoraLayer

    return {name: layer for name, layer in module.named_modules() if isinstance(layer, LoraLayer)}


def _folded(layer: nn.Module) -> Tensor:
    weight = layer.get_base_layer().weight
    change = sum(layer.get_delta_weight(adapter).float() for adapter in layer.active_adapters)
    return (weight.float() + change).to(weight.dtype)


def _place(module: nn.Module, name: str, child: nn.Module) -> None:
    parent, _, last = name.rpartition(".")
    setattr(module.get_submodule(parent), last, child)
