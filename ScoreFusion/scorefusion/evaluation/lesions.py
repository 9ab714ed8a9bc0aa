"""What a model does to a lesion: its contrast against the tissue around it, and the error inside it.

PSNR over a brain hardly sees a lesion, and favours the image that leaves it out. So its contrast-to-noise ratio is
measured in the truth, in what the model was given and in what it made:

    CNR = (mean in the lesion - mean in the ring) / standard deviation in the ring

The ring is the brain tissue between two and six voxels from the lesion (from all lesions of the mask): many lesions lie
beside a ventricle, and fluid would make the ring another thing in each contrast. The sign stays: a lesion that turns
from bright to dark is no small error. A blurred image has a smooth ring, and so a high CNR; read the contrast (the
numerator, in units of the truth's range) beside it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from scorefusion.errors import VolumeError
from scorefusion.imaging.files import read_volume
from scorefusion.imaging.volume import Volume

#: Voxels from the lesion: nearest and farthest of the ring.
RING = (2.0, 6.0)

#: Fewer voxels than this, in the lesion or in its ring, give no figure.
LEAST_VOXELS = 20

#: Contrasts in which the darkest class is fluid, the better one first, and the share of the brain that fluid may have.
FLUID_IS_DARK = ("t1", "flair", "t1ce")
MOST_FLUID = 0.4

#: Masks of a case that are lesions here, the first one found counts.
KINDS = ("lesion", "tumour")


@dataclass(frozen=True, eq=False)
class LesionRegion:
    """A lesion (all of a mask together) and the tissue that it is compared with; bool `(I, J, K)`."""

    kind: str
    inside: Tensor
    ring: Tensor


@dataclass(frozen=True)
class LesionContrast:
    """How a lesion stands out in one image."""

    contrast: float  # mean inside minus mean of the ring, in units of the image's range
    cnr: float  # the same over the ring's standard deviation


@dataclass(frozen=True)
class LesionScore:
    """A lesion in an estimate, beside the same lesion in the truth."""

    contrast: float
    cnr: float
    contrast_error: float  # (estimate - truth) / |truth|; -1 = gone, below -1 = turned round
    cnr_error: float
    mae: float  # inside
    mae_elsewhere: float  # in the rest of the brain


def lesion_region(
    mask: Tensor, brain: Tensor, kind: str = "lesion", fluid: Tensor | None = None
) -> LesionRegion | None:
    """The lesion and its ring; None where either has too few voxels.

    Args:
        mask: bool `(I, J, K)`, all lesions.
        brain: bool `(I, J, K)`; ring and lesion are taken inside it.
        kind: for the table.
        fluid: bool `(I, J, K)`, kept out of the ring; see `fluid_mask`.
    """
    inside = mask & brain
    if int(inside.sum()) < LEAST_VOXELS:
        return None
    near, far = RING
    distance = _distance(mask)
    ring = brain & ~mask & (distance >= near) & (distance <= far)
    if fluid is not None:
        ring &= ~fluid
    return LesionRegion(kind, inside, ring) if int(ring.sum()) >= LEAST_VOXELS else None


def fluid_mask(volume: Tensor, contrast: str | None, brain: Tensor) -> Tensor | None:
    """The darkest of three classes in the brain (Otsu), where fluid is dark; None where it is not, or fills too much.

    Args:
        volume: `(I, J, K)`, any units.
        contrast: of the volume; fluid is dark in `FLUID_IS_DARK`.
        brain: bool `(I, J, K)`.
    """
    import SimpleITK as sitk

    if contrast not in FLUID_IS_DARK:
        return None
    otsu = sitk.OtsuMultipleThresholdsImageFilter()
    otsu.SetNumberOfThresholds(2)
    otsu.SetNumberOfHistogramBins(256)
    otsu.Execute(sitk.GetImageFromArray(volume[brain].float().reshape(1, 1, -1).numpy()))
    fluid = brain & (volume < otsu.GetThresholds()[0])
    return fluid if int(fluid.sum()) < MOST_FLUID * int(brain.sum()) else None


def lesion_contrast(volume: Tensor, region: LesionRegion) -> LesionContrast:
    """Contrast and contrast-to-noise ratio in `volume` `(I, J, K)`."""
    inside, ring = volume[region.inside].double(), volume[region.ring].double()
    contrast, noise = float(inside.mean() - ring.mean()), float(ring.std())
    return LesionContrast(contrast, contrast / noise if noise > 0 else math.nan)


def score_lesion(estimate: Tensor, truth: Tensor, region: LesionRegion, brain: Tensor) -> LesionScore:
    """Hold the lesion in `estimate` against the one in `truth`, both `(I, J, K)` on the truth's scale."""
    found, wanted = lesion_contrast(estimate, region), lesion_contrast(truth, region)
    error = (estimate.double() - truth.double()).abs()
    elsewhere = brain & ~region.inside
    return LesionScore(
        found.contrast,
        found.cnr,
        _relative(found.contrast, wanted.contrast),
        _relative(found.cnr, wanted.cnr),
        float(error[region.inside].mean()),
        float(error[elsewhere].mean()) if bool(elsewhere.any()) else math.nan,
    )


def read_lesion(masks: Mapping[str, Path], like: Volume) -> tuple[str, Tensor] | None:
    """The lesion mask of a case on the grid of `like` (axes in RAS+ order): kind and bool `(I, J, K)`; None without
    one."""
    kind = next((name for name in KINDS if name in masks), None)
    if kind is None:
        return None
    volume, _ = read_volume(masks[kind]).canonical()
    if not volume.grid.is_close(like.grid, tolerance_mm=0.01):
        msg = (
            f"the {kind} mask {masks[kind]} is not on the grid of {like.name} ({volume.spatial_shape} against "
            f"{like.spatial_shape} voxels, or another place); resample it onto that grid, or take it off the case"
        )
        raise VolumeError(msg)
    return kind, torch.from_numpy(volume.data[0] > 0)


def _relative(found: float, wanted: float) -> float:
    """-1 = gone, 0 = as wanted, below -1 = turned round; of dark lesions (T1w) as of bright ones."""
    return (found - wanted) / wanted if wanted != 0 else math.nan


def _distance(mask: Tensor) -> Tensor:
    """Voxels from each voxel to the nearest one of the mask; 0 in it."""
    import SimpleITK as sitk

    # SimpleITK's own axis order does not matter: the array that comes out lies as the one that went in.
    image = sitk.GetImageFromArray(mask.numpy().astype("uint8"))
    signed = sitk.SignedMaurerDistanceMap(image, insideIsPositive=False, squaredDistance=False, useImageSpacing=False)
    return torch.from_numpy(sitk.GetArrayFromImage(signed)).clamp(min=0)
