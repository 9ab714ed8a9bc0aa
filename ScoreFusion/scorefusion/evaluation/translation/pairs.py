"""A person's contrasts, ready for translation: one grid in RAS+ order, each on its own scale, and where to score."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scorefusion.datasets.case import Case
from scorefusion.datasets.spectrum import read_axes
from scorefusion.errors import VolumeError
from scorefusion.evaluation.lesions import (
    FLUID_IS_DARK,
    LesionRegion,
    fluid_mask,
    lesion_facts,
    lesion_figures,
    lesion_region,
    read_lesion,
)
from scorefusion.evaluation.metrics import linear_mmd, score_slices, scored_slices, slice_mmd, through_plane_ratio
from scorefusion.evaluation.regions import EROSION, BrainRegion, brain_region, erode, largest
from scorefusion.evaluation.rows import Made
from scorefusion.evaluation.suites import read_mask
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
    """Sources and truth of one person. Methods give volumes in the target's own range [0, 1]."""

    case: Case
    sources: Mapping[str, Tensor]  # (I, J, K) by input name, in the direction's order and normalised as it says
    truth: Tensor  # (I, J, K), normalised as the direction says, [0, 1]
    base: Volume  # the first source: grid and scanner units
    scale: IntensityScale  # of the truth
    contrasts: tuple[str, ...]  # of the sources (in order) and the truth
    brain: BrainRegion  # where scores are taken
    axis: int  # slices normal to it are scored
    why_axis: str
    lesion: LesionRegion | None = None  # where the case has a mask

    setting = ""  # there is one way to be given the sources

    @property
    def name(self) -> str:
        return self.case.case_id

    @property
    def contrast(self) -> str | None:
        return None  # the run's direction says it

    @property
    def apart(self) -> str | None:
        return self.case.apart

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.truth.shape)

    @property
    def is_slice(self) -> bool:
        """A single slice and no volume."""
        return min(self.truth.shape) == 1

    @property
    def plane(self) -> Plane:
        """Of the slices that are scored."""
        return next(plane for plane in Plane if plane.axis == self.axis)

    def facts(self) -> dict[str, Any]:
        """For the report."""
        return {
            "subject": self.name,
            "title": self.name,
            "apart": self.apart,
            "contrasts": self.contrasts,
            "shape": self.shape,
            "spacing_mm": self.base.spacing,
            "axis": "RAS"[self.axis],
            "why_axis": self.why_axis,
            "slices": len(scored_slices(self.brain.mask, self.axis)),
            "single_slice": self.is_slice,
            "brain": self.brain.how,
            "brain_voxels": int(self.brain.mask.sum()),
            "intensity_range": (self.scale.low, self.scale.high),
            **lesion_facts(self.truth, self.lesion),
        }

    def score(self, made: Made) -> dict[str, float]:
        """All figures; PSNR (dB), SSIM and MAE are means of the scored slices' own."""
        estimate, truth, brain = made.data, self.truth.float(), self.brain.mask
        psnr, ssim, mae = score_slices(estimate, truth, brain, self.axis)
        ratios = (math.nan,) * 3 if self.is_slice else through_plane_ratio(estimate, truth, brain)
        return {
            "psnr": psnr,
            "ssim": ssim,
            "mae": mae,
            "mmd": linear_mmd([estimate], [truth]),
            "mmd_slices": slice_mmd(estimate, truth, brain, self.axis),
            **{f"through_plane_{axis}": ratio for axis, ratio in zip("ijk", ratios, strict=True)},
            **lesion_figures(estimate, truth, self.lesion, brain),
        }

    def foreground(self) -> Tensor:
        """Bool `(I, J, K)`: above background in any source, the rule that the networks are told; and the brain, where
        fluid may be as dark as background."""
        return (torch.stack(list(self.sources.values())).amax(dim=0) > -0.99) | self.brain.mask


def to_unit(normalised: Tensor) -> Tensor:
    """[-1, 1] to [0, 1]."""
    return (normalised + 1.0) / 2.0


def read_pair(case: Case, direction: Direction, slice_axis: int | None = None) -> Pair:
    """Read a case that has all contrasts of the direction; `slice_axis`: the files are single slices normal to it.

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
    mask = read_mask(case, reference)
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
        head = sitk.GetArrayFromImage(largest(closed)) > 0
        inside &= erode(torch.from_numpy(head).unsqueeze(thin), EROSION)
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
