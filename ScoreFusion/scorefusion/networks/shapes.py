"""Tensors on a multiple of a grid: padding, and neighbours as channels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

# -- tensors on a multiple of the grid -----------------------------------------------------------------------------


def pad_to_multiple(x: Tensor, multiple: int) -> Tensor:
    """Repeat the last sample of each spatial axis until `multiple` divides its size."""
    for axis in range(2, x.dim()):
        missing = -x.shape[axis] % multiple
        if missing:
            last = x.narrow(axis, x.shape[axis] - 1, 1)
            x = torch.cat([x, last.expand(*(missing if a == axis else -1 for a in range(x.dim())))], dim=axis)
    return x


def crop_to(x: Tensor, spatial: Sequence[int]) -> Tensor:
    """Undo `pad_to_multiple`: the first voxels of each spatial axis."""
    for axis, size in enumerate(spatial, start=2):
        x = x.narrow(axis, 0, size)
    return x


def unshuffle(x: Tensor, factor: int) -> Tensor:
    """`(B, C, *spatial)` to `(B, C * factor^d, *spatial / factor)`: neighbours become channels."""
    if factor == 1:
        return x
    dims = x.dim() - 2
    shape = [n for size in x.shape[2:] for n in (size // factor, factor)]
    x = x.reshape(*x.shape[:2], *shape)
    order = [0, 1, *(3 + 2 * a for a in range(dims)), *(2 + 2 * a for a in range(dims))]
    return x.permute(order).flatten(1, 1 + dims)


def shuffle(x: Tensor, factor: int) -> Tensor:
    """The inverse of `unshuffle`."""
    if factor == 1:
        return x
    dims = x.dim() - 2
    coarse = x.shape[2:]
    x = x.unflatten(1, (-1, *(factor,) * dims))
    order = [0, 1, *(n for a in range(dims) for n in (2 + dims + a, 2 + a))]
    return x.permute(order).reshape(*x.shape[:2], *(size * factor for size in coarse))
