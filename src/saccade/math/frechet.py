"""Frechet distance of two sets of features, each taken for a Gaussian: |m - n|^2 + tr(A + B - 2 (A B)^(1/2)) (1706.08500)."""

from __future__ import annotations

import torch
from torch import Tensor


def frechet(a_ND: Tensor, b_MD: Tensor) -> Tensor:
    """Distance of the means and covariances of two sets of rows, in float64; one number, 0 for equal sets.

    ValueError for a set of fewer than two rows, which has no covariance.
    """
    if min(len(a_ND), len(b_MD)) < 2:
        raise ValueError(f"sets of {len(a_ND)} and {len(b_MD)} rows: two or more are needed for a covariance")
    a, b = a_ND.double(), b_MD.double()
    cov_a, cov_b = torch.cov(a.T).reshape(a.shape[1], -1), torch.cov(b.T).reshape(b.shape[1], -1)
    root = _root(cov_a)
    shared = torch.linalg.eigvalsh(root @ cov_b @ root).clamp(min=0).sqrt().sum()
    return ((a.mean(0) - b.mean(0)) ** 2).sum() + cov_a.trace() + cov_b.trace() - 2 * shared


def _root(matrix: Tensor) -> Tensor:
    """The symmetric square root of a positive semi-definite matrix."""
    values, vectors = torch.linalg.eigh(matrix)
    return vectors * values.clamp(min=0).sqrt() @ vectors.T
