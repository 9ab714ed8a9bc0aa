"""Scores slice by slice, for volumes that were made from thick slices: what lies between those was never measured.

A slice counts if it holds enough brain; each has one voice in the mean, whatever its size. Scales are those of
`metrics`: the truth's robust range is [0, 1], nothing is clipped.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from scorefusion.evaluation.metrics import ssim_slices

#: A slice with less brain than this share of the largest slice's is not scored.
LEAST_SHARE = 0.2


@dataclass(frozen=True)
class SliceScores:
    """Means over the scored slices, in the mask."""

    psnr: float  # dB, mean of the slices' PSNR
    ssim: float
    mae: float
    slices: int


def scored_slices(mask: Tensor, axis: int, share: float = LEAST_SHARE) -> list[int]:
    """Indices along `axis` of the slices of a bool `(I, J, K)` mask with at least `share` of the largest one's area."""
    area = mask.sum(dim=[other for other in range(3) if other != axis])
    if not bool(area.any()):
        msg = "the mask holds no voxel: there is no slice to score"
        raise ValueError(msg)
    return [int(index) for index in torch.nonzero(area >= share * area.max()).flatten()]


def score_slices(estimate: Tensor, truth: Tensor, mask: Tensor, axis: int) -> SliceScores:
    """Score `estimate` `(I, J, K)` against `truth` in each slice normal to `axis`, inside `mask`."""
    inside = mask.movedim(axis, 0)
    error = (estimate.double() - truth.double()).movedim(axis, 0)
    local = ssim_slices(estimate, truth, axis).movedim(axis, 0)
    found = []
    for index in scored_slices(mask, axis):
        voxels = inside[index]
        squared = float(error[index][voxels].square().mean())
        psnr = -10.0 * math.log10(squared) if squared > 0 else math.inf
        found.append((psnr, float(local[index][voxels].mean()), float(error[index][voxels].abs().mean())))
    means = [sum(values) / len(found) for values in zip(*found, strict=True)]
    return SliceScores(means[0], means[1], means[2], len(found))


def slice_mmd(estimate: Tensor, truth: Tensor, mask: Tensor, axis: int) -> float:
    """Linear MMD with slices as the samples: squared norm of the difference of the two mean slices.

    Over one volume, `metrics.linear_mmd` is the summed squared error; this one is not, since errors that differ from
    slice to slice cancel. It sums over pixels, so it compares methods on one volume and not volumes.
    """
    chosen = scored_slices(mask, axis)
    difference = (estimate.double() - truth.double()).movedim(axis, 0)[chosen].mean(dim=0)
    return float(difference.square().sum())
