"""A volume in tiles, where a 3D network cannot take the whole at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

Window = tuple[slice, slice, slice]


def at(window: Sequence[slice]) -> Any:
    """Index of a spatial window, whatever the leading axes: `x[at(window)]` is `x[..., window]`."""
    return (Ellipsis, *window)


def apply_in_tiles(
    ask: Callable[[Window], Tensor],
    spatial: tuple[int, int, int],
    tile: tuple[int, int, int] | None,
    halo: int,
    multiple: int,
    blend: int = 0,
) -> Tensor:
    """Put a volume together from answers about parts of it.

    Args:
        ask: the answer `(B, C, *window)` for a window of the volume.
        spatial: `(I, J, K)` of the volume.
        tile: voxels of a tile; None = the whole volume at once.
        halo: voxels of surroundings that a tile sees on each side.
        multiple: borders lie on multiples of this.
        blend: voxels on each side of a border between tiles over which one answer turns into the next, at most `halo`.
            0 = each voxel is one tile's, which is exact where the halo is as wide as the network looks.

    Returns:
        `(B, C, I, J, K)`.
    """
    output: Tensor | None = None
    total: Tensor | None = None
    for core, window, inner in tiles(spatial, tile, halo, multiple):
        piece = ask(window)
        if tuple(piece.shape[2:]) == spatial:
            return piece
        if output is None or total is None:
            output, total = piece.new_zeros(*piece.shape[:2], *spatial), piece.new_zeros(spatial)
        if blend:
            weight = _weight(core, window, spatial, blend).to(piece)
            output[at(window)] += weight * piece
            total[at(window)] += weight
        else:
            output[at(core)] = piece[at(inner)]
    assert output is not None
    assert total is not None
    return output / total if blend else output


def _weight(core: Window, window: Window, spatial: tuple[int, int, int], blend: int) -> Tensor:
    """`(I, J, K)` of the window: 1 inside the core, falling to 0 over `blend` voxels on both sides of its borders, but
    not where the volume ends."""
    axes = []
    for c, w, size in zip(core, window, spatial, strict=True):
        middle = torch.arange(w.start, w.stop) + 0.5
        inside = torch.full_like(middle, float(blend))  # how far inside the core, negative outside
        if c.start > 0:
            inside = torch.minimum(inside, middle - c.start)
        if c.stop < size:
            inside = torch.minimum(inside, c.stop - middle)
        axes.append((0.5 + 0.5 * inside / blend).clamp(0.0, 1.0))
    i, j, k = axes
    return i[:, None, None] * j[:, None] * k


def tiles(
    spatial: tuple[int, int, int], tile: tuple[int, int, int] | None, halo: int, multiple: int
) -> Iterator[tuple[Window, Window, Window]]:
    """Cut a volume into cores, each with the window that a network must see and the core's place inside the window.

    All borders lie on multiples of `multiple`, so that a network's coarse grids stay where they are in the whole
    volume.
    """
    if not is_cut(spatial, tile):
        whole = (slice(0, spatial[0]), slice(0, spatial[1]), slice(0, spatial[2]))
        yield whole, whole, whole
        return
    assert tile is not None
    steps = [max(multiple, edge // multiple * multiple) for edge in tile]
    margin = -(-halo // multiple) * multiple
    starts = [range(0, size, step) for size, step in zip(spatial, steps, strict=True)]
    for first in ((i, j, k) for i in starts[0] for j in starts[1] for k in starts[2]):
        core = tuple(slice(f, min(f + step, size)) for f, step, size in zip(first, steps, spatial, strict=True))
        window = tuple(
            slice(max(0, c.start - margin), min(size, c.stop + margin)) for c, size in zip(core, spatial, strict=True)
        )
        inner = tuple(slice(c.start - w.start, c.stop - w.start) for c, w in zip(core, window, strict=True))
        yield core, window, inner  # type: ignore[misc]


def is_cut(spatial: Sequence[int], tile: Sequence[int] | None) -> bool:
    """Whether a volume of this size is more than one such tile."""
    return tile is not None and any(size > edge for size, edge in zip(spatial, tile, strict=True))
