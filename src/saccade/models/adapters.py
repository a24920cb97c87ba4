"""Which weights of a network are trained: all, some modules, or LoRA, y = W x + (alpha / r) B A x (2106.09685)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from saccade.models.sharding import shard_like
from saccade.naming import suggestion
from saccade.random import initialized

if TYPE_CHECKING:
    from peft.tuners.lora import LoraLayer

ATTENTION = (
    *("q_proj", "k_proj", "v_proj", "o_proj", "out_proj", "c_attn", "query_key_value", "qkv_proj", "qkv"),
    *("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"),
)
"""Names of attention projections in transformers' language and vision models and in diffusers' transformers."""


def trainable(
    module: nn.Module,
    lora_rank: int = 0,
    lora_alpha: float | None = None,
    targets: Sequence[str] | None = None,
    seed: int = 0,
) -> list[nn.Parameter]:
    """Freeze ``module`` except for the trained weights, and return these.

    Rank 0 trains the weights of the module, or of the modules in ``targets``. A higher rank adds LoRA to the linear
    layers in ``targets`` (default: the attention projections), scaled by ``lora_alpha / lora_rank`` (default alpha:
    twice the rank), in float32 whatever the type of the base, with A random from ``seed`` and B = 0. A target is a
    module's name or the end of one ("q_proj", "layers.0.mlp"). ValueError for a target that does not exist, and for a
    module that has LoRA already.
    """
    if _lora_layers(module):
        raise ValueError(f"{type(module).__name__} has LoRA already")
    module.requires_grad_(False)
    if lora_rank == 0:
        chosen = [module] if targets is None else [module.get_submodule(n) for n in _matches(module, targets)]
        trained = [p for p in nn.ModuleList(chosen).parameters() if p.is_floating_point()]
        for p in trained:
            p.requires_grad_(True)
        return trained
    _inject(module, lora_rank, 2.0 * lora_rank if lora_alpha is None else lora_alpha, targets, seed)
    return [p for p in module.parameters() if p.requires_grad]


@contextlib.contextmanager
def merged(module: nn.Module) -> Iterator[nn.Module]:
    """Within it, LoRA is folded into ``module``: W + (alpha / r) B A in place of W, no adapter layers.

    It runs faster, and ``module.state_dict()`` and ``module.save_pretrained()`` have the plain names. Where gradients
    are enabled they flow through the sum to A and B. Afterwards the module has its original tensors again, so nothing
    drifts; changes made to folded weights are lost. Without LoRA nothing happens.
    """
    layers = _lora_layers(module)
    bases = {name: layer.get_base_layer() for name, layer in layers.items()}
    originals = {name: base.weight for name, base in bases.items()}
    try:
        for name, layer in layers.items():
            # The module's attribute takes a Parameter only; the folded weight may be a result of differentiable steps.
            bases[name]._parameters["weight"] = _folded(layer)
            _place(module, name, bases[name])
        yield module
    finally:
        for name, layer in layers.items():
            bases[name]._parameters["weight"] = originals[name]
            _place(module, name, layer)


class LoraAdapter(NamedTuple):
    """The LoRA of a network: tensors ``<module>.lora_A.weight`` and ``<module>.lora_B.weight``, and their scale."""

    tensors: dict[str, Tensor]
    rank: int
    alpha: float
    targets: list[str]
    """Names of the modules that have it."""


def lora_adapter(module: nn.Module) -> LoraAdapter:
    """The LoRA of ``module``. ValueError if all of its weights were trained instead."""
    layers = _lora_layers(module)
    if not layers:
        raise ValueError("all weights were trained, so there is no LoRA: export without --lora")
    tensors, rank, alpha = {}, 0, 0.0
    for name, layer in layers.items():
        (adapter,) = layer.active_adapters
        rank, alpha = layer.r[adapter], layer.lora_alpha[adapter]
        parts = {"lora_A": layer.lora_A[adapter], "lora_B": layer.lora_B[adapter]}
        tensors |= {f"{name}.{part}.weight": linear.weight.detach().cpu() for part, linear in parts.items()}
    return LoraAdapter(tensors, rank, alpha, list(layers))


def weights(parameters: Sequence[nn.Parameter]) -> dict[str, Tensor]:
    """The trained weights as a flat dict, numbered in order; tensors are shared, not copied."""
    return {str(i): p.detach() for i, p in enumerate(parameters)}


@torch.no_grad()
def fingerprint(parameters: Sequence[nn.Parameter]) -> int:
    """A number that stays the same while no bit of these weights changes; of sharded ones, of those that are here."""
    local = [getattr(p, "to_local", lambda p=p: p)().detach() for p in parameters]
    sums = [x.view(_BITS[x.element_size()]).sum(dtype=torch.int64) for x in local]
    if not sums:
        return 0
    place = torch.arange(1, len(sums) + 1, device=sums[0].device)
    return int((torch.stack(sums) * place).sum())


_BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


@torch.no_grad()
def load_weights(parameters: Sequence[nn.Parameter], state: Mapping[str, Tensor]) -> None:
    """Copy the result of `weights` into ``parameters``. ValueError if number or shapes differ."""
    if len(state) != len(parameters):
        raise ValueError(f"the checkpoint holds {len(state)} trained weights, this policy has {len(parameters)}")
    for i, p in enumerate(parameters):
        if state[str(i)].shape != p.shape:
            raise ValueError(f"trained weight {i} has shape {tuple(state[str(i)].shape)}, not {tuple(p.shape)}")
        p.copy_(shard_like(p, state[str(i)]))


def _inject(module: nn.Module, rank: int, alpha: float, targets: Sequence[str] | None, seed: int) -> None:
    from peft import LoraConfig, inject_adapter_in_model

    if targets is None:
        targets = [t for t in ATTENTION if any(_ends(name, t) for name, _ in module.named_modules())]
        if not targets:
            raise ValueError(
                f"{type(module).__name__} has no known attention projections; name the layers in `targets`"
            )
    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=_matches(module, targets), lora_dropout=0.0)
    with initialized(seed, "LoRA"):  # peft initializes A from the global generator
        inject_adapter_in_model(config, module)
    for p in module.parameters():
        if p.requires_grad:
            p.data = p.data.float()


def _matches(module: nn.Module, targets: Sequence[str]) -> list[str]:
    names = [name for name, _ in module.named_modules()]
    for target in targets:
        if not any(_ends(name, target) for name in names):
            suffixes = sorted({".".join(name.split(".")[-1 - target.count(".") :]) for name in names if name})
            raise ValueError(f"{type(module).__name__} has no module '{target}'{suggestion(target, suffixes)}")
    return [name for name in names if any(_ends(name, target) for target in targets)]


def _ends(name: str, target: str) -> bool:
    return name == target or name.endswith("." + target)


def _lora_layers(module: nn.Module) -> dict[str, LoraLayer]:
    from peft.tuners.lora import LoraLayer

    return {name: layer for name, layer in module.named_modules() if isinstance(layer, LoraLayer)}


def _folded(layer: LoraLayer) -> Tensor:
    weight = layer.get_base_layer().weight
    change = sum(layer.get_delta_weight(adapter).float() for adapter in layer.active_adapters)
    return (weight.float() + change).to(weight.dtype)


def _place(module: nn.Module, name: str, child: nn.Module) -> None:
    parent, _, last = name.rpartition(".")
    setattr(module.get_submodule(parent), last, child)
