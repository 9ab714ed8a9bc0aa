"""Simulated scans, classical baselines, datalists, and a run of `scorefusion evaluate` with a tiny random model."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("nibabel")

from typer.testing import CliRunner  # noqa: E402

from scorefusion.bundle.folder import Bundle  # noqa: E402
from scorefusion.bundle.load import fusion_state  # noqa: E402
from scorefusion.bundle.write import write_bundle  # noqa: E402
from scorefusion.datasets.case import Case  # noqa: E402
from scorefusion.datasets.datalist import read_datalist  # noqa: E402
from scorefusion.errors import RequestError  # noqa: E402
from scorefusion.evaluation import cli, meter  # noqa: E402
from scorefusion.evaluation.benchmark import classical_methods, learned_methods, prepare, run_benchmark  # noqa: E402
from scorefusion.evaluation.benchmark_report import document  # noqa: E402
from scorefusion.evaluation.demo import run_demo  # noqa: E402
from scorefusion.evaluation.metrics import data_residual  # noqa: E402
from scorefusion.evaluation.models import Settings, sampling_plans  # noqa: E402
from scorefusion.evaluation.report import markdown  # noqa: E402
from scorefusion.evaluation.rows import choose, gains  # noqa: E402
from scorefusion.evaluation.simulate import CLASSICAL, Setting, simulate  # noqa: E402
from scorefusion.evaluation.suites import Suite, SuiteCase, named_suite, suite_of  # noqa: E402
from scorefusion.fusion.ensemble import PlaneEnsemble  # noqa: E402
from scorefusion.fusion.inputs import InputLayout  # noqa: E402
from scorefusion.fusion.members import Member  # noqa: E402
from scorefusion.fusion.planes import Plane  # noqa: E402
from scorefusion.fusion.rules import ScoreFusion, make_volume_network  # noqa: E402
from scorefusion.imaging.acquisition import Acquisition  # noqa: E402
from scorefusion.imaging.files import read_volume, write_volume  # noqa: E402
from scorefusion.imaging.volume import Volume  # noqa: E402
from scorefusion.networks.sizes import UNetConfig  # noqa: E402
from scorefusion.networks.unet import UNet  # noqa: E402
from scorefusion.pipeline import translate  # noqa: E402

SHAPE = (28, 33, 30)


def brain_like(seed: int = 0, orientation: str = "LAS") -> Volume:
    """A stripped, folded blob with fine detail on all axes, on permuted or flipped axes."""
    rng = np.random.default_rng(seed)
    axes = np.meshgrid(*(np.linspace(-1.15, 1.15, size) for size in SHAPE), indexing="ij")
    inside = sum(a**2 for a in axes) < 1
    data = 500 + 200 * np.sin(9 * axes[0]) * np.cos(8 * axes[1] + 5 * axes[2]) + 40 * rng.standard_normal(SHAPE)
    signs = [1 if letter in "RAS" else -1 for letter in orientation]
    affine = np.diag([1.0 * signs[0], 1.0 * signs[1], 1.25 * signs[2], 1.0])
    return Volume((data * inside)[None].astype(np.float32), affine, contrast="t1")


def head_like() -> Volume:
    """Brain, fluid, bone and scalp as shells; 2.5 mm voxels."""
    shape, rng = (76, 80, 78), np.random.default_rng(0)
    axes = np.meshgrid(*((np.arange(n) - (n - 1) / 2) * 2.5 for n in shape), indexing="ij")
    radius = np.sqrt(sum(a**2 for a in axes))
    data = np.zeros(shape)
    for outer, value in ((92, 160), (86, 12), (76, 18), (70, 75), (48, 115), (15, 25)):
        data[radius < outer] = value
    data += rng.normal(0, 3, shape)
    return Volume(np.clip(data, 0, None)[None].astype(np.float32), np.diag([2.5, 2.5, 2.5, 1.0]), contrast="t1")


@pytest.fixture
def datalist(tmp_path: Path) -> Path:
    for number, orientation in ((1, "LAS"), (2, "RPI")):
        write_volume(brain_like(number, orientation), tmp_path / f"S0{number}.nii.gz")
    cases = [
        {"subject": "S01", "target": "S01.nii.gz", "contrast": "t1", "skull_stripped": True},
        {"subject": "S02", "target": "S02.nii.gz", "skull_stripped": True, "apart": "made up"},
    ]
    path = tmp_path / "scans.json"
    path.write_text(json.dumps({"name": "blobs", "test": cases}))
    return path


@pytest.fixture
def random_bundle(tmp_path: Path, bundle_metadata: dict[str, Any]) -> Bundle:
    """Networks with random weights, small enough for a test, which really run."""
    torch.manual_seed(0)
    section = bundle_metadata["scorefusion"]
    layout = InputLayout(slab_radius=1, residual_gain=8.0, prediction="clean", plane_context=True)
    small = {"channels": (4, 8), "blocks": 1, "normalisation": "none", "embedding_size": 8}
    plane = UNet(
        UNetConfig(
            spatial_dims=2, in_channels=layout.plane_channels(1), out_channels=1,
            context_size=layout.plane_context_size, **small,
        )
    )  # fmt: skip
    ensemble = PlaneEnsemble([plane], [Member(0, p) for p in Plane], layout)
    config = UNetConfig(spatial_dims=3, in_channels=layout.volume_channels(1, 3), out_channels=3, **small)
    network, alignment = make_volume_network(config, ensemble, with_features=True)
    fusion = ScoreFusion(ensemble, network, alignment)
    for parameter in fusion.parameters():  # zero-initialised heads would hide what they are fed
        torch.nn.init.normal_(parameter, std=0.05)
    section["networks"]["planes"][0]["config"] = plane.config.to_dict()
    section["networks"]["fusion"]["config"] = config.to_dict()
    section["uncertainty"] = {"steps": 2, "samples": 3}
    states = {"models/plane.safetensors": plane.state_dict(), "models/fusion.safetensors": fusion_state(fusion)}
    return write_bundle(tmp_path / "models" / "tiny-sr", bundle_metadata, states, "# Tiny\n", "Apache-2.0\n")


def suite_in(datalist: Path) -> Suite:
    return suite_of(read_datalist(datalist))


class TestSettings:
    @pytest.mark.parametrize("name", ["iso4", "iso2", "thick5", "thick5@A", "thick3.5g@R", "inplane4", "iso3g"])
    def test_names_come_back(self, name: str) -> None:
        assert Setting.parse(name).name == name

    @pytest.mark.parametrize("name", ["iso", "iso2.5", "iso1", "thin5", "thick5@X", ""])
    def test_nonsense_is_refused_with_examples(self, name: str) -> None:
        with pytest.raises(RequestError):
            Setting.parse(name)

    def test_iso4_is_the_papers_average(self) -> None:
        volume = brain_like()
        scan = simulate(volume, Setting.parse("iso2"))
        expected = torch.nn.functional.avg_pool3d(torch.from_numpy(volume.data[:, :28, :32, :30])[None], 2)[0].numpy()
        assert np.allclose(scan.volume.data[:, :14, :16, :15], expected, atol=1e-2)

    def test_thick_slices_take_the_spacing_into_account(self) -> None:
        scan = simulate(brain_like().canonical()[0], Setting.parse("thick5"))
        assert scan.acquisition.factors == (1.0, 1.0, 4.0)  # 5 mm over 1.25 mm
        assert scan.volume.spacing == pytest.approx((1.0, 1.0, 5.0))
        assert (scan.volume.slice_thickness, scan.volume.slice_axis) == (5.0, 2)

    def test_slices_finer_than_the_truth_are_refused(self) -> None:
        with pytest.raises(RequestError, match="nothing would be coarser"):
            simulate(brain_like(), Setting.parse("thick1"))

    @pytest.mark.parametrize("name", ["iso4", "thick5", "thick3.3@A", "inplane2"])
    def test_the_scan_lies_where_the_truth_lies(self, name: str) -> None:
        truth = brain_like().canonical()[0]
        scan = simulate(truth, Setting.parse(name))
        again = Acquisition.between(truth.grid, scan.volume.grid, scan.volume.slice_thickness, scan.volume.slice_axis)
        x = torch.from_numpy(truth.data)[None]
        assert again.coarse_shape == scan.acquisition.coarse_shape
        assert torch.allclose(again.forward(x), scan.acquisition.forward(x), atol=0.1)


class TestClassical:
    @pytest.mark.parametrize("key", CLASSICAL)
    def test_constants_stay_and_projected_ones_agree_with_the_scan(self, key: str) -> None:
        acquisition = Acquisition.thick_slices((9, 12, 21), 2, 3.5)
        flat = torch.full((1, 1, *acquisition.coarse_shape), 7.0)
        _, restore = CLASSICAL[key]
        assert torch.allclose(restore(acquisition, flat), torch.tensor(7.0), atol=1e-4)
        measured = torch.rand(1, 1, *acquisition.coarse_shape, generator=torch.Generator().manual_seed(0))
        restored = restore(acquisition, measured)
        assert restored.shape[2:] == (9, 12, 21)
        if "+proj" in key:
            assert data_residual(acquisition, restored[0, 0], measured[0, 0]) < 1e-5


class TestDatalist:
    def test_paths_count_from_the_file(self, datalist: Path) -> None:
        suite = suite_in(datalist)
        assert [case.subject for case in suite.cases] == ["S01", "S02"]
        assert suite.cases[0].path == datalist.parent / "S01.nii.gz"
        assert len(suite.data_hash) == 12

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ("{", "not valid JSON"),
            ("{}", "no cases under 'test'"),
            ('{"test": [{"subject": "A"}]}', "'target' must name"),
            ('{"test": [{"target": "gone.nii.gz"}]}', r"gone\.nii\.gz does not exist"),
            ('{"test": [{"target": "S01.nii.gz", "colour": 1}]}', "unknown keys colour"),
            ('{"training": [{"subject": "S01"}], "test": [{"subject": "S01", "target": "S01.nii.gz"}]}', "one split"),
        ],
    )
    def test_mistakes_are_named(self, datalist: Path, content: str, message: str) -> None:
        datalist.write_text(content)
        with pytest.raises(RequestError, match=message):
            read_datalist(datalist, ["test"])

    def test_suites_hold_the_manifests_splits(self, data_folder: Path) -> None:
        for name in ("test", "val"):
            assert all(case.path.is_file() for case in named_suite(name, data_folder).cases)

    def test_an_unknown_suite_is_refused(self) -> None:
        with pytest.raises(RequestError, match="no suite 'tset'"):
            named_suite("tset")


class TestBenchmark:
    def test_every_method_on_every_subject_and_the_ones_apart_left_out_of_the_mean(self, datalist: Path) -> None:
        benchmark = run_benchmark(suite_in(datalist), [Setting.parse("iso2")], classical_methods())
        assert len(benchmark.rows) == 2 * len(CLASSICAL)
        text = markdown(document(benchmark))
        assert "blobs (split test, 2 volumes, SHA-256" in text
        assert "box average over 2 x 2 x 2 voxels" in text
        assert "S02*" in text
        line = next(line for line in text.splitlines() if line.startswith("| trilinear |"))
        _, _, first, _, mean, _ = (cell.strip() for cell in line.split("|"))
        assert mean == first  # S02 is apart

    def test_any_orientation_is_scored_in_ras_order(self, datalist: Path) -> None:
        for case in suite_in(datalist).cases:
            subject = prepare(case, Setting.parse("thick5"))
            assert subject.truth.orientation == "RAS"
            assert subject.scan.acquisition.factors == (1.0, 1.0, 4.0)

    def test_an_interpolated_truth_is_marked(self, tmp_path: Path) -> None:
        volume = Volume(np.random.default_rng(0).random((1, *SHAPE)), np.diag([1.0, 1.0, 1.25, 1.0]))
        acquisition = Acquisition.thick_slices(SHAPE, 2, 5)
        x = torch.from_numpy(volume.data)[None]
        smooth = acquisition.upsample(acquisition.forward(x + 100), "cubic")[0].numpy()
        write_volume(volume.with_data(smooth.astype(np.float32)), tmp_path / "thick.nii.gz")
        case = SuiteCase(Case("S03", {"image": tmp_path / "thick.nii.gz"}, skull_stripped=True), "image")
        assert prepare(case, Setting.parse("thick5")).doubtful_axes == "S"
        assert prepare(case, Setting.parse("inplane2")).doubtful_axes == ""


class TestLearned:
    def test_equal_plans_run_once(self, random_bundle: Bundle) -> None:
        assert list(sampling_plans(random_bundle)) == ["fast", "balanced"]  # "1" is "fast" under another name

    def test_rows_are_the_issues(self, random_bundle: Bundle) -> None:
        keys = [method.key for method in learned_methods([str(random_bundle.folder)], Settings(device="cpu"))]
        assert {"plane@fast", "average@fast", "average+proj@fast", "fusion+proj@fast"} <= set(keys)
        assert {"alternating+proj@balanced", "fusion+proj@balanced"} <= set(keys)
        assert "alternating+proj@fast" not in keys

    def test_projection_leaves_no_residual_and_passes_are_counted(self, random_bundle: Bundle, datalist: Path) -> None:
        methods = learned_methods([str(random_bundle.folder)], Settings(["fast", "uncertainty"], device="cpu"))
        rows = choose(methods, ["average+proj", "fusion+proj@fast", "fusion@fast"])
        suite = suite_in(datalist)
        benchmark = run_benchmark(Suite("one", "test", suite.cases[:1]), [Setting.parse("iso2")], rows)
        found = {row.method: row for row in benchmark.rows}
        assert found["fusion+proj@fast"]["data_residual"] < 1e-4
        assert found["fusion@fast"]["data_residual"] > 1e-3
        shape = benchmark.facts[0]["shape"]
        padded = [-(-size // 2) * 2 for size in shape]
        assert found["average+proj@fast"]["slice_passes"] == pytest.approx(sum(padded), abs=6)
        assert (found["average+proj@fast"]["volume_passes"], found["fusion+proj@fast"]["volume_passes"]) == (0, 1)
        assert found["average+proj@uncertainty"]["slice_passes"] == 6 * found["average+proj@fast"]["slice_passes"]
        assert 0.0 <= found["average+proj@uncertainty"]["coverage"] <= 1.0

    def test_what_is_scored_is_what_users_get(self, random_bundle: Bundle, datalist: Path) -> None:
        subject = prepare(suite_in(datalist).cases[0], Setting.parse("thick3.75"))
        method = choose(
            learned_methods([str(random_bundle.folder)], Settings(seed=3, device="cpu")), ["fusion+proj@balanced"]
        )[0]
        scored = method.make(subject).data.numpy()
        spacing = subject.truth.spacing
        given = translate(subject.scan.volume, random_bundle, preset="balanced", spacing=spacing, seed=3, device="cpu")
        assert given.volume.grid.is_close(subject.truth.grid)
        assert np.abs(given.volume.data[0] - scored).max() < 1e-3 * scored.max()

    def test_an_unknown_method_or_plan_is_named(self, random_bundle: Bundle) -> None:
        with pytest.raises(RequestError, match="no method 'magic'"):
            choose(classical_methods(), ["magic"])
        with pytest.raises(RequestError, match="no preset 'slow'"):
            sampling_plans(random_bundle, ["slow"])


class TestMeter:
    def test_peak_memory_sees_what_was_freed_again(self) -> None:
        with meter.Meter() as measured:
            block = np.ones(60 * 2**20, dtype=np.uint8)
            del block
        with meter.Meter() as idle:
            pass
        assert measured.cost.peak_bytes >= idle.cost.peak_bytes
        assert measured.cost.peak_bytes > 60 * 2**20


class TestCommand:
    def test_one_run_writes_tables_and_pictures(self, random_bundle: Bundle, datalist: Path, tmp_path: Path) -> None:
        pytest.importorskip("matplotlib")
        out = tmp_path / "results"
        arguments = [str(datalist), "--model", str(random_bundle.folder), "--setting", "thick5@A", "--subjects", "S01"]
        arguments += ["--methods", "cubic,cubic+ibp,fusion+proj", "--plans", "fast,uncertainty", "--out", str(out)]
        done = CliRunner().invoke(cli.app, [*arguments, "--device", "cpu"])
        assert done.exit_code == 0, done.output
        assert "over the best classical method" in done.output
        report = json.loads((out / "evaluation.json").read_text())
        assert random_bundle.hash[:12] in report["caption"]["model"]
        assert {"data", "code", "machine", "seed"} <= set(report["caption"])
        assert {gain["method"] for gain in report["gains"]} == {"fusion+proj@fast", "fusion+proj@uncertainty"}
        with (out / "evaluation.csv").open() as stream:
            rows = list(csv.DictReader(stream))
        assert len(rows) == 4
        assert float(rows[0]["psnr_brain"]) > 0
        assert "Uncertainty against the actual error" in (out / "evaluation.md").read_text()
        assert [path.name for path in out.glob("*.png")] == ["S01_t1_thick5-A.png"]

    def test_bad_requests_end_with_2_and_no_traceback(self, tmp_path: Path) -> None:
        done = CliRunner().invoke(cli.app, ["--out", str(tmp_path / "o")])
        assert done.exit_code == 2
        assert "either a datalist file or --suite" in done.output
        assert "Traceback" not in done.output
        assert not (tmp_path / "o").exists()


class TestDemo:
    def test_files_picture_and_table(self, random_bundle: Bundle, tmp_path: Path) -> None:
        pytest.importorskip("matplotlib")
        out = tmp_path / "demo"
        write_volume(head_like(), tmp_path / "head.nii.gz")
        benchmark, written = run_demo(
            out, model=str(random_bundle.folder), head=tmp_path / "head.nii.gz", device="cpu", setting="thick10"
        )
        assert all(path.is_file() for path in written)
        volumes = {path.name.partition("_")[0]: read_volume(path) for path in written if path.name.endswith(".nii.gz")}
        assert set(volumes) == {"coarse", "truth", "cubic", "restored", "uncertainty"}
        assert volumes["coarse"].spacing == pytest.approx((2.5, 2.5, 10.0))
        assert volumes["restored"].grid.is_close(volumes["truth"].grid)
        by = {row.method: row for row in benchmark.rows}
        assert by["fusion+proj@fast"]["data_residual"] < 1e-3  # what was measured is kept, through the files too
        assert 0.0 <= by["fusion+proj@uncertainty"]["coverage"] <= 1.0
        assert [path.suffix for path in written].count(".png") == 1


def test_gains_are_measured_from_the_best_classical_method_of_each_volume(
    random_bundle: Bundle, datalist: Path
) -> None:
    learned = learned_methods([str(random_bundle.folder)], Settings(device="cpu"))
    rows = [*classical_methods(), *choose(learned, ["average+proj@fast"])]
    benchmark = run_benchmark(suite_in(datalist), [Setting.parse("iso2")], rows)
    gain = gains(benchmark.rows, "psnr_brain")[0]
    by = {(row.subject, row.method): row["psnr_brain"] for row in benchmark.rows}
    for subject, name in (("S01", "S01 T1"), ("S02", "S02")):
        best = max(by[subject, key] for key in CLASSICAL)
        assert gain.per_subject[name] == pytest.approx(by[subject, "average+proj@fast"] - best)
    assert gain.mean == pytest.approx(gain.per_subject["S01 T1"])  # S02 is apart
