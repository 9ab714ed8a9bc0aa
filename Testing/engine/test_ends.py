"""Where the head reaches the end of the field of view, networks see it go on; nothing else changes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from scorefusion.fusion.inputs import ModelInputs
from scorefusion.imaging.files import read_volume
from scorefusion.imaging.grid import Box
from scorefusion.imaging.volume import resample
from scorefusion.pipeline import translate
from scorefusion.run.ends import BEYOND, Ends

SIZE = (20, 24, 12)


def region(*ends: tuple[int, int]) -> np.ndarray:
    """A block that reaches the named ends: `(axis, 0 or 1)`."""
    mask = np.zeros(SIZE, dtype=bool)
    start, stop = [4, 4, 4], [size - 4 for size in SIZE]
    for axis, end in ends:
        start[axis], stop[axis] = (0, stop[axis]) if end == 0 else (start[axis], SIZE[axis])
    mask[start[0] : stop[0], start[1] : stop[1], start[2] : stop[2]] = True
    return mask


def inputs_with(mask: np.ndarray | None) -> ModelInputs:
    image = torch.rand(1, 2, *SIZE, generator=torch.Generator().manual_seed(0))
    return ModelInputs(image, region=mask)


def test_only_ends_that_the_head_reaches_go_on() -> None:
    assert Ends.of(region((2, 0), (1, 1))).added == ((0, 0), (0, BEYOND), (BEYOND, 0))
    assert Ends.of(region()).none
    assert Ends.of(None).none


def test_what_lies_beyond_is_the_mirror_and_the_inside_stays() -> None:
    inputs = inputs_with(region((2, 0)))
    extended = Ends.of(inputs.region).extend(inputs)
    assert torch.equal(extended.conditions[..., BEYOND:], inputs.conditions)
    assert torch.equal(extended.conditions[..., :BEYOND], inputs.conditions[..., 1 : BEYOND + 1].flip(-1))
    assert extended.region is not None
    assert extended.region.shape == (20, 24, 12 + BEYOND)
    assert extended.position is not None
    assert torch.equal(extended.position[..., 0], extended.position[..., BEYOND])


def test_a_thin_volume_goes_on_as_far_as_it_can() -> None:
    mask = np.ones((6, 3, 1), dtype=bool)
    ends = Ends.of(mask)
    assert ends.added == ((5, 5), (2, 2), (0, 0))
    assert ends.mirror(torch.zeros(1, 1, 6, 3, 1)).shape == (1, 1, 16, 7, 1)


def test_a_call_gets_the_extended_head_and_gives_back_the_grid() -> None:
    inputs = inputs_with(region((0, 1), (2, 0)))
    seen: list[tuple[int, ...]] = []

    def evaluate(x_t: Tensor, given: ModelInputs, level: Tensor, step: int) -> Tensor:
        seen.append(tuple(given.conditions.shape))
        return x_t + given.conditions[:, :1]

    noisy = torch.randn(1, 1, *SIZE, generator=torch.Generator().manual_seed(1))
    answer = Ends.of(inputs.region).around(evaluate, inputs)(noisy, inputs, torch.ones(1), 0)
    assert seen == [(1, 2, 28, 24, 20)]
    assert torch.equal(answer, noisy + inputs.conditions[:, :1])
    alone = inputs_with(region())
    assert Ends.of(alone.region).around(evaluate, alone) is evaluate


def test_a_real_scan_has_no_rim_at_its_ends(data_folder: Path) -> None:
    """Without what lies beyond, the outermost voxels of this FLAIR were 6 and 18 % darker than the scan."""
    path = data_folder.parent / "more" / "multi_raw" / "openmsL_04" / "FLAIR.nii.gz"
    if not path.is_file():
        pytest.skip("the exams of ../shared/more are not there")
    scan = read_volume(path)
    across = int(np.argmax(scan.spacing))
    start = [0 if axis == across else size // 2 - 20 for axis, size in enumerate(scan.spatial_shape)]
    stop = [size if axis == across else size // 2 + 20 for axis, size in enumerate(scan.spatial_shape)]
    scan = scan.crop(Box((start[0], start[1], start[2]), (stop[0], stop[1], stop[2])))
    result = translate(scan, device="cpu", precision="float32").volume
    bright = np.moveaxis(result.data[0], across, 0).mean(axis=(1, 2))
    measured = np.moveaxis(resample(scan, result.grid, "linear").data[0], across, 0).mean(axis=(1, 2))
    assert abs(bright[0] / measured[0] - 1) < 0.05
    assert abs(bright[-1] / measured[-1] - 1) < 0.05
