"""Acquisition operators: exact inverses, adjoints, and agreement with grids and with published interpolation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from scorefusion.errors import GeometryError
from scorefusion.imaging.acquisition import Acquisition, AxisSampling
from scorefusion.imaging.grid import Grid, super_resolution_grid

SHAPE = (13, 18, 21)  # lopsided


def _random(shape: tuple[int, ...], seed: int = 0) -> torch.Tensor:
    return torch.randn(2, 1, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


OPERATORS = {
    "isotropic 2": Acquisition.isotropic((12, 18, 20), 2),
    "isotropic 4, incomplete last block": Acquisition.isotropic((13, 18, 23), 4),
    "isotropic 3 Gaussian": Acquisition.isotropic(SHAPE, 3, "gaussian"),
    "thick slices 5 along k": Acquisition.thick_slices(SHAPE, 2, 5),
    "thick slices 3.7 along i": Acquisition.thick_slices((29, 10, 11), 0, 3.7),
    "gap: 4 mm slices 5.5 apart": Acquisition.thick_slices((9, 31, 10), 1, 5.5, width=4.0),
    "overlap: 5 mm slices 4 apart": Acquisition.thick_slices((9, 10, 31), 2, 4.0, width=5.0),
    "Gaussian slices 4.4": Acquisition.thick_slices((9, 10, 35), 2, 4.4, profile="gaussian"),
    "identity": Acquisition.identity(SHAPE),
}


@pytest.fixture(params=OPERATORS, ids=str)
def operator(request: pytest.FixtureRequest) -> Acquisition:
    return OPERATORS[request.param]


class TestEveryOperator:
    def test_projection_gives_back_the_measurement(self, operator: Acquisition) -> None:
        measured = operator.forward(_random(operator.full_shape, 1))
        projected = operator.project(_random(operator.full_shape, 2), measured)
        error = (operator.forward(projected) - measured).abs().max() / measured.abs().max()
        assert float(error) < 1e-5

    def test_projection_in_float32_is_exact_to_1e5(self, operator: Acquisition) -> None:
        measured = operator.forward(_random(operator.full_shape, 1).float())
        projected = operator.project(_random(operator.full_shape, 2).float(), measured)
        assert float((operator.forward(projected) - measured).abs().max() / measured.abs().max()) < 1e-5

    def test_projection_is_idempotent(self, operator: Acquisition) -> None:
        measured = operator.forward(_random(operator.full_shape, 1))
        once = operator.project(_random(operator.full_shape, 2), measured)
        assert torch.allclose(operator.project(once, measured), once, atol=1e-10)

    def test_projection_moves_no_further_than_it_must(self, operator: Acquisition) -> None:
        truth = _random(operator.full_shape, 1)
        start = _random(operator.full_shape, 2)
        projected = operator.project(start, operator.forward(truth))
        assert (projected - truth).norm() <= (start - truth).norm() + 1e-9

    def test_adjoint_by_random_dot_products(self, operator: Acquisition) -> None:
        x, y = _random(operator.full_shape, 3), _random(operator.coarse_shape, 4)
        assert torch.allclose((operator.forward(x) * y).sum(), (x * operator.adjoint(y)).sum(), rtol=1e-10)

    def test_constants_stay_constant(self, operator: Acquisition) -> None:
        ones = torch.ones(1, 1, *operator.full_shape, dtype=torch.float64)
        assert torch.allclose(operator.forward(ones), torch.ones(1, 1, *operator.coarse_shape, dtype=torch.float64))
        for kind in ("nearest", "linear", "cubic"):
            assert torch.allclose(operator.upsample(operator.forward(ones), kind), ones, atol=1e-10)

    def test_back_projection_on_the_coarse_grid_equals_the_plain_loop(self, operator: Acquisition) -> None:
        y = operator.forward(_random(operator.full_shape, 5))
        plain = operator.upsample(y)
        for _ in range(7):
            plain = plain + operator.upsample(y - operator.forward(plain))
        assert torch.allclose(operator.back_project(y, 7), plain, atol=1e-9)

    def test_many_rounds_agree_with_the_measurement(self, operator: Acquisition) -> None:
        y = operator.forward(_random(operator.full_shape, 5))
        assert torch.allclose(operator.forward(operator.back_project(y, 300)), y, atol=1e-4)


class TestIsotropic:
    def test_is_the_papers_block_average(self) -> None:
        x = _random((8, 12, 16))
        expected = torch.nn.functional.avg_pool3d(x, 4)
        assert torch.allclose(Acquisition.isotropic((8, 12, 16), 4).forward(x), expected)

    def test_pseudo_inverse_repeats_the_block(self) -> None:
        y = _random((2, 3, 4))
        expected = y.repeat_interleave(4, 2).repeat_interleave(4, 3).repeat_interleave(4, 4)
        operator = Acquisition.isotropic((8, 12, 16), 4)
        assert torch.allclose(operator.pseudo_inverse(y), expected, atol=1e-12)
        assert torch.allclose(operator.upsample(y, "nearest"), expected)

    def test_residual_step_of_the_paper_is_the_projection(self) -> None:
        """r0 <- r0 - Up4(AvgPool4(r0)) for a base that repeats the measurement (method, equation 7)."""
        operator = Acquisition.isotropic((8, 12, 16), 4)
        base = operator.upsample(_random((2, 3, 4)), "nearest")
        residual = _random((8, 12, 16), 6)
        stepped = residual - operator.pseudo_inverse(operator.forward(residual))
        projected = operator.project(base + 2 * residual, operator.forward(base))
        assert torch.allclose(projected, base + 2 * stepped, atol=1e-10)


class TestInterpolation:
    def test_cubic_is_scipys_b_spline(self) -> None:
        ndimage = pytest.importorskip("scipy.ndimage")
        sampling = AxisSampling(size_full=37, size_coarse=9, factor=4.0, width=4.0)
        samples = np.random.default_rng(0).normal(size=9)
        position = (np.arange(37) + 0.5) / 4.0 - 0.5
        expected = ndimage.map_coordinates(samples, [position], order=3, mode="mirror")
        np.testing.assert_allclose(sampling.interpolation("cubic") @ samples, expected, atol=1e-8)

    def test_linear_ramp_is_kept_inside(self) -> None:
        operator = Acquisition.thick_slices((4, 5, 40), 2, 4.0)
        ramp = torch.arange(40, dtype=torch.float64).expand(1, 1, 4, 5, 40)
        for kind in ("linear", "cubic"):
            restored = operator.upsample(operator.forward(ramp), kind)
            assert torch.allclose(restored[..., 16:24], ramp[..., 16:24], atol=2e-2), kind


class TestBetween:
    def _fine(self) -> Grid:
        affine = np.array([[0.0, -1.1, 0.0, 30.0], [0.9, 0.0, 0.0, -20.0], [0.0, 0.0, 1.0, 5.0], [0, 0, 0, 1]])
        return Grid((24, 20, 30), affine)

    def test_reads_factor_and_place_off_the_affines(self) -> None:
        fine = self._fine()
        coarse = Grid((24, 20, 6), fine.affine @ np.diag([1, 1, 5, 1]) + _shift(fine.affine, (0, 0, 2)))
        operator = Acquisition.between(fine, coarse)
        assert operator.factors == pytest.approx((1, 1, 5))
        assert operator.axes[:2] == (None, None)
        x = _random((24, 20, 30))
        assert torch.allclose(operator.forward(x), Acquisition.thick_slices((24, 20, 30), 2, 5).forward(x), atol=1e-9)

    @settings(deadline=None, max_examples=30)
    @given(st.floats(2.1, 8.0), st.integers(0, 2), st.integers(5, 12))
    def test_a_super_resolution_grid_is_measured_slice_for_slice(self, spacing: float, axis: int, slices: int) -> None:
        shape, steps = [10, 11, 12], [1.0, 1.0, 1.0]
        shape[axis], steps[axis] = slices, spacing
        coarse = Grid((shape[0], shape[1], shape[2]), np.diag([*steps, 1.0]))
        fine = super_resolution_grid(coarse, 1.0)
        operator = Acquisition.between(fine, coarse)
        assert operator.coarse_shape == coarse.spatial_shape
        # Centres of slices, in the world, are where the coarse grid has them.
        sampling = operator.axes[axis]
        assert sampling is not None
        for number, centre in enumerate(sampling.centres):
            index = np.zeros(3)
            index[axis] = centre
            world = fine.index_to_world(index)[axis]
            expected = np.zeros(3)
            expected[axis] = number
            assert world == pytest.approx(coarse.index_to_world(expected)[axis], abs=1e-6)

    def test_thickness_narrows_the_slice(self) -> None:
        coarse = Grid((10, 11, 8), np.diag([1.0, 1.0, 5.0, 1.0]))
        fine = super_resolution_grid(coarse, 1.0)
        assert Acquisition.between(fine, coarse, thickness=4.0).widths[2] == pytest.approx(4.0)

    def test_rotated_grids_are_refused(self) -> None:
        turned = np.array([[0.8, -0.6, 0, 0], [0.6, 0.8, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])
        with pytest.raises(GeometryError, match="share their axes"):
            Acquisition.between(Grid((9, 9, 9), np.eye(4)), Grid((9, 9, 9), turned))


def _shift(affine: np.ndarray, index: tuple[float, float, float]) -> np.ndarray:
    """A matrix that, added to an affine, moves its origin by an index offset of `affine`."""
    moved = np.zeros((4, 4))
    moved[:3, 3] = affine[:3, :3] @ np.array(index)
    return moved


class TestRefusals:
    def test_unknown_profile(self) -> None:
        with pytest.raises(ValueError, match="profile"):
            AxisSampling(10, 5, 2.0, 2.0, "triangle")  # type: ignore[arg-type]

    def test_wrong_size_names_both(self) -> None:
        with pytest.raises(ValueError, match=r"\(B, C, 8, 8, 8\).*7"):
            Acquisition.isotropic((8, 8, 8), 2).forward(torch.zeros(1, 1, 7, 8, 8))

    def test_slice_outside_the_grid(self) -> None:
        with pytest.raises(GeometryError, match="outside"):
            _ = AxisSampling(10, 5, 2.0, 2.0, offset=50.0).matrix
