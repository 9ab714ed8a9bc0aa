"""A volume: voxels and their place in space, always together.

A `Volume` has an array and an affine. There is no default affine: voxels without a place in space are not a volume.
Every method that moves voxels gives back data and affine together. Reading and writing files live in
`scorefusion.volume_io` and are reached from here on first use: `from scorefusion.volume import read_volume`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scorefusion.errors import GeometryError, VolumeError
from scorefusion.grid import Box, Grid, Reorientation, foreground_box, overlap_fraction, super_resolution_grid

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from scorefusion.volume_io import check_output_path, read_grid, read_volume, write_volume

__all__ = [
    "Box",
    "Grid",
    "Reorientation",
    "Volume",
    "check_output_path",
    "foreground_box",
    "overlap_fraction",
    "read_grid",
    "read_volume",
    "resample",
    "super_resolution_grid",
    "write_volume",
]


def __getattr__(name: str) -> Any:
    """Load the file half of the module on first use."""
    if name in {"check_output_path", "read_grid", "read_volume", "write_volume"}:
        from scorefusion import volume_io

        return getattr(volume_io, name)
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)


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
    """

    data: NDArray[np.float32]
    affine: NDArray[np.float64]
    slice_thickness: float | None = None
    slice_axis: int | None = None
    source: str | None = None
    contrast: str | None = None

    def __post_init__(self) -> None:
        data = np.asarray(self.data, dtype=np.float32)
        if data.ndim != 4:
            msg = f"{self._whole_name}: volume data must be (C, I, J, K), got shape {data.shape}. One channel is data[None]."
            raise VolumeError(msg)
        if self.slice_axis not in (None, 0, 1, 2):
            msg = f"{self._whole_name}: slice_axis must be 0, 1, 2 or None, got {self.slice_axis}."
            raise VolumeError(msg)
        if self.slice_thickness is not None and not 0 < self.slice_thickness < np.inf:
            msg = f"{self._whole_name}: slice thickness must be positive millimetres, got {self.slice_thickness}."
            raise VolumeError(msg)
        try:
            grid = Grid(data.shape[1:], self.affine)
        except GeometryError as error:
            msg = f"{self._whole_name}: {error}"
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
    def _whole_name(self) -> str:
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
        """Raise VolumeError if the values cannot be worked with: NaN, infinite, or all the same."""
        bad = self.data.size - int(np.isfinite(self.data).sum())
        if bad:
            msg = (
                f"{self._whole_name} has NaN or infinite values in {bad} of {self.data.size} voxels. "
                "Replace them first, for example with `numpy.nan_to_num(data)` if they are background."
            )
            raise VolumeError(msg)
        if self.data.min() == self.data.max():
            msg = (
                f"{self._whole_name} is constant: all {self.data.size} voxels are {self.data.flat[0]:g}, so there is nothing "
                "to see. Check how it was exported."
            )
            raise VolumeError(msg)

    def with_data(self, data: NDArray[np.float32]) -> Volume:
        """Other values on the same grid. `data` is `(C', I, J, K)`."""
        if tuple(data.shape[-3:]) != self.spatial_shape:
            msg = f"{self.name}: new data {tuple(data.shape)} does not fit its grid {self.spatial_shape}."
            raise VolumeError(msg)
        return replace(self, data=data)

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
        return reorientation.apply(self), reorientation


def resample(volume: Volume, grid: Grid, interpolation: str = "linear", fill: float | None = None) -> Volume:
    """The values of `volume` at the voxels of another grid.

    Args:
        volume: `(C, I, J, K)`, each channel is resampled by itself.
        grid: any other grid; both may be oblique, flipped or permuted.
        interpolation: "nearest", "linear" or "cubic" (B-spline of order 3, which may overshoot at edges).
        fill: value outside the volume; None takes the smallest value of each channel.
    """
    from scorefusion.volume_itk import resample_channel

    channels = [resample_channel(channel, volume.grid, grid, interpolation, fill) for channel in volume.data]
    # The slices of the input are no longer slices here, hence no thickness.
    return Volume(np.stack(channels), grid.affine, source=volume.source, contrast=volume.contrast)
