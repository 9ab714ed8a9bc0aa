"""The part of a few slices that holds the head: the rest of a scan is air, and no network need look at it.

A window is as wide as the head in these slices, with a margin, in cells of the network's coarsest grid. What lies
outside has a residual of zero. A prediction inside depends a little on what lies beyond the margin, so the result is
not the same to the bit as without windows: in the head it differs by 1e-4 of the range (root mean square), at its rim
by at most half a percent.
"""

from __future__ import annotations

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from scorefusion.fusion.planes import Plane

WINDOW_SLICES = 16  # at once: fewer fit the head's outline better, and are slower for each
MARGIN = 16  # pixels around the head

#: Rows and columns of a window.
SliceWindow = tuple[slice, slice]


def find_window(
    region: np.ndarray | None, plane: Plane, start: int, stop: int, size: tuple[int, int], multiple: int
) -> SliceWindow | None:
    """Where slices `start` to `stop` hold something to restore; None where they do not.

    Args:
        region: `(I, J, K)` bool; None = everywhere.
        plane: along which the slices lie.
        start, stop: slices.
        size: rows and columns of a slice, multiples of `multiple`.
        multiple: window edges are its multiples.
    """
    if region is None:
        return slice(0, size[0]), slice(0, size[1])
    index = [slice(None)] * 3
    index[plane.axis] = slice(start, stop)
    seen = np.any(region[index[0], index[1], index[2]], axis=plane.axis)
    edges = []
    for axis in range(2):
        places = np.flatnonzero(np.any(seen, axis=1 - axis))
        if not len(places):
            return None
        first = max(0, int(places[0]) - MARGIN) // multiple * multiple
        last = min(size[axis], -(-(int(places[-1]) + 1 + MARGIN) // multiple) * multiple)
        edges.append(slice(first, last))
    return edges[0], edges[1]


def spread(inside: Tensor, window: SliceWindow, size: tuple[int, int], scale: int = 1) -> Tensor:
    """What was found in a window as that of whole slices, zero outside.

    Args:
        inside: `(N, C, rows / scale, columns / scale)` of the window.
        window: where.
        size: rows and columns of a whole slice.
        scale: pixels to one of `inside`.
    """
    rows, columns = window
    border = (columns.start, size[1] - columns.stop, rows.start, size[0] - rows.stop)
    return F.pad(inside, [edge // scale for edge in border]) if any(border) else inside
