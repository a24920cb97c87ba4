"""Networks that place pictures where alike ones are near, and what a picture costs them, by PyTorch's own counter.

Group norm in our own networks: rows do not see one another, so canvases of several sizes may share one network. Batch
norm in networks from elsewhere keeps the statistics of their checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from saccade.core import seeded
from saccade.models.device import device_of

_GRID = 2
"""Features are averaged over so many cells a side, at any canvas: what is where still shows."""

_LIBRARIES = ("torchvision", "timm")


class Embedder(nn.Module):
    """Pictures ``[B, 3, H, W]`` in [0, 1] -> embeddings of length 1 ``[B, dim]``.

    With ``dim`` 0 the averaged features themselves are the embedding. ``mean`` and ``std`` are those that the features'
    network was made for.
    """

    def __init__(
        self,
        features: nn.Module,
        channels: int,
        dim: int,
        grid: int = _GRID,
        mean: float | Any = 0.5,
        std: float | Any = 0.5,
    ):
        super().__init__()
        self.features, self.pool = features, nn.AdaptiveAvgPool2d(grid)
        self.head = nn.Linear(channels * grid * grid, dim) if dim else nn.Identity()
        for name, value in (("mean", mean), ("std", std)):
            self.register_buffer(name, torch.as_tensor(value, dtype=torch.float32).reshape(-1, 1, 1), persistent=False)
        self.eval()

    def forward(self, pictures_BCHW: Tensor) -> Tensor:
        scaled = ((pictures_BCHW.to(self.mean.device) - self.mean) / self.std).contiguous(
            memory_format=torch.channels_last
        )
        return F.normalize(self.head(self.pool(self.features(scaled)).flatten(1)), dim=-1)

    def export(self, folder: Path) -> None:
        """The weights as ``embedder.safetensors``."""
        from safetensors.torch import save_file

        save_file(
            {name: value.contiguous() for name, value in self.state_dict().items()}, folder / "embedder.safetensors"
        )


def embedder(name: str, dim: int, seed: int = 0, device: str = "cpu") -> Embedder:
    """A network by name: "large" and "small" are ours, "torchvision:vgg16" or "timm:mobilenetv2_100" a checkpoint's.

    Ours begin at weights that follow from ``seed``; ``device`` "auto" is the GPU where there is one. ValueError for an
    unknown name, or where the library is missing.
    """
    return _built(name, dim, seed).to(device_of(device))


def _built(name: str, dim: int, seed: int) -> Embedder:
    with seeded(seed):
        if name in _OWN:
            features, channels = _OWN[name]()
            return Embedder(features.to(memory_format=torch.channels_last), channels, dim)
        library, _, model = name.partition(":")
        if library not in _LIBRARIES or not model:
            raise ValueError(f"unknown network '{name}': large, small, torchvision:NAME or timm:NAME")
        features = _borrowed(library, model)
        with torch.no_grad():
            channels = features.eval()(torch.zeros(1, 3, 64, 64)).shape[1]
        # ImageNet's, which both libraries' checkpoints were trained with.
        return Embedder(features, channels, dim, 1, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def large() -> tuple[nn.Module, int]:
    """Five blocks of plain convolutions, 1.4 million weights; the teacher."""
    widths = (32, 64, 128, 256, 384)
    stem = _normed(nn.Conv2d(3, widths[0], 5, 2, 2, bias=False), widths[0])
    plan = zip(widths, widths[1:], (2, 2, 1, 2))
    blocks = [_normed(nn.Conv2d(before, after, 3, stride, 1, bias=False), after) for before, after, stride in plan]
    return nn.Sequential(stem, *blocks), widths[-1]


def small() -> tuple[nn.Module, int]:
    """A stem and depth-wise separable convolutions, 0.1 million weights; the student."""
    plan = ((16, 32, 2), (32, 64, 2), (64, 96, 1), (96, 128, 1), (128, 192, 1))
    stem = _normed(nn.Conv2d(3, 16, 3, 2, 1, bias=False), 16)
    return nn.Sequential(stem, *(_separable(*sizes) for sizes in plan)), plan[-1][1]


_OWN = {"large": large, "small": small}


def _separable(before: int, after: int, stride: int) -> nn.Module:
    depth = nn.Conv2d(before, before, 3, stride, 1, groups=before, bias=False)
    return nn.Sequential(_normed(depth, before), _normed(nn.Conv2d(before, after, 1, bias=False), after))


def _normed(conv: nn.Module, channels: int) -> nn.Module:
    return nn.Sequential(conv, nn.GroupNorm(8, channels), nn.ReLU(inplace=True))


def _borrowed(library: str, model: str) -> nn.Module:
    """The feature maps of a checkpoint of ImageNet ``[B, C, h, w]``, without its head."""
    try:
        if library == "timm":
            import timm

            return timm.create_model(model, pretrained=True, num_classes=0, global_pool="")
        import torchvision

        return torchvision.models.get_model(model, weights="DEFAULT").features
    except ImportError:
        raise ValueError(f"network '{library}:{model}' needs a package: pip install {library}") from None
    except (AttributeError, RuntimeError, ValueError) as error:
        raise ValueError(
            f"{library} has no network '{model}' with feature maps: {str(error).splitlines()[0]}"
        ) from None


def flops(call: Callable[[], Any]) -> int:
    """Floating-point operations of a call, multiplications and additions alike, as `FlopCounterMode` counts them.

    Matrix products and convolutions; norms, activations and drawing are not counted, for anyone.
    """
    from torch.utils.flop_counter import FlopCounterMode

    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


@dataclass
class Meter:
    """What one row of a size costs, measured once a size; ``of`` makes the input ``[1, ...]`` of that size."""

    network: Callable[[Tensor], Any]
    of: Callable[[int], Tensor]
    known: dict[int, int] = field(default_factory=dict)

    def __call__(self, size: int) -> int:
        if size not in self.known:
            self.known[size] = flops(lambda: self.network(self.of(size)))
        return self.known[size]
