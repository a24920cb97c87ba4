"""The seeing part of a vision-language model: features of pictures, computed once however many rows look at them."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from saccade.models.language.prompts import ImageInputs

AT_ONCE = 2**24
"""Numbers that go through the vision part in one call; it is a whole batch of small pictures, or a few large ones."""

Leaves = tuple[Tensor, ...]
"""Features of a sight's tokens ``[tokens, D]``: what takes the place of the placeholders, then those of deeper
layers.
"""


class VisionEncoder:
    """Turns sights into what a model's forward pass takes. A frozen part looks at a sight once as long as it exists.

    A trained part looks once a call, with gradients; nothing of it is kept.
    """

    def __init__(self, model: Any, trained: Sequence[nn.Parameter] = ()):
        moving = {id(p) for p in trained}
        self.model = model
        self.frozen = not any(id(p) in moving for p in parameters(model))
        self.kept: WeakKeyDictionary[ImageInputs, Leaves] = WeakKeyDictionary()
        self.one_tensor = False
        taken = inspect.signature(model.forward).parameters
        self.marks = [name for name in ("token_type_ids", "mm_token_type_ids") if name in taken]

    def see(self, sights: Sequence[ImageInputs | None], ids_BL: Tensor) -> dict[str, Any]:
        """Arguments for the forward pass over rows ``ids_BL`` whose placeholders stand for ``sights``, in this
        order.
        """
        present = [sight for sight in sights if sight is not None]
        if not present:
            return {}
        leaves = self._leaves(list(dict.fromkeys(present)))
        joined = [torch.cat(parts) for parts in zip(*(leaves[sight] for sight in present))]
        features = SimpleNamespace(
            pooler_output=joined[0][None] if self.one_tensor else [joined[0]],
            deepstack_features=[[layer] for layer in joined[1:]],
        )
        marks = {name: (ids_BL == self.model.config.image_token_id).long() for name in self.marks}
        return {"mm_encoder_outputs": {"image": features}} | marks

    def _leaves(self, sights: list[ImageInputs]) -> dict[ImageInputs, Leaves]:
        known = {sight: self.kept[sight] for sight in sights if sight in self.kept}
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            for some in _alike([sight for sight in sights if sight not in known]):
                known.update(zip(some, self._look(some)))
        if self.frozen:
            self.kept.update(known)
        return known

    def _look(self, sights: list[ImageInputs]) -> list[Leaves]:
        inner = self.model.base_model
        inputs = {k: torch.cat([s.inputs[k] for s in sights]).to(self.model.device) for k in sights[0].inputs}
        out = inner.get_image_features(**inputs, return_dict=True)
        self.one_tensor = isinstance(out.pooler_output, Tensor)
        layers = [out.pooler_output, *(getattr(out, "deepstack_features", None) or ())]
        counts = [sight.tokens for sight in sights]
        return list(zip(*(_flat(layer).split(counts) for layer in layers)))


def parameters(model: Any) -> Iterator[nn.Parameter]:
    """The weights that only pictures pass through: all but the decoder's and the head's."""
    words = {id(p) for part in (model.get_decoder(), model.get_output_embeddings()) for p in part.parameters()}
    return (p for p in model.parameters() if id(p) not in words)


def _alike(sights: list[ImageInputs]) -> Iterator[list[ImageInputs]]:
    """Sights that can go through the vision part together: their inputs differ in the first axis alone."""
    groups: dict[Any, list[ImageInputs]] = {}
    for sight in sights:
        groups.setdefault(tuple((k, v.shape[1:], v.dtype) for k, v in sight.inputs.items()), []).append(sight)
    for group in groups.values():
        largest = max(sum(v.numel() for v in sight.inputs.values()) for sight in group)
        most = max(AT_ONCE // largest, 1)
        yield from (group[i : i + most] for i in range(0, len(group), most))


def _flat(features: Any) -> Tensor:
    return torch.cat([x.reshape(-1, x.shape[-1]) for x in features])
