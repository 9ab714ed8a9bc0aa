"""A volume: voxels and their place in space, always together.

A `Volume` has an array and an affine. There is no default affine: voxels without a place in space are not a volume.
Every method that moves voxels gives back data and affine together. `scorefusion.imaging.files` reads and writes them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from scorefusion.errors import GeometryError, VolumeError
from scorefusion.imaging.grid import Box, Grid, Reorientation

if TYPE_CHECKING:
    from numpy.typing import NDArray

THINNEST_MM, THICKEST_MM = 0.01, 30.0
"""Slice thicknesses that a scanner makes; a number beyond is a slip or in another unit."""
LARGEST_VALUE = 1e20
FEWEST_STEPS = 1000
"""How many float32 numbers must lie between the darkest and the brightest voxel: an offset can swallow all others."""


@dataclass(frozen=True, eq=False, repr=False)
class Volume:
    """Voxels with their place in space.

    Attributes:
        data: float32 `(C, I, J, K)`. Not copied if it is float32 already.
        affine: float64 `(4, 4)`, voxel index to RAS millimetres. Copied and read-only.
        slice_thickness: mm, if known; slices may be thicker or thinner than their distance.
        slice_axis: voxel axis (0, 1, 2) across the slices, if known.
        source: path or name, used in messages and provenance.
        contrast: "t1", "t2", "flair", ..., if known.
        digests: name and SHA-256 of each file it was read from, as it was then.
    """

    data: NDArray[np.float32]
    affine: NDArray[np.float64]
    slice_thickness: float | None = None
    slice_axis: int | None = None
    source: str | None = None
    contrast: str | None = None
    digests: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        data = np.asarray(self.data, dtype=np.float32)
        if data.ndim != 4:
            msg = f"{self._place}: volume data must be (C, I, J, K), got shape {data.shape}. One channel is data[None]."
            raise VolumeError(msg)
        if self.slice_axis not in (None, 0, 1, 2):
            msg = f"{self._place}: slice_axis must be 0, 1, 2 or None, got {self.slice_axis}."
            raise VolumeError(msg)
        if self.slice_thickness is not None and not 0 < self.slice_thickness < np.inf:
            msg = f"{self._place}: slice thickness must be positive millimetres, got {self.slice_thickness}."
            raise VolumeError(msg)
        try:
            grid = Grid(data.shape[1:], self.affine)
        except GeometryError as error:
            msg = f"{self._place}: {error}"
            raise GeometryError(msg) from error
        object.__setattr__(self, "data", data)
        object.__setattr__(self, "affine", grid.affine)

    def __repr__(self) -> str:
        channels = f"{self.data.shape[0]} channels, " if self.data.shape[0] > 1 else ""
        return f"Volume({self.name}: {channels}{self.grid!r})"

    @property
    def name(self) -> str:
        """What to call this volume in a message: its file's name. Folders are the user's business; records travel."""
        return f"'{Path(self.source).name}'" if self.source else "the volume"

    @property
    def _place(self) -> str:
        """The same with its folder, for one who has to find the file."""
        return f"'{self.source}'" if self.source else "the volume"

    @property
    def grid(self) -> Grid:
        """Shape and affine, without the voxels."""
        return Grid(self.spatial_shape, self.affine)

    @property
    def spatial_shape(self) -> tuple[int, int, int]:
        """`(I, J, K)`."""
        _, i, j, k = self.data.shape
        return i, j, k

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Distance between voxel centres along each axis, mm."""
        return self.grid.spacing

    @property
    def orientation(self) -> str:
        """Nearest anatomical direction of each voxel axis, for example "RAS"."""
        return self.grid.orientation

    def check_voxels(self) -> None:
        """Raise VolumeError if the values cannot be worked with: NaN, infinite, all the same, or out of proportion."""
        bad = self.data.size - int(np.isfinite(self.data).sum())
        if bad:
            msg = (
                f"{self._place} has NaN or infinite values in {bad} of {self.data.size} voxels. "
                "Replace them first, for example with `numpy.nan_to_num(data)` if they are background."
            )
            raise VolumeError(msg)
        low, high = float(self.data.min()), float(self.data.max())
        if low == high:
            msg = (
                f"{self._place} is constant: all {self.data.size} voxels are {low:g}, so there is nothing "
                "to see. Check how it was exported."
            )
            raise VolumeError(msg)
        largest = max(abs(low), abs(high))
        if largest > LARGEST_VALUE:
            msg = (
                f"{self._place} has values up to {largest:g}, which no scan has (at most {LARGEST_VALUE:g}). "
                "Replace damaged voxels, or divide all by a constant."
            )
            raise VolumeError(msg)
        finest = max(float(np.spacing(np.float32(largest))), float(np.finfo(np.float32).tiny))
        if high - low < FEWEST_STEPS * finest:
            msg = (
                f"{self._place} has values from {low:.9g} to {high:.9g}, which single precision can hardly tell apart. "
                "Subtract the constant part, or multiply all by a constant."
            )
            raise VolumeError(msg)

    def with_data(self, data: NDArray[np.float32]) -> Volume:
        """Other values on the same grid. `data` is `(C', I, J, K)`."""
        if tuple(data.shape[-3:]) != self.spatial_shape:
            msg = f"{self.name}: new data {tuple(data.shape)} does not fit its grid {self.spatial_shape}."
            raise VolumeError(msg)
        return replace(self, data=data, digests=())

    def crop(self, box: Box) -> Volume:
        """The part inside `box`, copied, at the same place in the world."""
        grid = self.grid.crop(box)
        i, j, k = box.slices
        return replace(self, data=self.data[:, i, j, k].copy(), affine=grid.affine)

    def canonical(self) -> tuple[Volume, Reorientation]:
        """This volume with its axes in the order and direction closest to RAS+, and the way back.

        Only a permutation and flips: no value is interpolated, and every voxel keeps its place in the world.
        """
        reorientation = Reorientation.to_canonical(self.grid)
        return self.reoriented(reorientation), reorientation

    def reoriented(self, reorientation: Reorientation) -> Volume:
        """This volume with its axes moved: data, affine and slice axis together. No value changes.

        `volume.reoriented(r).reoriented(r.inverse)` is the volume again, also where it has been cropped or subdivided
        in between.
        """
        moved = self.data.transpose(0, *(axis + 1 for axis in reorientation.source_axes))
        backwards = tuple(axis + 1 for axis in range(3) if reorientation.flipped[axis])
        axis = self.slice_axis
        return replace(
            self,
            data=np.ascontiguousarray(np.flip(moved, axis=backwards)),  # torch refuses negative strides
            affine=reorientation.apply_to_grid(self.grid).affine,
            slice_axis=None if axis is None else reorientation.axis_to_canonical(axis),
        )


def resample(volume: Volume, grid: Grid, interpolation: str = "linear", fill: float | None = None) -> Volume:
    """The values of `volume` at the voxels of another grid.

    Args:
        volume: `(C, I, J, K)`, each channel is resampled by itself.
        grid: any other grid; both may be oblique, flipped or permuted.
        interpolation: "nearest", "linear" or "cubic" (B-spline of order 3, which may overshoot at edges).
        fill: value outside the volume; None takes the smallest value of each channel.
    """
    from scorefusion.imaging.itk import resample_channel

    channels = [resample_channel(channel, volume.grid, grid, interpolation, fill) for channel in volume.data]
    # The slices of the input are no longer slices here, hence no thickness.
    return Volume(np.stack(channels), grid.affine, source=volume.source, contrast=volume.contrast)
