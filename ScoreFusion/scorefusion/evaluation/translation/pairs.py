"""A person's contrasts, ready for translation: one grid in RAS+ order, each on its own scale, and where to score."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from scorefusion.datasets.case import Case
from scorefusion.datasets.spectrum import read_axes
from scorefusion.errors import VolumeError
from scorefusion.evaluation.lesions import FLUID_IS_DARK, LesionRegion, fluid_mask, lesion_region, read_lesion
from scorefusion.evaluation.regions import EROSION, BrainRegion, brain_region, erode
from scorefusion.evaluation.translation.direction import Direction
from scorefusion.fusion.planes import Plane
from scorefusion.imaging.files import read_volume
from scorefusion.imaging.foreground import filled, foreground_mask
from scorefusion.imaging.intensity import IntensityScale, fit_intensity_scale
from scorefusion.imaging.volume import Volume

AXIAL = 2

#: In a single slice of a whole head there is no telling brain from scalp: everything brighter than this share of the
#: range counts, with what it encloses.
HEAD_LEVEL = 0.1
WHOLE_HEAD = "the whole head"


@dataclass(frozen=True, eq=False)
class Pair:
    """Sources and truth of one person.

    Attributes:
        case: whose.
        sources: `(I, J, K)` by input name, normalised to about [-1, 1] as the direction says; in its order, the first
            is the base.
        truth: `(I, J, K)`, normalised as the direction says, [0, 1].
        base: the first source as a volume: grid and scanner units.
        scale: of the truth.
        contrasts: what sources (in order) and truth are.
        brain: where scores are taken.
        axis: slices normal to it are scored.
        why_axis: in words.
        lesion: where the case has a mask.
    """

    case: Case
    sources: Mapping[str, Tensor]
    truth: Tensor
    base: Volume
    scale: IntensityScale
    contrasts: tuple[str, ...]
    brain: BrainRegion
    axis: int
    why_axis: str
    lesion: LesionRegion | None = None

    @property
    def is_slice(self) -> bool:
        """A single slice and no volume."""
        return min(self.truth.shape) == 1

    @property
    def plane(self) -> Plane:
        """Of the slices that are scored."""
        return next(plane for plane in Plane if plane.axis == self.axis)

    def foreground(self) -> Tensor:
        """Bool `(I, J, K)`: above background in any source, the rule that the networks are told; and the brain, where
        fluid may be as dark as background."""
        return (torch.stack(list(self.sources.values())).amax(dim=0) > -0.99) | self.brain.mask


def to_unit(normalised: Tensor) -> Tensor:
    """[-1, 1] to [0, 1]."""
    return (normalised + 1.0) / 2.0


def read_pair(case: Case, direction: Direction, slice_axis: int | None = None) -> Pair:
    """Read a case.

    Args:
        case: has all contrasts that the direction needs, on one grid.
        direction: which are sources and which is the truth.
        slice_axis: the files are single slices normal to this axis; None = volumes.

    Raises:
        VolumeError: a file cannot be used, or the contrasts are not on one grid.
    """
    found, target = direction.match(case)
    volumes = {
        name: _read(case.contrasts[name], case.frame, slice_axis) for name in dict.fromkeys([*found.values(), target])
    }
    base = volumes[next(iter(found.values()))]
    for name, volume in volumes.items():
        if not volume.grid.is_close(base.grid, tolerance_mm=0.01):
            msg = (
                f"{case.case_id}: {name} ({volume.spatial_shape} voxels) is not on the grid of the model's first input "
                f"({base.spatial_shape} voxels); bring all contrasts onto one grid first: scorefusion data register"
            )
            raise VolumeError(msg)
    medians = {found[each.name]: each.median for each in direction.inputs if each.name in found}
    medians[target] = direction.median
    scales = {name: fit_intensity_scale(volume.data, median=medians[name]) for name, volume in volumes.items()}
    normalised = {
        name: torch.from_numpy(np.ascontiguousarray(scales[name].normalise(volume.data[0])))
        for name, volume in volumes.items()
    }
    if slice_axis is None:
        brain, (axis, why) = _brain(case, volumes, target), _scored_axis(case, volumes)
    else:
        brain, axis, why = _head(normalised), slice_axis, "the files are single slices"
    marked = None if slice_axis is not None else read_lesion(case.masks, base)
    lesion = None
    if marked is not None:
        seen = next((name for name in FLUID_IS_DARK if name in volumes), None)
        fluid = None if seen is None else fluid_mask(normalised[seen], seen, brain.mask)
        lesion = lesion_region(marked[1], brain.mask, marked[0], fluid)
    return Pair(
        case,
        {name: normalised[contrast] for name, contrast in found.items()},
        to_unit(normalised[target]),
        base,
        scales[target],
        (*found.values(), target),
        brain,
        axis,
        why,
        lesion,
    )


def _read(path: Path, frame: int | None, slice_axis: int | None) -> Volume:
    volume = read_volume(path, frame=frame).canonical()[0] if slice_axis is None else read_slice(path, slice_axis)
    if volume.data.shape[0] != 1:
        msg = f"{volume.name} has {volume.data.shape[0]} channels; give one volume (key 'frame' for 4D files)"
        raise VolumeError(msg)
    return volume


def read_slice(path: Path, axis: int) -> Volume:
    """A two-dimensional NIfTI file as a volume of one slice normal to `axis`; its place in space is made up.

    Such files have no room for their orientation: the first axis of the array is taken for the lower one of the other
    two, both as increasing (rightward, forward, upward).
    """
    import nibabel

    try:
        image = nibabel.Nifti1Image.from_filename(path)
        data = np.asarray(image.dataobj, dtype=np.float32).squeeze()
    except (OSError, nibabel.filebasedimages.ImageFileError) as error:
        msg = f"{path} cannot be read as NIfTI ({error}); give a two-dimensional .nii or .nii.gz file"
        raise VolumeError(msg) from error
    if data.ndim != 2 or not np.isfinite(data).all():
        msg = f"{path}: a single slice of finite values was expected, got shape {data.shape}"
        raise VolumeError(msg)
    spacing = np.ones(3)
    spacing[[other for other in range(3) if other != axis]] = image.header.get_zooms()[:2]
    return Volume(np.expand_dims(data, axis)[None], np.diag([*spacing, 1.0]), source=str(path))


def _brain(case: Case, volumes: Mapping[str, Volume], target: str) -> BrainRegion:
    """The brain by the mask given; else what every stripped contrast shows; else by the T1w (the rough mask knows
    its contrast) or the truth."""
    reference = volumes.get("t1", volumes[target])
    mask = None
    if "brain" in case.masks:
        mask_volume = read_volume(case.masks["brain"]).canonical()[0]
        if not mask_volume.grid.is_close(reference.grid, tolerance_mm=0.01):
            msg = f"the mask {case.masks['brain']} is not on the grid of {reference.name}; resample it onto that grid"
            raise VolumeError(msg)
        mask = mask_volume.data[0]
    region = brain_region(reference, skull_stripped=case.skull_stripped, mask=mask)
    if mask is not None or "skull-stripped" not in region.how:
        return region
    inside = torch.ones(reference.spatial_shape, dtype=torch.bool)
    for volume in volumes.values():
        inside &= erode(torch.from_numpy(filled(foreground_mask(volume.data))), EROSION)
    if not bool(inside.any()):
        msg = f"{case.case_id}: the contrasts share no foreground; are they of the same head, on one grid?"
        raise VolumeError(msg)
    how = (
        f"skull-stripped volumes: above background in every contrast, with what it encloses, eroded by {EROSION} voxels"
    )
    return BrainRegion(inside, how)


def _head(normalised: Mapping[str, Tensor]) -> BrainRegion:
    """What every contrast of a single slice shows of a head: one may end above the neck."""
    import SimpleITK as sitk

    inside = torch.ones(next(iter(normalised.values())).shape, dtype=torch.bool)
    thin = next(axis for axis in range(3) if inside.shape[axis] == 1)
    for volume in normalised.values():
        bright = to_unit(volume.squeeze(thin)) > HEAD_LEVEL
        image = sitk.GetImageFromArray(bright.numpy().astype(np.uint8))
        closed = sitk.BinaryFillhole(sitk.BinaryMorphologicalClosing(image, [3, 3]))
        largest = sitk.RelabelComponent(sitk.ConnectedComponent(closed), sortByObjectSize=True) == 1
        inside &= erode(torch.from_numpy(sitk.GetArrayFromImage(largest) > 0).unsqueeze(thin), EROSION)
    if not bool(inside.any()):
        msg = "the slices show no common head: nothing in them is bright enough to be scored"
        raise VolumeError(msg)
    return BrainRegion(inside, f"{WHOLE_HEAD} that every contrast shows (no brain mask), eroded by {EROSION} voxels")


def _scored_axis(case: Case, volumes: Mapping[str, Volume]) -> tuple[int, str]:
    """Slices that were measured as such: across an interpolated axis, if there is one; else axial ones."""
    blurred: dict[str, set[int]] = {}
    for name, volume in volumes.items():
        sharp = case.sharp_axes_of(name)
        if sharp is not None:
            blurred[name] = {axis for axis in range(3) if "RAS"[axis] not in sharp}
        else:
            flags = read_axes(volume.data[0]).interpolated
            blurred[name] = {axis for axis in range(3) if flags[axis]}
    found = set().union(*blurred.values())
    if not found:
        return AXIAL, "all axes have real detail; axial by convention"
    axis = AXIAL if AXIAL in found else min(found)
    who = ", ".join(name.upper() for name, axes in blurred.items() if axis in axes)
    return axis, f"{'RAS'[axis]} is interpolated from thick slices in {who}"
