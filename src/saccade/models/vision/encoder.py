"""The vision encoder of a vision-language model: features of pictures, computed once however many rows show them."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from saccade.models.language.prompts import ImageInputs
from saccade.models.linear import onednn_linears

MAX_ELEMENTS = 2**24
"""Elements of input that go through the encoder in one call: many small pictures, or a few large ones."""

MAX_ELEMENTS_CPU = 2**18
"""The same on a CPU, where more would not stay in its cache."""

Features = tuple[Tensor, ...]
"""Features of the tokens of some image inputs ``[tokens, D]``: those that replace the placeholders, then those that are
added in deeper layers."""


class VisionEncoder:
    """Turns image inputs into arguments of a model's forward pass.

    A frozen encoder computes the features of image inputs once and caches them as long as the inputs exist. A trained
    encoder computes them once a call, with gradients, and caches nothing.
    """

    def __init__(self, model: Any, trained: Sequence[nn.Parameter] = ()):
        self.model, self.trained = model, {id(p) for p in trained}
        self.frozen = not any(id(p) in self.trained for p in vision_parameters(model))
        self.cache: WeakKeyDictionary[ImageInputs, Features] = WeakKeyDictionary()
        self.one_tensor = False
        self.output_type: Any = None
        accepted = inspect.signature(model.forward).parameters
        self.type_ids = [name for name in ("token_type_ids", "mm_token_type_ids") if name in accepted]

    def serves(self, model: Any, trained: Sequence[nn.Parameter]) -> bool:
        """Whether it is an encoder of this model with these trained weights."""
        return self.model is model and self.trained == {id(p) for p in trained}

    def model_inputs(self, images: Sequence[ImageInputs | None], ids_BL: Tensor) -> dict[str, Any]:
        """Arguments for a forward pass over rows ``ids_BL`` whose placeholders stand for ``images``, in order."""
        present = [one for one in images if one is not None]
        if not present:
            return {}
        features = self._features(list(dict.fromkeys(present)))
        joined = [torch.cat(parts) for parts in zip(*(features[one] for one in present))]
        deepstack = {"deepstack_features": [[layer] for layer in joined[1:]]} if joined[1:] else {}
        output = self.output_type(pooler_output=joined[0][None] if self.one_tensor else [joined[0]], **deepstack)
        type_ids = {name: (ids_BL == self.model.config.image_token_id).long() for name in self.type_ids}
        return {"mm_encoder_outputs": {"image": output}} | type_ids

    def _features(self, images: list[ImageInputs]) -> dict[ImageInputs, Features]:
        known = {one: self.cache[one] for one in images if one in self.cache}
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            most = MAX_ELEMENTS_CPU if self.model.device.type == "cpu" else MAX_ELEMENTS
            for batch in _batches([one for one in images if one not in known], most):
                known.update(zip(batch, self._encode(batch)))
        if self.frozen:
            self.cache.update(known)
        return known

    def _encode(self, images: list[ImageInputs]) -> list[Features]:
        inner = self.model.base_model
        inputs = {k: torch.cat([one.inputs[k] for one in images]).to(self.model.device) for k in images[0].inputs}
        with onednn_linears(inner):
            out = inner.get_image_features(**inputs, return_dict=True)
        self.one_tensor, self.output_type = isinstance(out.pooler_output, Tensor), type(out)
        layers = [out.pooler_output, *(getattr(out, "deepstack_features", None) or ())]
        counts = [one.tokens for one in images]
        return list(zip(*(_flat(layer).split(counts) for layer in layers)))


def vision_parameters(model: Any) -> Iterator[nn.Parameter]:
    """The weights that only pictures pass through: all but the decoder's and the head's."""
    text = {id(p) for part in (model.get_decoder(), model.get_output_embeddings()) for p in part.parameters()}
    return (p for p in model.parameters() if id(p) not in text)


def _batches(images: list[ImageInputs], most: int) -> Iterator[list[ImageInputs]]:
    """Image inputs that can go through the encoder together: they differ in the size of the first axis alone."""
    groups: dict[Any, list[ImageInputs]] = {}
    for one in images:
        groups.setdefault(tuple((k, v.shape[1:], v.dtype) for k, v in one.inputs.items()), []).append(one)
    for group in groups.values():
        largest = max(sum(v.numel() for v in one.inputs.values()) for one in group)
        count = max(most // largest, 1)
        yield from (group[i : i + count] for i in range(0, len(group), count))


def _flat(features: Any) -> Tensor:
    return torch.cat([x.reshape(-1, x.shape[-1]) for x in features])
