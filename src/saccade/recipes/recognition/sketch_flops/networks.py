"""Networks that embed pictures, and their cost per picture as PyTorch counts it.

The networks defined here use group norm: rows do not depend on one another, so canvases of several sizes can share one
network. Batch norm in pretrained networks keeps the statistics of the checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from saccade.models.device import device_of
from saccade.random import initialized

_GRID = 2
"""Cells a side over which features are averaged, at any canvas, so that a coarse layout is kept."""
_LIBRARIES = ("torchvision", "timm")
_CHANNELS_LAST: dict[str, Any] = {"memory_format": torch.channels_last}
"""Memory layout of pictures and weights, in which convolutions are faster on a CPU."""


class Embedder(nn.Module):
    """Pictures ``[B, 3, H, W]`` in [0, 1] -> embeddings of length 1 ``[B, size]``.

    With ``size`` 0 the averaged features are the embedding. Pictures are normalized by ``mean`` and ``std``, with which
    the feature network was trained.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        features: nn.Module,
        channels: int,
        size: int,
        grid: int = _GRID,
        mean: float | Sequence[float] = 0.5,
        std: float | Sequence[float] = 0.5,
    ):
        super().__init__()
        self.features, self.pool = features, nn.AdaptiveAvgPool2d(grid)
        self.head = nn.Linear(channels * grid * grid, size) if size else nn.Identity()
        for name, value in (("mean", mean), ("std", std)):
            self.register_buffer(name, torch.as_tensor(value, dtype=torch.float32).reshape(-1, 1, 1), persistent=False)
        self.eval()

    def forward(self, pictures_BCHW: Tensor) -> Tensor:
        normalized = (pictures_BCHW.to(self.mean.device) - self.mean) / self.std
        features = self.features(normalized.contiguous(**_CHANNELS_LAST))
        return F.normalize(self.head(self.pool(features).flatten(1)), dim=-1)

    def export(self, folder: Path) -> None:
        """Write the weights to ``embedder.safetensors``."""
        from safetensors.torch import save_file

        weights = {name: value.contiguous() for name, value in self.state_dict().items()}
        save_file(weights, folder / "embedder.safetensors")


def build_embedder(name: str, size: int, seed: int = 0, device: str = "cpu") -> Embedder:
    """A network by name: "large" and "small" are defined here, "torchvision:NAME" and "timm:NAME" are pretrained.

    New weights follow from ``seed``; ``device`` "auto" is the GPU where there is one. ValueError for an unknown name,
    and for a library that is not installed.
    """
    with initialized(seed, "embedder"):
        if name in _NETWORKS:
            features, channels = _NETWORKS[name]()
            network = Embedder(features.to(**_CHANNELS_LAST), channels, size)
        else:
            network = _pretrained(name, size)
    return network.to(device_of(device))


def _pretrained(name: str, size: int) -> Embedder:
    library, _, model = name.partition(":")
    if library not in _LIBRARIES or not model:
        raise ValueError(f"unknown network '{name}': large, small, torchvision:NAME or timm:NAME")
    features = _pretrained_features(library, model)
    with torch.no_grad():
        channels = features.eval()(torch.zeros(1, 3, 64, 64)).shape[1]
    # Mean and deviation of ImageNet, with which the checkpoints of both libraries were trained.
    return Embedder(features, channels, size, 1, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def large() -> tuple[nn.Module, int]:
    """The teacher: five blocks of convolutions with 1.4 million weights, and the number of channels they give."""
    widths = (32, 64, 128, 256, 384)
    stem = _with_norm(nn.Conv2d(3, widths[0], 5, 2, 2, bias=False), widths[0])
    sizes = zip(widths, widths[1:], (2, 2, 1, 2))
    blocks = [_with_norm(nn.Conv2d(before, after, 3, stride, 1, bias=False), after) for before, after, stride in sizes]
    return nn.Sequential(stem, *blocks), widths[-1]


def small() -> tuple[nn.Module, int]:
    """The student: a stem and depthwise separable convolutions with 0.1 million weights, and the number of channels."""
    blocks = ((16, 32, 2), (32, 64, 2), (64, 96, 1), (96, 128, 1), (128, 192, 1))
    stem = _with_norm(nn.Conv2d(3, 16, 3, 2, 1, bias=False), 16)
    return nn.Sequential(stem, *(_separable(*sizes) for sizes in blocks)), blocks[-1][1]


_NETWORKS = {"large": large, "small": small}


def _separable(before: int, after: int, stride: int) -> nn.Module:
    depth = nn.Conv2d(before, before, 3, stride, 1, groups=before, bias=False)
    return nn.Sequential(_with_norm(depth, before), _with_norm(nn.Conv2d(before, after, 1, bias=False), after))


def _with_norm(conv: nn.Module, channels: int) -> nn.Module:
    return nn.Sequential(conv, nn.GroupNorm(8, channels), nn.ReLU(inplace=True))


def _pretrained_features(library: str, model: str) -> nn.Module:
    """A network pretrained on ImageNet without its head; it gives feature maps ``[B, C, h, w]``."""
    try:
        if library == "timm":
            import timm

            return timm.create_model(model, pretrained=True, num_classes=0, global_pool="")
        import torchvision

        return torchvision.models.get_model(model, weights="DEFAULT").features
    except ImportError:
        raise ValueError(f"network '{library}:{model}' needs a package: pip install {library}") from None
    except (AttributeError, RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{library} has no network '{model}' with feature maps: {reason}") from None


def flops(call: Callable[[], Any]) -> int:
    """Floating-point operations of a call, multiplications and additions alike, as `FlopCounterMode` counts them.

    Matrix products and convolutions are counted; norms, activations and drawing are not, in any network.
    """
    from torch.utils.flop_counter import FlopCounterMode

    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


@dataclass
class FlopMeter:
    """FLOPs of a network for one input of a given size, measured once per size."""

    network: Callable[[Tensor], Any]
    example: Callable[[int], Tensor]
    """Size -> an input ``[1, ...]`` of that size."""
    measured: dict[int, int] = field(default_factory=dict)

    def __call__(self, size: int) -> int:
        if size not in self.measured:
            self.measured[size] = flops(lambda: self.network(self.example(size)))
        return self.measured[size]


def blank(canvas: int) -> Tensor:
    """An empty canvas as a picture ``[1, 3, canvas, canvas]``."""
    return torch.ones(1, 3, canvas, canvas)
