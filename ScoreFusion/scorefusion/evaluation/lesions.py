"""What a model does to a lesion: its contrast against the tissue around it, and the error inside it.

PSNR over a brain hardly sees a lesion, and favours the image that leaves it out. `HOW` says what is measured instead.
Fluid is kept out of the ring, since many lesions lie beside a ventricle and fluid would make the ring another thing in
each contrast. The sign stays: a lesion that turns from bright to dark is no small error.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scorefusion.errors import VolumeError
from scorefusion.evaluation.regions import three_classes
from scorefusion.imaging.files import read_volume
from scorefusion.imaging.volume import Volume

RING = (2.0, 6.0)  # voxels from the lesion: nearest and farthest of the ring
HOW = (
    f"A lesion's contrast is its mean minus the mean of the ring around it ({RING[0]:g} to {RING[1]:g} voxels away, "
    "inside the brain, without fluid where T1w or FLAIR shows it as the darkest of three classes), in units of the "
    "truth's range; its contrast-to-noise ratio (CNR) is the same over the standard deviation in that image's ring. "
    "All lesions of a mask count as one. 100 % kept is as in the truth, 0 % is gone, "
    "below 0 % is turned round. A smooth image has a smooth ring, and so a high CNR: read the contrast beside it."
)
LEAST_VOXELS = 20  # fewer than this, in the lesion or in its ring, give no figure
FLUID_IS_DARK = ("t1", "flair", "t1ce")  # contrasts in which the darkest class is fluid, the better one first
MOST_FLUID = 0.4  # share of the brain that fluid may have
KINDS = ("lesion", "tumour")  # masks of a case that are lesions here, the first one found counts


@dataclass(frozen=True, eq=False)
class LesionRegion:
    """A lesion (all of a mask together) and the tissue that it is compared with; bool `(I, J, K)`."""

    kind: str
    inside: Tensor
    ring: Tensor


@dataclass(frozen=True)
class LesionScore:
    """A lesion in an estimate, beside the same lesion in the truth."""

    contrast: float  # mean inside minus mean of the ring, in units of the truth's range
    cnr: float  # the same over the ring's standard deviation
    contrast_error: float  # (estimate - truth) / truth; -1 = gone, below -1 = turned round, dark or bright
    cnr_error: float
    mae: float  # inside
    mae_elsewhere: float  # in the rest of the brain


def lesion_region(
    mask: Tensor, brain: Tensor, kind: str = "lesion", fluid: Tensor | None = None
) -> LesionRegion | None:
    """The lesion `mask` and its ring, both inside `brain`, all bool `(I, J, K)`; None where either has too few voxels.
    `fluid` is kept out of the ring, see `fluid_mask`."""
    import SimpleITK as sitk

    inside = mask & brain
    if int(inside.sum()) < LEAST_VOXELS:
        return None
    # SimpleITK's own axis order does not matter: the array that comes out lies as the one that went in.
    image = sitk.GetImageFromArray(mask.numpy().astype("uint8"))
    signed = sitk.SignedMaurerDistanceMap(image, insideIsPositive=False, squaredDistance=False, useImageSpacing=False)
    distance = torch.from_numpy(sitk.GetArrayFromImage(signed))
    ring = brain & ~mask & (distance >= RING[0]) & (distance <= RING[1])
    if fluid is not None:
        ring &= ~fluid
    return LesionRegion(kind, inside, ring) if int(ring.sum()) >= LEAST_VOXELS else None


def fluid_mask(volume: Tensor, contrast: str | None, brain: Tensor) -> Tensor | None:
    """The darkest of three classes in the brain, where fluid is dark (`FLUID_IS_DARK`); None where it is not, or fills
    too much."""
    if contrast not in FLUID_IS_DARK:
        return None
    fluid = brain & (volume < three_classes(volume[brain].float().numpy())[0])
    return fluid if int(fluid.sum()) < MOST_FLUID * int(brain.sum()) else None


def lesion_contrast(volume: Tensor, region: LesionRegion) -> tuple[float, float]:
    """Contrast and contrast-to-noise ratio in `volume` `(I, J, K)`."""
    inside, ring = volume[region.inside].double(), volume[region.ring].double()
    contrast, noise = float(inside.mean() - ring.mean()), float(ring.std())
    return contrast, contrast / noise if noise > 0 else math.nan


def score_lesion(estimate: Tensor, truth: Tensor, region: LesionRegion, brain: Tensor) -> LesionScore:
    """Hold the lesion in `estimate` against the one in `truth`, both `(I, J, K)` on the truth's scale."""
    found, wanted = lesion_contrast(estimate, region), lesion_contrast(truth, region)
    error = (estimate.double() - truth.double()).abs()
    inside, rest = error[region.inside], error[brain & ~region.inside]
    contrast, cnr = ((a - b) / b if b != 0 else math.nan for a, b in zip(found, wanted, strict=True))
    elsewhere = float(rest.mean()) if rest.numel() else math.nan
    return LesionScore(*found, contrast, cnr, float(inside.mean()), elsewhere)


def lesion_figures(estimate: Tensor, truth: Tensor, region: LesionRegion | None, brain: Tensor) -> dict[str, float]:
    """The score by name; nothing where there is no lesion."""
    if region is None:
        return {}
    return {f"lesion_{name}": value for name, value in vars(score_lesion(estimate, truth, region, brain)).items()}


def lesion_facts(truth: Tensor, region: LesionRegion | None) -> dict[str, Any]:
    """What the report says of the lesion in the truth; `lesion` is None where there is none."""
    if region is None:
        return {"lesion": None}
    contrast = dict(zip(("contrast", "cnr"), lesion_contrast(truth, region), strict=True))
    return {"lesion": region.kind, "lesion_voxels": int(region.inside.sum()), "lesion_truth": contrast}


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
