"""What a user asked for, understood: how a scan was measured, the grid wanted, how a preset samples.

Plain numbers, no torch, so that a panel can ask, too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from scorefusion.errors import RequestError
from scorefusion.imaging.grid import KEPT, Grid, super_resolution_grid
from scorefusion.imaging.volume import THICKEST_MM, THINNEST_MM, Volume
from scorefusion.wording import mm

MOST_GAP, MOST_OVERLAP = 20.0, 8.0  # slice distance over thickness, and the reverse, beyond which it is a slip
IN_PLANE = "in-plane"
Spacing = float | tuple[float, float, float] | Literal["in-plane"] | None
SAME = 1e-3  # relative difference of spacing below which an axis counts as unchanged


@dataclass(frozen=True)
class Understanding:
    """How a super-resolution request is read: everything a user may want to correct.

    Attributes:
        target: grid of the result, axes as in the input.
        factors: input spacing over target spacing, an axis each.
        thick_axis: axis that was measured most coarsely, or None where no axis is.
        thickness: slice thickness along it, mm.
    """

    target: Grid
    factors: tuple[float, float, float]
    thick_axis: int | None
    thickness: float | None

    @property
    def is_identity(self) -> bool:
        """Nothing to restore: the input is as fine as the target."""
        return all(abs(factor - 1.0) < SAME for factor in self.factors)

    def describe(self, source: Grid) -> str:
        """One line for a panel or a log."""
        if self.is_identity:
            return f"{mm(source.spacing)} mm: already as fine as the target"
        coarse = [axis for axis in range(3) if abs(self.factors[axis] - 1.0) >= SAME]
        names = axis_names(source)
        what = "isotropic" if len(coarse) == 3 else "thick slices, " + " and ".join(names[axis] for axis in coarse)
        factor = " x ".join(f"{self.factors[axis]:.3g}" for axis in coarse)
        return f"{mm(source.spacing)} mm to {mm(self.target.spacing)} mm ({what}, factor {factor})"


def understand(
    volume: Volume,
    section: dict[str, Any],
    spacing: Spacing = None,
    thickness: float | None = None,
    axis: int | None = None,
) -> Understanding:
    """Target grid, thick axis and thickness of a super-resolution request.

    Args:
        volume: the measured input, on its own axes.
        section: of the bundle's metadata.
        spacing: wanted, mm; None = the bundle's; "in-plane" = slices as close as the voxels within them, which stay.
            Axes finer than 1.25 times it keep their voxels.
        thickness: slice thickness, mm; None = what the header tells, else the slice distance.
        axis: of the input, the one that `thickness` is about; None = the header's, else the one with the largest
            spacing.
    """
    grid = volume.grid
    wanted: Any = tuple(section["spacing_mm"]) if spacing is None else spacing
    if spacing == IN_PLANE:
        wanted = _in_plane(volume, axis)
    target = super_resolution_grid(grid, wanted)
    factors = tuple(
        float(now) / float(new) if size != fine else 1.0
        for now, new, size, fine in zip(
            grid.spacing, target.spacing, grid.spatial_shape, target.spatial_shape, strict=True
        )
    )
    coarse = [a for a in range(3) if abs(factors[a] - 1.0) >= SAME]
    if axis is not None and axis not in (0, 1, 2):
        msg = f"axis must be 0, 1 or 2 (i, j or k of the input), got {axis}."
        raise RequestError(msg)
    if thickness is not None and not THINNEST_MM <= thickness <= THICKEST_MM:
        msg = f"The slice thickness must be between {THINNEST_MM:g} and {THICKEST_MM:g} mm, got {thickness:g}."
        raise RequestError(msg)
    thick_axis = axis if axis is not None else volume.slice_axis
    if thick_axis is None or (axis is None and thick_axis not in coarse):
        thick_axis = max(coarse, key=lambda a: factors[a]) if coarse else None
    if thickness is None and thick_axis is not None:
        header = volume.slice_thickness if volume.slice_axis in (None, thick_axis) else None
        thickness = header if header is not None else float(grid.spacing[thick_axis])
    if thickness is not None and thick_axis is not None:
        distance = grid.spacing[thick_axis]
        if not distance / MOST_GAP <= thickness <= distance * MOST_OVERLAP:
            msg = (
                f"{volume.name}: slices of {thickness:g} mm every {distance:.3g} mm are not believable. "
                "Correct the thickness (the option, or SliceThickness in the .json beside the volume) or the axis."
            )
            raise RequestError(msg)
    return Understanding(target, (factors[0], factors[1], factors[2]), thick_axis, thickness)


def _in_plane(volume: Volume, axis: int | None) -> float:
    """The size of the voxels within the slices, mm.

    Raises:
        RequestError: the scan has no slices that are thicker than the voxels within them.
    """
    spacing = volume.grid.spacing
    across = int(np.argmax(spacing)) if axis is None else axis
    within = max(size for other, size in enumerate(spacing) if other != across)
    if spacing[across] <= KEPT * within:
        msg = (
            f"{volume.name} has voxels of {mm(spacing)} mm: no slices that are thicker than its voxels in plane are "
            f"small, so spacing='{IN_PLANE}' has nothing to refine. Give the voxel size in mm instead."
        )
        raise RequestError(msg)
    return within


def axis_names(grid: Grid) -> tuple[str, str, str]:
    """What the axes i, j, k run along in a head."""
    names = {
        "R": "left-right",
        "L": "left-right",
        "A": "front-back",
        "P": "front-back",
        "S": "head-foot",
        "I": "head-foot",
    }
    first, second, third = (names[letter] for letter in grid.orientation)
    return first, second, third


@dataclass(frozen=True)
class SamplingPlan:
    """How a preset samples.

    Attributes:
        steps: network evaluations a sample.
        solver: "ddim", "ddpm" or "dpmpp".
        start: noisiest timestep; below T - 1 the residual 0, partly noised, is the start. None = T - 1.
        samples: how many; their mean is the result.
        eta: share of fresh noise of "ddim".
    """

    steps: int = 1
    solver: str = "ddim"
    start: int | None = None
    samples: int = 1
    eta: float = 0.0

    @classmethod
    def from_preset(cls, preset: dict[str, Any]) -> SamplingPlan:
        """From a bundle's metadata; keys that are not the sampler's (note) are left."""
        known = {key: preset[key] for key in ("steps", "solver", "start", "samples", "eta") if key in preset}
        return cls(**known)
