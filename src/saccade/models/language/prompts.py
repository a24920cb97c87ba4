"""What a model reads: tokens with their positions, and the pictures among them as its processor prepared them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from saccade.math.frames import Frame


@dataclass(frozen=True)
class PerRow:
    """One plain value for each row of a rollout, picked as a tensor is: ``values[index_B]``."""

    values: tuple[Any, ...]

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, index_B: Tensor) -> PerRow:
        return PerRow(tuple(self.values[i] for i in index_B.tolist()))

    @staticmethod
    def join(parts: Sequence[PerRow]) -> PerRow:
        """The values of several rollouts, one below the other."""
        return PerRow(tuple(value for part in parts for value in part.values))


@dataclass(frozen=True, eq=False)
class ImageInputs:
    """Pictures that were prepared together: what the vision part takes, and how many tokens they fill.

    Two sights are the same if they are the same object, however often rows refer to it; so features are computed once.
    """

    inputs: Mapping[str, Tensor]
    tokens: int


ImageInputsList = tuple[ImageInputs | None, ...]
"""The pictures of a row in the order of its passages: the prompt's, then those of what it was told."""


@dataclass(frozen=True, eq=False)
class EncodedPrompt:
    """Tokens ``[L]`` and their positions ``[A, L]`` from 0 on (A = 3 axes where pictures have rows and columns, else
    1).

    ``frames`` are those of its pictures as the model is shown them.
    """

    ids_L: Tensor
    place_AL: Tensor
    sight: ImageInputs | None = None
    frames: tuple[Frame, ...] = ()

    def __len__(self) -> int:
        return len(self.ids_L)

    @property
    def after(self) -> int:
        """The position that follows."""
        return int(self.place_AL.max()) + 1

    def tail(self) -> EncodedPrompt:
        """Without the first token, which must not be a picture's."""
        return EncodedPrompt(self.ids_L[1:], self.place_AL[:, 1:] - 1, self.sight, self.frames)


def beside(passages: Sequence[EncodedPrompt], pad: int) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens ``[P, L]``, what is attended to ``[P, L]`` and positions ``[P, A, L]`` (int64), padded on the left."""
    longest = max(map(len, passages))
    ids_PL = torch.full((len(passages), longest), pad)
    attention_PL = torch.zeros(len(passages), longest, dtype=torch.int64)
    place_PAL = torch.zeros(len(passages), len(passages[0].place_AL), longest, dtype=torch.int64)
    for i, passage in enumerate(passages):
        own = slice(longest - len(passage), longest)
        ids_PL[i, own], attention_PL[i, own], place_PAL[i, :, own] = passage.ids_L, 1, passage.place_AL
    return ids_PL, attention_PL, place_PAL


def position_ids(place_BAL: Tensor) -> Tensor:
    """Positions as models take them: ``[B, L]`` for one axis, ``[3, B, L]`` for three."""
    return place_BAL[:, 0] if place_BAL.shape[1] == 1 else place_BAL.transpose(0, 1)


def digest(pixels: Any) -> str:
    """A name for a picture that follows from its shape and its pixels, the same whenever and wherever it is asked
    for.
    """
    return hashlib.blake2b(pixels.tobytes(), digest_size=12, key=repr(pixels.shape).encode()[:64]).hexdigest()


Names = dict[int, tuple[Any, str]]


def content(value: Any, names: Names) -> str:
    """A text that is the same for nests of texts and pictures that hold the same. ``names`` remembers pictures by
    `id`.
    """
    return repr(_named(value, names))


def _named(value: Any, names: Names) -> Any:
    if hasattr(value, "tobytes"):
        if id(value) not in names:
            names[id(value)] = value, digest(value)  # the picture too, so that no other takes its place in memory
        return names[id(value)][1]
    if isinstance(value, Mapping):
        return {key: _named(inner, names) for key, inner in value.items()}
    return [_named(inner, names) for inner in value] if isinstance(value, (list, tuple)) else value
