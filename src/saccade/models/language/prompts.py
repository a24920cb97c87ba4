"""Inputs of a language model: tokens with their positions, and the pictures among them as its processor prepared them.

Suffixes here: P prompts, B rows, L tokens, A position axes.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from saccade.math.frames import Frame
from saccade.math.pixels import picture_digest


@dataclass(frozen=True)
class PerRow:
    """One plain value for each row of a rollout, indexed as a tensor is: ``values[index_B]``."""

    values: tuple[Any, ...]

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, index_B: Tensor) -> PerRow:
        return PerRow(tuple(self.values[i] for i in index_B.tolist()))

    @staticmethod
    def join(parts: Sequence[PerRow]) -> PerRow:
        """The values of several rollouts, concatenated."""
        return PerRow(tuple(value for part in parts for value in part.values))


@dataclass(frozen=True, eq=False)
class ImageInputs:
    """Pictures that were prepared together: the inputs of the vision encoder, and the number of tokens they fill.

    Two are equal if they are the same object, however many rows refer to it, so that features are computed once.
    """

    inputs: Mapping[str, Tensor]
    tokens: int


ImageInputsList = tuple[ImageInputs | None, ...]
"""The pictures of a row in the order of its parts: those of the prompt, then those of each later message."""


@dataclass(frozen=True, eq=False)
class EncodedPrompt:
    """Token ids ``[L]`` and their positions ``[A, L]``, which begin at 0.

    A is 3 for models whose positions count time, rows and columns of pictures (M-RoPE), else 1. ``frames`` describe the
    pictures as the model receives them.
    """

    ids_L: Tensor
    position_AL: Tensor
    images: ImageInputs | None = None
    frames: tuple[Frame, ...] = ()

    def __len__(self) -> int:
        return len(self.ids_L)

    @property
    def next_position(self) -> int:
        """The position after the last token."""
        return int(self.position_AL.max()) + 1

    def without_first(self) -> EncodedPrompt:
        """The same without its first token, which must not belong to a picture."""
        return EncodedPrompt(self.ids_L[1:], self.position_AL[:, 1:] - 1, self.images, self.frames)

    @property
    def size(self) -> int:
        """Bytes of its tensors."""
        tensors = [self.ids_L, self.position_AL, *(self.images.inputs.values() if self.images else ())]
        return sum(x.numel() * x.element_size() for x in tensors)


class EncodedPrompts:
    """Encoded prompts by what they hold, within ``capacity`` bytes; those used least recently are dropped first.

    While one is kept its pictures are the same object, so that a frozen vision encoder keeps their features.
    """

    def __init__(self, capacity: int = 1 << 28):
        self.capacity, self.used = capacity, 0
        self.kept: OrderedDict[str, EncodedPrompt] = OrderedDict()

    def __call__(self, prompt: Any, encode: Callable[[Any], EncodedPrompt]) -> EncodedPrompt:
        """The encoded prompt; ``encode`` gives one that is not kept."""
        key = content_key(prompt, {})
        if key not in self.kept:
            self.kept[key] = encode(prompt)
            self.used += self.kept[key].size
        self.kept.move_to_end(key)
        while self.used > self.capacity and len(self.kept) > 1:
            self.used -= self.kept.popitem(last=False)[1].size
        return self.kept[key]


def pad_left(prompts: Sequence[EncodedPrompt], pad_id: int) -> tuple[Tensor, Tensor, Tensor]:
    """Token ids ``[P, L]``, attention mask ``[P, L]`` and positions ``[P, A, L]`` (int64), padded on the left."""
    longest = max(map(len, prompts))
    ids_PL = torch.full((len(prompts), longest), pad_id)
    attention_PL = torch.zeros(len(prompts), longest, dtype=torch.int64)
    position_PAL = torch.zeros(len(prompts), len(prompts[0].position_AL), longest, dtype=torch.int64)
    for i, prompt in enumerate(prompts):
        columns = slice(longest - len(prompt), longest)
        ids_PL[i, columns], attention_PL[i, columns], position_PAL[i, :, columns] = prompt.ids_L, 1, prompt.position_AL
    return ids_PL, attention_PL, position_PAL


def position_ids(position_BAL: Tensor) -> Tensor:
    """Positions in the layout of transformers: ``[B, L]`` for one axis, ``[3, B, L]`` for three."""
    return position_BAL[:, 0] if position_BAL.shape[1] == 1 else position_BAL.transpose(0, 1)


DigestCache = dict[int, tuple[Any, str]]
"""Pictures and their digests by `id`; holding the picture keeps its id from being reused."""


def content_key(value: Any, digests: DigestCache) -> str:
    """A string that is equal for nested structures of equal texts and pictures; ``digests`` is filled on the way."""
    return repr(_with_digests(value, digests))


def _with_digests(value: Any, digests: DigestCache) -> Any:
    if hasattr(value, "tobytes"):
        if id(value) not in digests:
            digests[id(value)] = value, picture_digest(value)
        return digests[id(value)][1]
    if isinstance(value, Mapping):
        return {key: _with_digests(inner, digests) for key, inner in value.items()}
    return [_with_digests(inner, digests) for inner in value] if isinstance(value, (list, tuple)) else value
