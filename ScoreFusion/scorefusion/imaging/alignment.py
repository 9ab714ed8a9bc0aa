"""Do two contrasts of one head lie on each other? Two measures, and where each has its peak when one is shifted.

Contrasts share no intensities, so what is compared is how well one predicts the other (normalised mutual information)
and whether edges coincide (correlation of gradient magnitudes). Aligned volumes have both peaks at shift 0. Only voxels
well inside the foreground count: a brain mask that two volumes share would look like alignment.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from scorefusion.errors import VolumeError
from scorefusion.imaging.foreground import erode, foreground_mask

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from scorefusion.imaging.volume import Volume

#: Shifts that are tried along each axis, voxels.
RADIUS = 2

#: A peak beside 0 does not count where it is higher by less than this share: along interpolated axes curves are flat.
BY_A_HAIR = 0.02

BINS = 32
MOST_VOXELS = 300_000
FEWEST_VOXELS = 200

Shift = tuple[int, int, int]


@dataclass(frozen=True)
class Alignment:
    """How well a volume lies on another on the same grid.

    Attributes:
        nmi: normalised mutual information, 1 (independent) to 2 (one determines the other).
        gradient: correlation of gradient magnitudes, -1 to 1.
        nmi_shift: whole voxels along i, j, k by which the volume should be read further along for the highest `nmi`.
        gradient_shift: the same for `gradient`.
        at_peak: whether both peaks are at 0, but for a hair.
    """

    nmi: float
    gradient: float
    nmi_shift: Shift
    gradient_shift: Shift
    at_peak: bool

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def interior(volume: Volume, reference: Volume) -> NDArray[np.bool_]:
    """Voxels `(I, J, K)` well inside both foregrounds: all shifts that are tried stay inside."""
    return erode(foreground_mask(volume.data[0]) & foreground_mask(reference.data[0]), RADIUS + 1)


def measure_alignment(volume: Volume, reference: Volume, inside: NDArray[np.bool_] | None = None) -> Alignment:
    """Compare two volumes, one channel each, on the same grid.

    Args:
        volume: the one that may have to move.
        reference: the other.
        inside: voxels to compare, from `interior`. Two measurements can only be compared over the same voxels.

    Raises:
        VolumeError: the grids differ, or hardly any voxel lies well inside both foregrounds.
    """
    if volume.spatial_shape != reference.spatial_shape:
        msg = f"{volume.name} {volume.spatial_shape} is not on the grid of {reference.name} {reference.spatial_shape}"
        raise VolumeError(msg)
    ours, theirs = volume.data[0], reference.data[0]
    voxels = np.flatnonzero(interior(volume, reference) if inside is None else inside)
    if voxels.size < FEWEST_VOXELS:
        msg = (
            f"only {voxels.size} voxels lie well inside both {volume.name} and {reference.name}, too few to compare "
            "them; check that they show the same head"
        )
        raise VolumeError(msg)
    voxels = voxels[:: -(-voxels.size // MOST_VOXELS)]
    levels, fixed_levels = _levels(ours, voxels), _levels(theirs, voxels)[voxels]
    edges, fixed_edges = _edges(ours, volume.spacing), _edges(theirs, volume.spacing)[voxels]
    steps = (ours.shape[1] * ours.shape[2], ours.shape[2], 1)  # between neighbours, in the ravelled array
    nmi, nmi_shift, nmi_at_peak = _peak(lambda v: _nmi(levels[v], fixed_levels) - 1.0, voxels, steps)
    gradient, gradient_shift, gradient_at_peak = _peak(lambda v: _correlation(edges[v], fixed_edges), voxels, steps)
    return Alignment(nmi + 1.0, gradient, nmi_shift, gradient_shift, nmi_at_peak and gradient_at_peak)


def _peak(
    score: Callable[[NDArray[np.int64]], float], voxels: NDArray[np.int64], steps: tuple[int, int, int]
) -> tuple[float, Shift, bool]:
    """The score at 0, the best shift along each axis, and whether 0 is the best but for a hair."""
    here = score(voxels)
    shifts, at_peak = [], True
    for step in steps:
        scores = {0: here, **{s: score(voxels + s * step) for s in range(-RADIUS, RADIUS + 1) if s != 0}}
        best = max(scores, key=lambda shift: (scores[shift], -abs(shift)))
        shifts.append(best)
        at_peak = at_peak and scores[best] - here <= BY_A_HAIR * abs(scores[best])
    return here, (shifts[0], shifts[1], shifts[2]), at_peak


def _levels(data: NDArray[np.float32], voxels: NDArray[np.int64]) -> NDArray[np.int64]:
    """All voxels, ravelled, as numbers of equal steps between the extremes of tissue."""
    flat = data.ravel()
    low, high = np.percentile(flat[voxels], [0.5, 99.5])
    scaled = (flat - low) * (BINS / max(float(high - low), 1e-12))
    return np.clip(scaled, 0, BINS - 1).astype(np.int64)


def _nmi(a: NDArray[np.int64], b: NDArray[np.int64]) -> float:
    """Normalised mutual information of paired levels (Studholme 1999)."""
    joint = np.bincount(a * BINS + b, minlength=BINS * BINS).reshape(BINS, BINS) / a.size
    together = _entropy(joint.ravel())
    return (_entropy(joint.sum(0)) + _entropy(joint.sum(1))) / together if together > 0 else 1.0


def _entropy(shares: NDArray[np.float64]) -> float:
    shares = shares[shares > 0]
    return float(-(shares * np.log(shares)).sum())


def _edges(data: NDArray[np.float32], spacing: tuple[float, float, float]) -> NDArray[np.float32]:
    """Gradient magnitude, ravelled."""
    squared = sum(np.gradient(data, step, axis=axis) ** 2 for axis, step in enumerate(spacing))
    return np.sqrt(squared).ravel()


def _correlation(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    a, b = a - a.mean(), b - b.mean()
    norm = float(np.sqrt((a.astype(np.float64) ** 2).sum() * (b.astype(np.float64) ** 2).sum()))
    return float((a.astype(np.float64) * b).sum()) / norm if norm > 0 else 0.0
