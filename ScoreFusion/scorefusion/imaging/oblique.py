"""What a scanner measures whose slices lie askew to the grid that is looked for.

`Acquisition` multiplies each axis by a matrix, which needs parallel axes. A second stack of a head that has moved has
none: here each measured voxel is the weighted mean of trilinear samples of the fine image, at points along the stack's
own axes over the extent of the voxel. Nothing is stored but an affine: points are worked out where they are used.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from functools import cached_property

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from scorefusion.errors import GeometryError
from scorefusion.imaging.acquisition import Profile
from scorefusion.imaging.grid import Grid
from scorefusion.transfer import to_device

GAUSSIAN_REACH = 1.5  # full widths at half maximum on each side: 3.5 standard deviations
EDGE = 0.01  # voxels by which a measured voxel may leave the fine grid and still be counted: rounding of headers
MOST_POINTS = 2**19  # measured voxels that are sampled at once: about 6 MB of positions


class ObliqueAcquisition:
    """A measurement of a fine grid on a coarse one, wherever the two lie.

    A measured voxel whose extent leaves the fine grid is not counted: `forward` gives 0 for it, `adjoint` ignores it.

    Args:
        fine: the grid that is looked for.
        coarse: the measured grid.
        thickness: of a slice, mm; None = the coarse spacing.
        axis: of the coarse grid, the one that `thickness` is about; None = the one with the largest spacing.
        profile: along every axis on which a measured voxel is larger than a fine one.

    Raises:
        GeometryError: no measured voxel lies inside the fine grid.
    """

    def __init__(
        self,
        fine: Grid,
        coarse: Grid,
        thickness: float | None = None,
        axis: int | None = None,
        profile: Profile = "box",
    ) -> None:
        self.full_shape = fine.spatial_shape
        self.coarse_shape = coarse.spatial_shape
        self._to_fine = np.linalg.inv(fine.affine) @ coarse.affine  # coarse index to fine index
        widths = np.ones(3)  # of a measured voxel, in steps of the coarse grid
        thick_axis = int(np.argmax(coarse.spacing)) if axis is None else axis
        if thickness is not None:
            widths[thick_axis] = thickness / coarse.spacing[thick_axis]
        steps = self._to_fine[:3, :3]
        self._points = [(weight, self._scaled(offset)) for weight, offset in _points(steps, widths, profile)]
        self._reach = np.abs(steps) @ (widths / 2)  # half the voxel's bounding box, in fine voxels
        if not self.counted.any():
            msg = "No measured voxel lies inside the grid that is looked for. Check that both show the same head."
            raise GeometryError(msg)

    @cached_property
    def counted(self) -> Tensor:
        """bool `(i, j, k)`: measured voxels that lie inside the fine grid."""
        inside = torch.ones(self.coarse_shape, dtype=torch.bool)
        for along, size in enumerate(self.full_shape):
            position = self._position(along, slice(None), torch.float64, torch.device("cpu"))
            low, high = self._reach[along] - 0.5 - EDGE, size - 0.5 + EDGE - self._reach[along]
            inside &= (position >= low) & (position <= high)
        return inside

    def forward(self, x: Tensor) -> Tensor:
        """`A x`: `(B, C, I, J, K)` to `(B, C, i, j, k)`."""
        self._check(x, self.full_shape)
        parts = []
        for rows in self._chunks():
            centres = self._centres(rows, x)
            part = torch.zeros(1, dtype=x.dtype, device=x.device)
            for weight, offset in self._points:
                part = part + weight * _sample(x, centres, offset)
            parts.append(part)
        return torch.cat(parts, dim=2) * to_device(self.counted, x.device, x.dtype)

    def adjoint(self, y: Tensor) -> Tensor:
        """`A^T y`: `(B, C, i, j, k)` to `(B, C, I, J, K)`; the gradient of sampling is its exact transpose."""
        self._check(y, self.coarse_shape)
        with torch.inference_mode(False), torch.enable_grad():
            y = y.clone() * to_device(self.counted, y.device, y.dtype)  # a tensor of inference mode has no gradient
            image = torch.zeros(*y.shape[:2], *self.full_shape, dtype=y.dtype, device=y.device, requires_grad=True)
            total = torch.zeros_like(image, requires_grad=False)
            for rows in self._chunks():
                centres = self._centres(rows, y)
                for weight, offset in self._points:
                    sampled = _sample(image, centres, offset)
                    total += torch.autograd.grad(sampled, image, weight * y[:, :, rows])[0]
        return total

    def _check(self, x: Tensor, expected: tuple[int, int, int]) -> None:
        if x.dim() != 5 or tuple(x.shape[2:]) != expected:
            msg = f"expected a tensor (B, C, {expected[0]}, {expected[1]}, {expected[2]}), got {tuple(x.shape)}"
            raise ValueError(msg)

    def _chunks(self) -> Iterator[slice]:
        """Rows of the first coarse axis, as many as memory is meant for."""
        rows = max(1, MOST_POINTS // (self.coarse_shape[1] * self.coarse_shape[2]))
        return (slice(first, first + rows) for first in range(0, self.coarse_shape[0], rows))

    def _position(self, along: int, rows: slice, dtype: torch.dtype, device: torch.device) -> Tensor:
        """Fine index along one axis of measured voxels' centres, `(rows, j, k)`."""
        i, j, k = (torch.arange(size, dtype=torch.float64) * self._to_fine[along, axis]
                   for axis, size in enumerate(self.coarse_shape))  # fmt: skip
        first, second, third = (to_device(part, device, dtype) for part in (i[rows] + self._to_fine[along, 3], j, k))
        return first[:, None, None] + second[:, None] + third

    def _centres(self, rows: slice, like: Tensor) -> Tensor:
        """Fine indices `(rows, j, k, 3)` of measured voxels' centres, as `grid_sample` wants them: k, j, i from -1 to 1
        between the outer faces."""
        axes = [(2 * self._position(a, rows, like.dtype, like.device) + 1) / self.full_shape[a] - 1 for a in (2, 1, 0)]
        return torch.stack(axes, dim=-1)

    def _scaled(self, offset: np.ndarray) -> tuple[float, float, float]:
        k, j, i = (float(2 * offset[a] / self.full_shape[a]) for a in (2, 1, 0))
        return k, j, i


def _points(steps: np.ndarray, widths: np.ndarray, profile: Profile) -> Iterator[tuple[float, np.ndarray]]:
    """Weight and offset `(3,)` in fine voxels of each sample of a measured voxel, about one a fine voxel: trilinear
    interpolation then gives every fine voxel between them the same share.

    Args:
        steps: `(3, 3)`, fine voxels a step along each coarse axis.
        widths: `(3,)`, of the measured voxel in coarse steps.
        profile: over each axis that takes more than one sample.
    """
    axes = []
    for axis in range(3):
        width = float(np.linalg.norm(steps[:, axis]) * widths[axis])
        gaussian = profile == "gaussian" and width > 1.5
        reach = 2 * GAUSSIAN_REACH if gaussian else 1.0
        count = max(1, math.floor(width * reach + 0.5))
        place = ((np.arange(count) + 0.5) / count - 0.5) * reach  # in widths
        weight = np.exp(-4 * math.log(2) * place**2) if gaussian else np.ones(count)
        axes.append(list(zip(weight / weight.sum(), place * widths[axis], strict=True)))
    for points in itertools.product(*axes):
        yield math.prod(weight for weight, _ in points), steps @ np.array([place for _, place in points])


def _sample(x: Tensor, centres: Tensor, offset: tuple[float, float, float]) -> Tensor:
    """Trilinear samples `(B, C, i, j, k)` of `x` at `centres + offset`; the outer half voxel continues its centre."""
    places = (centres + centres.new_tensor(offset)).expand(x.shape[0], *centres.shape)
    return grid_sample(x, places, mode="bilinear", padding_mode="border", align_corners=False)
