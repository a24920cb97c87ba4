"""Activation checkpointing of layers that have another form at the time: LoRA folded in, other functions."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint

Form = Sequence[tuple[nn.Module, dict[str, Any], dict[str, Any], Any]]
"""Modules with their children, their parameters and the function that was put in place of their own."""


def checkpointed(layer: nn.Module, call: Callable[..., Any], *inputs: Any) -> Any:
    """``call(*inputs)``, which uses ``layer``; what is computed there is computed again in the backward pass.

    By then the layer may have its plain form again, so it is computed in the form that it has now.
    """
    form = [(m, dict(m._modules), dict(m._parameters), vars(m).get("forward")) for m in layer.modules()]
    again = lambda: (contextlib.nullcontext(), _in_form(form))
    return checkpoint(call, *inputs, use_reentrant=False, context_fn=again)


def checkpointed_block(block: nn.Module, *inputs: Any) -> Any:
    """`checkpointed` as diffusers calls it."""
    return checkpointed(block, block, *inputs)


@contextlib.contextmanager
def _in_form(form: Form) -> Iterator[None]:
    present = [(m, m._modules, m._parameters, vars(m).get("forward")) for m, *_ in form]
    try:
        _take(form)
        yield
    finally:
        _take(present)


def _take(form: Form) -> None:
    for module, children, parameters, forward in form:
        vars(module).update(_modules=children, _parameters=parameters)
        vars(module).pop("forward", None)
        if forward is not None:
            vars(module)["forward"] = forward
