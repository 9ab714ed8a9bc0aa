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
from scorefusion.imaging.grid import Box, Grid
from scorefusion.imaging.oblique import ObliqueAcquisition
from scorefusion.imaging.stacks import Measurement, project
from scorefusion.imaging.volume import Volume
from scorefusion.pipeline import Result, translate
from scorefusion.progress import Reporter
from scorefusion.run.stacks import place_stacks

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


# -- the whole run -------------------------------------------------------------------------------------------------

HEAD = (30, 35, 40)
AXES = {"sagittal": 0, "coronal": 1, "axial": 2}


@pytest.fixture(scope="module")
def restorer(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    layout = InputLayout(1, False, True, True, True, 0, 4.0, "clean")
    rule = tiny_fusion(tiny_ensemble(layout, std=0.08), std=0.08)
    return write_tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny-sr", rule)


@pytest.fixture(scope="module")
def truth() -> Volume:
    return Volume(400.0 * _blobs(_fine(HEAD), 7)[0].numpy(), _fine(HEAD).affine)


def _scan(truth: Volume, direction: str, motion: np.ndarray | None = None, **facts: Any) -> Volume:
    """5 mm slices of the truth; with a motion, of a head that had moved, which the header does not know."""
    axis = AXES[direction]
    still = _coarse(truth.grid, axis, 5)
    # What leaves the grid is 0, as is the truth there.
    operator = ObliqueAcquisition(truth.grid, still if motion is None else _coarse(truth.grid, axis, 5, motion))
    data = operator.forward(torch.from_numpy(truth.data)[None])[0].numpy()
    return Volume(data, still.affine, **{"source": f"{direction}.nii.gz", "contrast": "t1", **facts})


@pytest.fixture(scope="module")
def axial(truth: Volume) -> Volume:
    return _scan(truth, "axial")


@pytest.fixture(scope="module")
def coronal(truth: Volume) -> Volume:
    return _scan(truth, "coronal")


def _run(volume: Any, bundle: Bundle, **options: Any) -> Result:
    return translate(volume, bundle, device="cpu", **{"precision": "float32", "register": False, **options})


def _error(result: Volume, truth: Volume) -> float:
    return float(np.sqrt(np.mean((result.data - truth.data) ** 2)))


@pytest.fixture(scope="module")
def alone(restorer: Bundle, axial: Volume) -> Result:
    return _run(axial, restorer)


@pytest.fixture(scope="module")
def both(restorer: Bundle, axial: Volume, coronal: Volume) -> Result:
    return _run(axial, restorer, stacks=[coronal])


class TestRun:
    def test_two_stacks_come_nearer_to_the_truth_than_either(
        self, restorer: Bundle, truth: Volume, coronal: Volume, alone: Result, both: Result
    ) -> None:
        single = min(_error(result.volume, truth) for result in (alone, _run(coronal, restorer)))
        assert both.volume.grid.is_close(truth.grid)
        assert _error(both.volume, truth) < 0.8 * single

    def test_the_result_measured_again_is_every_stack(self, restorer: Bundle, truth: Volume) -> None:
        scans = [_scan(truth, direction) for direction in AXES]
        result = _run(scans[2], restorer, stacks=scans[:2])
        for scan in scans:
            operator = Acquisition.between(result.volume.grid, scan.grid)
            again = operator.forward(torch.from_numpy(result.volume.data)[None])[0].numpy()
            assert np.sqrt(np.mean((again - scan.data) ** 2)) < 0.01 * 400
        assert result.quality["measurement_residual_relative"] < 0.05

    def test_a_stack_in_other_units_says_the_same(
        self, restorer: Bundle, axial: Volume, coronal: Volume, both: Result
    ) -> None:
        other = _run(axial, restorer, stacks=[coronal.with_data(coronal.data / 3.0 + 50.0)])
        record = other.provenance["Stacks"][1]
        assert record["Gain"] == pytest.approx(3.0, rel=0.05)
        assert record["Offset"] == pytest.approx(-150.0, rel=0.1)
        assert _error(other.volume, both.volume) < 0.02 * 400

    def test_axes_and_flips_of_a_stack_change_nothing(
        self, restorer: Bundle, axial: Volume, coronal: Volume, both: Result
    ) -> None:
        affine = coronal.affine[:, [1, 2, 0, 3]].copy()
        data = coronal.data.transpose(0, 2, 3, 1)[:, ::-1]
        affine[:3, 3] += affine[:3, 0] * (data.shape[1] - 1)
        affine[:3, 0] *= -1
        turned = _run(axial, restorer, stacks=[Volume(np.ascontiguousarray(data), affine)]).volume
        np.testing.assert_allclose(turned.data, both.volume.data, atol=0.5)

    def test_outside_a_smaller_stack_the_first_alone_counts(
        self, restorer: Bundle, axial: Volume, coronal: Volume, alone: Result
    ) -> None:
        edge, rows, slices = coronal.spatial_shape[0] // 2, *coronal.spatial_shape[1:]
        part = coronal.crop(Box((0, 0, 0), (edge, rows, slices)))
        change = np.abs(_run(axial, restorer, stacks=[part]).volume.data - alone.volume.data)
        assert change[:, edge + 3 :].max() < 0.01 * 400
        assert change[:, : edge - 6].max() > 0.1 * 400

    def test_a_moved_stack_is_brought_back_and_what_moved_is_said(
        self, restorer: Bundle, truth: Volume, axial: Volume, alone: Result
    ) -> None:
        motion = np.eye(4)
        motion[:3, 3] = (2.0, -3.0, 1.5)
        found = _run(axial, restorer, stacks=[_scan(truth, "coronal", motion)], register=True)
        record = found.provenance["Stacks"][1]
        np.testing.assert_allclose(record["MovedMm"], (2.0, -3.0, 1.5), atol=0.7)
        assert record["TurnedDegrees"] < 2.0
        assert record["Name"] == "coronal.nii.gz"
        assert _error(found.volume, truth) < 0.8 * _error(alone.volume, truth)

    def test_progress_counts_up_once_over_all_runs(self, restorer: Bundle, axial: Volume, coronal: Volume) -> None:
        events: list[dict[str, Any]] = []
        _run(axial, restorer, stacks=[coronal], preset="balanced", on_event=events.append)
        progress = [event for event in events if event["event"] == "progress"]
        done = [event["done"] for event in progress]
        assert done == sorted(done)
        assert {event["total"] for event in progress} == {6.0}
        assert done[-1] == 6.0

    def test_uncertainty_is_on_the_grid_of_the_result(self, restorer: Bundle, axial: Volume, coronal: Volume) -> None:
        result = _run(axial, restorer, stacks=[coronal], uncertainty=True)
        assert result.uncertainty is not None
        assert result.uncertainty.grid.is_close(result.volume.grid)
        assert 0 < result.quality["mean_uncertainty"] < 400

    def test_cancel_ends_the_second_run(self, restorer: Bundle, axial: Volume, coronal: Volume) -> None:
        events: list[dict[str, Any]] = []
        with pytest.raises(Cancelled):
            _run(axial, restorer, stacks=[coronal], on_event=events.append,
                 cancelled=lambda: any(event.get("done", 0) >= 1 for event in events))  # fmt: skip
        assert max(event.get("done", 0) for event in events) < 2

    def test_a_contradiction_is_said_and_settled_between_the_stacks(
        self, restorer: Bundle, axial: Volume, coronal: Volume, both: Result
    ) -> None:
        changed = coronal.data.copy()
        changed[:, 10:20, 2:5, 14:26] += 110.0
        result = _run(axial, restorer, stacks=[coronal.with_data(changed)])
        warnings = [w for w in result.provenance["Warnings"] if w["code"] == "stacks-contradict"]
        assert len(warnings) == 1
        assert "least squares" in warnings[0]["message"]
        assert warnings[0]["difference"] > 0.05
        assert not [w for w in both.provenance["Warnings"] if w["code"] == "stacks-contradict"]
        assert result.quality["stacks"][0]["ResidualRms"] > both.quality["stacks"][0]["ResidualRms"]


class TestBadInput:
    def _refused(self, first: Volume, stack: Volume, **options: Any) -> str:
        with pytest.raises((RequestError, GeometryError)) as caught:
            place_stacks(first, [stack], options.get("register", False), Reporter())
        return str(caught.value)

    def test_a_stack_of_another_place_is_refused(self, axial: Volume, coronal: Volume) -> None:
        affine = coronal.affine.copy()
        affine[2, 3] += 300.0
        assert "shares only 0%" in self._refused(axial, replace(coronal, affine=affine))

    def test_the_same_scan_again_is_refused(self, axial: Volume) -> None:
        affine = axial.affine.copy()
        affine[0, 3] += 1.0
        assert "same scan" in self._refused(axial, replace(axial, affine=affine, source="copy.nii.gz"))

    def test_another_contrast_is_refused(self, axial: Volume, coronal: Volume) -> None:
        head = coronal.data > 60
        other = coronal.with_data(np.where(head, 400 - 0.5 * coronal.data, 0).astype(np.float32))
        message = self._refused(axial, other)
        assert "correlation" in message
        assert "coronal.nii.gz" in message

    def test_one_slice_and_several_channels_are_refused(self, axial: Volume, coronal: Volume) -> None:
        i, _, k = coronal.spatial_shape
        assert "no stack" in self._refused(axial, coronal.crop(Box((0, 3, 0), (i, 4, k))))
        assert "no stack" in self._refused(axial, coronal.with_data(np.repeat(coronal.data, 2, axis=0)))

    def test_a_4d_file_is_refused(self, restorer: Bundle, axial: Volume, tmp_path: Path) -> None:
        nibabel = pytest.importorskip("nibabel")
        nibabel.save(nibabel.Nifti1Image(np.ones((6, 7, 8, 3), np.float32), np.eye(4)), tmp_path / "four.nii.gz")
        with pytest.raises(VolumeError, match="4D"):
            _run(axial, restorer, stacks=[tmp_path / "four.nii.gz"])

    def test_models_that_translate_take_no_stacks(self, tmp_path: Path, axial: Volume, coronal: Volume) -> None:
        layout = InputLayout(1, False, True, True, False, 0, 4.0, "clean")
        rule = tiny_fusion(tiny_ensemble(layout, std=0.08), std=0.08)
        bundle = write_tiny_bundle(tmp_path / "tiny-translate", rule, ["t1"], "translation")
        with pytest.raises(RequestError, match="super-resolution"):
            _run(axial, bundle, stacks=[coronal])

    def test_a_single_file_in_place_of_a_list_is_refused(self, restorer: Bundle, axial: Volume) -> None:
        with pytest.raises(RequestError, match="list"):
            _run(axial, restorer, stacks="coronal.nii.gz")


class TestCommandLine:
    def test_stacks_reach_the_pipeline_and_are_no_output(
        self,
        run: Callable[..., Any],
        calls: list[dict[str, Any]],
        model: str,
        scan: Path,
        axial: Volume,
        tmp_path: Path,
    ) -> None:
        other = write_volume(axial, tmp_path / "other.nii.gz")
        third = write_volume(axial, tmp_path / "third.nii.gz")
        given = ("translate", scan, "--model", model, "--stack", other, "--stack", third, "--no-register")
        result = run(*given, "-o", tmp_path / "out.nii.gz")
        assert result.exit_code == 0, result.output
        assert calls[0]["stacks"] == [other, third]
        assert calls[0]["register"] is False
        assert run(*given, "-o", other).exit_code == 2
