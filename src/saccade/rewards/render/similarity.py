"""Similarity of two batches of pictures, pair by pair: ``[B, 3, H, W]`` in [0, 1] twice -> ``[B]``.

Standardized L2 (RLRF, arXiv 2505.20793, with z = (x - mean) / std of a picture, rho the correlation):
    R = clip(1 - mean (z_a - z_b)^2, -1, 1) = clip(2 rho - 1, -1, 1)
SSIM (Wang et al. 2004, an 11 x 11 Gaussian window of sigma 1.5, every channel, without the border).
Dice of two fields: 2 <u, v> / (|u|^2 + |v|^2): 1 for equal ones, 0 for disjoint ones, negative for opposite ones.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

_GREY = (0.2125, 0.7154, 0.0721)

_MIN_STD = 1e-3
"""Standard deviation below which a picture counts as constant: a quarter of a grey level."""

_EPS = 1e-6
"""Term added to numerator and denominator of the Dice coefficient."""


def standardized_l2(a: Tensor, b: Tensor) -> Tensor:
    """Standardized L2 in [-1, 1]; for a constant picture 1 if the other is equal, else -1."""
    distance = (_standardized(a) - _standardized(b)).square().flatten(1).mean(1)
    score = (1 - distance).clamp(-1, 1)
    constant = _constant(a) | _constant(b)
    equal = (a - b).abs().flatten(1).amax(1) < 1 / 512
    return torch.where(constant, torch.where(equal, 1.0, -1.0), score)


def edge_l2(a: Tensor, b: Tensor, sigma: float = 2.3) -> Tensor:
    """Standardized L2 in [-1, 1] of the edge maps: Canny, dilated 3 x 3, blurred by ``sigma`` pixels."""
    return standardized_l2(edge_maps(a, sigma), edge_maps(b, sigma))


def edge_maps(pictures: Tensor, sigma: float) -> Tensor:
    """Soft edge maps ``[B, 1, H, W]`` in [0, 1]; equal pictures are processed once."""
    from skimage.feature import canny

    unique, index_B = torch.unique(_grey(pictures), dim=0, return_inverse=True)
    maps = torch.from_numpy(np.stack([canny(grey) for grey in unique.double().numpy()])).float()
    dilated = F.max_pool2d(maps[:, None], 3, 1, 1)
    return _blurred(dilated, sigma, int(2.6 * sigma + 0.5), "replicate")[index_B]


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Structural similarity in [-1, 1]. ValueError for pictures smaller than the window, 11 pixels."""
    if min(a.shape[2:]) < 11:
        raise ValueError(f"SSIM needs pictures of at least 11 x 11 pixels, not {a.shape[3]} x {a.shape[2]}")
    mean = lambda x: _blurred(x, 1.5, 5, None)
    mean_a, mean_b = mean(a), mean(b)
    var_a, var_b, both = mean(a * a) - mean_a**2, mean(b * b) - mean_b**2, mean(a * b) - mean_a * mean_b
    c1, c2 = 0.01**2, 0.03**2
    index = (2 * mean_a * mean_b + c1) * (2 * both + c2) / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))
    return index.flatten(1).mean(1)


def structure_distance(a: Tensor, b: Tensor) -> Tensor:
    """Distance of paint and of outlines at several scales: 0 for equal pictures, 1 for no overlap, at most 2.

    One minus the mean, over scales of 1, 1/2, 1/4 … down to 4 pixels, of the Dice coefficients of the paint (the
    difference from white) and of the color gradients. Coarse scales reward shapes that are nearly in place. It replaces
    LPIPS or DreamSim: like them it compares structure before pixels, but it is no model of human perception.
    """
    paint_a, paint_b = 1 - a, 1 - b
    scores = []
    while True:
        scores += [_dice(paint_a, paint_b), _dice(_gradient(paint_a), _gradient(paint_b))]
        if min(paint_a.shape[2:]) < 8:
            return 1 - torch.stack(scores).mean(0)
        paint_a, paint_b = F.avg_pool2d(paint_a, 2), F.avg_pool2d(paint_b, 2)


def foreground_iou(a: Tensor, b: Tensor, threshold: float = 0.05) -> Tensor:
    """Intersection over union of the foregrounds, in [0, 1]; 1 where both pictures are blank.

    A pixel is foreground if one of its channels differs from white by more than ``threshold``.
    """
    foreground = lambda x: (x.amin(1) < 1 - threshold).flatten(1)
    foreground_a, foreground_b = foreground(a), foreground(b)
    union = (foreground_a | foreground_b).sum(1)
    return torch.where(union > 0, (foreground_a & foreground_b).sum(1) / union.clamp(min=1), 1.0)


def mean_squared_error(a: Tensor, b: Tensor) -> Tensor:
    """Mean squared difference of the channels, in [0, 1]."""
    return (a - b).square().flatten(1).mean(1)


def _standardized(x: Tensor) -> Tensor:
    flat = x.flatten(1)
    std, mean = torch.std_mean(flat, 1, correction=0, keepdim=True)
    return (flat - mean) / std.clamp(min=_MIN_STD)


def _constant(x: Tensor) -> Tensor:
    return x.flatten(1).std(1, correction=0) < _MIN_STD


def _grey(x: Tensor) -> Tensor:
    return (x * torch.tensor(_GREY).to(x)[:, None, None]).sum(1)


def _dice(u: Tensor, v: Tensor) -> Tensor:
    energy = lambda x: x.square().flatten(1).mean(1)
    return (2 * (u * v).flatten(1).mean(1) + _EPS) / (energy(u) + energy(v) + _EPS)


def _gradient(x: Tensor) -> Tensor:
    return torch.cat([F.pad(x.diff(dim=2), (0, 0, 0, 1)), F.pad(x.diff(dim=3), (0, 1))], 1)


def _blurred(x: Tensor, sigma: float, radius: int, padding: str | None) -> Tensor:
    """Gaussian blur with a window of ``radius`` pixels on each side; without ``padding`` the border is cut off."""
    weight = torch.exp(-0.5 * (torch.arange(-radius, radius + 1).to(x) / sigma) ** 2)
    weight = (weight / weight.sum()).expand(x.shape[1], 1, -1)
    x = F.pad(x, (radius,) * 4, padding) if padding else x
    return F.conv2d(F.conv2d(x, weight[:, :, None], groups=x.shape[1]), weight[..., None], groups=x.shape[1])
