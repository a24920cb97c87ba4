"""A stand-in for a GPU: tensors that compute on the CPU, say that they are on the device "far", and meet no others.

What CUDA refuses is refused: operations on tensors of two devices (numbers without dimensions may be on the CPU), an
index on the GPU into a tensor on the CPU, and numpy. Importing this registers the device in the process for good, so it
is for processes of their own (`far_worker.py`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

aten = torch.ops.aten
INDEXING = (aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default)


class Module:
    """What torch asks of ``torch.far``."""

    is_available = is_initialized = lambda self: True
    device_count = lambda self: 1
    current_device = lambda self: 0
    _is_in_bad_fork = lambda self: False
    manual_seed_all = _lazy_init = synchronize = lambda self, *given: None
    get_rng_state = lambda self, *given: torch.zeros(1)
    set_rng_state = lambda self, *given: None
    get_amp_supported_dtype = lambda self: [torch.bfloat16]


_setup_privateuseone_for_python_backend("far", Module())
FAR = torch.device("far", 0)


class FarTensor(torch.Tensor):
    """A tensor on the device; ``near`` are its numbers."""

    near: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, near: Tensor) -> FarTensor:
        layout = dict(strides=near.stride(), storage_offset=near.storage_offset(), dtype=near.dtype, device=FAR)
        made = torch.Tensor._make_wrapper_subclass(cls, near.shape, **layout)
        made.near = near
        return made

    def __repr__(self) -> str:
        return f"FarTensor({self.near})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        return _run(func, args, kwargs or {})


def _run(func: Any, args: tuple, kwargs: dict) -> Any:
    """The operation on the numbers, its results on the device of its tensors."""
    leaves, layout = tree_flatten((args, kwargs))
    tensors = [x for x in leaves if isinstance(x, Tensor)]
    there = [x for x in tensors if isinstance(x, FarTensor)]
    copies = func in (aten.copy_.default, aten._to_copy.default)
    wide = [x for x in tensors if x.dim() > 0]
    if func in INDEXING:
        if not isinstance(args[0], FarTensor) and any(isinstance(x, FarTensor) for x in wide):
            raise RuntimeError("indices should be either on cpu or on the same device as the indexed tensor (cpu)")
        wide = [x for x in wide if x is args[0] or x.dtype not in (torch.int64, torch.bool)]
    if there and not copies and any(not isinstance(x, FarTensor) for x in wide):
        raise RuntimeError(f"Expected all tensors to be on the same device, but found far:0 and cpu: {func.name()}")
    here = lambda x: torch.device("cpu") if _is_far(x) else x.near if isinstance(x, FarTensor) else x
    near_args, near_kwargs = tree_unflatten([here(x) for x in leaves], layout)
    found = func(*near_args, **near_kwargs)
    if func is aten.copy_.default:
        return args[0]
    to = kwargs.get("device")
    goes = bool(there) if to is None else _is_far(torch.device(to))
    given = {id(here(x)): x for x in tensors}
    wrapped = lambda x: given.get(id(x)) if id(x) in given else FarTensor(x) if goes else x
    return tree_map(lambda x: wrapped(x) if isinstance(x, Tensor) else x, found)


def _is_far(x: Any) -> bool:
    return isinstance(x, torch.device) and x.type == "far"


class Operations(TorchDispatchMode):
    """Operations without a tensor of the device among their inputs, too: they may be asked to create one."""

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        return _run(func, args, kwargs or {})


class Functions(TorchFunctionMode):
    """What is decided above operations: moving, creating, and attention, whose kernels are chosen by device."""

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in (torch.Tensor.to, torch.Tensor.cpu):
            return _to(*args, **kwargs) if func is torch.Tensor.to else _moved(args[0], False)
        if args and isinstance(args[0], FarTensor):
            if func is torch.Tensor.tolist:
                return args[0].near.tolist()
            if func in (torch.Tensor.__getitem__, torch.Tensor.__setitem__):
                # A list would be made into an index by a kernel of the device.
                tensors = lambda x: torch.tensor(x) if isinstance(x, list) else x
                at = tuple(map(tensors, args[1])) if isinstance(args[1], tuple) else tensors(args[1])
                return func(args[0], at, *args[2:])
            if func in (torch.Tensor.numpy, torch.Tensor.__array__):
                raise TypeError("can't convert far:0 device type tensor to numpy. Use Tensor.cpu() first")
        device, name = kwargs.get("device"), getattr(func, "__name__", "")
        if func is torch.nn.functional.scaled_dot_product_attention:
            return _attention(*args, **kwargs)
        if name == "gru_cell":
            return _gru_cell(*args)
        if device is not None and _is_far(torch.device(device)) and name != "_parse_to":
            return _moved(func(*args, **kwargs | {"device": "cpu"}), True)
        return func(*args, **kwargs)


def _to(x: Tensor, *given: Any, device: Any = None, dtype: torch.dtype | None = None, **rest: Any) -> Tensor:
    for value in given:
        if isinstance(value, Tensor):
            device, dtype = value.device, value.dtype
        elif isinstance(value, str | torch.device):
            device = value
        elif isinstance(value, torch.dtype):
            dtype = value
    there = x if device is None else _moved(x, _is_far(torch.device(device)))
    return there if dtype is None or dtype == there.dtype else torch.ops.aten._to_copy(there, dtype=dtype)


class _Move(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, there: bool) -> Tensor:
        return FarTensor(x.detach().clone()) if there else x.near.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _moved(gradient, not isinstance(gradient, FarTensor)), None


def _moved(x: Any, there: bool) -> Any:
    return x if not isinstance(x, Tensor) or isinstance(x, FarTensor) == there else _Move.apply(x, there)


def _attention(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, dropout_p: float = 0.0,
    is_causal: bool = False, scale: float | None = None, enable_gqa: bool = False,
) -> Tensor:  # fmt: skip
    if enable_gqa:
        key, value = (x.repeat_interleave(query.shape[-3] // x.shape[-3], -3) for x in (key, value))
    score = query @ key.transpose(-2, -1) * (query.shape[-1] ** -0.5 if scale is None else scale)
    if is_causal:
        attn_mask = torch.ones(score.shape[-2:], dtype=torch.bool, device=score.device).tril()
    if attn_mask is not None:
        masked = attn_mask.dtype == torch.bool
        score = score.masked_fill(~attn_mask, -torch.inf) if masked else score + attn_mask
    return score.softmax(-1).nan_to_num(0.0) @ value  # a row that may see nothing sees zeros, as in fused kernels


def _gru_cell(x: Tensor, h: Tensor, w_x: Tensor, w_h: Tensor, b_x: Tensor, b_h: Tensor) -> Tensor:
    reset_x, update_x, new_x = (x @ w_x.T + b_x).chunk(3, -1)
    reset_h, update_h, new_h = (h @ w_h.T + b_h).chunk(3, -1)
    update = (update_x + update_h).sigmoid()
    return (1 - update) * (new_x + (reset_x + reset_h).sigmoid() * new_h).tanh() + update * h


@contextmanager
def far_device() -> Iterator[None]:
    """Within it, the device "far" can be used."""
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    try:
        with Operations(), Functions():
            yield
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(False)
