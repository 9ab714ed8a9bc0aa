"""Noise that belongs to a grid."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from scorefusion.transfer import to_device


@dataclass(frozen=True)
class NoiseField:
    """Gaussian noise that belongs to a grid: the same voxel gets the same noise, whatever is cropped, tiled or where
    it runs.

    Attributes:
        spatial_shape: `(I, J, K)` of the whole grid.
        seed: of the run.
        window: part of the grid that is worked on; None = all.
    """

    spatial_shape: tuple[int, int, int]
    seed: int
    window: tuple[slice, slice, slice] | None = None

    def draw(self, sample_index: int, step: int, device: torch.device | str = "cpu") -> Tensor:
        """`(1, 1, *window)` for one sample and step; step -1 is the start."""
        combined = (self.seed * 1_000_003 + sample_index) * 10_007 + step + 1
        generator = torch.Generator().manual_seed(combined % 2**63)  # what a generator can take
        noise = torch.randn(1, 1, *self.spatial_shape, generator=generator)
        if self.window is not None:
            i, j, k = self.window
            noise = noise[..., i, j, k]
        return to_device(noise, device)
