"""The suite `guided`: which scans are made coarse and how, every way to be guided, painted lesions, and the command."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("nibabel")

from tiny_models import tiny_ensemble, tiny_fusion, write_tiny_bundle  # noqa: E402
from typer.testing import CliRunner  # noqa: E402

from scorefusion.bundle.folder import Bundle  # noqa: E402
from scorefusion.cli import app as cli  # noqa: E402
from scorefusion.datasets.case import Case  # noqa: E402
from scorefusion.errors import RequestError  # noqa: E402
from scorefusion.evaluation.benchmark import check_crop, prepare  # noqa: E402
from scorefusion.evaluation.guided.command import GuidedRun, chosen_ways  # noqa: E402
from scorefusion.evaluation.guided.exams import Exam, Guided, acquisitions, around, read_exam, turned  # noqa: E402
from scorefusion.evaluation.guided.spots import Spot, paint, place_spots, spot_rows  # noqa: E402
from scorefusion.evaluation.guided.tables import sentences, spot_table, tables  # noqa: E402
from scorefusion.evaluation.guided.ways import Restore, Restored, ways  # noqa: E402
from scorefusion.evaluation.rows import Benchmark, Row  # noqa: E402
from scorefusion.evaluation.simulate import CLASSICAL, Setting  # noqa: E402
from scorefusion.evaluation.suites import SuiteCase  # noqa: E402
from scorefusion.fusion.inputs import InputLayout  # noqa: E402
from scorefusion.imaging.files import write_volume  # noqa: E402
from scorefusion.imaging.grid import Grid  # noqa: E402
from scorefusion.imaging.intensity import IntensityScale, fit_intensity_scale  # noqa: E402
from scorefusion.imaging.volume import Volume, resample  # noqa: E402
from scorefusion.progress import Reporter  # noqa: E402

SHAPE = (48, 52, 50)
ISO = Setting.parse("iso4")


def contrast_of(person: int, contrast: int, spacing: tuple[float, ...] = (1.25, 1.25, 1.25)) -> Volume:
    """A stripped blob whose folds are the person's, in all contrasts alike, and whose brightness is the contrast's."""
    rng = np.random.default_rng([person, contrast])
    i, j, k = np.meshgrid(*(np.linspace(-1.1, 1.1, size) for size in SHAPE), indexing="ij")
    folds = np.sin((8 + person) * i) * np.cos(7 * j + 5 * k)
    data = 500 + (200 - 30 * contrast) * folds + 25 * rng.standard_normal(SHAPE)
    inside = i**2 + j**2 + k**2 < 1
    return Volume((data * inside)[None].astype(np.float32), np.diag([*spacing, 1.0]))


@pytest.fixture
def people(tmp_path: Path) -> Path:
    """A datalist of one validation person with three contrasts, and a stranger to teach."""
    entries = {}
    for section, person in (("training", 1), ("validation", 2)):
        files = {name: f"P{person}_{name}.nii.gz" for name in ("t1", "t2", "flair")}
        for number, file in enumerate(files.values()):
            write_volume(contrast_of(person, number), tmp_path / file)
        entries[section] = [{"subject": f"P{person}", "contrasts": files, "skull_stripped": True}]
    path = tmp_path / "people.json"
    path.write_text(json.dumps({"name": "blobs", **entries}))
    return path


@pytest.fixture
def guided_case(people: Path) -> Case:
    """The validation person."""
    files = {name: people.parent / f"P2_{name}.nii.gz" for name in ("t1", "t2", "flair")}
    return Case("P2", files, skull_stripped=True)


@pytest.fixture
def subject(people: Path, guided_case: Case) -> Guided:
    """T2w of that person at 4x, with its guides and a stranger."""
    stranger = Case("P1", {"t1": people.parent / "P1_t1.nii.gz"}, skull_stripped=True)
    return read_exam(Exam(SuiteCase(guided_case, "t2"), ISO, stranger), "foreground")


@pytest.fixture
def guided_bundle(tmp_path: Path) -> Bundle:
    """Random networks that see a coarse scan and three guides, any of which may be missing."""
    layout = InputLayout(slab_radius=1, plane_context=True, presence_context=4, residual_gain=8.0, prediction="clean")
    rule = tiny_fusion(tiny_ensemble(layout, groups=((0, 1, 2, 3),)), conditions=4)
    return write_tiny_bundle(tmp_path / "made" / "tiny-exam", rule, ("image", "t1", "t2", "flair"))


def copying(subject: Guided) -> Restore:
    """A model that gives the T1w back, in the target's range; without one, blocks."""
    scale = fit_intensity_scale(subject.guides["t1"].data)

    def restore(scan: Volume, guides: dict[str, Volume], grid: Grid, _: bool) -> Restored:
        if not guides:
            return Restored(torch.from_numpy(resample(scan, grid, "nearest").data[0]))
        copied = torch.from_numpy(resample(guides["t1"], grid).data[0])
        data = subject.scale.low + subject.width * (copied - scale.low) / (scale.high - scale.low)
        return Restored(data, {"moved_mm": 1.25, "turned_degrees": 0.5})

    return restore


def ignoring(subject: Guided) -> Restore:
    """A model that looks at the scan alone: it interpolates."""

    def restore(scan: Volume, guides: dict[str, Volume], grid: Grid, _: bool) -> Restored:
        return Restored(CLASSICAL["cubic"][1](subject.scan.acquisition, torch.from_numpy(scan.data)[None])[0, 0])

    return restore


class TestAcquisitions:
    @pytest.mark.parametrize(
        ("sharp", "expected"),
        [
            ("RAS", ["iso4", "thick5"]),
            ("RA", ["inplane4", "thick5@A"]),
            ("AS", ["inplane4@R", "thick5"]),
            ("R", ["thick5@R"]),
        ],
    )
    def test_only_axes_with_real_detail_are_made_coarse(
        self, guided_case: Case, sharp: str, expected: list[str]
    ) -> None:
        target = SuiteCase(replace(guided_case, sharp_axes={"t2": sharp}), "t2")
        found = list(acquisitions(target, Reporter()))
        assert [setting.name for setting in found] == expected
        assert all("RAS"[axis] in sharp for setting in found for axis in setting.coarsened_axes())

    def test_where_nobody_said_the_spectrum_decides(self, guided_case: Case) -> None:
        assert [s.name for s in acquisitions(SuiteCase(guided_case, "t2"), Reporter())] == ["iso4", "thick5"]

    def test_thick_slices_are_no_truth_and_that_is_told(self, tmp_path: Path) -> None:
        write_volume(contrast_of(3, 0, (1.0, 1.0, 4.0)), tmp_path / "thick.nii.gz")
        reporter = Reporter()
        target = SuiteCase(Case("P3", {"flair": tmp_path / "thick.nii.gz"}), "flair")
        assert list(acquisitions(target, reporter)) == []
        assert "slices of 4 mm, which is no truth" in reporter.warnings[0]["message"]


class TestExam:
    def test_a_number_crops_to_whole_blocks_in_the_middle_of_the_brain(self, guided_case: Case) -> None:
        cut = prepare(SuiteCase(guided_case, "t2"), ISO, "22")
        assert cut.truth.spatial_shape == (24, 24, 24)
        assert cut.truth.grid.index_to_world([11.5] * 3) == pytest.approx([1.25 * (n - 1) / 2 for n in SHAPE], abs=1.3)
        assert cut.scan.volume.spatial_shape == (6, 6, 6)

    @pytest.mark.parametrize("crop", ["15", "head", "-64", "64.5"])
    def test_a_crop_that_is_none_is_refused(self, crop: str) -> None:
        with pytest.raises(RequestError, match="or a number of voxels from 16"):
            check_crop(crop)

    def test_guides_reach_beyond_a_cube(self, subject: Guided, guided_case: Case) -> None:
        cut = read_exam(Exam(SuiteCase(guided_case, "t2"), ISO), "16")
        guide = cut.guides["t1"]
        assert guide.spatial_shape == (38, 38, 38)  # 20 mm, and at least 12 mm on each side
        assert np.array_equal(resample(guide, cut.truth.grid).data, resample(subject.guides["t1"], cut.truth.grid).data)

    def test_what_lies_beside_a_grid_is_cut_to_what_there_is(self, subject: Guided) -> None:
        assert around(subject.guides["t1"], subject.truth.grid, 500.0).spatial_shape == SHAPE

    def test_the_stranger_lies_where_the_guide_lies(self, people: Path, guided_case: Case) -> None:
        far = contrast_of(1, 0)
        far.affine.setflags(write=True)
        write_volume(
            replace(far, affine=far.affine + np.array([[0, 0, 0, 90.0]] * 3 + [[0] * 4])), people.parent / "far.nii.gz"
        )
        stranger = Case("far", {"t1": people.parent / "far.nii.gz"}, skull_stripped=True)
        exam = read_exam(Exam(SuiteCase(guided_case, "t2"), ISO, stranger), "foreground")
        assert exam.stranger is not None
        assert exam.stranger.grid.origin == pytest.approx(exam.guides["t1"].grid.origin, abs=1e-4)
        assert not np.allclose(exam.stranger.data, exam.guides["t1"].data)

    def test_a_moved_guide_is_off_by_what_is_said(self, subject: Guided) -> None:
        guide = subject.guides["t1"]
        moved = turned(guide, 1.0, 3.0)
        middle = guide.grid.index_to_world((np.array(SHAPE) - 1) / 2)
        motion = moved.affine @ np.linalg.inv(guide.affine)
        angle = np.degrees(np.arccos((np.trace(motion[:3, :3]) - 1) / 2))
        assert angle == pytest.approx(3.0, abs=1e-6)
        assert np.linalg.det(motion[:3, :3]) == pytest.approx(1.0)
        assert np.linalg.norm(motion[:3, :3] @ middle + motion[:3, 3] - middle) == pytest.approx(1.0, abs=0.05)
        assert np.array_equal(moved.data, guide.data)


def run_of(
    make: Callable[[Guided], Restore], subject: Guided, case: Case, **options: object
) -> tuple[Benchmark, list[Row]]:
    benchmark, model = Benchmark({"data": "blobs"}), make(subject)
    run = GuidedRun(("fake", model), None, ("t1", "t2", "flair"), crop="foreground", **options)  # type: ignore[arg-type]
    exam = Exam(SuiteCase(case, "t2"), ISO, Case("P1", {"t1": case.contrasts["t1"].with_name("P1_t1.nii.gz")}))
    return benchmark, run.score([exam], benchmark, Reporter())


class TestWays:
    def test_a_guide_that_is_the_truth_itself_gains(self, subject: Guided, guided_case: Case) -> None:
        same = replace(guided_case, contrasts={**guided_case.contrasts, "t1": guided_case.contrasts["t2"]})
        copied = replace(subject, guides={"t1": subject.guides["t1"].with_data(contrast_of(2, 1).data)})
        benchmark, _ = run_of(lambda _: copying(copied), subject, same, only=("none", "t1"))
        found = {row.method: row["psnr_brain"] for row in benchmark.rows}
        assert found["fake:t1"] > found["fake:none"] + 20
        over = {table.title: table.cells() for table in tables(benchmark)}["Over the same model alone (dB, brain)"]
        assert over[0][1].value == pytest.approx(found["fake:t1"] - found["fake:none"])

    def test_each_way_is_a_row_and_wrong_guides_cost_what_they_cost(self, subject: Guided, guided_case: Case) -> None:
        benchmark, _ = run_of(copying, subject, guided_case)
        ours = [row for row in benchmark.rows if row.family == "model"]
        assert [row.method for row in ours] == [f"fake:{way.key}" for way in ways(("t1", "t2", "flair"))]
        assert len(benchmark.rows) == len(ours) + len(CLASSICAL)
        found = {row.method: row["psnr_brain"] for row in ours}
        assert found["fake:stranger-off"] < found["fake:t1"] - 1
        assert found["fake:moved-off"] < found["fake:t1"]
        assert benchmark.facts[0]["stranger"] == "P1"
        moved = {table.title: table.cells() for table in tables(benchmark)}["What registration moved the guide by"]
        assert [cell.text for cell in moved[0]] == ["P2 T2, iso4", *["1.25 mm, 0.50 degrees"] * (len(ours) - 1)]

    def test_what_the_model_makes_of_the_scan_alone_does_not_hang_on_guides(
        self, subject: Guided, guided_case: Case
    ) -> None:
        benchmark, _ = run_of(ignoring, subject, guided_case)
        values = {row["psnr_brain"] for row in benchmark.rows if row.family == "model"}
        assert len(values) == 1
        assert all("+0.00 dB over the same model alone" in sentence for sentence in sentences(benchmark, []))

    def test_a_refused_guide_is_told_and_has_no_figure(self, subject: Guided, guided_case: Case) -> None:
        def refusing(scan: Volume, guides: dict[str, Volume], grid: Grid, register: bool) -> Restored:
            if any(guide.grid.is_close(subject.guides["t1"].grid) is False for guide in guides.values()):
                msg = "T1w covers another head"
                raise RequestError(msg)
            return ignoring(subject)(scan, guides, grid, register)

        benchmark, _ = run_of(lambda _: refusing, subject, guided_case, only=("none", "t1", "moved-off"))
        assert [row.method for row in benchmark.rows if row.family == "model"] == ["fake:none", "fake:t1"]
        assert list(benchmark.facts[0]["refused"].values()) == ["T1w covers another head"]

    def test_a_scan_that_is_refused_ends_the_run(self, subject: Guided, guided_case: Case) -> None:
        def refusing(*_: object) -> Restored:
            msg = "no scan at all"
            raise RequestError(msg)

        with pytest.raises(RequestError, match="no scan at all"):
            run_of(lambda _: refusing, subject, guided_case)

    def test_unknown_ways_are_refused_by_name(self) -> None:
        with pytest.raises(RequestError, match="no way 'turbo'"):
            chosen_ways(("t1",), ("t1", "turbo"))


class TestSpots:
    def test_what_is_copied_leaks_all_and_what_is_ignored_leaks_nothing(self, subject: Guided) -> None:
        for make, leaked in ((copying, 1.0), (ignoring, 0.0)):
            restore = make(subject)
            clean = restore(subject.scan.volume, {"t1": subject.guides["t1"]}, subject.truth.grid, True).data
            rows = spot_rows(subject, restore, "fake", clean, 2, seed=0)
            assert rows
            assert [row["leaked"] for row in rows] == pytest.approx([leaked] * len(rows), abs=1e-3)

    def test_interpolation_keeps_as_much_as_cubic_and_a_copy_of_the_guide_keeps_nothing(self, subject: Guided) -> None:
        for make, wanted in ((ignoring, lambda row: row["kept_cubic"]), (copying, lambda _: 0.0)):
            restore = make(subject)
            clean = restore(subject.scan.volume, {"t1": subject.guides["t1"]}, subject.truth.grid, True).data
            for row in spot_rows(subject, restore, "fake", clean, 2, seed=0):
                assert row["kept"] == pytest.approx(wanted(row), abs=1e-3)
                assert 0.3 < row["kept_cubic"] < 1.0  # 4x blurs a spot of 4 to 8 mm, but does not lose it

    def test_spots_lie_in_the_brain_apart_from_each_other_and_the_seed_places_them(self, subject: Guided) -> None:
        spots = place_spots(subject, 4, seed=3)
        assert spots == place_spots(subject, 4, seed=3)
        assert spots != place_spots(subject, 4, seed=4)
        levels = [spot.level(subject.truth.grid) for spot in spots]
        for level in levels:
            assert subject.brain.mask.numpy()[level > 0.9].all()
        assert len(spots) > 1
        assert (sum(level > 0 for level in levels) <= 1).all()

    def test_a_spot_has_its_size_and_place_on_any_grid(self, make_volume: Callable[..., Volume]) -> None:
        volume = make_volume(shape=(40, 36, 16))
        middle = volume.grid.index_to_world((20, 15, 7))
        spot = Spot((float(middle[0]), float(middle[1]), float(middle[2])), 6.0, 0.5)
        painted = paint(volume, [spot], IntensityScale(100.0, 300.0))
        added = painted.data[0] - volume.data[0]
        assert added[20, 15, 7] == pytest.approx(100.0, abs=0.01)
        volume_mm3 = added.sum() / 100.0 * np.prod(volume.spacing)
        assert volume_mm3 == pytest.approx(4 / 3 * np.pi * 6.0**3, rel=0.05)
        far = volume.grid.index_to_world(np.argwhere(added > 0)) - middle
        assert np.linalg.norm(far, axis=-1).max() <= 6.75  # and half of the edge

    def test_a_cube_too_small_for_a_spot_is_refused(self, guided_case: Case) -> None:
        cut = read_exam(Exam(SuiteCase(guided_case, "t2"), ISO), "16")
        small = replace(cut, brain=replace(cut.brain, mask=torch.zeros_like(cut.brain.mask)))
        with pytest.raises(RequestError, match="give a larger --crop"):
            place_spots(small, 3, seed=0)

    def test_the_worst_leak_is_the_largest_of_either_sign(self, subject: Guided) -> None:
        figures = {"kept": 0.9, "kept_cubic": 0.5}
        rows = [Row("iso4", "P2", "t2", None, f"m:spot-{n}", "m", "spot", {**figures, "leaked": leak})
                for n, leak in enumerate((0.1, -0.4))]  # fmt: skip
        *_, every = spot_table(rows).cells()
        assert [cell.text for cell in every] == ["all", "2", "-15.0%", "-40.0%", "90.0%", "90.0%", "50.0%", "50.0%"]


class TestCommand:
    def test_one_run_writes_a_line_for_each_person_contrast_and_acquisition(
        self, guided_bundle: Bundle, tiny_bundle: Bundle, people: Path, tmp_path: Path, models_home: Path
    ) -> None:
        out = tmp_path / "results"
        arguments = ["evaluate", "guided", str(people), "--model", str(guided_bundle.folder), "--crop", "40"]
        arguments += ["--alone-model", str(tiny_bundle.folder), "--contrasts", "t2", "--only", "none,t1"]
        done = CliRunner().invoke(cli.app, [*arguments, "--device", "cpu", "--out", str(out)])
        assert done.exit_code == 0, done.output
        assert "over the same model alone" in done.output
        with (out / "guided.csv").open() as stream:
            rows = list(csv.DictReader(stream))
        settings = {row["setting"] for row in rows}
        assert settings == {"iso4", "thick5"}
        for name in settings:
            methods = [row["method"] for row in rows if row["setting"] == name and row["family"] == "model"]
            assert [method.partition(":")[2] for method in methods] == ["none", "none", "t1"]  # another's, and its own
        assert all(
            float(row["psnr_brain"]) > 0 and float(row["seconds"]) > 0 for row in rows if row["family"] != "spot"
        )
        text = (out / "guided.md").read_text()
        assert "| P2 T2, iso4 |" in text
        assert "| P2 T2, thick5 |" in text
        assert guided_bundle.hash[:12] in text
        assert "What registration moved the guide by" in text
        assert (out / "guided.html").is_file()

    def test_quick_takes_the_first_acquisition_of_each_contrast_and_paints_two_lesions_at_most(
        self, guided_bundle: Bundle, people: Path, tmp_path: Path, models_home: Path
    ) -> None:
        arguments = [
            "evaluate",
            "guided",
            str(people),
            "--model",
            str(guided_bundle.folder),
            "--quick",
            "--only",
            "t1",
            "--lesions",
        ]
        done = CliRunner().invoke(cli.app, [*arguments, "--device", "cpu", "--out", str(tmp_path / "quick"), "--json"])
        assert done.exit_code == 0, done.output
        content = json.loads((tmp_path / "quick" / "guided.json").read_text())
        assert [(f["title"], f["setting"]) for f in content["subjects"]] == [("P2 T2", "iso4")]
        assert 1 <= len(content["spots"]) <= 2
        assert all(np.isfinite([spot["leaked"], spot["kept"], spot["kept_cubic"]]).all() for spot in content["spots"])

    def test_a_model_without_guides_is_refused(self, tiny_bundle: Bundle, people: Path, tmp_path: Path) -> None:
        arguments = ["evaluate", "guided", str(people), "--model", str(tiny_bundle.folder)]
        done = CliRunner().invoke(cli.app, [*arguments, "--out", str(tmp_path / "o")])
        assert done.exit_code == 2
        assert "takes no guide 't1' beside the scan; its inputs are image" in done.output
        assert not (tmp_path / "o").exists()

    def test_a_split_without_anybody_is_refused(self, guided_bundle: Bundle, people: Path, tmp_path: Path) -> None:
        arguments = ["evaluate", "guided", str(people), "--model", str(guided_bundle.folder), "--split", "test"]
        done = CliRunner().invoke(cli.app, [*arguments, "--out", str(tmp_path / "o")])
        assert done.exit_code == 2
        assert "nobody under 'test' with a sharp t1" in done.output

    def test_real_people_are_scored_where_they_have_detail(self, data_folder: Path) -> None:
        from scorefusion.evaluation.guided.exams import find_exams

        _, exams = find_exams("project", "val", {"t1", "t2", "flair"}, (), Reporter())
        assert [(exam.target.title, exam.setting.name) for exam in exams] == [
            ("openms_19 T2", "inplane4"),
            ("openms_19 T2", "thick5@A"),
            ("openms_19 FLAIR", "iso4"),
            ("openms_19 FLAIR", "thick5"),
        ]
        assert all(exam.stranger is not None and exam.stranger.subject != "openms_19" for exam in exams)
