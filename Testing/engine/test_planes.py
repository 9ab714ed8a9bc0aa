"""Slices, slabs and back: every axis keeps its voxels."""

from __future__ import annotations

import pytest
import torch

from scorefusion.fusion.planes import Plane, position_channels, slabs_along, slices_along, stack_slices

PLANES = list(Plane)


def _volume() -> torch.Tensor:
    return torch.randn(2, 3, 12, 16, 20, generator=torch.Generator().manual_seed(0))


class TestSlicesRoundTrip:
    @pytest.mark.parametrize("plane", PLANES)
    def test_stacking_slices_restores_the_volume(self, plane: Plane) -> None:
        x = _volume()
        assert torch.equal(stack_slices(slices_along(x, plane), plane, batch_size=2), x)

    def test_axes_are_the_anatomical_ones(self) -> None:
        x = _volume()
        assert torch.equal(slices_along(x, Plane.SAGITTAL)[5], x[0, :, 5])
        assert torch.equal(slices_along(x, Plane.CORONAL)[16 + 3], x[1, :, :, 3])
        assert torch.equal(slices_along(x, Plane.AXIAL)[7], x[0, :, :, :, 7])


class TestSlabs:
    @pytest.mark.parametrize("plane", PLANES)
    @pytest.mark.parametrize("radius", [0, 1, 2])
    def test_a_slab_is_the_slice_and_its_neighbours_edges_repeated(self, plane: Plane, radius: int) -> None:
        x = _volume()
        size = x.shape[2 + plane.axis]
        slabs = slabs_along(x, plane, radius)
        assert slabs.shape[:2] == (2 * size, 3 * (2 * radius + 1))
        for batch in range(2):
            for index in (0, 1, size // 2, size - 1):
                for channel in range(3):
                    for offset in range(-radius, radius + 1):
                        neighbour = min(max(index + offset, 0), size - 1)
                        expected = x[batch, channel].select(plane.axis, neighbour)
                        seen = slabs[batch * size + index, channel * (2 * radius + 1) + offset + radius]
                        assert torch.equal(seen, expected)

    @pytest.mark.parametrize("plane", PLANES)
    def test_a_range_is_a_part_of_the_whole(self, plane: Plane) -> None:
        x = _volume()[:1]
        assert torch.equal(slabs_along(x, plane, 2, 3, 9), slabs_along(x, plane, 2)[3:9])


def test_position_runs_from_minus_one_to_one_along_each_axis() -> None:
    position = position_channels((5, 6, 7))
    assert position.shape == (1, 3, 5, 6, 7)
    for axis in range(3):
        profile = position[0, axis].movedim(axis, 0).flatten(1)
        assert torch.equal(profile[0], -torch.ones_like(profile[0]))
        assert torch.equal(profile[-1], torch.ones_like(profile[0]))
        assert torch.equal(profile.amin(dim=1), profile.amax(dim=1))
