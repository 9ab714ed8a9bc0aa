"""Finding and applying the rigid motion between two volumes of one head (SimpleITK, mutual information)."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
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

#: Voxels of the two images at each level of the search, mm.
LEVELS = (8.0, 4.0, 1.5)

#: Voxels drawn at most for an evaluation of the metric.
SAMPLES = 40_000

#: Turns about each axis to start from, degrees: where the headers put the head, and with middle on middle.
TURNS_OF_HEADERS = (-10.0, 0.0, 10.0)
TURNS_OF_MIDDLES = (-16.0, -8.0, 0.0, 8.0, 16.0)

#: Starts that go on to the next level.
KEPT = (16, 3, 1)

#: Two results closer than this are one, mm at the head's surface.
SAME_PLACE = 6.0
HEAD_RADIUS = 80.0

#: Of the best candidate's overlap of heads that any other must have: few voxels in common agree by chance.
ENOUGH_OVERLAP = 0.85

MARGIN = 8


@dataclass(frozen=True, eq=False)
class Motion:
    """A rigid motion.

    Attributes:
        matrix: float64 `(4, 4)`, RAS mm: where a point of the reference's world lies in the moving volume's world.
        centre: RAS mm, the middle of the head in the reference; translations are told for this point.
        metric_before, metric_after: mutual information (Mattes, nats; more is better) where the headers put the volumes
            and after the motion; None where nothing was measured.
        overlap: share of the reference's head that lies on the moving volume's head after the motion, 0 to 1.
    """

    matrix: NDArray[np.float64]
    centre: NDArray[np.float64]
    metric_before: float | None = None
    metric_after: float | None = None
    overlap: float | None = None

    @classmethod
    def none(cls) -> Motion:
        """The volumes' own headers are right."""
        return cls(np.eye(4), np.zeros(3))

    @classmethod
    def stay(cls, found: Motion) -> Motion:
        """No motion, where what was found is no better than the headers."""
        before = found.metric_before
        return replace(found, matrix=np.eye(4), metric_after=found.metric_after if before is None else before)

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

    @property
    def distance_mm(self) -> float:
        """How far the middle of the head is moved."""
        return float(np.linalg.norm(self.translation_mm))

    def place(self, volume: Volume) -> Volume:
        """The moving volume where it lies on the reference: the same voxels under another affine."""
        return replace(volume, affine=np.linalg.inv(self.matrix) @ volume.affine)


def find_motion(moving: Volume, reference: Volume, seed: int = 0) -> Motion:
    """The rigid motion with the highest mutual information (Mattes), coarse to fine.

    At 8 mm it starts from many turns, where the headers put the head and with middle on middle; the best few go on to
    4 mm, the best of these to 1.5 mm. A place where the heads overlap little is none, however well the rest agrees.
    The same volumes and seed give the same motion to the bit: one thread, and samples drawn with the seed.

    Args:
        moving: one channel; may lie on another grid.
        reference: one channel, the same head.
        seed: of the sampled voxels.

    Raises:
        VolumeError: the volumes do not overlap, whatever start is tried.
    """
    search = _Search(moving, reference, seed)
    found = search.starts()
    for level, kept in zip(LEVELS, KEPT, strict=True):
        found = search.refine(found[:kept], level)
        if not found:
            raise _no_overlap(moving, reference)
    return search.motion(found[0])


def refine_motion(moving: Volume, reference: Volume, seed: int = 0) -> Motion:
    """The same for volumes that lie on each other but for a few millimetres: started from the headers alone."""
    search = _Search(moving, reference, seed)
    found = [_Candidate((0.0,) * 6, 0.0)]
    for level in LEVELS[1:]:
        found = search.refine(found[:1], level)
        if not found:
            raise _no_overlap(moving, reference)
    return search.motion(found[0])


@dataclass(frozen=True, eq=False)
class _Candidate:
    """A rigid transform by its six numbers, and how it does at its level."""

    parameters: tuple[float, ...]
    value: float  # of the metric: less is better

    def is_like(self, other: _Candidate) -> bool:
        reach = np.array([HEAD_RADIUS] * 3 + [1.0] * 3)  # angles to mm
        change = np.abs(np.subtract(self.parameters, other.parameters)) * reach
        return bool(change.sum() < SAME_PLACE)


class _Search:
    """Two heads made ready at every level."""

    def __init__(self, moving: Volume, reference: Volume, seed: int) -> None:
        from scorefusion.imaging.itk import image_from_array

        self.seed = seed
        fixed, inside = _prepare(reference)
        other, _ = _prepare(moving)
        self.fixed, self.moving = (image_from_array(volume.data[0], volume.grid) for volume in (fixed, other))
        self.mask = None if inside is None else image_from_array(inside.astype(np.float32), fixed.grid)
        self.images: dict[float, tuple[sitk.Image, sitk.Image]] = {}  # both, by level
        self.centre = fixed.grid.index_to_world(_middle(fixed))
        self.shift = other.grid.index_to_world(_middle(other)) - self.centre
        self.head = _points(fixed)
        self.other = other
        self.other_head = foreground_mask(other.data)

    def starts(self) -> list[_Candidate]:
        """From many turns, best first, without those whose heads overlap little."""
        method, fixed, moving = self._level(LEVELS[0])
        candidates = []
        for shift, turns in ((np.zeros(3), TURNS_OF_HEADERS), (self.shift, TURNS_OF_MIDDLES)):
            for angles in itertools.product(np.deg2rad(turns), repeat=3):
                transform = self._transform((*angles, *_itk_point(shift)))
                candidates.append(_Candidate(transform.GetParameters(), _evaluate(method, fixed, moving, transform)))
        return self._best(candidates)

    def refine(self, candidates: list[_Candidate], level: float) -> list[_Candidate]:
        """Each improved at a level, best first; those that came to the same place are one."""
        method, fixed, moving = self._level(level)
        # Without derivatives: gradient descent lost its way on coarse slices and smooth phantoms, this does not.
        method.SetOptimizerAsPowell(
            numberOfIterations=5, stepLength=0.25 * min(level, 4.0), stepTolerance=0.005 * level, valueTolerance=1e-6
        )
        method.SetOptimizerScalesFromPhysicalShift()
        refined = []
        for candidate in candidates:
            transform = self._transform(candidate.parameters)
            method.SetInitialTransform(transform, inPlace=True)
            try:
                method.Execute(fixed, moving)
            except RuntimeError:  # no sample falls inside the other volume
                continue
            refined.append(_Candidate(transform.GetParameters(), method.GetMetricValue()))
        return self._best(refined)

    def motion(self, candidate: _Candidate) -> Motion:
        """What a candidate says, with the metric before and after."""
        from scorefusion.imaging.itk import matrix_from_transform

        method, fixed, moving = self._level(LEVELS[-1])
        before = -_evaluate(method, fixed, moving, self._transform((0.0,) * 6))
        matrix = matrix_from_transform(self._transform(candidate.parameters))
        overlap = self._overlap(candidate)
        known = before if np.isfinite(before) else None
        return Motion(matrix, self.centre, known, -candidate.value, overlap)

    def _best(self, candidates: list[_Candidate]) -> list[_Candidate]:
        kept: list[_Candidate] = []
        for candidate in sorted(candidates, key=lambda each: each.value):
            if np.isfinite(candidate.value) and not any(candidate.is_like(other) for other in kept):
                kept.append(candidate)
        shares = [self._overlap(candidate) for candidate in kept]
        return [each for each, share in zip(kept, shares, strict=True) if share >= ENOUGH_OVERLAP * max(shares)]

    def _overlap(self, candidate: _Candidate) -> float:
        """Share of the reference's head that lands in the other one's."""
        from scorefusion.imaging.itk import matrix_from_transform

        matrix = matrix_from_transform(self._transform(candidate.parameters))
        world = self.head @ matrix[:3, :3].T + matrix[:3, 3]
        index = np.rint(self.other.grid.world_to_index(world)).astype(int)
        shape = np.array(self.other_head.shape)
        within = ((index >= 0) & (index < shape)).all(axis=1)
        return float(self.other_head[tuple(index[within].T)].sum() / max(1, len(index)))

    def _transform(self, parameters: Sequence[float]) -> sitk.Euler3DTransform:
        import SimpleITK as sitk

        transform = sitk.Euler3DTransform()
        transform.SetCenter(_itk_point(self.centre))
        transform.SetParameters(tuple(float(value) for value in parameters))
        return transform

    def _level(self, level: float) -> tuple[sitk.ImageRegistrationMethod, sitk.Image, sitk.Image]:
        """The metric and both images with voxels of about `level` mm."""
        import SimpleITK as sitk

        if level not in self.images:
            self.images[level] = _coarser(self.fixed, level), _coarser(self.moving, level)
        fixed, moving = self.images[level]
        method = sitk.ImageRegistrationMethod()
        method.SetNumberOfThreads(1)
        method.SetNumberOfWorkUnits(1)
        method.SetMetricAsMattesMutualInformation(32)
        method.SetInterpolator(sitk.sitkLinear)
        voxels = float(np.prod(fixed.GetSize()))
        if self.mask is not None:
            mask = sitk.Cast(_coarser(self.mask, level) >= 0.5, sitk.sitkUInt8)
            voxels = float(sitk.GetArrayViewFromImage(mask).sum())
            if voxels:
                method.SetMetricFixedMask(mask)
        if SAMPLES < voxels:
            method.SetMetricSamplingStrategy(method.RANDOM)
            # Seed 0 is SimpleITK's word for the clock.
            method.SetMetricSamplingPercentage(SAMPLES / voxels, seed=self.seed + 1)
        return method, fixed, moving


def _itk_point(point: NDArray[np.float64]) -> tuple[float, float, float]:
    """RAS to the LPS of ITK."""
    return (-float(point[0]), -float(point[1]), float(point[2]))


def _evaluate(
    method: sitk.ImageRegistrationMethod, fixed: sitk.Image, moving: sitk.Image, transform: sitk.Euler3DTransform
) -> float:
    method.SetInitialTransform(transform)
    try:
        return float(method.MetricEvaluate(fixed, moving))
    except RuntimeError:  # no sample falls inside the other volume
        return float("inf")


def _coarser(image: sitk.Image, level: float) -> sitk.Image:
    """An image smoothed and sampled at about `level` mm; axes that are coarser stay as they are."""
    import SimpleITK as sitk

    spacing, size = np.array(image.GetSpacing()), np.array(image.GetSize())
    count = np.maximum(1, np.rint(size * spacing / np.maximum(spacing, level))).astype(int)
    wanted = size * spacing / count
    sigma = 0.5 * np.sqrt(np.maximum(wanted**2 - spacing**2, 0.0))
    if (sigma > 0.05 * spacing).any():
        image = sitk.SmoothingRecursiveGaussian(image, np.maximum(sigma, 1e-3 * spacing).tolist())
    direction = np.array(image.GetDirection()).reshape(3, 3)
    origin = np.array(image.GetOrigin()) + direction @ ((wanted - spacing) / 2)
    return sitk.Resample(
        image,
        count.tolist(),
        sitk.Transform(),
        sitk.sitkLinear,
        origin.tolist(),
        wanted.tolist(),
        image.GetDirection(),
    )


def _points(volume: Volume) -> NDArray[np.float64]:
    """About 2000 places in the head, RAS mm."""
    places = np.argwhere(foreground_mask(volume.data))
    return volume.grid.index_to_world(places[:: max(1, len(places) // 2000)].astype(np.float64))


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
    moved = motion.place(volume)
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


def _no_overlap(moving: Volume, reference: Volume) -> VolumeError:
    return VolumeError(
        f"{moving.name} cannot be registered to {reference.name}: they agree nowhere, or hardly overlap. Check that "
        "they show the same head, and their headers in a viewer"
    )
