"""Named random streams: whoever needs random numbers says from which seed and what for.

    initialized(seed, "critics")               the initial weights of networks
    seeds(seed, 8, "samples", step)            the seeds of the eight prompts of a training step
    noise(seeds_B, shape, "denoising", 7)      the noise of denoising step 7, row by row
    stream(seed, "score network")              a seed of its own for a part that draws several things

A name is hashed together with the seed, so two names never share a generator, and nobody allocates numbers by hand.
What is drawn follows from a row's own seed and the name alone, whatever batch, process, order or device the row is in.

    stream = mix(seed a + hash(name))            bits(stream, i) = mix(stream + (i + 1) a)            mix: SplitMix64's
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from hashlib import blake2b
from typing import overload

import numpy as np
import torch
from torch import Tensor

Name = str | int
_GOLDEN = 0x9E3779B97F4A7C15
_WORD, _POSITIVE = (1 << 64) - 1, (1 << 63) - 1
_watch: Callable[[int, str], None] | None = None


@overload
def stream(seed: int, *name: Name) -> int: ...


@overload
def stream(seed: Tensor, *name: Name) -> Tensor: ...


def stream(seed: int | Tensor, *name: Name) -> int | Tensor:
    """The seed below 2^63 that follows from a seed and a name; of each row for seeds ``[B]`` int64.

    ValueError without a name.
    """
    if isinstance(seed, Tensor):
        return torch.from_numpy(_streams(seed, name).view(np.int64))
    derived = _mix(int(seed) * _GOLDEN + _hash(name)) & _POSITIVE
    if _watch is not None:
        _watch(derived, _path(name))
    return derived


def seeds(seed: int, count: int, *name: Name) -> Tensor:
    """``count`` independent seeds that follow from a seed and a name: int64 ``[count]``.

    ValueError for a seed beyond 64 bits.
    """
    if not -(1 << 63) <= seed < 1 << 63:
        raise ValueError(f"a seed is a whole number of 64 bits, not {seed}")
    start = stream(seed, *name)
    return torch.tensor([_mix(start + (i + 1) * _GOLDEN) & _POSITIVE for i in range(count)], dtype=torch.int64)


def generator(seed: int, *name: Name) -> torch.Generator:
    """A CPU generator of torch, so that what is drawn does not depend on the device."""
    return torch.Generator().manual_seed(stream(seed, *name))


def numpy_generator(seed: int, *name: Name) -> np.random.Generator:
    """A generator of numpy."""
    return np.random.default_rng(stream(seed, *name))


def noise(seeds_B: Tensor, shape: Sequence[int], *name: Name, device: torch.device | str = "cpu") -> Tensor:
    """Standard normal numbers ``[B, *shape]``, each row from its own seed."""
    rows = [torch.randn(*shape, generator=generator(seed, *name)) for seed in seeds_B.tolist()]
    return torch.stack(rows).to(device)


@contextmanager
def initialized(seed: int, *name: Name) -> Iterator[None]:
    """Weights that are initialized inside follow from seed and name alone; torch's global generator stays as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream(seed, *name))
        yield


def uniform(seeds_B: Tensor, shape: Sequence[int], *name: Name) -> Tensor:
    """Uniform numbers in [0, 1): float32 ``[B, *shape]``, row by row; cheap for many rows of a few numbers each."""
    bits_BN = _bits(seeds_B, math.prod(shape), name)
    return torch.from_numpy(((bits_BN >> np.uint64(40)).astype(np.float32) * np.float32(2**-24)).reshape(-1, *shape))


def normal(seeds_B: Tensor, shape: Sequence[int], *name: Name) -> Tensor:
    """Standard normal numbers: float32 ``[B, *shape]``, row by row, by the Box-Muller transform of uniform ones."""
    count = math.prod(shape)
    half = (count + 1) // 2
    unit_BN = (_bits(seeds_B, 2 * half, name) >> np.uint64(11)).astype(np.float64) * 2.0**-53
    radius, angle = np.sqrt(-2 * np.log1p(-unit_BN[:, :half])), 2 * math.pi * unit_BN[:, half:]
    both = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)], 1)[:, :count]
    return torch.from_numpy(both.astype(np.float32).reshape(-1, *shape))


@contextmanager
def watched(watch: Callable[[int, str], None]) -> Iterator[None]:
    """Inside, ``watch`` is told every stream, as its seed and its name, at the moment when it is opened; for tests."""
    global _watch
    _watch = watch
    try:
        yield
    finally:
        _watch = None


def _path(name: tuple[Name, ...]) -> str:
    return "/".join(map(str, name))


def _hash(name: tuple[Name, ...]) -> int:
    if not name:
        raise ValueError("a random stream needs a name: what are the numbers for?")
    return int.from_bytes(blake2b(_path(name).encode(), digest_size=8).digest(), "little")


def _mix(z: int) -> int:
    z &= _WORD
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _WORD
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _WORD
    return z ^ (z >> 31)


def _bits(seeds_B: Tensor, count: int, name: tuple[Name, ...]) -> np.ndarray:
    """Random words, uint64 ``[B, count]``."""
    return _mixed(_streams(seeds_B, name)[:, None] + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(_GOLDEN))


def _streams(seeds_B: Tensor, name: tuple[Name, ...]) -> np.ndarray:
    """`stream` of each row, uint64 ``[B]``."""
    own_B = seeds_B.cpu().numpy().astype(np.int64, copy=False).view(np.uint64)
    derived_B = _mixed(own_B * np.uint64(_GOLDEN) + np.uint64(_hash(name))) & np.uint64(_POSITIVE)
    if _watch is not None:
        for derived in derived_B.tolist():
            _watch(derived, _path(name))
    return derived_B


def _mixed(z: np.ndarray) -> np.ndarray:
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
