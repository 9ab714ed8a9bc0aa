"""The GPU benchmark must be right before anyone has a card: on the CPU, small, and without the file libraries."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"
ABSENT = ["nibabel", "SimpleITK", "monai", "lightning", "typer", "rich", "diffusers", "skimage", "scipy"]

needs_bash = pytest.mark.skipif(shutil.which("bash") is None, reason="gpu.sh needs bash")


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gpu_benchmark", FOLDER / "gpu_benchmark.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["gpu_benchmark"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def run_script(*arguments: str, hidden: Path | None = None) -> subprocess.CompletedProcess:
    """gpu.sh as on a bare machine: no installed package, and none of the libraries stubbed out in `hidden`."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}
    if hidden is not None:
        environment["PYTHONPATH"] = str(hidden)
    return subprocess.run(
        ["bash", str(FOLDER / "gpu.sh"), *arguments], env=environment, capture_output=True, text=True, check=False
    )


@needs_bash
class TestTheScript:
    @pytest.fixture
    def bare_machine(self, tmp_path: Path) -> Path:
        folder = tmp_path / "absent"
        folder.mkdir()
        for name in ABSENT:
            (folder / f"{name}.py").write_text(f"raise ModuleNotFoundError('{name} is not on the GPU machine')\n")
        return folder

    def test_it_prints_tables_and_a_json_line_from_a_clean_checkout(self, bare_machine: Path, tmp_path: Path) -> None:
        report_file = tmp_path / "report.json"
        options = ["--device", "cpu", "--config", "compact", "--shape", "16", "24", "20", "--steps", "1", "2"]
        run = run_script(*options, "--repeats", "2", "--no-tests", "--json", str(report_file), hidden=bare_machine)
        assert run.returncode == 0, run.stderr
        *table, line = run.stdout.splitlines()
        for heading in ("## Numeric checks", "## Convolution rate of the device", "## Time"):
            assert heading in table
        assert any(row.startswith("| one evaluation |") for row in table)

        report = json.loads(line)
        assert report == json.loads(report_file.read_text())
        assert report["passed"] is True
        assert report["spatial_shape"] == [16, 24, 20]
        assert report["tests"] is None
        stages = {row["stage"]: row for row in report["timings"]}
        assert list(stages)[2:] == ["one evaluation", "one volume, 1 step", "one volume, 2 steps"]
        whole = stages["one evaluation"]
        halves = [stages["plane networks"], stages["fusion network"]]
        assert whole["tflop"] == pytest.approx(sum(row["tflop"] for row in halves))
        assert stages["one volume, 2 steps"]["tflop"] == pytest.approx(2 * whole["tflop"])
        for row in stages.values():
            assert row["fastest"] <= row["seconds"] <= row["slowest"]
            assert row["share_of_rate"] == pytest.approx(row["tflop"] / row["seconds"] / report["rate_tflops"])

    @pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
    def test_a_missing_gpu_is_an_error_and_never_replaced(self) -> None:
        run = run_script("--no-tests")
        assert run.returncode == 2
        assert run.stdout == ""
        assert "'cuda'" in run.stderr


class TestTheNumbers:
    def test_paper_networks_need_the_published_work_per_voxel(self, benchmark: ModuleType) -> None:
        """The published code's own networks take 52.9 (planes) and 17.8 (fusion) TMAC for 192 x 192 x 152 voxels."""
        with torch.device("meta"):
            rule = benchmark.build_rule("paper")
            inputs = benchmark.ModelInputs(torch.zeros(1, 1, 16, 24, 8))
            with benchmark.count_operations(rule) as tflop, torch.inference_mode():
                rule(torch.zeros(1, 1, 16, 24, 8), inputs, torch.zeros(1))
        scale = math.prod(benchmark.PAPER_SHAPE) / math.prod((16, 24, 8)) / 2  # to the paper's volume, multiply-adds
        assert tflop["planes"] * scale == pytest.approx(52.9, rel=0.01)
        assert tflop["fusion"] * scale == pytest.approx(17.8, rel=0.01)

    def test_the_count_is_two_operations_a_multiply_add(self, benchmark: ModuleType) -> None:
        rule = benchmark.build_rule("compact")
        layer = torch.nn.Conv3d(3, 5, 3, padding=1)
        rule.network = torch.nn.Sequential(layer)
        with benchmark.count_operations(rule) as tflop:
            rule.network(torch.zeros(2, 3, 4, 6, 7))
        assert tflop == {"planes": 0.0, "fusion": pytest.approx(2 * 2 * 4 * 6 * 7 * 3 * 5 * 27 / 1e12)}

    def test_weights_are_seeded_and_reach_the_result(self, benchmark: ModuleType) -> None:
        """A fresh network returns zero, which any device gets right."""
        condition = benchmark.load_condition(None, (8, 12, 10))
        first, second = (
            benchmark.restore_volume(benchmark.build_rule("compact").requires_grad_(False), condition, steps=2)[0]
            for _ in range(2)
        )
        assert first.std() > 0.01
        assert torch.equal(first, second)

    def test_a_difference_or_nan_fails_the_check(self, benchmark: ModuleType) -> None:
        assert benchmark.Check("small", 1e-5, 1e-3).passed
        assert not benchmark.Check("large", 1e-2, 1e-3).passed
        assert not benchmark.Check("lost", math.nan, 1e-3).passed

    def test_the_phantom_fills_the_range_and_has_a_background(self, benchmark: ModuleType) -> None:
        condition = benchmark.load_condition(None, (16, 24, 20))
        assert condition.shape == (1, 1, 16, 24, 20)
        assert condition.min() == -1
        assert condition.max() <= 1
        assert 0.2 < (condition > -0.99).float().mean() < 0.8

    def test_a_volume_can_come_along_as_safetensors(self, benchmark: ModuleType, tmp_path: Path) -> None:
        from safetensors.torch import save_file

        volume = torch.rand(6, 7, 8)
        save_file({"condition": volume}, tmp_path / "case.safetensors")
        loaded = benchmark.load_condition(tmp_path / "case.safetensors", (1, 1, 1))
        assert torch.equal(loaded, volume[None, None])


class TestEngineTests:
    def test_those_that_take_a_device_are_found(self, benchmark: ModuleType) -> None:
        names = {file.name for file in benchmark.device_tests()}
        assert {"test_sampler.py", "test_schedule.py"} <= names
        assert Path(__file__).name not in names  # it would start itself

    def test_a_failure_is_seen(
        self, benchmark: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
    ) -> None:
        failing = tmp_path / "test_failing.py"
        failing.write_text(
            "import os\n\ndef test_device():\n    assert os.environ['SCOREFUSION' '_TEST_DEVICE'] == 'gpu'\n"
        )
        monkeypatch.setattr(benchmark, "device_tests", lambda: [failing])
        result = benchmark.run_tests(torch.device("cpu"))
        assert result["exit_status"] == 1
        assert "1 failed" in result["summary"]
        assert "assert 'cpu' == 'gpu'" in capsys.readouterr().err
