"""Slices that differ in brightness: found where they do, left alone where they do not, and evened out in a run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tiny_models import tiny_ensemble, tiny_fusion, write_tiny_bundle

from scorefusion.bundle.folder import Bundle
from scorefusion.fusion.inputs import InputLayout
from scorefusion.imaging.acquisition import Acquisition
from scorefusion.imaging.files import read_volume
from scorefusion.imaging.foreground import foreground_mask
from scorefusion.imaging.slices import SliceGains, slice_gains
from scorefusion.imaging.volume import Volume
from scorefusion.pipeline import Result, translate
from scorefusion.progress import Reporter
from scorefusion.run.prepare import prepare
from scorefusion.run.stacks import _measurement

Floats = NDArray[np.float64]


def _thick(fine: Volume, axis: int, factor: int) -> Volume:
    """Slices of `factor` voxels along an axis, as a scanner would average them."""
    count = fine.spatial_shape[axis] // factor
    slices = np.moveaxis(fine.data, 1 + axis, 0)[: count * factor]
    mean = slices.reshape(count, factor, *slices.shape[1:]).mean(axis=1)
    affine = fine.affine.copy()
    affine[:3, axis] *= factor
    return Volume(np.moveaxis(mean, 0, 1 + axis).astype(np.float32), affine)


def _smooth_head(shape: tuple[int, int, int] = (60, 72, 30), seed: int = 0) -> Volume:
    """An ellipsoid of slowly changing signal, with noise; 3 x 3 x 4 mm."""
    axes = np.meshgrid(*(np.linspace(-1, 1, size) for size in shape), indexing="ij")
    inside = sum(axis**2 for axis in axes) < 0.9
    signal = 500.0 + 120.0 * np.sin(3.0 * axes[0]) * np.cos(2.0 * axes[1]) + 80.0 * axes[2]
    noise = np.random.default_rng(seed).normal(0.0, 6.0, (2, *shape))
    data = np.hypot(np.where(inside, signal, 0.0) + noise[0], noise[1])
    return Volume(data[None].astype(np.float32), np.diag([3.0, 3.0, 4.0, 1.0]))


def _odd_and_even(count: int, size: float) -> Floats:
    """Log gains of a scan that measures every other slice first, with a little chance in each."""
    return size * (-1.0) ** np.arange(count) + np.random.default_rng(2).normal(0.0, 0.25 * size, count)


def _with_gains(volume: Volume, axis: int, log_gains: Floats) -> Volume:
    return SliceGains(axis, np.exp(-log_gains)).evened(volume, 0.0)


def _against_neighbours(log_gains: Floats, weight: Floats) -> float:
    """Root mean square of a slice's log gain over the mean of its neighbours', weighted by the tissue in it."""
    difference = log_gains[1:-1] - 0.5 * (log_gains[2:] + log_gains[:-2])
    return float(np.sqrt(np.average(difference**2, weights=weight[1:-1])))


def _tissue(volume: Volume, axis: int) -> Floats:
    """Voxels with signal in each slice."""
    others = tuple(other for other in range(3) if other != axis)
    return foreground_mask(volume.data).sum(axis=others).astype(float)


def _check_found(even: Volume, axis: int, size: float) -> None:
    injected = _odd_and_even(even.spatial_shape[axis], size)
    found = np.log(slice_gains(_with_gains(even, axis, injected), axis).gains)
    tissue = _tissue(even, axis)
    full = tissue > 0.2 * tissue.max()
    assert np.corrcoef(injected[full], found[full])[0, 1] > 0.9
    assert _against_neighbours(injected - found, tissue) < _against_neighbours(injected, tissue) / 3.0


@pytest.fixture(scope="module")
def flair(data_folder: Path) -> Volume:
    """A real FLAIR whose slices are of one 3D scan."""
    path = data_folder / "multi" / "openms_07" / "FLAIR.nii.gz"
    if not path.is_file():
        pytest.skip(f"{path} is not here")
    return read_volume(path).canonical()[0]


class TestFinding:
    @pytest.mark.parametrize("size", [0.01, 0.03])
    def test_uneven_slices_of_a_smooth_head_are_found(self, size: float) -> None:
        _check_found(_smooth_head(), 2, size)

    @pytest.mark.parametrize("axis", [0, 1])
    def test_they_are_found_along_any_axis(self, axis: int) -> None:
        head = _smooth_head()
        moved = np.moveaxis(head.data, 3, 1 + axis)
        spacing = np.insert([3.0, 3.0], axis, 4.0)
        _check_found(Volume(moved, np.diag([*spacing, 1.0])), axis, 0.02)

    def test_uneven_slices_of_a_real_head_are_found(self, flair: Volume) -> None:
        _check_found(_thick(flair, 2, 3), 2, 0.02)

    def test_a_smooth_head_with_even_slices_is_left_as_it_is(self) -> None:
        assert np.abs(slice_gains(_smooth_head(), 2).gains - 1.0).max() < 0.002

    @pytest.mark.parametrize("factor", [3, 5])
    @pytest.mark.parametrize("axis", [0, 2])
    def test_a_real_head_with_even_slices_is_left_as_it_is(self, flair: Volume, axis: int, factor: int) -> None:
        assert np.abs(slice_gains(_thick(flair, axis, factor), axis).gains - 1.0).max() < 0.002

    def test_a_bias_field_along_the_slices_is_not_flattened(self) -> None:
        head = _smooth_head()
        bias = 0.4 * np.sin(np.linspace(0.0, np.pi, 30))  # 49 % from the ends to the middle
        uneven = _odd_and_even(30, 0.02)
        found = np.log(slice_gains(_with_gains(head, 2, bias + uneven), 2).gains)
        slow = np.polynomial.Polynomial.fit(np.arange(30), found, 4)(np.arange(30))
        assert np.abs(slow).max() < 0.01
        assert np.corrcoef(found, uneven)[0, 1] > 0.9

    def test_a_bias_field_alone_changes_nothing(self) -> None:
        bias = 0.4 * np.sin(np.linspace(0.0, np.pi, 30))
        assert not slice_gains(_with_gains(_smooth_head(), 2, bias), 2).found

    def test_slices_with_hardly_any_tissue_stay(self) -> None:
        head = _smooth_head((60, 72, 30))
        data = head.data.copy()
        data[..., :8] *= 0.01  # air
        found = slice_gains(head.with_data(_with_gains(head.with_data(data), 2, _odd_and_even(30, 0.03)).data), 2)
        assert found.found
        assert np.abs(found.gains[:6] - 1.0).max() < 0.002

    def test_too_few_slices_say_nothing(self) -> None:
        head = _with_gains(_smooth_head((60, 72, 5)), 2, _odd_and_even(5, 0.05))
        assert not slice_gains(head, 2).found


class TestEvening:
    def test_geometry_and_the_level_of_no_signal_stay(self, make_volume: Callable[..., Volume]) -> None:
        volume = make_volume()
        gains = SliceGains(1, np.linspace(0.9, 1.1, volume.spatial_shape[1]))
        even = gains.evened(volume, -3.0)
        assert even.spatial_shape == volume.spatial_shape
        np.testing.assert_array_equal(even.affine, volume.affine)
        expected = (volume.data + 3.0) / gains.gains[None, None, :, None] - 3.0
        np.testing.assert_allclose(even.data, expected, rtol=1e-5, atol=1e-4)


class TestRuns:
    @pytest.fixture(scope="class")
    @staticmethod
    def restorer(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
        layout = InputLayout(1, False, True, True, True, 0, 4.0, "clean")
        rule = tiny_fusion(tiny_ensemble(layout, std=0.02), std=0.02)
        return write_tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny-sr", rule)

    @pytest.fixture(scope="class")
    @staticmethod
    def even() -> Volume:
        """3 mm slices from 1 mm, along the last axis but stored head down."""
        head = _smooth_head((60, 72, 20))
        data, affine = head.data[..., ::-1].copy(), np.diag([1.0, 1.0, -3.0, 1.0])
        return Volume(data, affine)

    @staticmethod
    def _run(volume: Volume, bundle: Bundle, **options: Any) -> tuple[Result, list[str]]:
        said: list[str] = []
        result = translate(
            volume,
            bundle,
            device="cpu",
            precision="float32",
            on_event=lambda event: said.append(str(event.get("message", ""))),
            **options,
        )
        return result, said

    @staticmethod
    def _measured_again(result: Result, scan: Volume) -> NDArray[np.float32]:
        import torch

        operator = Acquisition.between(result.volume.grid, scan.grid, axis=2)
        return operator.forward(torch.from_numpy(result.volume.data)[None])[0].numpy()

    def test_several_stacks_are_projected_onto_evened_slices(self, even: Volume, restorer: Bundle) -> None:
        uneven = _with_gains(even, 2, _odd_and_even(20, 0.03))
        request = prepare({"image": uneven}, restorer, None, None, None, Reporter(None, None))
        assert request.measured is not None
        values = _measurement(request, request.target, request.scale.normalise).values
        np.testing.assert_allclose(values, request.measured, atol=1e-5)
        as_it_was = request.scale.normalise(uneven.reoriented(request.reorientation).data)
        assert np.abs(values.numpy()[0] - as_it_was).max() > 0.01

    def test_the_result_gives_back_the_evened_scan(self, even: Volume, restorer: Bundle) -> None:
        uneven = _with_gains(even, 2, _odd_and_even(20, 0.03))
        result, said = self._run(uneven, restorer)
        gains = np.array(result.provenance["SliceGains"])
        assert (
            np.corrcoef(np.log(gains)[2:-2], _odd_and_even(20, 0.03)[2:-2])[0, 1] > 0.9
        )  # in the order of the file's slices
        assert any("slices differed by" in line and "evened out" in line for line in said)
        again = self._measured_again(result, uneven)
        inner = foreground_mask(even.data)
        assert np.abs(again - uneven.data / gains)[0][inner].max() < 0.01 * even.data.max()
        assert result.volume.spatial_shape == (60, 72, 60)
        np.testing.assert_allclose(result.volume.grid.extent_mm, uneven.grid.extent_mm, rtol=1e-6)

    def test_slices_are_kept_if_the_user_says_so(self, even: Volume, restorer: Bundle) -> None:
        uneven = _with_gains(even, 2, _odd_and_even(20, 0.03))
        result, said = self._run(uneven, restorer, even_slices=False)
        assert result.provenance["SlicesEvened"] is False
        assert "SliceGains" not in result.provenance
        assert not any("evened" in line for line in said)
        assert np.abs(self._measured_again(result, uneven) - uneven.data).max() < 0.001 * even.data.max()

    def test_even_slices_are_not_spoken_of(self, even: Volume, restorer: Bundle) -> None:
        result, said = self._run(even, restorer)
        assert result.provenance["SlicesEvened"] is False
        assert not any("evened" in line for line in said)

    def test_a_scan_that_is_coarse_in_all_directions_is_not_looked_at(self, restorer: Bundle) -> None:
        head = _smooth_head((48, 56, 24))
        uneven = _with_gains(Volume(head.data, np.diag([4.0, 4.0, 4.0, 1.0])), 2, _odd_and_even(24, 0.03))
        result, _ = self._run(uneven, restorer, spacing=3.0)
        assert result.provenance["SlicesEvened"] is False
