"""Which voxels count as brain.

A skull-stripped volume says so itself: everything above its background. A whole head needs a mask: the user's, or the
rough one made here from intensities and shape. The mask is then eroded, so that neither the edge of a stripping nor
the skull decides a score.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from scorefusion.errors import VolumeError
from scorefusion.imaging.foreground import foreground_mask

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from scorefusion.imaging.volume import Volume

#: Voxels taken off the mask on every side before scoring.
EROSION = 2

#: A rough brain that fills this share of the foreground means that there is no skull in the volume.
STRIPPED_SHARE = 0.6


@dataclass(frozen=True, eq=False)
class BrainRegion:
    """The voxels scored as brain, and in words how they were found."""

    mask: Tensor  # bool (I, J, K), eroded
    how: str


def erode(mask: Tensor, voxels: int) -> Tensor:
    """Take `voxels` layers off a bool `(I, J, K)` mask (cube neighbourhood); outside the volume counts as outside the
    mask."""
    if voxels == 0:
        return mask.clone()
    outside = (~mask).float()[None, None]
    for axis in range(3):  # a cube is three lines
        if mask.shape[axis] == 1:  # a single slice has no neighbours to lose
            continue
        padding, window = [0] * 6, [1, 1, 1]
        padding[2 * (2 - axis)] = padding[2 * (2 - axis) + 1] = voxels
        window[axis] = 2 * voxels + 1
        outside = torch.nn.functional.pad(outside, padding, value=1.0)
        outside = torch.nn.functional.max_pool3d(outside, tuple(window), stride=1)
    return outside[0, 0] == 0


def brain_region(
    truth: Volume, *, skull_stripped: bool | None = None, mask: NDArray[Any] | None = None, erosion: int = EROSION
) -> BrainRegion:
    """Find the brain of a volume.

    Args:
        truth: one channel, axes near RAS+ (`Volume.canonical`).
        skull_stripped: True or False if known; None looks.
        mask: `(I, J, K)`, above 0 in the brain; used as it is, then eroded.
        erosion: voxels.
    """
    data = truth.data[0]
    if mask is not None:
        if mask.shape != data.shape:
            msg = f"{truth.name}: the brain mask has shape {mask.shape}, the volume {data.shape}; resample the mask"
            raise VolumeError(msg)
        found, how = np.asarray(mask) > 0, "the mask given"
    else:
        foreground = foreground_mask(data)
        rough = None if skull_stripped else rough_brain_mask(data, truth.spacing)
        if rough is None or (skull_stripped is None and rough.sum() > STRIPPED_SHARE * foreground.sum()):
            found, how = foreground, "skull-stripped volume: all voxels above background"
        else:
            found, how = rough, "whole head: rough brain mask from intensities and shape"
    eroded = erode(torch.from_numpy(np.ascontiguousarray(found)), erosion)
    if not bool(eroded.any()):
        msg = f"{truth.name}: no brain voxel is left after eroding {erosion} voxels; give a brain mask in the datalist"
        raise VolumeError(msg)
    return BrainRegion(eroded, f"{how}, eroded by {erosion} voxels")


def rough_brain_mask(data: NDArray[np.float32], spacing: tuple[float, float, float]) -> NDArray[np.bool_]:
    """A brain mask for scoring, from a T1-weighted whole head: inside the brain for certain, rather than all of it.

    The brain lies in an ellipsoid below the top of the head, its tissue between dark (fluid, bone) and very bright
    (fat); a ball of a few millimetres rolled inside that tissue cannot pass to the scalp. On four real heads, against
    the learned tool deepbet 1.0.2: 98.5-100 % of the voxels lie in its mask (after erosion 99.4-100 %), and they are
    82-93 % of it; what is missing is outer fluid and some cortex.

    Args:
        data: `(I, J, K)`, axes near RAS+: k upward.
        spacing: mm along i, j, k.

    Returns:
        bool `(I, J, K)`.
    """
    import SimpleITK as sitk

    low, high = np.percentile(data, [2.0, 99.0])
    head = _largest(_image(data > low + 0.12 * (high - low), spacing))
    centre = _brain_centre(_array(head), spacing)
    squared = [((np.arange(n) * s - c) ** 2) for n, s, c in zip(data.shape, spacing, centre, strict=True)]
    near = squared[0][:, None, None] + squared[1][None, :, None] + squared[2][None, None, :]
    dark, white = _tissue_levels(data[near < 45.0**2])
    ellipsoid = (
        squared[0][:, None, None] / 85.0**2 + squared[1][None, :, None] / 105.0**2 + squared[2][None, None, :] / 95.0**2
    ) < 1.0
    tissue = _image((data > 0.5 * dark) & (data < 1.3 * white) & ellipsoid, spacing)
    core = _largest(_distance(tissue) > 2.5)
    brain = sitk.And(_distance(core) > -3.5, tissue)
    closed = _distance(_distance(brain) > -8.0) > 8.0
    return _array(sitk.BinaryFillhole(closed))


def _brain_centre(head: NDArray[np.bool_], spacing: tuple[float, float, float]) -> list[float]:
    """Millimetres from the first voxel: middle of the upper head, 75 mm below its top."""
    layers = np.flatnonzero(head.sum(axis=(0, 1)) * spacing[0] * spacing[1] > 50.0)
    if layers.size == 0:
        msg = "no head was found in the volume; give a brain mask in the datalist"
        raise VolumeError(msg)
    top = int(layers[-1])
    upper = head.copy()
    upper[:, :, : max(0, top - round(130.0 / spacing[2]))] = False
    inside = np.nonzero(upper)
    middle = [sum(np.percentile(inside[axis], [1.0, 99.0])) / 2.0 * spacing[axis] for axis in range(2)]
    return [float(middle[0]), float(middle[1]), top * spacing[2] - 75.0]


def _tissue_levels(values: NDArray[np.float32]) -> tuple[float, float]:
    """Two levels from voxels near the middle of the brain: what separates fluid from grey matter, and white matter
    itself."""
    import SimpleITK as sitk

    values = values[values < np.percentile(values, 99.5)]
    otsu = sitk.OtsuMultipleThresholdsImageFilter()
    otsu.SetNumberOfThresholds(2)
    otsu.SetNumberOfHistogramBins(256)
    otsu.Execute(sitk.GetImageFromArray(values.reshape(1, 1, -1).astype(np.float32)))
    dark, bright = otsu.GetThresholds()
    return float(dark), float(np.median(values[values > bright]))


# Masks cross into SimpleITK (k, j, i) and back here.


def _image(mask: NDArray[np.bool_], spacing: tuple[float, float, float]) -> Any:
    import SimpleITK as sitk

    image = sitk.GetImageFromArray(np.ascontiguousarray(mask.transpose(2, 1, 0)).astype(np.uint8))
    image.SetSpacing([float(s) for s in spacing])
    return image


def _array(image: Any) -> NDArray[np.bool_]:
    import SimpleITK as sitk

    return np.ascontiguousarray(sitk.GetArrayFromImage(image).transpose(2, 1, 0) > 0)


def _distance(mask: Any) -> Any:
    """Millimetres to the border of a mask, positive inside."""
    import SimpleITK as sitk

    return sitk.SignedMaurerDistanceMap(mask, insideIsPositive=True, squaredDistance=False, useImageSpacing=True)


def _largest(mask: Any) -> Any:
    import SimpleITK as sitk

    return sitk.RelabelComponent(sitk.ConnectedComponent(mask), sortByObjectSize=True) == 1
