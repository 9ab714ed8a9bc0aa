"""Metrics, spectrum, regions: each figure against an oracle or a case whose answer is known."""

from __future__ import annotations

import math

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from scorefusion.datasets.spectrum import high_band_share, read_axes  # noqa: E402
from scorefusion.evaluation import metrics  # noqa: E402
from scorefusion.evaluation.regions import brain_region, erode, rough_brain_mask  # noqa: E402
from scorefusion.imaging.acquisition import Acquisition  # noqa: E402
from scorefusion.imaging.volume import Volume  # noqa: E402

SHAPE = (13, 18, 21)


def noise(seed: int, shape: tuple[int, int, int] = SHAPE) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def some_voxels() -> torch.Tensor:
    mask = torch.zeros(SHAPE, dtype=torch.bool)
    mask[3:10, 1:17, 4:20] = True
    return mask


class TestAgreement:
    def test_ssim_and_psnr_are_those_of_scikit_image(self) -> None:
        skimage = pytest.importorskip("skimage.metrics")
        truth = noise(0)
        estimate = (truth + 0.2 * noise(1)).clamp(0, 1.3)
        x, y = estimate.double().numpy(), truth.double().numpy()
        expected = skimage.structural_similarity(x, y, data_range=1.0, win_size=7)
        assert metrics.ssim(estimate, truth) == pytest.approx(expected, abs=1e-6)
        expected = skimage.peak_signal_noise_ratio(y, x, data_range=1.0)
        assert metrics.psnr(estimate, truth) == pytest.approx(expected, abs=1e-4)

    def test_the_local_map_is_averaged_over_the_mask(self, some_voxels: torch.Tensor) -> None:
        skimage = pytest.importorskip("skimage.metrics")
        truth, estimate = noise(0), noise(0) + 0.1 * noise(2)
        _, local = skimage.structural_similarity(
            estimate.double().numpy(), truth.double().numpy(), data_range=1.0, win_size=7, full=True
        )
        expected = local[some_voxels.numpy()].mean()
        assert metrics.ssim(estimate, truth, some_voxels) == pytest.approx(expected, abs=1e-6)

    def test_volumes_longer_than_a_slab_give_the_same(self) -> None:
        skimage = pytest.importorskip("skimage.metrics")
        truth, estimate = noise(3, (75, 9, 8)), noise(4, (75, 9, 8))
        expected = skimage.structural_similarity(
            estimate.double().numpy(), truth.double().numpy(), data_range=1.0, win_size=7
        )
        assert metrics.ssim(estimate, truth) == pytest.approx(expected, abs=1e-6)


class TestSimpleCases:
    def test_a_constant_error_of_a_tenth_is_twenty_decibels(self, some_voxels: torch.Tensor) -> None:
        truth = noise(0)
        assert metrics.psnr(truth + 0.1, truth) == pytest.approx(20.0, abs=1e-4)
        assert metrics.psnr(truth + 0.1, truth, some_voxels) == pytest.approx(20.0, abs=1e-4)
        assert metrics.mean_absolute_error(truth - 0.1, truth) == pytest.approx(0.1, abs=1e-6)

    def test_perfection(self, some_voxels: torch.Tensor) -> None:
        truth = noise(0)
        assert metrics.psnr(truth, truth) == math.inf
        assert metrics.ssim(truth, truth, some_voxels) == pytest.approx(1.0)
        assert metrics.through_plane_ratio(truth, truth, some_voxels) == (1.0, 1.0, 1.0)

    def test_errors_outside_the_mask_do_not_count(self, some_voxels: torch.Tensor) -> None:
        truth = noise(0)
        estimate = torch.where(some_voxels, truth, torch.zeros(()))
        assert metrics.psnr(estimate, truth, some_voxels) == math.inf
        assert metrics.psnr(estimate, truth) < 20

    def test_linear_mmd_is_the_squared_distance_of_the_mean_volumes(self) -> None:
        truths = [noise(0), noise(1)]
        estimates = [truths[0] + 0.2, truths[1] - 0.2]  # errors that cancel in the mean
        assert metrics.linear_mmd(estimates, truths) == pytest.approx(0.0, abs=1e-6)
        assert metrics.linear_mmd(estimates[:1], truths[:1]) == pytest.approx(0.04 * math.prod(SHAPE), rel=1e-4)

    def test_blur_along_one_axis_shows_in_that_axis_only(self) -> None:
        truth = noise(0)
        estimate = truth.clone()
        estimate[:, :, 1:] = 0.5 * (truth[:, :, 1:] + truth[:, :, :-1])
        ratio = metrics.through_plane_ratio(estimate, truth)
        assert ratio[2] < 0.8 * min(ratio[0], ratio[1])

    def test_an_empty_mask_is_refused(self) -> None:
        with pytest.raises(ValueError, match="holds no voxel"):
            metrics.psnr(noise(0), noise(1), torch.zeros(SHAPE, dtype=torch.bool))

    def test_shapes_must_agree(self) -> None:
        with pytest.raises(ValueError, match=r"\(13, 18, 21\)"):
            metrics.psnr(noise(0), noise(1)[1:])


class TestNoise:
    def test_white_noise_on_smooth_anatomy_is_found(self) -> None:
        generator = torch.Generator().manual_seed(0)
        axes = [torch.linspace(0, 3, size) for size in (40, 44, 48)]
        i, j, k = torch.meshgrid(*axes, indexing="ij")
        clean = 0.5 + 0.3 * torch.sin(i) * torch.cos(j) + 0.1 * k
        noisy = clean + 0.03 * torch.randn(clean.shape, generator=generator)
        assert metrics.noise_sigma(noisy) == pytest.approx(0.03, rel=0.05)
        assert metrics.noise_sigma(clean) < 1e-3

    def test_the_ceiling_is_reached_by_the_clean_image(self) -> None:
        generator = torch.Generator().manual_seed(0)
        sigma, shape = 0.05, (24, 28, 32)
        white = sigma * torch.randn(shape, generator=generator)
        assert metrics.psnr(torch.zeros(shape), white) == pytest.approx(metrics.psnr_ceiling(sigma), abs=0.1)

    def test_knowing_block_averages_lifts_the_ceiling_as_said(self) -> None:
        generator = torch.Generator().manual_seed(0)
        sigma, shape = 0.05, (24, 28, 32)
        white = sigma * torch.randn(1, 1, *shape, generator=generator)
        acquisition = Acquisition.isotropic(shape, 2)
        known = acquisition.pseudo_inverse(acquisition.forward(white))
        assert metrics.psnr(known[0, 0], white[0, 0]) == pytest.approx(metrics.psnr_ceiling(sigma, 8), abs=0.1)


class TestDataResidual:
    def test_zero_after_projection(self) -> None:
        acquisition = Acquisition.thick_slices(SHAPE, 2, 2.5)
        truth = noise(0)
        measured = acquisition.forward(truth[None, None])
        estimate = acquisition.project(noise(1)[None, None], measured)[0, 0]
        assert metrics.data_residual(acquisition, estimate, measured[0, 0]) < 1e-5
        assert metrics.data_residual(acquisition, noise(1), measured[0, 0]) > 0.1


class TestCalibration:
    def test_a_right_deviation_covers_95_percent(self) -> None:
        generator = torch.Generator().manual_seed(0)
        deviation = 0.01 + 0.2 * noise(5, (30, 31, 32))
        truth = noise(6, (30, 31, 32))
        estimate = truth + deviation * torch.randn(truth.shape, generator=generator)
        found = metrics.calibration(estimate, truth, deviation)
        assert found.coverage == pytest.approx(0.95, abs=0.01)
        assert found.spread_ratio == pytest.approx(1.0, abs=0.03)
        assert 0.2 < found.correlation < 0.8

    def test_a_map_in_the_order_of_the_errors_correlates_fully(self) -> None:
        truth = noise(0)
        estimate = truth + 0.3 * noise(1)
        assert metrics.calibration(estimate, truth, (estimate - truth).abs() * 0.1).correlation == pytest.approx(
            1.0, abs=0.01
        )


class TestSpectrum:
    def test_an_axis_interpolated_from_thick_slices_is_found(self) -> None:
        sharp = np.random.default_rng(0).standard_normal((40, 44, 48)).astype(np.float32)
        acquisition = Acquisition.thick_slices(sharp.shape, 2, 4)
        x = torch.from_numpy(sharp)[None, None]
        thick = acquisition.upsample(acquisition.forward(x), "cubic")[0, 0].numpy()
        assert read_axes(sharp).interpolated == (False, False, False)
        reading = read_axes(thick)
        assert reading.interpolated == (False, False, True)
        assert "axis k" in reading.sentence

    def test_white_noise_fills_the_band_evenly(self) -> None:
        shares = high_band_share(np.random.default_rng(0).standard_normal((66, 70, 64)))
        assert shares == pytest.approx([17 / 32] * 3, abs=0.02)  # 17 of 32 frequencies lie in the upper half

    def test_brightness_does_not_count(self) -> None:
        volume = np.random.default_rng(0).standard_normal((32, 36, 40))
        assert high_band_share(volume + 1000) == pytest.approx(high_band_share(volume))


class TestRegions:
    def test_erosion_takes_layers_off_every_side(self) -> None:
        mask = torch.zeros(12, 14, 16, dtype=torch.bool)
        mask[2:10, 3:12, 0:9] = True
        expected = torch.zeros_like(mask)
        expected[4:8, 5:10, 2:7] = True  # the volume's border counts as outside
        assert torch.equal(erode(mask, 2), expected)

    def test_a_stripped_volume_is_its_own_mask(self) -> None:
        volume = stripped_brain()
        region = brain_region(volume, erosion=1)
        assert region.how == "skull-stripped volume: all voxels above background, eroded by 1 voxels"
        assert torch.equal(region.mask, erode(torch.from_numpy(volume.data[0] > 0), 1))

    def test_scalp_and_skull_are_left_out_of_a_whole_head(self) -> None:
        head, brain = whole_head()
        found = rough_brain_mask(head.data[0], head.spacing)
        assert (found & brain).sum() / found.sum() > 0.98
        assert (found & brain).sum() / brain.sum() > 0.75
        assert brain_region(head).how.startswith("whole head")

    def test_a_mask_of_the_user_is_used(self) -> None:
        head, brain = whole_head()
        region = brain_region(head, mask=brain.astype(np.uint8), erosion=0)
        assert torch.equal(region.mask, torch.from_numpy(brain))


def distance_from_centre(shape: tuple[int, int, int], spacing: float) -> np.ndarray:
    axes = [(np.arange(n) - (n - 1) / 2) * spacing for n in shape]
    return np.sqrt(sum(a**2 for a in np.meshgrid(*axes, indexing="ij")))


def whole_head() -> tuple[Volume, np.ndarray]:
    """Ball of white and grey matter, a fluid gap, dark bone, bright scalp; 3 mm voxels."""
    shape, rng = (64, 68, 66), np.random.default_rng(0)
    radius = distance_from_centre(shape, 3.0)
    data = rng.normal(2, 1, shape)
    for outer, value in ((92, 160), (86, 12), (76, 18), (70, 75), (48, 115), (15, 25)):
        data[radius < outer] = value
    data += rng.normal(0, 3, shape)
    return Volume(np.clip(data, 0, None)[None].astype(np.float32), np.diag([3.0, 3, 3, 1])), radius < 70


def stripped_brain() -> Volume:
    head, brain = whole_head()
    return head.with_data((head.data * brain + brain).astype(np.float32))
