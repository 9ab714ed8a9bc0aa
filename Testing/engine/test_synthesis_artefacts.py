"""Fields, partial volume, noise and ghosts, each against what theory says."""

from __future__ import annotations

import math

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from scorefusion.synthesis import artefacts, fields  # noqa: E402


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class TestFields:
    @pytest.mark.parametrize("scale", [1.0, 3.0, 9.0])
    def test_every_voxel_has_mean_zero_and_variance_one(self, scale: float) -> None:
        draws = torch.stack([fields.random_field((9, 12, 15), scale, generator(seed)) for seed in range(300)])
        assert draws.mean(0).abs().mean() < 0.08
        assert (draws.var(0) - 1).abs().mean() < 0.12
        assert draws.var(0)[0, 0, 0] == pytest.approx(1.0, abs=0.3)  # corners, too

    def test_larger_scale_is_smoother(self) -> None:
        steps = [
            float(fields.random_field((20, 24, 28), scale, generator()).diff(dim=1).std()) for scale in (1, 3, 6, 12)
        ]
        assert steps == sorted(steps, reverse=True)
        assert steps[-1] < 0.15

    def test_products_along_axes_agree_with_einsum(self) -> None:
        x = torch.randn(4, 5, 6, generator=generator())
        i, j, k = (torch.randn(n + 1, n, generator=generator(n)) for n in (4, 5, 6))
        expected = torch.einsum("ai,bj,ck,ijk->abc", i, j, k, x)
        assert torch.allclose(fields.apply_along([i, j, k], x), expected, atol=1e-4)
        assert torch.equal(fields.apply_along([None, None, None], x), x)

    def test_cosine_cut_is_a_projection_that_keeps_the_mean(self) -> None:
        cut = fields.cosine_cut_matrix(24, 0.5).double()
        assert torch.allclose(cut @ cut, cut, atol=1e-5)
        assert torch.allclose(cut.sum(1), torch.ones(24, dtype=torch.float64), atol=1e-5)


class TestPartialVolume:
    def test_the_border_of_two_tissues_has_a_signal_between_theirs(self) -> None:
        x = torch.full((10, 12, 14), 0.2)
        x[:, 6:] = 0.8
        blur = [fields.gaussian_blur_matrix(size, 0.6) for size in x.shape]
        y = fields.apply_along(blur, x)
        assert torch.allclose(y[:, 5], torch.full((10, 14), 0.32), atol=0.06)
        assert torch.allclose(y[:, 5] + y[:, 6], torch.ones(10, 14), atol=1e-5)  # what one side loses the other has
        assert torch.allclose(y[:, 0], torch.full((10, 14), 0.2), atol=1e-6)


class TestNoise:
    def test_on_signal_it_is_gaussian_of_the_given_size(self) -> None:
        noisy = artefacts.add_noise(torch.ones(40, 40, 40), 0.03, generator())
        assert float(noisy.std()) == pytest.approx(0.03, rel=0.02)
        assert float(noisy.mean()) == pytest.approx(1 + 0.03**2 / 2, abs=5e-4)

    def test_in_air_it_is_rayleigh(self) -> None:
        air = artefacts.add_noise(torch.zeros(40, 40, 40), 0.03, generator())
        assert float(air.mean()) == pytest.approx(0.03 * math.sqrt(math.pi / 2), rel=0.02)
        assert float(air.median()) == pytest.approx(0.03 * math.sqrt(2 * math.log(2)), rel=0.02)


class TestShading:
    def test_it_is_smooth_and_one_on_geometric_average(self) -> None:
        shaded = artefacts.shade(torch.ones(20, 24, 28), 0.1, 15.0, generator())
        assert float(shaded.log().mean()) == pytest.approx(0.0, abs=1e-6)
        assert 0.03 < float(shaded.log().std()) < 0.2
        assert float(shaded.log().diff(dim=0).abs().max()) < 0.05


class TestGhosts:
    def ball(self) -> torch.Tensor:
        along = [torch.linspace(-1, 1, size) for size in (32, 36, 40)]
        i, j, k = torch.meshgrid(*along, indexing="ij")
        return ((i**2 + j**2 + k**2) < 0.4).float()

    def test_no_displacement_changes_nothing(self) -> None:
        x = self.ball()
        assert torch.allclose(artefacts.motion_ghosts(x, 1, 0, [0.0], [[3, 4, 5]]), x, atol=1e-5)
        assert torch.allclose(artefacts.motion_ghosts(x, 1, 0, [2.0], [[]]), x, atol=1e-5)  # no line was hit

    def test_all_lines_displaced_by_whole_voxels_is_a_shift(self) -> None:
        x = self.ball()
        for axis in (0, 1):
            moved = artefacts.motion_ghosts(x, 1, axis, [2.0], [range(36)])
            assert torch.allclose(moved, x.roll(2, axis), atol=1e-4)

    def test_energy_is_kept_and_spread_along_the_phase_axis(self) -> None:
        x = self.ball()
        ghosted, facts = artefacts.draw_ghosts(x, np.random.default_rng(4))
        assert set(facts) == {"phase_axis", "moved_axis", "shifts"}
        assert float((ghosted**2).sum() / (x**2).sum()) == pytest.approx(1.0, abs=0.01)
        outside = x == 0
        assert float(ghosted[outside].abs().mean()) > 1e-3
        assert float((ghosted - x).abs().max()) > 0.02


class TestAcquisition:
    def test_draws_are_coarser_and_fit_the_grid(self) -> None:
        for seed in range(30):
            acquisition, facts = artefacts.draw_acquisition((24, 28, 32), np.random.default_rng(seed))
            assert acquisition.full_shape == (24, 28, 32)
            assert math.prod(acquisition.coarse_shape) < 24 * 28 * 32
            assert max(acquisition.factors) == pytest.approx(facts["factor"], abs=0.01)
