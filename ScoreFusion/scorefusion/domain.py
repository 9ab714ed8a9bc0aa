"""What a model was made for, and what is understood of an input: plain numbers, no torch, so that a panel can ask
too."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from scorefusion.errors import RequestError
from scorefusion.grid import Grid, super_resolution_grid
from scorefusion.intensity import foreground_mask
from scorefusion.volume import Volume

BRAIN_LITRES = 2.5  # of tissue; the largest of 46 stripped brains here has 2.2, the smallest of 5 whole heads 2.9
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
        names = _axis_names(source)
        what = "isotropic" if len(coarse) == 3 else "thick slices, " + " and ".join(names[axis] for axis in coarse)
        factor = " x ".join(f"{self.factors[axis]:.3g}" for axis in coarse)
        return f"{mm(source.spacing)} mm to {mm(self.target.spacing)} mm ({what}, factor {factor})"


def understand(
    volume: Volume,
    section: dict[str, Any],
    spacing: float | tuple[float, float, float] | None = None,
    thickness: float | None = None,
    axis: int | None = None,
) -> Understanding:
    """Target grid, thick axis and thickness of a super-resolution request.

    Args:
        volume: the measured input, on its own axes.
        section: of the bundle's metadata.
        spacing: wanted, mm; None = the bundle's. Axes finer than 1.25 times it keep their voxels.
        thickness: slice thickness, mm; None = what the header tells, else the slice distance.
        axis: of the input, the one that `thickness` is about; None = the header's, else the one with the largest
            spacing.
    """
    grid = volume.grid
    if spacing is None:
        wanted: Any = tuple(section["spacing_mm"])
    else:
        wanted = spacing
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
    if thickness is not None and not 0 < thickness < 100:
        msg = f"The slice thickness must be between 0 and 100 mm, got {thickness}."
        raise RequestError(msg)
    thick_axis = axis if axis is not None else volume.slice_axis
    if thick_axis is None or (axis is None and thick_axis not in coarse):
        thick_axis = max(coarse, key=lambda a: factors[a]) if coarse else None
    if thickness is None and thick_axis is not None:
        header = volume.slice_thickness if volume.slice_axis in (None, thick_axis) else None
        thickness = header if header is not None else float(grid.spacing[thick_axis])
    return Understanding(target, (factors[0], factors[1], factors[2]), thick_axis, thickness)


def check_domain(
    section: dict[str, Any],
    volume: Volume,
    condition: dict[str, Any],
    understanding: Understanding | None = None,
) -> list[tuple[str, str]]:
    """Reasons to trust the result less, as (code, message): the input lies outside what the model was trained and
    tested on.

    Args:
        section: of the bundle's metadata.
        volume: one input, in scanner units.
        condition: the entry of `section["conditions"]` that it is for.
        understanding: of the request, for super-resolution.
    """
    domain = section.get("domain", {})
    found: list[tuple[str, str]] = []
    if volume.contrast is not None and condition["contrasts"] and volume.contrast not in condition["contrasts"]:
        known = ", ".join(condition["contrasts"])
        found.append(
            ("contrast", f"{volume.name} is {volume.contrast}; condition '{condition['name']}' was trained on {known}.")
        )
    if domain.get("modality", "MR") == "MR" and _looks_like_ct(volume.data):
        message = f"{volume.name} looks like CT (Hounsfield units); this model was trained on MRI only."
        found.append(("modality", message))
    low, high = domain.get("extent_mm", (90.0, 350.0))
    extent = volume.grid.extent_mm
    if min(extent) < low or max(extent) > high:
        found.append(
            (
                "extent",
                f"{volume.name} covers {mm(extent)} mm; the model expects {domain.get('anatomy', 'a head')} "
                f"and volumes of {low:g} to {high:g} mm.",
            )  # fmt: skip
        )
    if domain.get("skull_stripped"):
        litres = litres_of_tissue(volume.data[0], volume.spacing)
        if litres > BRAIN_LITRES:
            found.append(
                (
                    "skull",
                    f"{volume.name} holds {litres:.1f} litres of tissue: a whole head. This model was trained on "
                    "brains without skull. Strip the skull first (in Slicer: the extensions HDBrainExtraction or "
                    "SwissSkullStripper), or do not believe the result.",
                )  # fmt: skip
            )
    if understanding is not None:
        found.extend(_check_request(domain, volume, understanding))
    return found


def litres_of_tissue(data: np.ndarray, spacing: tuple[float, float, float]) -> float:
    """Litres that lie above the background of a volume, by every second voxel along each axis: enough to tell a head
    from a brain.

    Args:
        data: `(I, J, K)`, any intensities.
        spacing: mm along i, j, k.
    """
    some = np.ascontiguousarray(data[::2, ::2, ::2], dtype=np.float32)
    return float(foreground_mask(some).mean() * data.size * np.prod(spacing) / 1e6)


def _check_request(domain: dict[str, Any], volume: Volume, understanding: Understanding) -> list[tuple[str, str]]:
    found = []
    low, high = domain.get("spacing_mm", (0.0, np.inf))
    finest, coarsest = min(understanding.target.spacing), max(understanding.target.spacing)
    if finest < low * (1 - SAME) or coarsest > high * (1 + SAME):
        found.append(
            (
                "spacing",
                f"the result of {volume.name} has voxels of {mm(understanding.target.spacing)} mm; "
                f"the model was trained on {low:g} to {high:g} mm.",
            )  # fmt: skip
        )
    low, high = domain.get("factor", (1.0, np.inf))
    largest = max(understanding.factors)
    if largest > high * (1 + SAME):
        found.append(
            (
                "factor",
                f"{volume.name} needs a factor of {largest:.3g}; the model was trained up to {high:g}. "
                "Fine detail will be guessed.",
            )  # fmt: skip
        )
    return found


def _looks_like_ct(data: np.ndarray) -> bool:
    """Air near -1000 fills much of a CT; MRI magnitudes are not negative."""
    return bool(data.min() < -500 and (data < -300).mean() > 0.05)


def _axis_names(grid: Grid) -> tuple[str, str, str]:
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


def mm(values: tuple[float, ...]) -> str:
    """`1 x 1 x 5`, for a message."""
    return " x ".join(f"{value:.3g}" for value in values)
