"""How far an estimate is from the truth: one number per question, each with its region and range stated.

Volumes are `(I, J, K)` tensors scaled so that the truth's robust intensity range is [0, 1]. Nothing is clipped: a voxel
outside the range counts with its full error. `mask` is bool `(I, J, K)`; None means every voxel given.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scorefusion.imaging.acquisition import Acquisition

#: Side of the SSIM window in voxels and its two constants: the defaults of scikit-image, which the paper used.
SSIM_WINDOW, SSIM_K1, SSIM_K2 = 7, 0.01, 0.03
_SLAB = 32  # slices handled at a time, so that a 256^3 head needs hundreds of MB and not many GB
LEAST_SHARE = 0.2  # a slice with less brain than this share of the largest slice's is not scored


def _voxels(volume: Tensor, mask: Tensor | None) -> Tensor:
    """The voxels that count, as one float64 row (float32 sums drift over millions of voxels)."""
    return (volume.reshape(-1) if mask is None else volume[mask]).double()


def _check(estimate: Tensor, truth: Tensor, mask: Tensor | None = None) -> None:
    shapes = [tuple(x.shape) for x in (estimate, truth, mask) if x is not None]
    if len(shapes[0]) != 3 or len(set(shapes)) > 1:
        msg = f"estimate, truth and mask must be volumes (I, J, K) of one shape, got {shapes}"
        raise ValueError(msg)
    if mask is not None and not bool(mask.any()):
        msg = "the mask holds no voxel: there is nothing to score; give a larger mask or erode it less"
        raise ValueError(msg)


def _error(estimate: Tensor, truth: Tensor, mask: Tensor | None) -> Tensor:
    _check(estimate, truth, mask)
    return _voxels(estimate, mask) - _voxels(truth, mask)


def mean_absolute_error(estimate: Tensor, truth: Tensor, mask: Tensor | None = None) -> float:
    """Mean absolute difference (MAE), in units of the truth's range."""
    return float(_error(estimate, truth, mask).abs().mean())


def psnr(estimate: Tensor, truth: Tensor, mask: Tensor | None = None, *, data_range: float = 1.0) -> float:
    """Peak signal-to-noise ratio in dB; infinite where estimate and truth agree in every voxel."""
    return _decibels(float(_error(estimate, truth, mask).square().mean()), data_range)


def _decibels(squared: float, data_range: float = 1.0) -> float:
    return 10.0 * math.log10(data_range**2 / squared) if squared > 0 else math.inf


def _box_mean(volume: Tensor, axes: Sequence[int]) -> Tensor:
    """Mean over `SSIM_WINDOW` voxels along each of `axes`; the edges are mirrored, as scipy's "reflect" does."""
    half = SSIM_WINDOW // 2
    for axis in axes:
        size = volume.shape[axis]
        first, last = (volume.narrow(axis, at, half).flip(axis) for at in (0, size - half))
        total = torch.cat([first, volume, last], dim=axis).cumsum(dim=axis)
        upper = total.narrow(axis, SSIM_WINDOW - 1, size).clone()
        upper.narrow(axis, 1, size - 1).sub_(total.narrow(axis, 0, size - 1))
        volume = upper.div_(SSIM_WINDOW)
    return volume


def ssim_map(estimate: Tensor, truth: Tensor, axes: Sequence[int] = (0, 1, 2)) -> Tensor:
    """Local structural similarity `(I, J, K)` float64, range 1, uniform window of 7 voxels along `axes`.

    To the last digits scikit-image's `structural_similarity` with its defaults (a test holds the two together), which
    Slicer's Python lacks; there is one definition everywhere, not one with it and one without.
    """
    _check(estimate, truth)
    if min(truth.shape[axis] for axis in axes) < SSIM_WINDOW:
        msg = f"SSIM needs {SSIM_WINDOW} voxels along each axis it looks along, got a volume of {tuple(truth.shape)}"
        raise ValueError(msg)
    x, y = estimate.double(), truth.double()
    mean_x, mean_y = _box_mean(x, axes), _box_mean(y, axes)
    count = SSIM_WINDOW ** len(axes)
    norm = count / (count - 1)  # sample covariance, as in Wang 2004
    spread = norm * (_box_mean(x * x, axes) - mean_x**2 + _box_mean(y * y, axes) - mean_y**2)
    covariance = norm * (_box_mean(x * y, axes) - mean_x * mean_y)
    c1, c2 = SSIM_K1**2, SSIM_K2**2
    return (2 * mean_x * mean_y + c1) * (2 * covariance + c2) / ((mean_x**2 + mean_y**2 + c1) * (spread + c2))


def ssim_regions(estimate: Tensor, truth: Tensor, masks: Sequence[Tensor | None]) -> list[float]:
    """Mean 3D SSIM over each of several masks; None is the whole volume without its outer 3 voxels, as scikit-image
    reports it."""
    half, size = SSIM_WINDOW // 2, truth.shape[0]
    interior = torch.zeros(truth.shape, dtype=torch.bool)
    interior[half:-half, half:-half, half:-half] = True
    regions = [interior if mask is None else torch.as_tensor(mask, dtype=torch.bool) for mask in masks]
    for region in regions:
        _check(estimate, truth, region)
    sums = [0.0] * len(regions)
    for start in range(0, size, _SLAB):
        # A slab with the neighbours that its windows reach, moved inward at the ends; their own results are dropped.
        stop = min(start + _SLAB, size)
        low, high = max(0, min(start - half, size - SSIM_WINDOW)), min(size, max(stop + half, SSIM_WINDOW))
        local = ssim_map(estimate[low:high], truth[low:high])[start - low : stop - low]
        sums = [total + float(local[region[start:stop]].sum()) for total, region in zip(sums, regions, strict=True)]
    return [total / int(region.sum()) for total, region in zip(sums, regions, strict=True)]


def ssim(estimate: Tensor, truth: Tensor, mask: Tensor | None = None) -> float:
    """Mean 3D SSIM over one region; see `ssim_regions`."""
    return ssim_regions(estimate, truth, [mask])[0]


def linear_mmd(estimates: Sequence[Tensor], truths: Sequence[Tensor]) -> float:
    """Maximum mean discrepancy with a linear kernel on raw voxels: squared norm of the difference of the mean volumes.

    This is the figure the paper calls MMD. It sums over voxels, so it grows with the volume, and for one volume against
    one truth it is the summed squared error and says no more than PSNR. All volumes must share one shape.
    """
    errors = [_error(estimate, truth, None) for estimate, truth in zip(estimates, truths, strict=True)]
    return float((sum(errors[1:], errors[0]) / len(errors)).square().sum())


def through_plane_ratio(estimate: Tensor, truth: Tensor, mask: Tensor | None = None) -> tuple[float, float, float]:
    """Slice-to-slice change of the estimate over that of the truth, along i, j and k, over pairs that both lie in the
    mask: 1 is as the truth, below 1 too smooth along that axis, above 1 slices do not fit their neighbours."""

    def ratio(axis: int) -> float:
        size = truth.shape[axis] - 1
        both = None if mask is None else mask.narrow(axis, 1, size) & mask.narrow(axis, 0, size)
        made, wanted = (float(_voxels(x.diff(dim=axis).abs(), both).mean()) for x in (estimate, truth))
        return made / wanted if wanted > 0 else math.nan

    return ratio(0), ratio(1), ratio(2)


def noise_sigma(truth: Tensor, mask: Tensor | None = None) -> float:
    """Standard deviation of the truth's noise: robust spread of its finest diagonal detail, in the truth's units.

    The difference along all three axes at once (the Haar HHH band) removes almost all anatomy; the median absolute
    deviation ignores the edges that are left, and of the voxels only the half with the smaller local gradient is used
    (Coupe et al., 2010). Noise that was smoothed by interpolation is underestimated.
    """
    detail = level = torch.as_tensor(truth).float()
    for axis in range(3):
        size = detail.shape[axis] - 1
        detail = detail.diff(dim=axis) / math.sqrt(2.0)
        level = (level.narrow(axis, 1, size) + level.narrow(axis, 0, size)) / 2.0
    whole = torch.ones(truth.shape, dtype=torch.bool) if mask is None else mask
    inside = whole[tuple(slice(0, side) for side in detail.shape)]
    if not bool(inside.any()):
        msg = "the mask holds no voxel to measure noise in"
        raise ValueError(msg)
    gradient = torch.zeros_like(level)
    for axis in range(3):
        gradient.narrow(axis, 0, level.shape[axis] - 1).add_(level.diff(dim=axis).square())
    values = detail[inside & (gradient <= gradient[inside].median())]
    return float((values - values.median()).abs().median() / 0.67449)


def psnr_ceiling(sigma: float, voxels_averaged: float = math.inf) -> float:
    """The PSNR (dB) of an estimate that knows the anatomy perfectly but not the truth's white noise.

    A measured voxel that averages n fine ones fixes that share of the noise `sigma` (in units of the truth's range),
    which lifts the ceiling a little: the error left is `sigma^2 (1 - 1/n)`.
    """
    return _decibels(sigma**2 * (1.0 - 1.0 / voxels_averaged))


def data_residual(acquisition: Acquisition, estimate: Tensor, measured: Tensor) -> float:
    """Largest absolute difference between the measured voxels `(i, j, k)` and the estimate pushed through the
    acquisition."""
    return float((acquisition.forward(estimate[None, None].float())[0, 0] - measured).abs().max())


@dataclass(frozen=True)
class Calibration:
    """Does the uncertainty say where the error is, and how large?"""

    coverage: float  # share of voxels whose error lies within 1.96 deviations; 0.95 if the spread is right
    correlation: float  # of the ranks of deviation and absolute error; 1 = the map orders the errors perfectly
    spread_ratio: float  # root mean square deviation over root mean square error; below 1 = too sure


def calibration(estimate: Tensor, truth: Tensor, deviation: Tensor, mask: Tensor | None = None) -> Calibration:
    """Hold an uncertainty map (one standard deviation, in units of the truth's range) against the actual error."""
    error, spread = _error(estimate, truth, mask).abs(), _voxels(deviation, mask)
    ranks = torch.stack([values.argsort().argsort().double() for values in (error, spread)])
    correlation = float(torch.corrcoef(ranks)[0, 1]) if float(spread.std()) > 0 else math.nan
    rms_error, rms_spread = (float(values.square().mean().sqrt()) for values in (error, spread))
    coverage = float((error <= 1.96 * spread).double().mean())
    return Calibration(coverage, correlation, rms_spread / rms_error if rms_error > 0 else math.nan)


@dataclass(frozen=True)
class Scores:
    """All figures of one estimate against one truth; the paper's `psnr_minmax` has the truth's minimum to maximum as
    its range, the others the robust range."""

    psnr_brain: float  # dB
    ssim_brain: float
    mae_brain: float
    psnr: float  # dB, whole volume given (the foreground box)
    ssim: float
    mae: float
    psnr_minmax: float  # dB, whole volume
    mmd: float  # summed squared error: linear MMD of a set of one
    data_residual: float  # max |A x - y|; nan where nothing was measured
    through_plane_i: float  # ratio to the truth's, in the brain
    through_plane_j: float
    through_plane_k: float


def score_volume(
    estimate: Tensor,
    truth: Tensor,
    brain: Tensor,
    acquisition: Acquisition | None = None,
    measured: Tensor | None = None,
) -> Scores:
    """Score one estimate, `(I, J, K)` scaled as the truth, in the brain and in the whole volume."""
    estimate, truth = torch.as_tensor(estimate).float(), torch.as_tensor(truth).float()
    brain = torch.as_tensor(brain, dtype=torch.bool)
    ssim_brain, ssim_whole = ssim_regions(estimate, truth, [brain, None])
    known = acquisition is not None and measured is not None
    return Scores(
        psnr(estimate, truth, brain),
        ssim_brain,
        mean_absolute_error(estimate, truth, brain),
        psnr(estimate, truth),
        ssim_whole,
        mean_absolute_error(estimate, truth),
        psnr(estimate, truth, data_range=float(truth.max() - truth.min())),
        linear_mmd([estimate], [truth]),
        data_residual(acquisition, estimate, measured) if known else math.nan,  # type: ignore[arg-type]
        *through_plane_ratio(estimate, truth, brain),
    )


# -- slice by slice ----------------------------------------------------------------------------------------------------


def scored_slices(mask: Tensor, axis: int) -> list[int]:
    """Indices along `axis` of the slices of a mask with at least `LEAST_SHARE` of the largest one's area."""
    area = mask.sum(dim=[other for other in range(3) if other != axis])
    if not bool(area.any()):
        msg = "the mask holds no voxel: there is no slice to score"
        raise ValueError(msg)
    return [int(index) for index in torch.nonzero(area >= LEAST_SHARE * area.max()).flatten()]


def score_slices(estimate: Tensor, truth: Tensor, mask: Tensor, axis: int) -> tuple[float, float, float]:
    """PSNR (dB), 2D SSIM and MAE in the mask: means of the figures of each scored slice normal to `axis`.

    For volumes that were made from thick slices: what lies between those was never measured. Each slice has one voice,
    whatever its size.
    """
    error = (estimate.double() - truth.double()).movedim(axis, 0)
    local = ssim_map(estimate, truth, [other for other in range(3) if other != axis]).movedim(axis, 0)
    found = []
    for index in scored_slices(mask, axis):
        voxels = mask.movedim(axis, 0)[index]
        wrong = error[index][voxels]
        decibels = _decibels(float(wrong.square().mean()))
        found.append((decibels, float(local[index][voxels].mean()), float(wrong.abs().mean())))
    mean_psnr, mean_ssim, mae = (sum(values) / len(found) for values in zip(*found, strict=True))
    return mean_psnr, mean_ssim, mae


def slice_mmd(estimate: Tensor, truth: Tensor, mask: Tensor, axis: int) -> float:
    """Linear MMD with slices as the samples: squared norm of the difference of the two mean slices.

    Over one volume, `linear_mmd` is the summed squared error; this one is not, since errors that differ from slice to
    slice cancel. It sums over pixels, so it compares methods on one volume and not volumes.
    """
    difference = (estimate.double() - truth.double()).movedim(axis, 0)[scored_slices(mask, axis)].mean(dim=0)
    return float(difference.square().sum())
