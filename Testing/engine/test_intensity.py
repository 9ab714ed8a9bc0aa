"""Scanner units to [-1, 1] and back; what is foreground and what is air."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from scorefusion.errors import VolumeError
from scorefusion.imaging.files import read_volume
from scorefusion.imaging.foreground import foreground_box, foreground_mask
from scorefusion.imaging.grid import Reorientation
from scorefusion.imaging.intensity import IntensityScale, fit_intensity_scale
from scorefusion.imaging.volume import Volume

SHAPE = (40, 48, 36)


def ellipsoid(
    shape: tuple[int, int, int] = SHAPE,
    centre: tuple[float, float, float] = (0.1, -0.05, 0.0),
    radius: tuple[float, float, float] = (0.6, 0.7, 0.65),
) -> NDArray[np.bool_]:
    """Where the head is; centre and radius as a share of half the volume."""
    i, j, k = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    r = [(x - c) / a for x, c, a in zip((i, j, k), centre, radius, strict=True)]
    return r[0] ** 2 + r[1] ** 2 + r[2] ** 2 < 1


HEAD = ellipsoid()
CORE = ellipsoid(radius=(0.3, 0.3, 0.3))


def stripped(head: NDArray[np.bool_] = HEAD) -> NDArray[np.float32]:
    """Brain without skull: exact zeros around tissue of 200 to 600, a dark core of 60."""
    tissue = np.random.default_rng(1).uniform(200, 600, head.shape)
    return np.where(head, np.where(CORE & head, 60, tissue), 0).astype(np.float32)


def whole_head(noise: float = 8.0) -> NDArray[np.float32]:
    """Magnitude image: Rayleigh noise in the air."""
    rng = np.random.default_rng(2)
    real, imaginary = stripped() + noise * rng.standard_normal(SHAPE), noise * rng.standard_normal(SHAPE)
    return np.hypot(real, imaginary).astype(np.float32)


class TestIntensityScale:
    @given(st.floats(-1e4, 1e4), st.floats(1e-2, 1e5), st.floats(-2e5, 2e5))
    def test_denormalise_undoes_normalise(self, low: float, width: float, value: float) -> None:
        scale = IntensityScale(low, low + width)
        x = np.array([value, low, low + width])
        normal = scale.normalise(x)
        np.testing.assert_allclose(normal[1:], (-1, 1), atol=1e-6)
        np.testing.assert_allclose(scale.denormalise(normal), x, rtol=1e-9, atol=1e-6)

    def test_does_not_clip(self) -> None:
        assert IntensityScale(0, 10).normalise(np.array([-5.0, 20.0])).tolist() == [-2.0, 3.0]

    def test_float32_stays_float32(self) -> None:
        x = stripped()
        scale = IntensityScale(0.0, 600.0)
        assert scale.normalise(x).dtype == np.float32
        np.testing.assert_allclose(scale.denormalise(scale.normalise(x)), x, atol=1e-3)

    def test_works_on_torch_tensors(self) -> None:
        torch = pytest.importorskip("torch")
        x = torch.linspace(-3, 900, 60).reshape(1, 3, 4, 5)
        scale = IntensityScale(2.0, 700.0)
        assert scale.normalise(x).dtype == torch.float32
        np.testing.assert_allclose(scale.normalise(x).numpy(), scale.normalise(x.numpy()), atol=1e-6)
        assert torch.allclose(scale.denormalise(scale.normalise(x)), x, atol=1e-3)

    def test_goes_to_json_and_comes_back_equal(self) -> None:
        scale = IntensityScale(-0.125, 1234.56789)
        assert IntensityScale.from_dict(json.loads(json.dumps(scale.to_dict()))) == scale

    @pytest.mark.parametrize(("low", "high"), [(5, 5), (6, 5), (0, np.inf), (np.nan, 1)])
    def test_refuses_an_empty_range(self, low: float, high: float) -> None:
        with pytest.raises(VolumeError, match="low must be below high.*mask"):
            IntensityScale(low, high)


class TestFit:
    def test_background_of_a_stripped_brain_is_exactly_minus_one(self) -> None:
        scale = fit_intensity_scale(stripped())
        assert scale.low == 0.0
        assert scale.high == pytest.approx(598, abs=2)

    def test_background_of_a_whole_head_is_near_minus_one(self) -> None:
        scale = fit_intensity_scale(whole_head())
        air = scale.normalise(whole_head()[~HEAD])
        assert abs(np.median(air) + 1) < 0.001
        assert abs(air + 1).max() < 0.15

    def test_by_the_median_whatever_the_bright_end_is(self) -> None:
        data = stripped()
        lesion = np.where(ellipsoid(centre=(0.3, 0.0, 0.0), radius=(0.15, 0.15, 0.15)), 3000, data).astype(np.float32)
        for image in (data, lesion):
            scale = fit_intensity_scale(image, median=0.25)
            assert scale.low == 0.0
            assert np.median(scale.normalise(image[HEAD])) == pytest.approx(0.25, abs=1e-5)
        ranges = [fit_intensity_scale(image).high for image in (data, lesion)]
        medians = [fit_intensity_scale(image, median=0.25).high for image in (data, lesion)]
        assert ranges[1] > 2 * ranges[0]
        assert medians[1] == pytest.approx(medians[0], rel=0.03)

    def test_the_amount_of_air_does_not_matter(self) -> None:
        data = stripped()
        wide = np.pad(data, 12)
        box = foreground_box(data > 0)
        tight, usual, loose = (fit_intensity_scale(x) for x in (data[box.slices], data, wide))
        assert tight == usual == loose

    def test_depends_on_the_unit_only_by_its_factor(self) -> None:
        a, b = fit_intensity_scale(whole_head()), fit_intensity_scale(whole_head() * np.float32(32))
        assert b.low == pytest.approx(32 * a.low, rel=1e-3)
        assert b.high == pytest.approx(32 * a.high, rel=1e-3)

    def test_z_scored_tissue_below_the_background_is_not_lost(self) -> None:
        data = np.where(HEAD, np.random.default_rng(0).standard_normal(SHAPE), 0).astype(np.float32)
        scale = fit_intensity_scale(data)
        assert scale.low == pytest.approx(-2.6, abs=0.2)
        assert scale.high == pytest.approx(2.6, abs=0.2)

    def test_slight_undershoot_leaves_the_background_at_minus_one(self) -> None:
        data = stripped()
        data[20, 24, 10:30] = -8  # ringing of an interpolation
        assert fit_intensity_scale(data).low == 0.0

    def test_takes_channels_and_a_given_foreground(self) -> None:
        data = stripped()
        assert fit_intensity_scale(data[None]) == fit_intensity_scale(data)
        assert fit_intensity_scale(data, foreground=CORE & HEAD).high == 60.0
        assert fit_intensity_scale(data, percentiles=(0, 100), foreground=HEAD).high == data.max()

    def test_without_background_takes_percentiles(self) -> None:
        data = np.random.default_rng(0).uniform(300, 700, SHAPE).astype(np.float32)
        scale = fit_intensity_scale(data)
        assert scale.low == pytest.approx(302, abs=2)
        assert scale.high == pytest.approx(698, abs=2)

    def test_refuses_an_empty_foreground(self) -> None:
        with pytest.raises(VolumeError, match="foreground is empty"):
            fit_intensity_scale(stripped(), foreground=np.zeros(SHAPE, bool))


class TestForegroundMask:
    def test_of_a_stripped_brain_is_the_brain(self) -> None:
        assert np.array_equal(foreground_mask(stripped()), HEAD)

    @pytest.mark.parametrize("noise", [2.0, 8.0, 15.0])
    def test_of_a_whole_head_holds_the_head_and_little_air(self, noise: float) -> None:
        mask = foreground_mask(whole_head(noise))
        assert mask[HEAD & ~CORE].mean() > 0.999  # the core is hardly above the strongest noise
        assert mask[~HEAD].mean() < 0.02
        box, head = foreground_box(mask), foreground_box(HEAD)
        assert all(a <= b for a, b in zip(box.start, head.start, strict=True))
        assert all(a >= b for a, b in zip(box.stop, head.stop, strict=True))
        assert max(np.subtract(box.shape, head.shape)) <= 8

    def test_of_a_slab_cut_through_the_brain(self) -> None:
        slab = stripped()[:, :, 12:20]  # tissue reaches two faces
        assert np.array_equal(foreground_mask(slab), HEAD[:, :, 12:20])

    def test_of_tissue_without_any_air_is_everything(self) -> None:
        rng = np.random.default_rng(0)
        inside = np.where(rng.random(SHAPE) < 0.5, rng.normal(450, 30, SHAPE), rng.normal(750, 30, SHAPE))
        assert foreground_mask(inside.astype(np.float32)).all()

    def test_of_interpolated_stripped_brain_does_not_cut_it(self) -> None:
        data = stripped() + np.random.default_rng(0).normal(0, 0.05, SHAPE).astype(np.float32)  # no exact zeros left
        mask = foreground_mask(data)
        assert mask[HEAD].all()
        assert mask[~HEAD].mean() < 0.05

    def test_one_hot_voxel_changes_nothing(self) -> None:
        data = whole_head()
        mask = foreground_mask(data)
        data[20, 24, 18] = 1e6
        assert (foreground_mask(data) != mask).mean() < 0.001

    def test_crumbs_far_away_are_left_out(self) -> None:
        data = stripped()
        data[1, 1, 1] = 500
        data[38, 46, 2:4] = 500
        assert np.array_equal(foreground_mask(data), HEAD)

    def test_both_halves_of_a_divided_brain_are_kept(self) -> None:
        halves = HEAD.copy()
        halves[20:26] = False
        assert np.array_equal(foreground_mask(stripped(halves)), halves)

    @pytest.mark.parametrize("background", [-1024.0, 0.0, 77.0])
    def test_any_constant_background(self, background: float) -> None:
        assert np.array_equal(foreground_mask(stripped() + np.float32(background)), HEAD)

    def test_of_several_channels_is_their_union(self) -> None:
        other = ellipsoid(centre=(-0.2, 0.1, 0.1))
        mask = foreground_mask(np.stack([stripped(), stripped(other)]))
        assert np.array_equal(mask, HEAD | other)

    def test_follows_flips_and_permutations(self) -> None:
        volume = Volume(whole_head()[None], np.diag([1, 1.1, 1.2, 1]))
        turned = volume.reoriented(Reorientation((2, 0, 1), (True, False, True)))
        as_volume = volume.with_data(foreground_mask(volume.data)[None].astype(np.float32))
        moved = as_volume.reoriented(Reorientation((2, 0, 1), (True, False, True))).data[0] > 0
        assert (foreground_mask(turned.data) != moved).mean() < 0.01

    def test_is_fast_on_a_full_head(self) -> None:
        data = np.pad(np.kron(whole_head(), np.ones((4, 4, 4), np.float32)), 8)  # 176 x 208 x 160
        start = time.process_time()
        foreground_mask(data)
        assert time.process_time() - start < 5.0


@pytest.mark.parametrize("name", ["t1/mass_W03", "multi/tcga_FG6692/FLAIR"])
def test_real_brain_is_kept_whole(data_folder: Path, name: str) -> None:
    volume = read_volume(data_folder / f"{name}.nii.gz")
    mask = foreground_mask(volume.data)
    assert mask[volume.data[0] > 0].mean() > 0.9999
    assert fit_intensity_scale(volume.data, foreground=mask).low == 0.0
