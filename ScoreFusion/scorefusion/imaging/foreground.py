"""Which voxels belong to the head: masks, their holes, and the box around them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

from scorefusion.imaging.grid import Box


def foreground_mask(data: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Voxels above the background, in the largest plausible region.

    Finds constant background (skull-stripped or masked volumes) and noisy background (whole heads). It keeps too much
    rather than too little: without a clear background, everything is foreground.

    Args:
        data: `(I, J, K)`, or `(C, I, J, K)` for the union over channels. Finite.

    Returns:
        bool `(I, J, K)`.
    """
    channels = data if data.ndim == 4 else data[None]
    mask = np.zeros(channels.shape[1:], dtype=bool)
    for channel in channels:
        mask |= _foreground_of_channel(channel)
    return mask


def filled(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """`(I, J, K)` with its holes: fluid inside a stripped brain can be as dark as the background.

    Of a single slice, what its outline encloses.
    """
    import SimpleITK as sitk

    flat = mask.squeeze()
    whole = sitk.GetArrayFromImage(sitk.BinaryFillhole(sitk.GetImageFromArray(flat.astype(np.uint8)))) > 0
    return np.asarray(whole.reshape(mask.shape))


def erode(mask: NDArray[np.bool_], voxels: int) -> NDArray[np.bool_]:
    """`mask` `(I, J, K)` without what lies within so many voxels of its border or of the volume's, along the axes."""
    for axis in range(3):
        padded = np.pad(mask, [(voxels, voxels) if a == axis else (0, 0) for a in range(3)])
        size = mask.shape[axis]
        for start in range(2 * voxels + 1):
            mask = mask & np.take(padded, range(start, start + size), axis=axis)
    return mask


def foreground_box(mask: NDArray[np.bool_], margin: int = 0, multiple: int = 1) -> Box:
    """The smallest box around the True voxels, with a margin.

    Args:
        mask: bool `(I, J, K)`. An empty mask gives the whole volume: rather too much than nothing.
        margin: voxels added on each side, as far as the volume reaches.
        multiple: grow each side to a multiple of this, where the volume is large enough; else the whole axis is taken.
    """
    start, stop = [], []
    for axis, size in enumerate(mask.shape):
        others = tuple(a for a in range(3) if a != axis)
        hits = np.flatnonzero(mask.any(axis=others))
        first, last = (int(hits[0]), int(hits[-1]) + 1) if hits.size else (0, size)
        first, last = max(0, first - margin), min(size, last + margin)
        wanted = min(size, -(-(last - first) // multiple) * multiple)
        first = min(max(0, first - (wanted - (last - first)) // 2), size - wanted)
        start.append(first)
        stop.append(first + wanted)
    return Box((start[0], start[1], start[2]), (stop[0], stop[1], stop[2]))


def _foreground_of_channel(data: NDArray[np.float32]) -> NDArray[np.bool_]:
    border = np.concatenate([np.moveaxis(data, axis, 0)[[0, -1]].ravel() for axis in range(3)])
    values, counts = np.unique(border, return_counts=True)
    value, count = values[counts.argmax()], counts.max()
    if count >= 0.5 * border.size and (data == value).mean() >= 0.05:
        mask = data != value
        return mask & _main_regions(mask, at_least=0.1)
    level = _noise_level(data)
    if level is None:
        return np.ones(data.shape, dtype=bool)
    mask = data > level
    return mask & _main_regions(mask, at_least=0.25)


def _noise_level(data: NDArray[np.float32]) -> float | None:
    """The value that background noise hardly ever exceeds; None if there is no dark background."""
    no_signal = min(0.0, float(data.min()))  # a magnitude image starts at 0, even if none of its voxels does
    dark, bright = _split_by_otsu(data)
    if dark.size == 0 or bright.size == 0:
        return None
    centre = float(np.median(dark))
    # Air has a small fraction of the signal of tissue; the darker half of a brain without air has not.
    if centre - no_signal > 0.3 * (float(np.median(bright)) - no_signal):
        return None
    spread = 1.4826 * float(np.median(np.abs(dark - centre)))
    return min(centre + 4.0 * spread, float(dark.max()))


def _split_by_otsu(data: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Values below and above the threshold that separates two classes best (Otsu 1979)."""
    top = float(np.percentile(data, 99.8))  # one hot voxel must not squeeze the histogram into a single bin
    values = data.ravel()
    # float32 has no room for 256 bins between numbers that are almost alike.
    counts, edges = np.histogram(np.minimum(values, top).astype(np.float64), bins=256)
    centres = 0.5 * (edges[1:] + edges[:-1])
    below = np.cumsum(counts).astype(np.float64)
    above = below[-1] - below
    sum_below = np.cumsum(counts * centres)
    with np.errstate(invalid="ignore", divide="ignore"):
        gap = sum_below / below - (sum_below[-1] - sum_below) / above
        between = np.where((below > 0) & (above > 0), below * above * gap**2, 0.0)
    threshold = edges[int(between.argmax()) + 1]
    return values[values <= threshold], values[values > threshold]


def _main_regions(mask: NDArray[np.bool_], at_least: float) -> NDArray[np.bool_]:
    """The neighbourhood of the large connected parts of `mask`; crumbs are left out.

    Works on cells of a few voxels, which is fast and closes small gaps. A part counts if it has at least a twentieth of
    the largest one, and each part is widened by one cell, so nothing that hangs on it is lost.

    Args:
        mask: bool `(I, J, K)`.
        at_least: share of its voxels that makes a cell count. Where no cell has so many, any voxel will do.
    """
    cell = tuple(max(1, round(n / 48)) for n in mask.shape)
    share = mask.astype(np.float32)
    for axis, size in enumerate(cell):
        starts = np.arange(0, mask.shape[axis], size)
        lengths = np.diff(np.append(starts, mask.shape[axis]))
        share = np.add.reduceat(share, starts, axis=axis) / np.expand_dims(lengths, [a for a in range(3) if a != axis])
    cells = share >= at_least if (share >= at_least).any() else share > 0
    labels = _label(cells)
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    kept = np.isin(labels, np.flatnonzero(sizes * 20 >= max(1, sizes.max())))
    wide = _spread(kept)
    return wide[np.ix_(*(np.arange(n) // size for n, size in zip(mask.shape, cell, strict=True)))]


def _label(cells: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Number the parts of `cells` that hang together by their faces; 0 is outside."""
    labels = np.where(cells, np.arange(1, cells.size + 1).reshape(cells.shape), 0)
    while True:
        before = labels.copy()
        for axis in range(3):  # the largest number wins, one face at a time
            ahead = np.moveaxis(labels, axis, 0)
            np.maximum(ahead[1:], ahead[:-1], out=ahead[1:])
            np.maximum(ahead[:-1], ahead[1:], out=ahead[:-1])
            labels[~cells] = 0
        if np.array_equal(labels, before):
            return labels


def _spread(cells: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """`cells` and their neighbours, corners included."""
    wide = cells.copy()
    for axis in range(3):
        old = np.moveaxis(wide.copy(), axis, 0)
        new = np.moveaxis(wide, axis, 0)
        new[1:] |= old[:-1]
        new[:-1] |= old[1:]
    return wide
