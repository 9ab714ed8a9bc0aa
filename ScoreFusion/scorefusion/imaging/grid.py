"""Where voxels lie in space: grids, boxes and reorientations.

World is RAS+ millimetres: x grows to the right, y to the front, z upward. Voxel indices are `(i, j, k)` and integers
fall on voxel centres, so a voxel reaches from -0.5 to +0.5 and the outer corner of the first voxel is
`(-0.5, -0.5, -0.5)`. Nothing here assumes axial slices, isotropic voxels, positive spacing or an order of axes.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations
from typing import TYPE_CHECKING

import numpy as np

from scorefusion.errors import GeometryError
from scorefusion.wording import mm

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


SHEAR_TOLERANCE = 0.02
"""Largest cosine of the angle between two voxel axes: 0.02 is 1.1 degrees off a right angle."""

LARGEST_EXTENT_MM = 3000.0
KEPT = 1.25  # spacing over the wanted one up to which an axis keeps its voxels
MOST_ALONG_AN_AXIS = 32767  # NIfTI's limit
FARTHEST_MM = 1e5  # float32, in which NIfTI keeps positions, has hundredths of a mm there

AXIS_CODES = (("L", "R"), ("P", "A"), ("I", "S"))
"""Letters for the negative and positive end of the three world axes."""


@dataclass(frozen=True, eq=False)
class Grid:
    """A box of voxels in space.

    Attributes:
        spatial_shape: `(I, J, K)`, number of voxels along each axis.
        affine: float64 `(4, 4)`, voxel index to RAS millimetres. Copied and read-only.
    """

    spatial_shape: tuple[int, int, int]
    affine: NDArray[np.float64]

    def __post_init__(self) -> None:
        shape = tuple(int(n) for n in self.spatial_shape)
        if len(shape) != 3 or min(shape) < 1:
            msg = f"A grid needs three sizes of at least 1 voxel, got {shape}."
            raise GeometryError(msg)
        affine = np.array(self.affine, dtype=np.float64)  # a copy: later edits by the caller must not move the grid
        _check_affine(affine)
        affine.flags.writeable = False
        object.__setattr__(self, "spatial_shape", shape)
        object.__setattr__(self, "affine", affine)

    def __repr__(self) -> str:
        shape = " x ".join(str(n) for n in self.spatial_shape)
        spacing = " x ".join(f"{s:.4g}" for s in self.spacing)
        return f"Grid({shape} voxels of {spacing} mm, {self.orientation})"

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Distance between voxel centres along each axis, mm, always positive."""
        i, j, k = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(i), float(j), float(k)

    @property
    def origin(self) -> tuple[float, float, float]:
        """World position of the centre of voxel (0, 0, 0), mm."""
        x, y, z = self.affine[:3, 3]
        return float(x), float(y), float(z)

    @property
    def orientation(self) -> str:
        """Nearest anatomical direction of each voxel axis, for example "RAS" or "LPI"."""
        world_axes, signs = nearest_world_axes(self.affine)
        return "".join(AXIS_CODES[axis][int(sign > 0)] for axis, sign in zip(world_axes, signs, strict=True))

    @property
    def extent_mm(self) -> tuple[float, float, float]:
        """Length of the box along each voxel axis, from outer face to outer face, mm."""
        i, j, k = (n * s for n, s in zip(self.spatial_shape, self.spacing, strict=True))
        return i, j, k

    def index_to_world(self, points: ArrayLike) -> NDArray[np.float64]:
        """Voxel indices `(..., 3)`, fractions allowed, to RAS millimetres `(..., 3)`."""
        return np.asarray(points, dtype=np.float64) @ self.affine[:3, :3].T + self.affine[:3, 3]

    def world_to_index(self, points: ArrayLike) -> NDArray[np.float64]:
        """RAS millimetres `(..., 3)` to voxel indices `(..., 3)`, fractions kept."""
        offset = np.asarray(points, dtype=np.float64) - self.affine[:3, 3]
        return offset @ np.linalg.inv(self.affine[:3, :3]).T

    def check_plausible(self) -> None:
        """Raise GeometryError if no scan of a person can lie like this; the usual cause is another unit of length."""
        if max(self.extent_mm) > LARGEST_EXTENT_MM:
            msg = (
                f"It covers {mm(self.extent_mm)} mm (voxels of {mm(self.spacing)} mm), more than a person. "
                "Correct the spacing, or its unit, in the header."
            )
            raise GeometryError(msg)
        if np.abs(self.affine[:3, 3]).max() > FARTHEST_MM:
            msg = f"Its first voxel lies at {_triple(self.origin)} mm, far from any scanner. Correct the header."
            raise GeometryError(msg)

    def crop(self, box: Box) -> Grid:
        """The part of this grid inside `box`, at the same place in the world."""
        box.check_inside(self.spatial_shape)
        affine = self.affine.copy()
        affine[:3, 3] = self.index_to_world(box.start)
        return Grid(box.shape, affine)

    def is_close(self, other: Grid, tolerance_mm: float = 1e-3) -> bool:
        """Whether both grids have the same shape and no voxel is further than `tolerance_mm` from its twin."""
        if self.spatial_shape != other.spatial_shape:
            return False
        corners = _corners(self.spatial_shape)
        distance = np.linalg.norm(self.index_to_world(corners) - other.index_to_world(corners), axis=-1)
        return bool(distance.max() <= tolerance_mm)


@dataclass(frozen=True)
class Box:
    """A block of voxels: from `start` (included) to `stop` (excluded), `(i, j, k)` each."""

    start: tuple[int, int, int]
    stop: tuple[int, int, int]

    def __post_init__(self) -> None:
        if any(b <= a for a, b in zip(self.start, self.stop, strict=True)):
            msg = f"Each start of a box must be below its stop, got start {self.start} and stop {self.stop}."
            raise GeometryError(msg)

    @property
    def slices(self) -> tuple[slice, slice, slice]:
        """Index for an `(I, J, K)` array; write `data[..., *box.slices]` or `data[(..., *box.slices)]` for channels."""
        i, j, k = (slice(a, b) for a, b in zip(self.start, self.stop, strict=True))
        return i, j, k

    @property
    def shape(self) -> tuple[int, int, int]:
        """`(I, J, K)` of the block."""
        i, j, k = (b - a for a, b in zip(self.start, self.stop, strict=True))
        return i, j, k

    def check_inside(self, spatial_shape: tuple[int, int, int]) -> None:
        """Raise GeometryError unless the box lies inside a volume of this shape."""
        if min(self.start) < 0 or any(b > n for b, n in zip(self.stop, spatial_shape, strict=True)):
            msg = f"The box {self.start} to {self.stop} reaches outside a volume of {spatial_shape} voxels."
            raise GeometryError(msg)


@dataclass(frozen=True)
class Reorientation:
    """A permutation and flips of voxel axes, which can be undone without loss.

    Attributes:
        source_axes: for each new axis, the old axis it comes from.
        flipped: for each new axis, whether it runs against its old axis.
    """

    source_axes: tuple[int, int, int]
    flipped: tuple[bool, bool, bool]

    @classmethod
    def to_canonical(cls, grid: Grid) -> Reorientation:
        """The reorientation that brings `grid` nearest to RAS+ axes order."""
        world_axes, signs = nearest_world_axes(grid.affine)
        i, j, k = (world_axes.index(axis) for axis in range(3))
        return cls((i, j, k), (signs[i] < 0, signs[j] < 0, signs[k] < 0))

    @property
    def inverse(self) -> Reorientation:
        """The reorientation that undoes this one."""
        i, j, k = (self.source_axes.index(axis) for axis in range(3))
        return Reorientation((i, j, k), (self.flipped[i], self.flipped[j], self.flipped[k]))

    def axis_to_canonical(self, axis: int) -> int:
        """The new number of an old axis."""
        return self.source_axes.index(axis)

    def axis_from_canonical(self, axis: int) -> int:
        """The old number of a new axis."""
        return self.source_axes[axis]

    def apply_to_grid(self, grid: Grid) -> Grid:
        """Move the axes of a grid; every voxel keeps its place in the world."""
        i, j, k = (grid.spatial_shape[axis] for axis in self.source_axes)
        # Column a of `steps` is the step in old indices for one step along new axis a.
        steps = np.zeros((4, 4))
        steps[3, 3] = 1.0
        for axis, (source, flipped) in enumerate(zip(self.source_axes, self.flipped, strict=True)):
            steps[source, axis] = -1.0 if flipped else 1.0
            if flipped:
                steps[source, 3] = grid.spatial_shape[source] - 1
        return Grid((i, j, k), grid.affine @ steps)

    def invert_grid(self, grid: Grid) -> Grid:
        """Undo `apply_to_grid`, also for a grid that has since been cropped or subdivided."""
        return self.inverse.apply_to_grid(grid)


def nearest_world_axes(affine: NDArray[np.float64]) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """For each voxel axis the world axis it runs along most closely, each world axis used once, and its sign.

    Args:
        affine: `(4, 4)`.

    Returns:
        World axes (0 = left-right, 1 = posterior-anterior, 2 = inferior-superior) and signs (+1 or -1).
    """
    cosines = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    # Six candidates are few enough to try them all, and the best total is what "closest" means.
    best = max(permutations(range(3)), key=lambda axes: sum(abs(cosines[world, i]) for i, world in enumerate(axes)))
    i, j, k = (1 if cosines[world, axis] > 0 else -1 for axis, world in enumerate(best))
    return (best[0], best[1], best[2]), (i, j, k)


def super_resolution_grid(grid: Grid, spacing: float | tuple[float, float, float], *, keep_finer: bool = True) -> Grid:
    """The grid that a super-resolved volume of `grid` lives on: same axes, same extent, smaller voxels.

    The outer corner of the first voxel and the length along each axis are kept exactly, so the spacing that results may
    differ a little from the one asked for (size = round(extent / spacing), spacing = extent / size).

    Args:
        grid: grid of the input.
        spacing: wanted spacing in mm, one number or one for each voxel axis of `grid`.
        keep_finer: leave an axis alone unless its spacing is more than `KEPT` (1.25) times the wanted one.
            False resizes every axis, coarser ones too.
    """
    targets = np.broadcast_to(np.asarray(spacing, dtype=np.float64), (3,))
    if not (np.isfinite(targets).all() and (targets > 0).all()):
        msg = f"The target spacing must be positive millimetres, got {spacing}."
        raise GeometryError(msg)
    sizes = list(grid.spatial_shape)
    for axis, (now, target) in enumerate(zip(grid.spacing, targets, strict=True)):
        if not keep_finer or now > KEPT * target:
            if grid.extent_mm[axis] / target > MOST_ALONG_AN_AXIS:
                msg = (
                    f"With a spacing of {target:g} mm, {grid.extent_mm[axis]:.4g} mm become more than "
                    f"{MOST_ALONG_AN_AXIS} voxels along one axis, more than a file can hold. Ask for a coarser spacing."
                )
                raise GeometryError(msg)
            sizes[axis] = max(1, int(np.floor(grid.extent_mm[axis] / target + 0.5)))
    i, j, k = sizes
    scale = np.array(grid.spatial_shape) / np.array(sizes)  # old voxels per new voxel
    affine = grid.affine.copy()
    affine[:3, :3] *= scale
    affine[:3, 3] = grid.index_to_world(-0.5 + 0.5 * scale)  # half a new voxel inside the outer corner
    return Grid((i, j, k), affine)


def overlap_fraction(a: Grid, b: Grid) -> float:
    """Share of the box of `a` that lies inside the box of `b`, 0 to 1, to about 1 % (counted on 24^3 points)."""
    along = [(np.arange(24) + 0.5) / 24 * n - 0.5 for n in a.spatial_shape]
    points = np.stack(np.meshgrid(*along, indexing="ij"), axis=-1).reshape(-1, 3)
    index = b.world_to_index(a.index_to_world(points))
    inside = (index >= -0.5) & (index <= np.array(b.spatial_shape) - 0.5)
    return float(inside.all(axis=-1).mean())


def _corners(shape: tuple[int, int, int]) -> NDArray[np.float64]:
    """Indices `(8, 3)` of the outermost voxel centres."""
    return np.stack(np.meshgrid(*([0.0, n - 1.0] for n in shape), indexing="ij"), axis=-1).reshape(-1, 3)


def _check_affine(affine: NDArray[np.float64]) -> None:
    """Raise GeometryError unless `affine` places voxels of non-zero size along (nearly) perpendicular axes."""
    if affine.shape != (4, 4):
        msg = f"An affine is a 4 x 4 matrix (voxel index to RAS mm), got shape {affine.shape}."
        raise GeometryError(msg)
    if not np.isfinite(affine).all():
        msg = "The affine has NaN or infinite entries, so the volume has no place in space. Correct the header."
        raise GeometryError(msg)
    if not np.allclose(affine[3], (0, 0, 0, 1), atol=1e-6):
        msg = f"The last row of an affine must be (0, 0, 0, 1), got {tuple(affine[3].tolist())}."
        raise GeometryError(msg)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    if (spacing < 1e-6).any():
        msg = f"The voxel spacing is {_triple(spacing)} mm; each must be above zero. Correct the header."
        raise GeometryError(msg)
    cosines = affine[:3, :3] / spacing
    if abs(np.linalg.det(cosines)) < 1e-3:
        msg = "The affine is singular: its voxel axes lie in one plane, so the volume is flat. Correct the header."
        raise GeometryError(msg)
    shear = np.abs(cosines.T @ cosines - np.eye(3)).max()
    if shear > SHEAR_TOLERANCE:
        degrees = np.degrees(np.arcsin(min(1.0, float(shear))))
        msg = (
            f"The voxel axes are sheared: {degrees:.1f} degrees away from right angles, and at most 1.1 are accepted. "
            "Resample the volume to a straight grid first (in 3D Slicer: Resample Scalar/Vector/DWI Volume)."
        )
        raise GeometryError(msg)


def _triple(values: ArrayLike) -> str:
    return "(" + ", ".join(f"{v:.4g}" for v in np.asarray(values)) + ")"
