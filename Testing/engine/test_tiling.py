"""Tiles: every voxel once, on the network's own grid."""

from __future__ import annotations

import torch

from scorefusion.fusion.tiling import apply_in_tiles, at, tiles


def test_cores_cover_the_volume_once() -> None:
    seen = torch.zeros(16, 24, 40)
    for core, window, inner in tiles((16, 24, 40), (8, 16, 16), halo=5, multiple=4):
        seen[core] += 1
        assert all(w.start % 4 == 0 for w in window)
        block = torch.arange(16 * 24 * 40).reshape(16, 24, 40)
        assert torch.equal(block[window][inner], block[core])
    assert torch.equal(seen, torch.ones_like(seen))


def test_answers_about_tiles_are_put_in_their_places() -> None:
    x = torch.randn(2, 3, 9, 12, 20)
    asked = []

    def double(window: tuple[slice, slice, slice]) -> torch.Tensor:
        asked.append(window)
        return 2 * x[at(window)]

    assert torch.equal(apply_in_tiles(double, (9, 12, 20), (4, 12, 8), halo=3, multiple=4), 2 * x)
    assert len(asked) == 9
    assert torch.equal(apply_in_tiles(double, (9, 12, 20), None, halo=3, multiple=4), 2 * x)
    assert asked[-1] == (slice(0, 9), slice(0, 12), slice(0, 20))
