"""Finding and applying the rigid motion between two volumes of one head (SimpleITK, mutual information)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from scorefusion.errors import VolumeError
from scorefusion.imaging.foreground import erode, foreground_box, foreground_mask
from scorefusion.imaging.volume import Volume, resample

if TYPE_CHECKING:
    import SimpleITK as sitk
    from numpy.typing import NDArray

    from scorefusion.imaging.grid import Grid

#: Voxels drawn for each evaluation of the metric; more are slower and hardly better.
SAMPLES = 25_000

#: Voxels left of a volume along its shortest axis at the coarsest level.
SHORTEST = 12

MARGIN = 8


@dataclass(frozen=True, eq=False)
class Motion:
    """A rigid motion.

    Attributes:
        matrix: float64 `(4, 4)`, RAS mm: where a point of the reference's world lies in the moving volume's world.
        centre: RAS mm, the middle of the head in the reference; translations are told for this point.
    """

    matrix: NDArray[np.float64]
    centre: NDArray[np.float64]

    @classmethod
    def none(cls) -> Motion:
        """The volumes' own headers are right."""
        return cls(np.eye(4), np.zeros(3))

    @property
    def translation_mm(self) -> tuple[float, float, float]:
        """How far the middle of the head is moved to the right, the front and upward to lie on the reference."""
        x, y, z = self.centre - (self.matrix[:3, :3] @ self.centre + self.matrix[:3, 3])
        return float(x), float(y), float(z)

    @property
    def rotation_degrees(self) -> float:
        """The angle of the turn about its own axis, 0 to 180."""
        cosine = (np.trace(self.matrix[:3, :3]) - 1.0) / 2.0
        return float(np.degrees(np.arccos(np.clip(cosine, -1.0, 1.0))))


def find_motion(moving: Volume, reference: Volume, seed: int = 0) -> Motion:
    """The rigid motion with the highest mutual information (Mattes), coarse to fine.

    It starts where the headers say, or with centre of mass on centre of mass, whichever is better.
    The same volumes and seed give the same motion to the bit: one thread, and samples drawn with the seed.

    Args:
        moving: one channel; may lie on another grid.
        reference: one channel, the same head.
        seed: of the sampled voxels.

    Raises:
        VolumeError: the volumes do not overlap, whatever start is tried.
    """
    import SimpleITK as sitk

    from scorefusion.imaging.itk import image_from_array, matrix_from_transform, transform_from_matrix

    fixed, inside = _prepare(reference)
    other, _ = _prepare(moving)
    fixed_image, moving_image = (image_from_array(volume.data[0], volume.grid) for volume in (fixed, other))
    method = sitk.ImageRegistrationMethod()
    method.SetNumberOfThreads(1)
    method.SetNumberOfWorkUnits(1)
    method.SetMetricAsMattesMutualInformation(50)
    method.SetInterpolator(sitk.sitkLinear)
    levels = [factor for factor in (4, 2, 1) if factor == 1 or min(fixed.spatial_shape) // factor >= SHORTEST]
    method.SetShrinkFactorsPerLevel(levels)
    method.SetSmoothingSigmasPerLevel([factor / 2 if factor > 1 else 0.0 for factor in levels])
    method.SmoothingSigmasAreSpecifiedInPhysicalUnitsOff()
    method.SetMetricSamplingStrategy(method.RANDOM)
    share = 1.0 if inside is None else max(float(inside.mean()), 1e-3)
    counts = [fixed.data.size * share / factor**3 for factor in levels]
    # Seed 0 is SimpleITK's word for the clock.
    method.SetMetricSamplingPercentagePerLevel([min(1.0, SAMPLES / count) for count in counts], seed=seed + 1)
    if inside is not None:
        method.SetMetricFixedMask(sitk.Cast(image_from_array(inside.astype(np.float32), fixed.grid), sitk.sitkUInt8))
    # Without derivatives: on a smooth phantom gradient descent stopped at half of the rotation, this does not.
    method.SetOptimizerAsPowell(numberOfIterations=20, stepLength=1.0, stepTolerance=1e-3, valueTolerance=1e-6)
    method.SetOptimizerScalesFromPhysicalShift()
    centre = fixed.grid.index_to_world(_middle(fixed))
    to_middle = np.eye(4)
    to_middle[:3, 3] = other.grid.index_to_world(_middle(other)) - centre
    starts = [transform_from_matrix(matrix, centre) for matrix in (np.eye(4), to_middle)]
    transform = _best_start(method, fixed_image, moving_image, starts)
    method.SetInitialTransform(transform, inPlace=True)
    try:
        method.Execute(fixed_image, moving_image)
    except RuntimeError as error:
        raise _no_overlap(moving, reference) from error
    return Motion(matrix_from_transform(transform), centre)


def move(volume: Volume, motion: Motion, grid: Grid, interpolation: str = "cubic") -> Volume:
    """Bring a volume to the reference's grid.

    Values stay within those of the volume, and a constant background stays constant: B-splines ring on both sides of
    an edge, and faint rings outside a stripped brain would pass for tissue.

    Args:
        volume: one channel.
        motion: from `find_motion`.
        grid: of the reference.
        interpolation: cubic, linear, or nearest for masks and labels.
    """
    moved = replace(volume, affine=np.linalg.inv(motion.matrix) @ volume.affine)
    background = constant_background(volume)
    result = resample(moved, grid, interpolation, fill=background)
    if interpolation != "cubic":
        return result
    data = np.clip(result.data, volume.data.min(), volume.data.max())
    if background is not None:
        tissue = moved.with_data((volume.data != background).astype(np.float32))
        data[resample(tissue, grid, "linear", fill=0.0).data < 0.5] = background
    return result.with_data(data)


def constant_background(volume: Volume) -> float | None:
    """The one value of everything outside a stripped or masked head; None where the outside is noise."""
    data = volume.data[0]
    border = np.concatenate([np.moveaxis(data, axis, 0)[[0, -1]].ravel() for axis in range(3)])
    values, counts = np.unique(border, return_counts=True)
    value = float(values[counts.argmax()])
    return value if counts.max() >= 0.5 * border.size and (data == value).mean() >= 0.05 else None


def _prepare(volume: Volume) -> tuple[Volume, NDArray[np.bool_] | None]:
    """The head with a margin, without its hottest voxels; and for a stripped brain the part that may be compared."""
    foreground = foreground_mask(volume.data)
    box = foreground_box(foreground, MARGIN)
    cropped = volume.crop(box)
    low, high = np.percentile(cropped.data, [0.1, 99.8])  # the metric's bins span the whole range
    cropped = cropped.with_data(np.clip(cropped.data, low, high))
    if constant_background(volume) is None:
        return cropped, None
    # Two contrasts often share one brain mask: its edge would hold them where they are.
    inside = erode(foreground, 3)[box.slices]
    return cropped, inside if inside.sum() > 1000 else foreground[box.slices]


def _middle(volume: Volume) -> NDArray[np.float64]:
    """Voxel index of the centre of mass."""
    mass = volume.data[0].astype(np.float64) - float(volume.data.min())
    totals = [mass.sum(axis=tuple(a for a in range(3) if a != axis)) for axis in range(3)]
    return np.array([(np.arange(total.size) * total).sum() / total.sum() for total in totals])


def _best_start(
    method: sitk.ImageRegistrationMethod, fixed: sitk.Image, moving: sitk.Image, starts: list[sitk.Euler3DTransform]
) -> sitk.Euler3DTransform:
    """The one that the metric prefers; the last where none can be told."""
    best, lowest = starts[-1], np.inf
    for start in starts:
        method.SetInitialTransform(start)
        try:
            value = method.MetricEvaluate(fixed, moving)
        except RuntimeError:  # no sample falls inside the other volume
            continue
        if value < lowest:
            best, lowest = start, value
    return best


def _no_overlap(moving: Volume, reference: Volume) -> VolumeError:
    return VolumeError(
        f"{moving.name} cannot be registered to {reference.name}: they hardly overlap. Check that they show the same "
        "head, and their headers in a viewer"
    )
