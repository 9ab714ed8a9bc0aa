"""Smooth random fields and separable operators on `(I, J, K)` tensors: a few small matrix products each."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from scorefusion.transfer import to_device


def apply_along(matrices: Sequence[Tensor | None], x: Tensor) -> Tensor:
    """Multiply each axis of `x` `(I, J, K)` by its matrix `(I', I)`, `(J', J)`, `(K', K)`; None leaves the axis.

    No axis is moved, so nothing is copied beside the three products.
    """
    along_i, along_j, along_k = matrices
    if along_k is not None:
        x = x @ along_k.T
    if along_j is not None:
        x = along_j @ x
    if along_i is not None:
        x = (along_i @ x.reshape(x.shape[0], -1)).reshape(-1, *x.shape[1:])
    return x


def random_field(
    shape: Sequence[int], scale: float, generator: torch.Generator, device: torch.device | str = "cpu"
) -> Tensor:
    """A smooth Gaussian field of mean 0 and variance 1 at every voxel.

    Args:
        shape: `(I, J, K)`.
        scale: distance between independent places, voxels; up to 1 gives white noise.
        generator: on `device`.
        device: where the field lives.

    Returns:
        float32 `(I, J, K)`.
    """
    if scale <= 1.0:
        return torch.randn(tuple(shape), generator=generator, device=device)
    matrices = [to_device(_spread_matrix(size, float(scale)), device) for size in shape]
    coarse = torch.randn([matrix.shape[1] for matrix in matrices], generator=generator, device=device)
    return apply_along(matrices, coarse)


@lru_cache(maxsize=256)
def gaussian_blur_matrix(size: int, sigma: float, zero_outside: bool = False) -> Tensor:
    """`(size, size)` blur with a Gaussian of `sigma` voxels, integrated over each voxel.

    Rows sum to one, as if what is beyond the ends looked like what is near them; or less than one near the ends, with
    `zero_outside`.
    """
    if sigma < 1e-3:
        return torch.eye(size)
    distance = np.arange(size)[None, :] - np.arange(size)[:, None]
    erf = np.vectorize(math.erf)
    half = math.sqrt(2.0) * sigma
    reach = np.arange(-size, size + 1)
    kernel = 0.5 * (erf((reach + 0.5) / half) - erf((reach - 0.5) / half))
    weights = kernel[distance + size]
    if not zero_outside:
        weights = weights / weights.sum(axis=1, keepdims=True)
    return torch.from_numpy(weights.astype(np.float32))


@lru_cache(maxsize=256)
def cosine_cut_matrix(size: int, share: float) -> Tensor:
    """`(size, size)` low pass that keeps the lowest `share` of the frequencies, with mirrored ends: it rings."""
    n = np.arange(size)
    basis = np.cos(np.pi * (n[None, :] + 0.5) * n[:, None] / size) * math.sqrt(2.0 / size)
    basis[0] *= math.sqrt(0.5)
    kept = basis[: max(1, round(size * share))]
    return torch.from_numpy((kept.T @ kept).astype(np.float32))


@lru_cache(maxsize=256)
def _spread_matrix(size: int, scale: float) -> Tensor:
    """`(size, n)` Gaussian bumps `scale` apart; rows of length one keep the variance of white noise."""
    count = math.ceil(size / scale) + 4
    centres = (np.arange(count) - (count - 1) / 2) * scale + (size - 1) / 2
    weights = np.exp(-0.5 * ((np.arange(size)[:, None] - centres[None, :]) / (0.7 * scale)) ** 2)
    weights /= np.linalg.norm(weights, axis=1, keepdims=True)
    return torch.from_numpy(weights.astype(np.float32))
