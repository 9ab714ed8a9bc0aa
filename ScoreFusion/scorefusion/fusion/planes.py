"""Volumes as stacks of slices, and back. The only place where the axes of a volume are moved.

Spatial axes are `I J K` (RAS+: i to the right, j to the front, k upward). A plane is the family of slices normal to one
of them; inside a slice the two remaining axes keep their order: sagittal `(J, K)`, coronal `(I, K)`, axial `(I, J)`.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum

import torch
from torch import Tensor


class Plane(Enum):
    """A family of parallel slices."""

    SAGITTAL = "sagittal"
    CORONAL = "coronal"
    AXIAL = "axial"

    @property
    def axis(self) -> int:
        """Spatial axis that the slices are normal to: 0, 1 or 2."""
        return _AXIS[self]

    @property
    def in_plane_axes(self) -> tuple[int, int]:
        """Spatial axes of a slice's rows and columns `(H, W)`."""
        first, second = (axis for axis in range(3) if axis != self.axis)
        return first, second


_AXIS = {Plane.SAGITTAL: 0, Plane.CORONAL: 1, Plane.AXIAL: 2}


def slices_along(x: Tensor, plane: Plane) -> Tensor:
    """Take a volume apart: `(B, C, I, J, K)` to `(B * S, C, H, W)`, slice index running fastest."""
    return x.movedim(2 + plane.axis, 1).flatten(0, 1)


def stack_slices(slices: Tensor, plane: Plane, batch_size: int = 1) -> Tensor:
    """Put slices together again: `(B * S, C, H, W)` to `(B, C, I, J, K)`, the inverse of `slices_along`."""
    return slices.unflatten(0, (batch_size, -1)).movedim(1, 2 + plane.axis)


def slabs_along(x: Tensor, plane: Plane, slab_radius: int, start: int = 0, stop: int | None = None) -> Tensor:
    """Each slice with its neighbours as channels; beyond the volume's end the last slice is repeated.

    Args:
        x: `(B, C, I, J, K)`.
        slab_radius: r neighbours on both sides; 0 gives plain slices.
        start, stop: range of slices, default all S.

    Returns:
        `(B * (stop - start), C * (2r + 1), H, W)`; for each channel the slices s-r .. s+r in order.
    """
    stack = x.movedim(2 + plane.axis, 1)  # (B, S, C, H, W)
    num_slices = stack.shape[1]
    stop = num_slices if stop is None else stop
    if slab_radius == 0:
        return stack[:, start:stop].flatten(0, 1)
    centre = torch.arange(start, stop, device=x.device)
    neighbour = torch.arange(-slab_radius, slab_radius + 1, device=x.device)
    index = (centre[:, None] + neighbour[None, :]).clamp(0, num_slices - 1)  # (N, 2r + 1)
    slabs = stack[:, index]  # (B, N, 2r + 1, C, H, W)
    return slabs.transpose(2, 3).flatten(2, 3).flatten(0, 1)


def position_channels(
    spatial_shape: Sequence[int],
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """`(1, 3, I, J, K)`: each voxel's place along i, j and k, from -1 at the first voxel to 1 at the last."""
    axes = [torch.linspace(-1.0, 1.0, size, device=device, dtype=dtype) for size in spatial_shape]
    return torch.stack(torch.meshgrid(*axes, indexing="ij")).unsqueeze(0)
