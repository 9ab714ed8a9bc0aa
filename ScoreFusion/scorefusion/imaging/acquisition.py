"""What a scanner does to an image, as a linear operator with an exact inverse on its own side.

An acquisition takes the image on a full grid to the measured, coarser grid. All operators here are separable: one small
matrix along each axis, so `A = A_i (x) A_j (x) A_k` (a Kronecker product). Two facts follow and carry the whole module:

* the Moore-Penrose inverse is separable too, `A^+ = A_i^+ (x) A_j^+ (x) A_k^+`, so it is computed exactly from matrices
  of a few hundred rows;
* interpolation `U` is separable, so iterative back-projection runs on the *coarse* grid: with `M = A U`,
  `x_R = U s_R`, `s_{r+1} = s_r + (y - M s_r)`.

Axes order is `(B, C, I, J, K)`; lengths are in voxels of the full grid unless said otherwise. Matrices are float64
and applied in the dtype and on the device of the tensor they meet.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor

from scorefusion.errors import GeometryError
from scorefusion.transfer import to_device

if TYPE_CHECKING:
    from scorefusion.imaging.grid import Grid

Profile = Literal["box", "gaussian"]
Interpolation = Literal["nearest", "linear", "cubic"]
Matrix = np.ndarray

# The inverse leaves singular values below this share of the largest alone. Those of slices that do not overlap are all
# near one; only slices much thicker than their spacing come near the limit, and there the measurement really says
# nothing.
PSEUDO_INVERSE_RTOL = 1e-4


@dataclass(frozen=True)
class AxisSampling:
    """How one axis was measured.

    Attributes:
        size_full: voxels on the full grid.
        size_coarse: voxels (slices) on the measured grid.
        factor: distance between slice centres, in full-grid voxels; any real number of 1 or more.
        width: slice thickness in full-grid voxels; less than `factor` leaves a gap, more overlaps. For "gaussian" the
            full width at half maximum.
        profile: slice profile.
        offset: shift of the first slice from touching the full grid's edge, in full-grid voxels.
    """

    size_full: int
    size_coarse: int
    factor: float
    width: float
    profile: Profile = "box"
    offset: float = 0.0

    def __post_init__(self) -> None:
        if self.profile not in ("box", "gaussian"):
            msg = f"slice profile must be 'box' or 'gaussian', got {self.profile!r}"
            raise ValueError(msg)
        if not (self.factor > 0 and self.width > 0 and self.size_full > 0 and self.size_coarse > 0):
            msg = f"sizes, factor and width must be positive, got {self}"
            raise ValueError(msg)

    @property
    def centres(self) -> np.ndarray:
        """`(size_coarse,)` slice centres as full-grid indices."""
        return (np.arange(self.size_coarse) + 0.5) * self.factor - 0.5 + self.offset

    @cached_property
    def matrix(self) -> Matrix:
        """`(size_coarse, size_full)` weights, each row summing to one."""
        edges = np.arange(self.size_full + 1) - 0.5
        distance = edges[None, :] - self.centres[:, None]
        if self.profile == "box":
            cumulative = np.clip(distance / self.width + 0.5, 0.0, 1.0)
        else:
            sigma = self.width / math.sqrt(8.0 * math.log(2.0))
            cumulative = 0.5 * (1.0 + _erf(distance / (sigma * math.sqrt(2.0))))
        weights = np.diff(cumulative, axis=1)
        total = weights.sum(axis=1, keepdims=True)
        if not np.all(total > 1e-6):
            msg = f"a measured slice lies outside the full grid: {self}"
            raise GeometryError(msg)
        return weights / total

    @cached_property
    def pseudo_inverse(self) -> Matrix:
        """`(size_full, size_coarse)` Moore-Penrose inverse of `matrix`."""
        return np.linalg.pinv(self.matrix, rcond=PSEUDO_INVERSE_RTOL)

    def interpolation(self, kind: Interpolation) -> Matrix:
        """`(size_full, size_coarse)` matrix that interpolates slice values at every full-grid voxel."""
        position = (np.arange(self.size_full) + 0.5 - self.offset) / self.factor - 0.5
        return _interpolation_matrix(position, self.size_coarse, kind)


class Acquisition:
    """A separable measurement of a volume.

    Args:
        spatial_shape: `(I, J, K)` of the full grid.
        axes: one `AxisSampling` an axis, or None where the axis is measured as it is.
    """

    def __init__(self, spatial_shape: Sequence[int], axes: Sequence[AxisSampling | None]) -> None:
        shape = tuple(int(size) for size in spatial_shape)
        if len(shape) != 3 or len(axes) != 3:
            msg = f"an acquisition has three axes, got shape {shape} and {len(axes)} samplings"
            raise ValueError(msg)
        for size, axis in zip(shape, axes, strict=True):
            if axis is not None and axis.size_full != size:
                msg = f"axis sampling is made for {axis.size_full} voxels, the grid has {size}"
                raise ValueError(msg)
        self.full_shape: tuple[int, int, int] = (shape[0], shape[1], shape[2])
        self.axes = tuple(axes)

    # -- ways to make one ------------------------------------------------------------------------------------------

    @classmethod
    def identity(cls, spatial_shape: Sequence[int]) -> Acquisition:
        """Measures everything: nothing to restore."""
        return cls(spatial_shape, (None, None, None))

    @classmethod
    def isotropic(cls, spatial_shape: Sequence[int], factor: float, profile: Profile = "box") -> Acquisition:
        """The paper's operator for `profile="box"` and an integer factor: average over `factor`^3 voxels.

        A last, incomplete block is averaged over the voxels that it has, if they are at least half of it.
        """
        return cls(spatial_shape, [_even_sampling(size, factor, factor, profile) for size in spatial_shape])

    @classmethod
    def thick_slices(
        cls,
        spatial_shape: Sequence[int],
        axis: int,
        factor: float,
        width: float | None = None,  # slice thickness in voxels; None = no gap (width = factor)
        profile: Profile = "box",
    ) -> Acquisition:
        """Slices of `width` voxels, `factor` voxels apart, along one axis."""
        axes: list[AxisSampling | None] = [None, None, None]
        axes[axis] = _even_sampling(spatial_shape[axis], factor, factor if width is None else width, profile)
        return cls(spatial_shape, axes)

    @classmethod
    def between(
        cls,
        fine: Grid,
        coarse: Grid,
        thickness: float | None = None,  # mm; None = the coarse spacing
        axis: int | None = None,  # axis that `thickness` is about; None = the one with the largest spacing
        profile: Profile = "box",
    ) -> Acquisition:
        """The operator that takes `fine` to `coarse`: two grids with the same axes, read off their affines.

        Raises:
            GeometryError: the grids' axes are not parallel, or they do not overlap.
        """
        to_fine = np.linalg.inv(fine.affine) @ coarse.affine
        step = to_fine[:3, :3]
        factors = np.diag(step)
        if np.any(np.abs(step - np.diag(factors)) > 1e-3 * np.abs(factors).max()) or np.any(factors <= 0):
            msg = (
                "the coarse and the fine grid must share their axes, but one is rotated, flipped or permuted "
                "against the "
                "other. Resample the volume onto a grid with the same axes first."
            )
            raise GeometryError(msg)
        thick_axis = int(np.argmax(coarse.spacing)) if axis is None else axis
        axes: list[AxisSampling | None] = []
        for index in range(3):
            factor = float(factors[index])
            width = factor
            if thickness is not None and index == thick_axis:
                width = factor * thickness / float(coarse.spacing[index])
            offset = float(to_fine[index, 3]) - (0.5 * factor - 0.5)
            same = fine.spatial_shape[index] == coarse.spatial_shape[index]
            if same and abs(factor - 1.0) < 1e-6 and abs(offset) < 1e-4 and abs(width - 1.0) < 1e-6:
                axes.append(None)
                continue
            # One voxel of the fine grid is the least that a slice can be told to average over.
            axes.append(
                AxisSampling(
                    fine.spatial_shape[index], coarse.spatial_shape[index], factor, max(width, 1.0), profile, offset
                )
            )
        return cls(fine.spatial_shape, axes)

    # -- what it is ------------------------------------------------------------------------------------------------

    @property
    def coarse_shape(self) -> tuple[int, int, int]:
        """`(i, j, k)` of the measured grid."""
        sizes = [
            full if axis is None else axis.size_coarse for full, axis in zip(self.full_shape, self.axes, strict=True)
        ]
        return (sizes[0], sizes[1], sizes[2])

    @property
    def factors(self) -> tuple[float, float, float]:
        """Distance between measured samples an axis, in full-grid voxels."""
        values = [1.0 if axis is None else axis.factor for axis in self.axes]
        return (values[0], values[1], values[2])

    @property
    def widths(self) -> tuple[float, float, float]:
        """Slice thickness an axis, in full-grid voxels."""
        values = [1.0 if axis is None else axis.width for axis in self.axes]
        return (values[0], values[1], values[2])

    @property
    def is_identity(self) -> bool:
        """True if every axis is measured as it is."""
        return all(axis is None for axis in self.axes)

    # -- what it does ----------------------------------------------------------------------------------------------

    def forward(self, x: Tensor) -> Tensor:
        """`A x`: `(B, C, I, J, K)` to `(B, C, i, j, k)`."""
        return _apply([None if axis is None else axis.matrix for axis in self.axes], x, self.full_shape)

    def adjoint(self, y: Tensor) -> Tensor:
        """`A^T y`: `(B, C, i, j, k)` to `(B, C, I, J, K)`."""
        return _apply([None if axis is None else axis.matrix.T for axis in self.axes], y, self.coarse_shape)

    def pseudo_inverse(self, y: Tensor) -> Tensor:
        """`A^+ y`: the image of least norm that gives `y`, `(B, C, i, j, k)` to `(B, C, I, J, K)`."""
        return _apply([None if axis is None else axis.pseudo_inverse for axis in self.axes], y, self.coarse_shape)

    def project(self, x: Tensor, y: Tensor) -> Tensor:
        """`x + A^+ (y - A x)`: the nearest image to `x` that gives back the measurement `y`.

        The null-space projection of DDNM (Wang et al. 2023, eq. 9); for box averages it is the consistency step of
        Score-Fusion.
        """
        return x + self.pseudo_inverse(y - self.forward(x))

    def upsample(self, y: Tensor, interpolation: Interpolation = "cubic") -> Tensor:
        """Interpolate the measurement at every voxel of the full grid; cubic means an interpolating cubic B-spline."""
        matrices = [None if axis is None else axis.interpolation(interpolation) for axis in self.axes]
        return _apply(matrices, y, self.coarse_shape)

    def back_project(self, y: Tensor, rounds: int = 20, interpolation: Interpolation = "cubic") -> Tensor:
        """Iterative back-projection (Irani & Peleg 1991): `x <- x + U (y - A x)`, starting from `U y`.

        Runs on the coarse grid (module docstring), so 20 rounds cost less than one interpolation.
        """
        round_trip = [None if axis is None else axis.matrix @ axis.interpolation(interpolation) for axis in self.axes]
        estimate = y
        for _ in range(rounds):
            estimate = estimate + (y - _apply(round_trip, estimate, self.coarse_shape))
        return self.upsample(estimate, interpolation)


def _even_sampling(size: int, factor: float, width: float, profile: Profile) -> AxisSampling:
    """Slices from the grid's first edge on; a last slice is kept where its centre lies inside the grid."""
    size_coarse = max(1, math.floor(size / factor + 0.5))
    return AxisSampling(size, size_coarse, float(factor), float(width), profile)


def _apply(matrices: Sequence[Matrix | None], x: Tensor, expected: tuple[int, int, int]) -> Tensor:
    """Multiply each spatial axis of `x` `(B, C, I, J, K)` by its matrix; None leaves the axis."""
    if x.dim() != 5 or tuple(x.shape[2:]) != expected:
        msg = f"expected a tensor (B, C, {expected[0]}, {expected[1]}, {expected[2]}), got {tuple(x.shape)}"
        raise ValueError(msg)
    # The axis that shrinks most goes first, so that the rest works on less.
    order = sorted(
        (index for index in range(3) if matrices[index] is not None),
        key=lambda index: matrices[index].shape[0] / matrices[index].shape[1],  # type: ignore[union-attr]
    )
    for index in order:
        matrix = to_device(torch.from_numpy(np.ascontiguousarray(matrices[index])), x.device, x.dtype)
        x = torch.tensordot(matrix, x, dims=([1], [2 + index])).movedim(0, 2 + index)
    return x.contiguous()


def _interpolation_matrix(position: np.ndarray, size: int, kind: Interpolation) -> Matrix:
    """`(len(position), size)` weights that interpolate samples 0..size-1 at real positions, mirrored at the ends."""
    if kind == "nearest":
        index = np.clip(np.floor(position + 0.5).astype(int), 0, size - 1)
        return np.eye(size)[index]
    if kind == "linear":
        clamped = np.clip(position, 0, size - 1)
        return _sum_weights(clamped, size, lambda distance: np.maximum(0.0, 1.0 - distance), 1)
    if kind == "cubic":
        if size == 1:
            return np.ones((len(position), 1))
        knots = _sum_weights(np.arange(size, dtype=float), size, _cubic_b_spline, 2)
        return _sum_weights(position, size, _cubic_b_spline, 2) @ np.linalg.inv(knots)
    msg = f"interpolation must be 'nearest', 'linear' or 'cubic', got {kind!r}"
    raise ValueError(msg)


def _sum_weights(position: np.ndarray, size: int, kernel: object, reach: int) -> Matrix:
    weights = np.zeros((len(position), size))
    first = np.floor(position).astype(int)
    for shift in range(1 - reach, reach + 1):
        index = first + shift
        value = kernel(np.abs(position - index))  # type: ignore[operator]
        period = max(1, 2 * (size - 1))
        mirrored = np.abs(index) % period
        mirrored = np.where(mirrored >= size, period - mirrored, mirrored)
        np.add.at(weights, (np.arange(len(position)), mirrored), value)
    return weights


def _cubic_b_spline(distance: np.ndarray) -> np.ndarray:
    near = 2.0 / 3.0 - distance**2 + distance**3 / 2.0
    far = np.clip(2.0 - distance, 0.0, None) ** 3 / 6.0
    return np.where(distance < 1.0, near, far)


def _erf(x: np.ndarray) -> np.ndarray:
    return torch.erf(torch.from_numpy(np.ascontiguousarray(x))).numpy()
