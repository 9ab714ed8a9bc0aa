"""Slices of one scan that differ in brightness: found, and evened out.

A 2D scan measures each slice by itself, often every other one first, so slices differ by a few percent in gain; across
them that shows as stripes. Anatomy and bias fields change slowly from slice to slice, gains do not. So what is looked
at is how far a slice lies from the mean of its two neighbours, where these two agree:

    d_s = median(log x_s - (log x_{s-1} + log x_{s+1}) / 2) = (D g)_s + e_s

with `g` the logarithms of the gains, independent from slice to slice, and `e` what anatomy makes of it: an error of
each median, measured on parts of the slice, and a slow part, alike in neighbouring slices. How large `g` and the slow
part are is what is likeliest, and `g` is then what is to be expected given `d`: what `d` cannot tell (a slow change
along the slices, slices with little tissue) stays as it was measured.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scorefusion.imaging.foreground import foreground_mask
from scorefusion.imaging.volume import Volume

Floats = NDArray[np.float64]

CELL_MM, PART_CELLS = 3.0, 6  # a cell averages over noise; a part, so many cells a side, has an error of its own
DARK = 0.2  # of the median signal: below lies what is mostly noise
STEADY = 0.5  # share of the cells that is looked at: where the two neighbours agree best
FEWEST_CELLS, FEWEST_PARTS, FEWEST_SLICES = 60, 5, 6
LEAST_ERROR = 0.002  # of a median, in log units: what anatomy alone makes of a slice full of brain
BEYOND = 0.15  # |d| from which it is anatomy: the end of the head
GAIN_SPREADS = np.geomspace(0.001, 0.1, 24)  # standard deviations of `g` that are tried
ANATOMY_SPREADS = (0.0, 0.5, 1.0, 2.0, 4.0)  # of the slow part of `e`, in errors, tried with each of them
ANATOMY_SLICES = 2.0  # over which the slow part of `e` is alike
CONVINCING = 4.0  # log likelihood by which uneven slices must beat even ones ...
CAUTION = 1.5  # ... with errors so much larger: the falx in the middle of sagittal slices is no gain


@dataclass(frozen=True)
class SliceGains:
    """Brightness of each slice over what its neighbours let expect.

    Attributes:
        axis: across the slices.
        gains: `(n,)` above zero; 1 for slices that are as they should be, or of which nothing is known.
    """

    axis: int
    gains: Floats

    @property
    def found(self) -> bool:
        """Whether any slice differs."""
        return bool(np.any(self.gains != 1.0))

    @property
    def spread(self) -> float:
        """Root mean square of how far the slices that differ lie from 1."""
        known = self.gains[self.gains != 1.0]
        return float(np.sqrt(np.mean((known - 1.0) ** 2))) if known.size else 0.0

    @property
    def largest(self) -> float:
        """How far the slice that differs most lies from 1."""
        return float(np.abs(self.gains - 1.0).max())

    def evened(self, volume: Volume, low: float) -> Volume:
        """The volume with each slice's signal above `low` divided by its gain; same grid, same units."""
        shape = [1] * volume.data.ndim
        shape[1 + self.axis] = -1
        gains = self.gains.reshape(shape).astype(np.float32)
        return volume.with_data((volume.data - np.float32(low)) / gains + np.float32(low))


def slice_gains(volume: Volume, axis: int, low: float = 0.0) -> SliceGains:
    """How slices differ in brightness.

    Args:
        volume: one channel, in scanner units.
        axis: across the slices, 0 to 2.
        low: level of no signal, in the same units; gains act on what lies above.
    """
    logs, known = _cells(volume, axis, low)
    rise, error = _against_neighbours(logs, known)
    count = len(rise)
    gains = np.ones(count)
    if count >= FEWEST_SLICES and np.isfinite(error).sum() >= FEWEST_SLICES - 2:
        gains = np.exp(_likely_log_gains(rise, error))
    return SliceGains(axis, gains)


def _cells(volume: Volume, axis: int, low: float) -> tuple[Floats, NDArray[np.bool_]]:
    """`(n, a, b)` logarithm of the mean signal of cells of a few mm in each slice, and where there is tissue."""
    signal = np.moveaxis(volume.data[0].astype(np.float64) - low, axis, 0)
    tissue = np.moveaxis(foreground_mask(volume.data), axis, 0)
    in_plane = [mm for other, mm in enumerate(volume.spacing) if other != axis]
    cell = [max(1, round(CELL_MM / mm)) for mm in in_plane]
    means = _cell_means(signal, cell)
    known = (_cell_means(tissue.astype(np.float64), cell) > 0.99) & (means > 0)
    if known.any():
        known &= means > DARK * np.median(means[known])
    return np.log(np.where(known, means, 1.0)), known


def _cell_means(slices: Floats, cell: list[int]) -> Floats:
    count, high, wide = (len(slices), slices.shape[1] // cell[0], slices.shape[2] // cell[1])
    whole = slices[:, : high * cell[0], : wide * cell[1]]
    return np.asarray(whole.reshape(count, high, cell[0], wide, cell[1]).mean(axis=(2, 4)))


def _against_neighbours(logs: Floats, known: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """`(n,)` how far each slice lies above the mean of its neighbours (log), and the error; infinite = not known."""
    rise, error = np.zeros(len(logs)), np.full(len(logs), np.inf)
    for s in range(1, len(logs) - 1):
        common = known[s - 1] & known[s] & known[s + 1]
        if common.sum() < FEWEST_CELLS:
            continue
        before, here, after = (logs[t][common] for t in (s - 1, s, s + 1))
        change = np.abs(after - before - np.median(after - before))
        steady = change <= np.quantile(change, STEADY)
        above = (here - 0.5 * (before + after))[steady]
        parts = np.argwhere(common)[steady] // PART_CELLS
        _, part = np.unique(parts, axis=0, return_inverse=True)
        medians = [np.median(above[part.ravel() == number]) for number in range(int(part.max()) + 1)]
        if len(medians) >= FEWEST_PARTS and abs(float(np.median(above))) < BEYOND:
            rise[s] = np.median(above)
            scatter = 1.4826 * np.median(np.abs(medians - np.median(medians)))
            error[s] = 1.2533 * scatter / np.sqrt(len(medians))  # of a median, as of normal numbers
    return rise, error


def _likely_log_gains(rise: Floats, error: Floats) -> Floats:
    """`(n,)` the gains' logarithms to be expected; 0 where nothing is known, everywhere if even slices explain it."""
    inner = np.flatnonzero(np.isfinite(error))
    second = np.zeros((len(inner), len(rise)))
    for row, s in enumerate(inner):
        second[row, s - 1 : s + 2] = (-0.5, 1.0, -0.5)
    variance = error[inner] ** 2 + LEAST_ERROR**2
    advantage, _ = _explained(rise[inner], second, variance * CAUTION**2, inner)
    if advantage < CONVINCING:
        return np.zeros(len(rise))
    return _explained(rise[inner], second, variance, inner)[1]


def _explained(rise: Floats, second: Floats, variance: Floats, slices: NDArray[np.intp]) -> tuple[float, Floats]:
    """Log likelihood that uneven slices add to even ones, and the log gains to be expected of the likeliest spread."""
    by_gains = second @ second.T
    alike = np.exp(-0.5 * ((slices[:, None] - slices[None]) / ANATOMY_SLICES) ** 2)
    by_anatomy = alike * np.sqrt(np.outer(variance, variance))

    def model(gain: float, anatomy: float) -> tuple[float, Floats]:
        covariance = gain**2 * by_gains + anatomy**2 * by_anatomy + np.diag(variance)
        solved = np.linalg.solve(covariance, rise)
        return float(-0.5 * (np.linalg.slogdet(covariance)[1] + rise @ solved)), gain**2 * second.T @ solved

    even = max(model(0.0, anatomy)[0] for anatomy in ANATOMY_SPREADS)
    tried = [model(gain, anatomy) for gain in GAIN_SPREADS for anatomy in ANATOMY_SPREADS]
    likelihood, gains = max(tried, key=lambda pair: pair[0])
    return likelihood - even, gains
