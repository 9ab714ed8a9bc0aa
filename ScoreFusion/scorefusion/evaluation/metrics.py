"""How far an estimate is from the truth: one number per question, each with its region and range stated.

All functions take volumes as `(I, J, K)` tensors (or anything `torch.as_tensor` takes) scaled so that the truth's
robust intensity range is [0, 1] (`unit_scale`). Nothing is clipped: a voxel outside the range counts with its full
error. `mask` is bool `(I, J, K)`; None means every voxel given.
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
SSIM_WINDOW = 7
SSIM_K1, SSIM_K2 = 0.01, 0.03

#: Slices handled at a time, so that a 256^3 head needs tens of MB and not gigabytes.
_SLAB = 16


def _voxels(volume: Tensor, mask: Tensor | None) -> Tensor:
    """The voxels that count, as one float64 row (float32 sums drift over millions of voxels)."""
    picked = volume.reshape(-1) if mask is None else volume[mask]
    return picked.double()


def _check_pair(estimate: Tensor, truth: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    estimate, truth = torch.as_tensor(estimate), torch.as_tensor(truth)
    mask = None if mask is None else torch.as_tensor(mask, dtype=torch.bool)
    shapes = [tuple(x.shape) for x in (estimate, truth, mask) if x is not None]
    if len(shapes[0]) != 3 or len(set(shapes)) > 1:
        msg = f"estimate, truth and mask must be volumes (I, J, K) of one shape, got {shapes}"
        raise ValueError(msg)
    if mask is not None and not bool(mask.any()):
        msg = "the mask holds no voxel: there is nothing to score; give a larger mask or erode it less"
        raise ValueError(msg)
    return estimate, truth, mask


def mean_squared_error(estimate: Tensor, truth: Tensor, mask: Tensor | None = None) -> float:
    """Mean squared difference over the voxels that count."""
    estimate, truth, mask = _check_pair(estimate, truth, mask)
    return float((_voxels(estimate, mask) - _voxels(truth, mask)).square().mean())


def mean_absolute_error(estimate: Tensor, truth: Tensor, mask: Tensor | None = None) -> float:
    """Mean absolute difference (MAE), in units of the truth's range."""
    estimate, truth, mask = _check_pair(estimate, truth, mask)
    return float((_voxels(estimate, mask) - _voxels(truth, mask)).abs().mean())


def psnr(estimate: Tensor, truth: Tensor, mask: Tensor | None = None, *, data_range: float = 1.0) -> float:
    """Peak signal-to-noise ratio in dB; infinite where estimate and truth agree in every voxel."""
    error = mean_squared_error(estimate, truth, mask)
    return 10.0 * math.log10(data_range**2 / error) if error > 0 else math.inf


def _box_mean(volume: Tensor, window: int, axes: Sequence[int]) -> Tensor:
    """Mean over `window` voxels along each of `axes`, where the box fits: these axes lose `window - 1` voxels."""
    for axis in axes:
        # A running sum costs two additions a voxel whatever the window; float64 keeps it exact enough.
        total = torch.cumsum(volume, dim=axis)
        size = volume.shape[axis] - window + 1
        upper = total.narrow(axis, window - 1, size).clone()
        upper.narrow(axis, 1, size - 1).sub_(total.narrow(axis, 0, size - 1))
        volume = upper.div_(window)
    return volume


def _mirror(volume: Tensor, margin: int, axes: Sequence[int]) -> Tensor:
    """`volume` with `margin` voxels mirrored outward along `axes`, edge voxel repeated (as scipy's mode "reflect")."""
    for axis in axes:
        first = volume.narrow(axis, 0, margin).flip(axis)
        last = volume.narrow(axis, volume.shape[axis] - margin, margin).flip(axis)
        volume = torch.cat([first, volume, last], dim=axis)
    return volume


def _ssim_map(
    estimate: Tensor, truth: Tensor, window: int, data_range: float, axes: Sequence[int] = (0, 1, 2)
) -> Tensor:
    """Local SSIM where the window fits; `estimate` and `truth` already carry the margin along `axes`, float64."""

    def mean(volume: Tensor) -> Tensor:
        return _box_mean(volume, window, axes)

    mean_x, mean_y = mean(estimate), mean(truth)
    # Sample covariance (n - 1), as in Wang 2004 and scikit-image.
    count = window ** len(axes)
    norm = count / (count - 1)
    var_x = norm * (mean(estimate * estimate) - mean_x * mean_x)
    var_y = norm * (mean(truth * truth) - mean_y * mean_y)
    cov = norm * (mean(estimate * truth) - mean_x * mean_y)
    c1, c2 = (SSIM_K1 * data_range) ** 2, (SSIM_K2 * data_range) ** 2
    return ((2 * mean_x * mean_y + c1) * (2 * cov + c2)) / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))


def ssim_regions(
    estimate: Tensor,
    truth: Tensor,
    masks: Sequence[Tensor | None],
    *,
    data_range: float = 1.0,
    window: int = SSIM_WINDOW,
) -> list[float]:
    """Structural similarity in 3D (uniform window), averaged over each of several regions in one pass.

    Args:
        estimate: `(I, J, K)`.
        truth: `(I, J, K)`.
        masks: one entry per region. None is the whole volume without the outer `window // 2` voxels, exactly as
            `skimage.metrics.structural_similarity` reports it; a bool `(I, J, K)` averages the same local map over its
            voxels.
        data_range: the intensity range that counts as 1.
        window: odd side of the cube, voxels.

    Returns:
        One mean SSIM per entry of `masks`.
    """
    for mask in masks:
        estimate, truth, _ = _check_pair(estimate, truth, mask)
    if min(truth.shape) < window or window % 2 == 0:
        msg = f"SSIM needs an odd window no larger than the volume: window {window}, volume {tuple(truth.shape)}"
        raise ValueError(msg)
    half, size = window // 2, truth.shape[0]
    interior = torch.zeros(truth.shape, dtype=torch.bool)
    interior[half:-half, half:-half, half:-half] = True
    regions = [interior if mask is None else torch.as_tensor(mask, dtype=torch.bool) for mask in masks]
    x, y = (_mirror(volume, half, (0, 1, 2)) for volume in (estimate, truth))
    sums = [0.0] * len(regions)
    for start in range(0, size, _SLAB):
        stop = min(start + _SLAB, size)
        local = _ssim_map(x[start : stop + 2 * half].double(), y[start : stop + 2 * half].double(), window, data_range)
        for index, region in enumerate(regions):
            sums[index] += float(local[region[start:stop]].sum())
    return [total / int(region.sum()) for total, region in zip(sums, regions, strict=True)]


def ssim(
    estimate: Tensor, truth: Tensor, mask: Tensor | None = None, *, data_range: float = 1.0, window: int = SSIM_WINDOW
) -> float:
    """Structural similarity in 3D over one region; see `ssim_regions`."""
    return ssim_regions(estimate, truth, [mask], data_range=data_range, window=window)[0]


def ssim_slices(
    estimate: Tensor, truth: Tensor, axis: int, *, data_range: float = 1.0, window: int = SSIM_WINDOW
) -> Tensor:
    """Local structural similarity in 2D, in each slice normal to `axis`: `(I, J, K)` float64.

    Conventions are those of `ssim_regions` and of scikit-image, with a square window.
    """
    estimate, truth, _ = _check_pair(estimate, truth, None)
    axes = [other for other in range(3) if other != axis]
    if min(truth.shape[other] for other in axes) < window or window % 2 == 0:
        msg = f"SSIM needs an odd window no larger than the slice: window {window}, volume {tuple(truth.shape)}"
        raise ValueError(msg)
    local = []
    for start in range(0, truth.shape[axis], _SLAB):
        size = min(_SLAB, truth.shape[axis] - start)
        x, y = (_mirror(v.narrow(axis, start, size).double(), window // 2, axes) for v in (estimate, truth))
        local.append(_ssim_map(x, y, window, data_range, axes))
    return torch.cat(local, dim=axis)


def linear_mmd(estimates: Sequence[Tensor], truths: Sequence[Tensor]) -> float:
    """Maximum mean discrepancy with a linear kernel on raw voxels: squared norm of the difference of the two mean
    volumes.

    This is the figure the paper calls MMD. It sums over voxels, so it grows with the volume, and for one volume
    against one truth it is the summed squared error and says no more than PSNR. All volumes must share one shape.
    """
    if not estimates or len(estimates) != len(truths):
        msg = f"linear_mmd needs as many estimates as truths, at least one; got {len(estimates)} and {len(truths)}"
        raise ValueError(msg)
    difference = torch.zeros_like(torch.as_tensor(truths[0]), dtype=torch.float64)
    for estimate, truth in zip(estimates, truths, strict=True):
        estimate, truth, _ = _check_pair(estimate, truth, None)
        difference += estimate.double() - truth.double()
    return float((difference / len(truths)).square().sum())


def neighbour_difference(volume: Tensor, mask: Tensor | None = None) -> tuple[float, float, float]:
    """Mean absolute difference between neighbouring slices along i, j and k, over pairs that both lie in the mask."""
    volume = torch.as_tensor(volume)
    mean = []
    for axis in range(3):
        size = volume.shape[axis] - 1
        step = (volume.narrow(axis, 1, size) - volume.narrow(axis, 0, size)).abs()
        both = None if mask is None else mask.narrow(axis, 1, size) & mask.narrow(axis, 0, size)
        mean.append(float(_voxels(step, both).mean()))
    return mean[0], mean[1], mean[2]


def through_plane_ratio(estimate: Tensor, truth: Tensor, mask: Tensor | None = None) -> tuple[float, float, float]:
    """Slice-to-slice change of the estimate over that of the truth, along i, j and k.

    1 is as the truth; below 1 is too smooth along that axis; above 1 means that slices do not fit their neighbours.
    """
    found, wanted = neighbour_difference(estimate, mask), neighbour_difference(truth, mask)
    ratios = [a / b if b > 0 else math.nan for a, b in zip(found, wanted, strict=True)]
    return ratios[0], ratios[1], ratios[2]


def noise_sigma(truth: Tensor, mask: Tensor | None = None) -> float:
    """Standard deviation of the truth's noise: robust spread of its finest diagonal detail, in the truth's units.

    The difference along all three axes at once (the Haar HHH band) removes almost all anatomy; the median absolute
    deviation ignores the edges that are left, and of the voxels only the half with the smaller local gradient is used
    (Coupe et al., 2010). Noise that was smoothed by interpolation is underestimated.
    """
    truth = torch.as_tensor(truth).float()
    detail, level = truth, truth
    for axis in range(3):
        size = detail.shape[axis] - 1
        detail = (detail.narrow(axis, 1, size) - detail.narrow(axis, 0, size)) / math.sqrt(2.0)
        level = (level.narrow(axis, 1, size) + level.narrow(axis, 0, size)) / 2.0
    corner = tuple(slice(0, s) for s in detail.shape)
    inside = torch.ones(detail.shape, dtype=torch.bool) if mask is None else mask[corner].clone()
    if not bool(inside.any()):
        msg = "the mask holds no voxel to measure noise in"
        raise ValueError(msg)
    gradient = torch.zeros_like(level)
    for axis in range(3):
        size = level.shape[axis] - 1
        gradient.narrow(axis, 0, size).add_((level.narrow(axis, 1, size) - level.narrow(axis, 0, size)).square())
    calm = inside & (gradient <= gradient[inside].median())
    values = detail[calm]
    return float((values - values.median()).abs().median() / 0.67449)


def psnr_ceiling(sigma: float, voxels_averaged: float = math.inf) -> float:
    """The PSNR (dB) of an estimate that knows the anatomy perfectly but not the truth's white noise.

    Args:
        sigma: noise of the truth, in units of its range.
        voxels_averaged: how many fine voxels one measured voxel averages. The measurement fixes that share of the
            noise, which lifts the ceiling a little: the error left is `sigma^2 (1 - 1/n)`.
    """
    left = sigma**2 * (1.0 - 1.0 / voxels_averaged)
    return -10.0 * math.log10(left) if left > 0 else math.inf


def data_residual(acquisition: Acquisition, estimate: Tensor, measured: Tensor) -> float:
    """Largest absolute difference between the measured voxels and the estimate pushed through the acquisition.

    Args:
        acquisition: what the scanner did.
        estimate: `(I, J, K)` on the fine grid.
        measured: `(I', J', K')` on the coarse grid.
    """
    seen = acquisition.forward(estimate[None, None].float())[0, 0]
    return float((seen - measured).abs().max())


@dataclass(frozen=True)
class Calibration:
    """Does the uncertainty say where the error is, and how large?"""

    coverage: float  # share of voxels whose error lies within 1.96 deviations; 0.95 if the spread is right
    correlation: float  # of the ranks of deviation and absolute error; 1 = the map orders the errors perfectly
    spread_ratio: float  # root mean square deviation over root mean square error; below 1 = too sure


def calibration(estimate: Tensor, truth: Tensor, deviation: Tensor, mask: Tensor | None = None) -> Calibration:
    """Hold an uncertainty map (one standard deviation, in units of the truth's range) against the actual error."""
    estimate, truth, mask = _check_pair(estimate, truth, mask)
    error = (_voxels(estimate, mask) - _voxels(truth, mask)).abs()
    spread = _voxels(torch.as_tensor(deviation), mask)
    ranks = [values.argsort().argsort().double() for values in (error, spread)]
    correlation = float(torch.corrcoef(torch.stack(ranks))[0, 1]) if float(spread.std()) > 0 else math.nan
    rms_error, rms_spread = (float(values.square().mean().sqrt()) for values in (error, spread))
    return Calibration(
        coverage=float((error <= 1.96 * spread).double().mean()),
        correlation=correlation,
        spread_ratio=rms_spread / rms_error if rms_error > 0 else math.nan,
    )


@dataclass(frozen=True)
class Scores:
    """All figures of one estimate against one truth; ranges and regions as in the module's docstring.

    `psnr_minmax` is the paper's convention (range = truth's minimum to maximum, whole volume); the others use the
    truth's robust range.
    """

    psnr_brain: float  # dB
    ssim_brain: float
    mae_brain: float
    psnr: float  # dB, whole volume given (the foreground box)
    ssim: float
    mae: float
    psnr_minmax: float  # dB
    mmd: float  # summed squared error: linear MMD of a set of one
    through_plane: tuple[float, float, float]  # ratio to the truth's along i, j, k, in the brain
    data_residual: float  # max |A x - y|; nan where nothing was measured


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
    residual = math.nan
    if acquisition is not None and measured is not None:
        residual = data_residual(acquisition, estimate, measured)
    return Scores(
        psnr_brain=psnr(estimate, truth, brain),
        ssim_brain=ssim_brain,
        mae_brain=mean_absolute_error(estimate, truth, brain),
        psnr=psnr(estimate, truth),
        ssim=ssim_whole,
        mae=mean_absolute_error(estimate, truth),
        psnr_minmax=psnr(estimate, truth, data_range=float(truth.max() - truth.min())),
        mmd=linear_mmd([estimate], [truth]),
        through_plane=through_plane_ratio(estimate, truth, brain),
        data_residual=residual,
    )
