"""Rigid registration: a known motion is found again, what lies well is left alone, and nothing is made worse."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("nibabel")
pytest.importorskip("SimpleITK")

from scorefusion.datasets import common_grid as registration
from scorefusion.datasets.case import Case
from scorefusion.datasets.common_grid import RegistrationReport, align_datalist, register_case
from scorefusion.datasets.datalist import Datalist, project_datalist
from scorefusion.errors import RequestError
from scorefusion.imaging.alignment import measure_alignment
from scorefusion.imaging.files import read_volume, write_volume
from scorefusion.imaging.foreground import erode
from scorefusion.imaging.grid import Box, Grid
from scorefusion.imaging.itk import matrix_from_transform, transform_from_matrix
from scorefusion.imaging.registration import Motion, find_motion, move
from scorefusion.imaging.volume import Volume, resample

SHAPE = (40, 44, 38)
SPACING = (2.0, 1.9, 2.1)
GRID = Grid(SHAPE, np.diag([*SPACING, 1.0]) - np.outer([38.9, 40.9, 38.9, 0], [0, 0, 0, 1]))  # the middle is about 0
TURN, OFFSET = 4.0, (3.0, -2.0, 1.5)


def phantom(contrast: str = "t1", turn: float = 0.0, offset: tuple[float, float, float] = (0, 0, 0)) -> Volume:
    """A head-like thing of ellipsoids, turned about the vertical (degrees) and shifted (mm), seen in one contrast.

    It is drawn anew in its place, so nothing is interpolated and the motion is exact. No symmetry to hide behind.
    """
    points = points_of(turn, offset)
    parts = {  # centre, half axes (mm), value in t1 and in t2
        "scalp": ((0, 0, 0), (33, 37, 34), 160, 60),
        "skull": ((0, 0, 0), (30, 34, 31), 15, 10),
        "fluid": ((0, 0, 0), (28, 32, 29), 30, 200),
        "grey": ((0, -1, 0), (26, 30, 27), 90, 110),
        "white": ((2, -2, 1), (18, 23, 17), 140, 80),
        "left": ((-8, 3, 4), (3, 10, 4), 30, 200),
        "right": ((6, 4, 5), (3, 8, 5), 30, 200),
        "deep": ((9, -8, -6), (5, 4, 5), 100, 100),
        "tumour": ((-10, -12, 8), (5, 6, 4), 60, 170),
    }
    data = np.zeros(SHAPE)
    for centre, axes, t1, t2 in parts.values():
        distance = np.sqrt((((points - np.array(centre)) / np.array(axes)) ** 2).sum(-1))
        share = np.clip((1.0 - distance) * min(axes) / 2.0 + 0.5, 0, 1)  # soft edges, as partial volume has
        data += share * ((t1 if contrast == "t1" else t2) - data)
    x, y, z = np.moveaxis(points, -1, 0)
    folds = np.sin(x / 4 + y / 9) + np.sin(y / 5 - z / 8) + np.sin(z / 4 + x / 7) > 0.8  # fluid between them
    folds &= ((points / (27, 31, 28)) ** 2).sum(-1) < 1
    data = np.where(folds, 0.5 * data + 0.5 * (30 if contrast == "t1" else 200), data)
    seed = 1 if contrast == "t1" else 2
    noisy = data + 2.0 * np.random.default_rng(seed).standard_normal(SHAPE)
    return Volume(np.where(data > 0, noisy, 0)[None].astype(np.float32), GRID.affine)


def nucleus(turn: float = 0.0, offset: tuple[float, float, float] = (0, 0, 0)) -> Volume:
    """A mask: a ball off the middle of the phantom, moved with it."""
    inside = ((points_of(turn, offset) - (10, -12, 8)) ** 2).sum(-1) < 9**2
    return Volume(inside[None].astype(np.float32), GRID.affine)


def turn_matrix(turn: float) -> np.ndarray:
    c, s = np.cos(np.radians(turn)), np.sin(np.radians(turn))
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])


def points_of(turn: float, offset: tuple[float, float, float]) -> np.ndarray:
    """For each voxel of the grid, `(I, J, K, 3)`, the point of the unmoved phantom that lies there, mm."""
    return (GRID.index_to_world(np.stack(np.indices(SHAPE), axis=-1)) - np.array(offset)) @ turn_matrix(turn)


def errors_in_voxels(motion: Motion, turn: float, offset: tuple[float, float, float]) -> float:
    """The largest error of the motion over a ball of 30 mm radius, in the smallest voxel side."""
    points = np.array([(x, y, z) for x in (-30, 0, 30) for y in (-30, 0, 30) for z in (-30, 0, 30)], dtype=float)
    points = points[np.linalg.norm(points, axis=1) <= 31]
    found = points @ motion.matrix[:3, :3].T + motion.matrix[:3, 3]
    return float(np.linalg.norm(found - (points @ turn_matrix(turn).T + np.array(offset)), axis=1).max() / min(SPACING))


def make_case(folder: Path) -> Case:
    """t2 moved by a known motion, with a mask drawn on it; flair where it belongs."""
    folder.mkdir()
    t1, t2, flair = phantom("t1"), phantom("t2", TURN, OFFSET), phantom("t2")
    files = {"t1": t1, "t2": t2, "flair": flair.with_data(flair.data * 0.7)}
    paths = {name: write_volume(volume, folder / f"{name}.nii.gz") for name, volume in files.items()}
    return Case("S01", paths, masks={"lesion": write_volume(nucleus(TURN, OFFSET), folder / "lesion.nii.gz")})


@pytest.fixture
def case(tmp_path: Path) -> Case:
    return make_case(tmp_path / "scans")


@pytest.fixture
def known_motion(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests of what is done with a motion, not of how it is found."""
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = turn_matrix(TURN), OFFSET
    monkeypatch.setattr(registration, "find_motion", lambda *_: Motion(matrix, np.zeros(3)))


@pytest.fixture(scope="module")
def registered(tmp_path_factory: pytest.TempPathFactory) -> tuple[Case, RegistrationReport, Path]:
    """A case before, what was done to it, and where."""
    folder = tmp_path_factory.mktemp("registered")
    case = make_case(folder / "scans")
    return case, register_case(case, "t1", folder), folder


class TestAlignment:
    def test_peaks_are_at_0_when_aligned_and_beside_it_when_not(self) -> None:
        t1, t2 = phantom("t1"), phantom("t2")
        aligned = measure_alignment(t2, t1)
        assert (aligned.nmi_shift, aligned.gradient_shift, aligned.at_peak) == ((0, 0, 0), (0, 0, 0), True)
        rolled = measure_alignment(t2.with_data(np.roll(t2.data, -2, axis=3)), t1)
        assert (rolled.nmi_shift, rolled.gradient_shift[2], rolled.at_peak) == ((0, 0, -2), -2, False)
        assert aligned.nmi > rolled.nmi + 0.02
        assert aligned.gradient > rolled.gradient + 0.1

    def test_known_values(self) -> None:
        t1 = phantom("t1")
        same = measure_alignment(t1, t1)
        assert same.nmi == pytest.approx(2.0)
        assert same.gradient == pytest.approx(1.0)
        noise = t1.with_data(np.random.default_rng(0).random((1, *SHAPE)).astype(np.float32))
        assert measure_alignment(noise, t1).nmi == pytest.approx(1.0, abs=0.02)
        assert measure_alignment(noise, t1).gradient == pytest.approx(0.0, abs=0.05)

    def test_a_shared_mask_does_not_look_like_alignment(self) -> None:
        t1, t2 = phantom("t1"), phantom("t2")
        mask = erode(t1.data[0] > 0, 4)  # both are cut to the same shape after one of them was moved
        cut, moved = t1.with_data(t1.data * mask), t2.with_data(np.roll(t2.data, 2, axis=2) * mask)
        assert measure_alignment(moved, cut).nmi_shift[1] == 2

    def test_erosion_takes_the_border_of_the_volume_too(self) -> None:
        mask = np.ones((5, 7, 9), dtype=bool)
        mask[2, 3, 4] = False
        left = erode(mask, 1)
        expected = np.zeros_like(mask)
        expected[1:4, 1:6, 1:8] = True
        expected[1:4, 2:5, 3:6] = False
        assert np.array_equal(left, expected)


class TestMotion:
    @pytest.mark.parametrize(("turn", "offset"), [(4.0, (3.0, -2.0, 1.5)), (-9.0, (-6.0, 5.0, -4.0))])
    def test_a_known_motion_is_found_to_half_a_voxel(self, turn: float, offset: tuple[float, float, float]) -> None:
        motion = find_motion(phantom("t2", turn, offset), phantom("t1"))
        assert errors_in_voxels(motion, turn, offset) < 0.5
        assert motion.rotation_degrees == pytest.approx(abs(turn), abs=0.7)
        # What is told is how the head is moved back onto the reference.
        assert motion.translation_mm == pytest.approx([-value for value in offset], abs=1.5)

    def test_transforms_cross_to_simpleitk_and_back(self) -> None:
        matrix = np.eye(4)
        matrix[:3, :3], matrix[:3, 3] = turn_matrix(17.0), (3.0, -20.0, 5.0)
        there = transform_from_matrix(matrix, np.array([10.0, -4.0, 33.0]))
        assert np.allclose(matrix_from_transform(there), matrix)
        x, y, z = matrix[:3, :3] @ (1, 2, 3) + matrix[:3, 3]
        assert np.allclose(there.TransformPoint((-1.0, -2.0, 3.0)), (-x, -y, z))

    def test_the_same_seed_gives_the_same_motion_to_the_bit(self) -> None:
        volumes = phantom("t2", 3.0, (2.0, 0.0, 1.0)), phantom("t1")
        assert np.array_equal(find_motion(*volumes, seed=3).matrix, find_motion(*volumes, seed=3).matrix)

    def test_heads_far_apart_in_their_headers_are_brought_together(self) -> None:
        t2 = phantom("t2")
        affine = t2.affine.copy()
        affine[:3, 3] += (300.0, -250.0, 400.0)
        motion = find_motion(replace(t2, affine=affine), phantom("t1"))
        assert errors_in_voxels(motion, 0.0, (300.0, -250.0, 400.0)) < 0.5

    def test_moving_keeps_the_range_and_a_constant_background(self) -> None:
        t2 = phantom("t2")
        angle = np.radians(5.0)
        matrix = np.eye(4)
        matrix[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
        moved = move(t2, Motion(matrix, np.zeros(3)), t2.grid)
        assert t2.data.min() <= moved.data.min()
        assert moved.data.max() <= t2.data.max()
        assert abs((moved.data == 0).mean() - (t2.data == 0).mean()) < 0.02


class TestCase:
    def test_what_lies_well_is_left_and_what_does_not_is_moved(
        self, registered: tuple[Case, RegistrationReport, Path]
    ) -> None:
        case, report, folder = registered
        assert [row.outcome for row in report.contrasts] == ["reference", "registered", "already aligned"]
        done = report.case
        assert done.contrasts["t1"] == case.contrasts["t1"]
        assert done.contrasts["flair"] == case.contrasts["flair"]
        assert done.contrasts["t2"] == folder / "S01" / "t2.nii.gz"
        assert done.aligned is True
        assert report.warnings == ()
        moved, truth = read_volume(done.contrasts["t2"]), phantom("t2")
        assert moved.grid.is_close(truth.grid)
        inside = erode(truth.data[0] > 0, 2)

        def likeness(volume: Volume) -> float:
            return float(np.corrcoef(volume.data[0][inside], truth.data[0][inside])[0, 1])

        assert likeness(moved) > 0.93
        assert likeness(read_volume(case.contrasts["t2"])) < 0.7
        row = report["t2"]
        assert row.before is not None
        assert row.after is not None
        assert row.after.nmi > row.before.nmi + 0.02
        assert row.after.gradient > row.before.gradient + 0.1
        assert (row.before.at_peak, row.after.at_peak) == (False, True)

    def test_the_report_is_there_for_programs_and_people(
        self, registered: tuple[Case, RegistrationReport, Path]
    ) -> None:
        _, report, folder = registered
        facts = json.loads((folder / "S01" / "registration.json").read_text())
        t2 = next(row for row in facts["contrasts"] if row["contrast"] == "t2")
        assert t2["translation_mm"] == pytest.approx([-3.0, 2.0, -1.5], abs=1.0)
        assert t2["rotation_degrees"] == pytest.approx(4.0, abs=0.7)
        assert t2["after"]["nmi_shift"] == [0, 0, 0]
        assert np.allclose(t2["reference_to_moving_ras"], report["t2"].motion.matrix)
        text = (folder / "S01" / "registration.md").read_text()
        assert "| flair | already aligned | +0.00, +0.00, +0.00 | 0.00 |" in text
        assert "seed 0" in text

    def test_a_second_run_writes_the_same_voxels(
        self, registered: tuple[Case, RegistrationReport, Path], tmp_path: Path
    ) -> None:
        case, report, _ = registered
        again = register_case(replace(case, contrasts={k: case.contrasts[k] for k in ("t1", "t2")}), "t1", tmp_path)
        first, second = (read_volume(r.case.contrasts["t2"]).data for r in (report, again))
        assert np.array_equal(first, second)

    @pytest.mark.usefixtures("known_motion")
    def test_masks_go_with_the_contrast_they_were_drawn_on(self, case: Case, tmp_path: Path) -> None:
        # On t2's own grid, which is not the reference's: the mask has to move with t2.
        folder = case.contrasts["t2"].parent
        for name in ("t2", "lesion"):
            cut = read_volume(folder / f"{name}.nii.gz").crop(Box((2, 3, 1), (38, 42, 37)))
            write_volume(cut, folder / f"{name}.nii.gz")
        report = register_case(case, "t1", tmp_path)
        mask = read_volume(report.case.masks["lesion"])
        assert report.case.masks["lesion"] == tmp_path / "S01" / "lesion.nii.gz"
        assert mask.grid.is_close(GRID)
        assert set(np.unique(mask.data)) == {0.0, 1.0}

        def dice(a: Volume, b: Volume) -> float:
            return float(2 * (a.data * b.data).sum() / (a.data.sum() + b.data.sum()))

        assert dice(mask, nucleus()) > 0.9
        assert dice(nucleus(TURN, OFFSET), nucleus()) < 0.75

    @pytest.mark.usefixtures("known_motion")
    def test_masks_on_the_references_grid_stay(self, case: Case, tmp_path: Path) -> None:
        assert register_case(case, "t1", tmp_path).case.masks == case.masks

    @pytest.mark.usefixtures("known_motion")
    def test_a_mask_on_no_ones_grid_is_told(self, case: Case, tmp_path: Path) -> None:
        lesion = read_volume(case.masks["lesion"])
        write_volume(lesion.crop(Box((0, 0, 0), (39, 44, 38))), case.masks["lesion"])
        report = register_case(case, "t1", tmp_path)
        assert "lies on the grid of no contrast" in report.warnings[0]

    @pytest.mark.usefixtures("known_motion")
    def test_axes_in_another_order_are_the_same_grid(self, case: Case, tmp_path: Path) -> None:
        flair = read_volume(case.contrasts["flair"])
        turned = Volume(flair.data.transpose(0, 3, 1, 2)[:, :, ::-1].copy(), _turned(flair.grid))
        assert np.allclose(resample(turned, flair.grid, "nearest").data, flair.data)
        write_volume(turned, case.contrasts["flair"])
        assert register_case(case, "t1", tmp_path)["flair"].outcome == "already aligned"

    def test_another_grid_is_resampled_even_where_the_headers_are_right(self, case: Case, tmp_path: Path) -> None:
        flair = phantom("t2")
        write_volume(flair.crop(Box((1, 0, 2), (40, 44, 38))), case.contrasts["flair"])
        pair = replace(case, contrasts={key: case.contrasts[key] for key in ("t1", "flair")})
        row = register_case(pair, "t1", tmp_path)["flair"]
        assert row.outcome in ("registered", "not improved")  # either way it is on the grid now
        assert read_volume(row.file).grid.is_close(phantom().grid)
        assert max(abs(value) for value in row.motion.translation_mm) < 1.0

    def test_a_motion_that_does_not_help_is_not_used(
        self, case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        wrong = np.eye(4)
        wrong[:3, 3] = 12.0
        monkeypatch.setattr(registration, "find_motion", lambda *_: Motion(wrong, np.zeros(3)))
        report = register_case(case, "t1", tmp_path)
        assert report["t2"].outcome == "not improved"
        assert report.case.contrasts["t2"] == case.contrasts["t2"]
        assert report.case.aligned is False
        assert "made it worse" in report.warnings[0]
        assert "still off the reference" in report.warnings[1]

    def test_one_volume_of_4d_files_becomes_a_file_of_its_own(self, case: Case, tmp_path: Path) -> None:
        nib = pytest.importorskip("nibabel")
        paths = {}
        for key in ("t1", "flair"):
            data = read_volume(case.contrasts[key]).data[0]
            paths[key] = tmp_path / f"{key}_4d.nii"
            nib.save(nib.Nifti1Image(np.stack([data[::-1], data], axis=-1), GRID.affine), paths[key])
        report = register_case(replace(case, contrasts=paths, masks={}, frame=1), "t1", tmp_path)
        assert report["flair"].outcome == "already aligned"
        assert report.case.frame is None
        for key in paths:
            now = read_volume(report.case.contrasts[key])
            assert np.array_equal(now.data, read_volume(case.contrasts[key]).data)

    def test_a_reference_that_is_not_there(self, case: Case, tmp_path: Path) -> None:
        with pytest.raises(RequestError, match="has no 't1ce'"):
            register_case(case, "t1ce", tmp_path)
        with pytest.raises(RequestError, match="choose cubic or linear"):
            register_case(case, "t1", tmp_path, interpolation="nearest")


@pytest.mark.usefixtures("known_motion")
class TestDatalist:
    def test_splits_stay_and_single_contrasts_pass_through(self, case: Case, tmp_path: Path) -> None:
        single = Case("S02", {"t1": case.contrasts["t1"]})
        other = Case("S03", {"t2": case.contrasts["t2"], "flair": case.contrasts["flair"]})
        reports = []
        done = align_datalist(Datalist("x", (case, single), (other,)), "t1", tmp_path / "out", on_report=reports.append)
        assert [report.case.subject for report in reports] == ["S01"]
        assert done.training[0].contrasts["t2"] == tmp_path / "out" / "S01" / "t2.nii.gz"
        assert done.training[1] == single
        assert done.validation == (other,)

    def test_namesakes_would_overwrite_each_other(self, case: Case, tmp_path: Path) -> None:
        with pytest.raises(RequestError, match="called S01"):
            align_datalist(Datalist("x", (case, case)), "t1", tmp_path / "out")


@pytest.mark.slow
class TestRealContrasts:
    def test_brats_met_t1_is_one_voxel_off_and_comes_back(self, data_folder: Path, tmp_path: Path) -> None:
        (case,) = (case for case in project_datalist(data_folder).test if case.subject == "brats_MET00110")
        box = Box((72, 72, 48), (168, 168, 112))
        paths = {
            name: write_volume(read_volume(case.contrasts[name]).crop(box), tmp_path / f"{name}.nii.gz")
            for name in ("t1", "flair")
        }
        report = register_case(replace(case, contrasts=paths), "flair", tmp_path)
        assert report["t1"].outcome == "registered"
        assert report["t1"].before is not None
        assert max(abs(shift) for shift in report["t1"].before.nmi_shift) == 1
        assert 0.5 < np.linalg.norm(report["t1"].motion.translation_mm) < 2.0
        assert report.case.aligned is True
        assert report.warnings == ()


def _turned(grid: Grid) -> np.ndarray:
    """The affine of the same voxels with axes (k, -i, j)."""
    steps = np.array([[0, -1, 0, grid.spatial_shape[0] - 1], [0, 0, 1, 0], [1, 0, 0, 0], [0, 0, 0, 1.0]])
    return grid.affine @ steps
