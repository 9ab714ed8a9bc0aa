"""The shipped weights, held to a figure on a small piece of a head that they were not trained on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("torch")

from scorefusion.imaging.acquisition import Acquisition
from scorefusion.imaging.files import read_volume
from scorefusion.imaging.volume import Volume
from scorefusion.pipeline import translate

GAIN_DB = 1.0
"""By which `brain-sr` beats the best classical method here, at least; over whole brains it is 1.2 to 2.0 dB."""


def test_brain_sr_beats_every_classical_method_at_4x_on_a_validation_person(data_folder: Path) -> None:
    head = read_volume(data_folder / "t1" / "mass_W05.nii.gz").canonical()[0]
    middle = [size // 2 for size in head.spatial_shape]
    piece = tuple(slice(centre - 32, centre + 32) for centre in middle)
    truth = torch.from_numpy(np.ascontiguousarray(head.data[0][piece]).astype(np.float32))[None, None]
    fine = Volume(truth[0].numpy(), np.diag([1.0, 1.0, 1.0, 1.0]))
    affine = np.diag([4.0, 4.0, 4.0, 1.0])
    affine[:3, 3] = 1.5  # the outer corners of both grids coincide
    coarse_grid = Volume(np.zeros((1, 16, 16, 16), np.float32), affine).grid
    scanner = Acquisition.between(fine.grid, coarse_grid, 4.0, 2, "box")
    measured = scanner.forward(truth)
    assert torch.allclose(measured, torch.nn.functional.avg_pool3d(truth, 4), rtol=1e-4)

    def decibels(estimate: torch.Tensor) -> float:
        error = (estimate - truth)[..., 4:-4, 4:-4, 4:-4].square().mean()
        return float(10 * torch.log10(truth.max() ** 2 / error))

    cubic = scanner.upsample(measured, "cubic")
    classical = [cubic, scanner.project(cubic, measured), *(scanner.back_project(measured, n) for n in (6, 20))]
    best = max(decibels(estimate) for estimate in classical)
    coarse = Volume(measured[0].numpy(), affine)
    result = translate(coarse, "brain-sr", spacing=1.0, device="cpu", precision="float32")
    assert result.volume.spatial_shape == (64, 64, 64)
    restored = torch.from_numpy(np.ascontiguousarray(result.volume.data))[None]
    assert decibels(restored) - best > GAIN_DB
