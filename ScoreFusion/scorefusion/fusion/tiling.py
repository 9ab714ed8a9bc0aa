"""A volume in tiles, where a 3D network cannot take the whole at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

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
) -> Tensor:
    """Put a volume together from answers about parts of it.

    Args:
        ask: the answer `(B, C, *window)` for a window of the volume.
        spatial: `(I, J, K)` of the volume.
        tile: voxels of a tile; None = the whole volume at once.
        halo: voxels of surroundings that a tile sees on each side.
        multiple: borders lie on multiples of this.

    Returns:
        `(B, C, I, J, K)`.
    """
    output: Tensor | None = None
    for core, window, inner in tiles(spatial, tile, halo, multiple):
        piece = ask(window)
        if core == window:
            return piece
        if output is None:
            output = piece.new_empty(*piece.shape[:2], *spatial)
        output[at(core)] = piece[at(inner)]
    assert output is not None
    return output


def tiles(
    spatial: tuple[int, int, int], tile: tuple[int, int, int] | None, halo: int, multiple: int
) -> Iterator[tuple[Window, Window, Window]]:
    """Cut a volume into cores, each with the window that a network must see and the core's place inside the window.

    All borders lie on multiples of `multiple`, so that a network's coarse grids stay where they are in the whole
    volume.
    """
    if tile is None or all(size <= edge for size, edge in zip(spatial, tile, strict=True)):
        whole = (slice(0, spatial[0]), slice(0, spatial[1]), slice(0, spatial[2]))
        yield whole, whole, whole
        return
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
