"""Several stacks of one scan: the oblique operator, the projection onto all at once, and the whole run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import tiny_ensemble, tiny_fusion, write_tiny_bundle

from scorefusion.bundle.folder import Bundle
from scorefusion.errors import Cancelled, GeometryError, RequestError, VolumeError
from scorefusion.fusion.inputs import InputLayout
from scorefusion.imaging.acquisition import Acquisition
from scorefusion.imaging.files import write_volume
from scorefusion.imaging.grid import Grid
from scorefusion.imaging.oblique import ObliqueAcquisition
from scorefusion.imaging.stacks import Measurement, project
from scorefusion.imaging.volume import Volume
from scorefusion.pipeline import Result, translate
from scorefusion.progress import Reporter
from scorefusion.run.stacks import bring_together

SHAPE = (22, 26, 30)  # lopsided


def _turn(degrees: float, shift: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> np.ndarray:
    """A rigid motion in RAS mm about the middle of the fine grid."""
    a = np.deg2rad(degrees)
    turn, other = np.eye(4), np.eye(4)
    turn[:2, :2] = [[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]]
    other[1:3, 1:3] = [[np.cos(a / 2), -np.sin(a / 2)], [np.sin(a / 2), np.cos(a / 2)]]
    matrix = turn @ other
    middle = _fine().index_to_world((np.array(SHAPE) - 1) / 2)
    matrix[:3, 3] = middle - matrix[:3, :3] @ middle + shift
    return matrix


def _fine(shape: tuple[int, int, int] = SHAPE) -> Grid:
    return Grid(shape, np.array([[1.0, 0, 0, -9], [0, 1.0, 0, 4], [0, 0, 1.0, 7], [0, 0, 0, 1]]))


def _coarse(fine: Grid, axis: int, factor: int, motion: np.ndarray | None = None) -> Grid:
    """Slices along one axis of the fine grid, from its first face on, as many as are whole."""
    shape, step = list(fine.spatial_shape), np.eye(4)
    shape[axis] //= factor
    step[axis, axis], step[axis, 3] = factor, (factor - 1) / 2
    return Grid((shape[0], shape[1], shape[2]), (np.eye(4) if motion is None else motion) @ fine.affine @ step)


def _random(shape: tuple[int, ...], seed: int = 0) -> torch.Tensor:
    return torch.randn(2, 1, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _blobs(grid: Grid, seed: int = 3) -> torch.Tensor:
    """A smooth head `(1, 1, I, J, K)` from 0 to about 1, with detail of a few mm."""
    rng = np.random.default_rng(seed)
    place = np.stack(np.meshgrid(*(np.arange(n) for n in grid.spatial_shape), indexing="ij"), -1)
    size = np.array(grid.spatial_shape)
    inside = np.linalg.norm((place + 0.5) / size - 0.5, axis=-1) < 0.42
    data = 0.6 * inside
    for _ in range(60):
        centre, width = rng.uniform(0.15, 0.85, 3) * size, rng.uniform(1.2, 3.0)
        data = data + inside * rng.uniform(-0.4, 0.4) * np.exp(-((place - centre) ** 2).sum(-1) / (2 * width**2))
    return torch.from_numpy(data.astype(np.float32))[None, None]


OBLIQUE = {
    "thick slices, turned": (1, 5, _turn(4.0, (0.3, -0.4, 0.2)), "box"),
    "thick slices, turned, Gaussian": (2, 4, _turn(-7.0), "gaussian"),
    "parallel": (2, 5, None, "box"),
}


class TestObliqueAcquisition:
    @pytest.mark.parametrize("name", OBLIQUE)
    def test_adjoint_by_random_dot_products(self, name: str) -> None:
        axis, factor, motion, profile = OBLIQUE[name]
        operator = ObliqueAcquisition(_fine(), _coarse(_fine(), axis, factor, motion), profile=profile)
        x, y = _random(SHAPE, 1), _random(operator.coarse_shape, 2)
        torch.testing.assert_close((operator.forward(x) * y).sum(), (x * operator.adjoint(y)).sum(), rtol=1e-10, atol=0)

    def test_adjoint_works_inside_inference_mode(self) -> None:
        operator = ObliqueAcquisition(_fine(), _coarse(_fine(), 1, 5, _turn(4.0)))
        expected = operator.adjoint(_random(operator.coarse_shape, 2))
        with torch.inference_mode():
            assert torch.equal(operator.adjoint(_random(operator.coarse_shape, 2)), expected)

    def test_chunks_change_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        operator = ObliqueAcquisition(_fine(), _coarse(_fine(), 1, 5, _turn(4.0)))
        x, y = _random(SHAPE, 1), _random(operator.coarse_shape, 2)
        whole = operator.forward(x), operator.adjoint(y)
        monkeypatch.setattr("scorefusion.imaging.oblique.MOST_POINTS", 500)
        torch.testing.assert_close(operator.forward(x), whole[0])
        torch.testing.assert_close(operator.adjoint(y), whole[1])

    @pytest.mark.parametrize("axis", [0, 1, 2])
    @pytest.mark.parametrize("factor", [2, 5])
    def test_along_parallel_axes_it_is_the_separable_operator(self, axis: int, factor: int) -> None:
        fine, coarse = _fine((20, 30, 40)), _coarse(_fine((20, 30, 40)), axis, factor)
        x = _random(fine.spatial_shape)
        operator = ObliqueAcquisition(fine, coarse)
        assert operator.counted.all()
        torch.testing.assert_close(operator.forward(x), Acquisition.between(fine, coarse).forward(x), rtol=0, atol=1e-9)

    def test_larger_voxels_within_slices_are_averaged_too(self) -> None:
        fine = _fine((20, 30, 40))
        step = np.diag([2.0, 3.0, 5.0, 1.0])
        step[:3, 3] = (0.5, 1.0, 2.0)
        coarse = Grid((10, 10, 8), fine.affine @ step)
        x = _random(fine.spatial_shape)
        expected = Acquisition.between(fine, coarse).forward(x)
        torch.testing.assert_close(ObliqueAcquisition(fine, coarse).forward(x), expected, rtol=0, atol=1e-9)

    def test_a_gap_between_slices_is_not_seen(self) -> None:
        fine = _fine()
        operator = ObliqueAcquisition(fine, _coarse(fine, 2, 5), thickness=3.0)
        x = torch.zeros(1, 1, *SHAPE, dtype=torch.float64)
        x[..., 0::5] = x[..., 4::5] = 100.0  # the first and the last of each five lie in the gap
        assert float(operator.forward(x).abs().max()) < 1e-9

    def test_constants_stay_constant_where_voxels_count(self) -> None:
        operator = ObliqueAcquisition(_fine(), _coarse(_fine(), 1, 5, _turn(4.0)))
        seen = operator.forward(torch.ones(1, 1, *SHAPE, dtype=torch.float64))
        torch.testing.assert_close(seen[0, 0], operator.counted.double())

    def test_voxels_that_leave_the_fine_grid_do_not_count(self) -> None:
        moved = np.eye(4)
        moved[2, 3] = 7.0  # one slice and two mm of the next lie above the grid
        operator = ObliqueAcquisition(_fine(), _coarse(_fine(), 2, 5, moved))
        assert operator.counted[..., :4].all()
        assert not operator.counted[..., 4:].any()
        y = torch.zeros(1, 1, *operator.coarse_shape)
        y[..., 4:] = 1.0
        assert float(operator.adjoint(y).abs().max()) == 0.0

    def test_a_stack_beside_the_grid_is_refused(self) -> None:
        away = np.eye(4)
        away[0, 3] = 500.0
        with pytest.raises(GeometryError, match="No measured voxel"):
            ObliqueAcquisition(_fine(), _coarse(_fine(), 2, 5, away))


def _measured(truth: torch.Tensor, axis: int, motion: np.ndarray | None = None, factor: int = 5) -> Measurement:
    fine = _fine(tuple(truth.shape[2:]))
    coarse = _coarse(fine, axis, factor, motion)
    empty = Measurement.on(fine, coarse, torch.zeros(*truth.shape[:2], *coarse.spatial_shape, dtype=truth.dtype))
    return Measurement(empty.operator, empty.operator.forward(truth), empty.counted)


class TestProjection:
    MOTIONS = {"parallel": None, "turned": _turn(3.0, (0.4, 0.1, -0.3))}

    def test_of_one_stack_is_the_exact_one(self) -> None:
        truth, start = _random(SHAPE, 1), _random(SHAPE, 2)
        one = _measured(truth, 2)
        assert isinstance(one.operator, Acquisition)
        expected = one.operator.project(start, one.values)
        torch.testing.assert_close(project(start, [one], damping=0.0, converged=1e-9), expected, rtol=0, atol=1e-8)

    def test_an_oblique_operator_along_parallel_axes_projects_as_the_separable_one(self) -> None:
        truth, start = _random(SHAPE, 1), _random(SHAPE, 2)
        one = _measured(truth, 2)
        operator = ObliqueAcquisition(_fine(), _coarse(_fine(), 2, 5))
        oblique = Measurement(operator, one.values, operator.counted)
        expected = one.operator.project(start, one.values)  # type: ignore[attr-defined]
        torch.testing.assert_close(project(start, [oblique], damping=0.0, converged=1e-9), expected, rtol=0, atol=1e-8)

    @pytest.mark.parametrize("motion", MOTIONS)
    def test_stacks_that_agree_are_given_back(self, motion: str) -> None:
        truth = _random((20, 30, 30), 1)
        stacks = [_measured(truth, 2), _measured(truth, 1, self.MOTIONS[motion])]
        start = _random((20, 30, 30), 2)
        exact = project(start, stacks, damping=0.0, converged=1e-7)
        for stack in stacks:
            assert stack.residual(exact)[0] < 0.02 * stack.residual(start)[0]

    @pytest.mark.parametrize("motion", MOTIONS)
    def test_damping_leaves_little_of_what_differs(self, motion: str) -> None:
        truth, shape = _blobs(_fine((30, 30, 30))), (30, 30, 30)
        stacks = [_measured(truth, 2), _measured(truth, 1, self.MOTIONS[motion]), _measured(truth, 0)]
        start = torch.zeros(1, 1, *shape)
        projected = project(start, stacks)
        for stack in stacks:
            assert stack.residual(projected)[0] < 0.07 * stack.residual(start)[0]

    def test_it_moves_towards_a_truth_that_explains_all(self) -> None:
        truth, start = _random(SHAPE, 1), _random(SHAPE, 2)
        stacks = [_measured(truth, 2), _measured(truth, 1, self.MOTIONS["turned"])]
        alone, both = project(start, stacks[:1]), project(start, stacks)
        assert (both - truth).norm() < (alone - truth).norm() < (start - truth).norm()

    @pytest.mark.parametrize("motion", MOTIONS)
    def test_a_second_time_changes_hardly_anything(self, motion: str) -> None:
        truth, start = _blobs(_fine()), torch.zeros(1, 1, *SHAPE)
        stacks = [_measured(truth, 2), _measured(truth, 1, self.MOTIONS[motion])]
        once = project(start, stacks)
        assert (project(once, stacks) - once).norm() < 0.1 * (once - start).norm()

    def test_stacks_that_contradict_each_other_end_at_the_least_squares(self) -> None:
        shape = (12, 15, 20)
        stacks = [_measured(_random(shape, 1), 2), _measured(_random(shape, 5), 1)]
        start = _random(shape, 2)
        rows = [torch.stack([stack.operator.forward(unit.reshape(1, 1, *shape)).flatten()
                             for unit in torch.eye(int(np.prod(shape)), dtype=torch.float64)], dim=1)
                for stack in stacks]  # fmt: skip
        matrix = torch.cat(rows)
        missing = torch.cat([(stack.values - stack.operator.forward(start))[0].flatten() for stack in stacks])
        change = torch.linalg.lstsq(matrix, missing[:, None], driver="gelsd").solution[:, 0].reshape(shape)
        projected = project(start, stacks, damping=0.0, converged=1e-9)
        torch.testing.assert_close(projected[0, 0], start[0, 0] + change, rtol=0, atol=1e-6)

    def test_noise_in_a_turned_stack_is_not_blown_up(self) -> None:
        truth = _blobs(_fine((30, 30, 30)))
        generator = torch.Generator().manual_seed(0)
        noisy = [
            Measurement(s.operator, s.values + 0.03 * torch.randn(s.values.shape, generator=generator) * s.counted,
                        s.counted)
            for s in (_measured(truth, 2), _measured(truth, 1, self.MOTIONS["turned"]))
        ]  # fmt: skip
        start = noisy[0].operator.upsample(noisy[0].values)  # type: ignore[attr-defined]
        assert (project(start, noisy) - truth).norm() < 0.8 * (start - truth).norm()
        assert (project(start, noisy, damping=0.0, converged=1e-4) - truth).norm() > (start - truth).norm()

    def test_can_be_stopped_between_operators(self) -> None:
        truth = _random(SHAPE, 1)

        def stop() -> None:
            raise Cancelled

        with pytest.raises(Cancelled):
            project(truth, [_measured(truth, 2)], pause=stop)
