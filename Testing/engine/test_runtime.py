"""Devices, precision, memory, and the report that explains them."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scorefusion.errors import OutOfMemory, RequestError
from scorefusion.run.memory import available_memory, is_out_of_memory, plan_tile, total_memory
from scorefusion.wording import GIB, readable

torch = pytest.importorskip("torch")

from tiny_models import tiny_volume, write_tiny_bundle  # noqa: E402

from scorefusion.bundle.folder import Bundle  # noqa: E402
from scorefusion.bundle.install import import_bundle  # noqa: E402
from scorefusion.fusion.inputs import InputLayout  # noqa: E402
from scorefusion.networks.cost import gflop_per_megavoxel  # noqa: E402
from scorefusion.run import devices as runtime  # noqa: E402
from scorefusion.run.devices import cpu_count, inference_settings, pick_device, pick_precision  # noqa: E402
from scorefusion.run.estimate import expected_seconds  # noqa: E402
from scorefusion.run.installation import doctor  # noqa: E402
from scorefusion.training.run import make_fabric  # noqa: E402


@pytest.fixture
def without_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)


class TestPickDevice:
    @pytest.mark.usefixtures("without_gpu")
    def test_auto_without_a_gpu_is_the_cpu(self) -> None:
        assert pick_device("auto") == torch.device("cpu")

    @pytest.mark.usefixtures("without_gpu")
    @pytest.mark.parametrize("name", ["cuda", "cuda:0", "mps"])
    def test_a_named_device_is_never_replaced(self, name: str) -> None:
        with pytest.raises(RequestError, match=rf"{name}.*Use another device, or auto"):
            pick_device(name)

    @pytest.mark.parametrize("name", ["gpu", "", "cuda:", "cuda:x", "CPU", "cuda:-1"])
    def test_unknown_names_bring_the_known_ones(self, name: str) -> None:
        with pytest.raises(RequestError, match="Use auto, cpu, cuda"):
            pick_device(name)

    def test_a_gpu_number_that_is_not_there_lists_those_that_are(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda _index: "Some GPU")
        with pytest.raises(RequestError, match=r"cuda:3.*cuda:0 \(Some GPU\)"):
            pick_device("cuda:3")

    def test_a_gpu_that_fails_its_check_is_left_aside_aloud(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(runtime, "_is_present", lambda kind: kind == "cuda")
        monkeypatch.setattr(runtime, "device_problem", lambda name: f"Device {name!r} is too old.")
        said: list[tuple[str, str]] = []
        assert pick_device("auto", lambda code, message: said.append((code, message))) == torch.device("cpu")
        assert said == [("gpu-left-aside", "Device 'cuda' is too old. Using the CPU.")]

    def test_the_self_check_passes_on_the_cpu(self) -> None:
        assert runtime._self_check("cpu") is None

    def test_the_self_check_explains_a_failure(self) -> None:
        assert "cannot run a 3D convolution" in str(runtime._self_check("meta"))


class TestPickPrecision:
    @pytest.mark.parametrize(("native", "expected"), [(True, torch.bfloat16), (False, torch.float32)])
    def test_auto_on_the_cpu_is_what_the_cpu_knows(
        self, monkeypatch: pytest.MonkeyPatch, native: bool, expected: torch.dtype
    ) -> None:
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: native, raising=False)
        assert pick_precision("auto", torch.device("cpu")) == expected

    def test_named_precision_is_kept(self) -> None:
        assert pick_precision("bfloat16", torch.device("cpu")) == torch.bfloat16

    def test_float16_on_the_cpu_is_refused(self) -> None:
        with pytest.raises(RequestError, match="float16.*bfloat16"):
            pick_precision("float16", torch.device("cpu"))

    def test_unknown_precision_brings_the_known_ones(self) -> None:
        with pytest.raises(RequestError, match="half.*auto, float32"):
            pick_precision("half", torch.device("cpu"))


class TestInferenceSettings:
    def test_everything_is_put_back_even_after_an_error(self) -> None:
        cudnn = torch.backends.cudnn
        before = (torch.get_num_threads(), cudnn.allow_tf32, cudnn.benchmark, torch.is_inference_mode_enabled())

        def work() -> None:
            with inference_settings(threads=1, tf32=not cudnn.allow_tf32):
                assert torch.get_num_threads() == 1
                assert torch.is_inference_mode_enabled()
                torch.zeros(2) @ torch.zeros(3)

        with pytest.raises(RuntimeError):
            work()
        after = (torch.get_num_threads(), cudnn.allow_tf32, cudnn.benchmark, torch.is_inference_mode_enabled())
        assert after == before


class TestMemory:
    def test_free_is_positive_and_within_the_total(self) -> None:
        assert 0 < available_memory("cpu") <= total_memory("cpu")

    def test_a_containers_limit_counts(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        (tmp_path / "max").write_text("1000000\n")
        (tmp_path / "current").write_text("400000\n")
        monkeypatch.setattr(
            "scorefusion.run.memory._CGROUP_FILES", ((str(tmp_path / "max"), str(tmp_path / "current")),)
        )
        assert available_memory("cpu") == 600000
        assert total_memory("cpu") == 1000000

    def test_an_unlimited_container_is_no_limit(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        (tmp_path / "max").write_text("max\n")
        monkeypatch.setattr("scorefusion.run.memory._CGROUP_FILES", ((str(tmp_path / "max"), str(tmp_path / "max")),))
        assert available_memory("cpu") > 10**6

    def test_cores_are_at_least_one(self) -> None:
        assert cpu_count() >= 1

    @pytest.fixture
    def eight_cores(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        """A machine of eight cores, of which this process may use two, and torch as it starts there."""
        for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setattr(runtime, "visible_cores", lambda: 8)
        monkeypatch.setattr(runtime, "cpu_count", lambda: 2)
        before = torch.get_num_threads()
        torch.set_num_threads(8)
        yield
        torch.set_num_threads(before)

    @pytest.mark.usefixtures("eight_cores")
    def test_inference_takes_the_cores_that_a_container_grants(self) -> None:
        with inference_settings():
            assert torch.get_num_threads() == 2
        assert torch.get_num_threads() == 8

    @pytest.mark.usefixtures("eight_cores")
    def test_training_takes_them_too(self) -> None:
        make_fabric("cpu")
        assert torch.get_num_threads() == 2

    @pytest.mark.usefixtures("eight_cores")
    @pytest.mark.parametrize("name", ["OMP_NUM_THREADS", "MKL_NUM_THREADS"])
    def test_a_number_of_threads_in_the_environment_is_kept(self, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        monkeypatch.setenv(name, "8")
        with inference_settings():
            assert torch.get_num_threads() == 8

    @pytest.mark.usefixtures("eight_cores")
    @pytest.mark.parametrize("threads", [1, 3, 6])
    def test_a_number_of_threads_that_the_user_gave_torch_is_kept(self, threads: int) -> None:
        torch.set_num_threads(threads)
        with inference_settings():
            assert torch.get_num_threads() == threads

    @pytest.mark.parametrize(("size", "words"), [(3 * GIB, "3.0 GiB"), (5 * 1024**2, "5 MiB")])
    def test_sizes_in_words(self, size: int, words: str) -> None:
        assert readable(size) == words

    @pytest.mark.parametrize(
        ("error", "expected"),
        [
            (MemoryError(), True),
            (torch.cuda.OutOfMemoryError("CUDA out of memory"), True),
            (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried ..."), True),
            (RuntimeError("shapes do not match"), False),
            (ValueError("out of memory"), False),
        ],
    )
    def test_failed_allocations_are_recognised(self, error: BaseException, expected: bool) -> None:
        assert is_out_of_memory(error) is expected


class TestPlanTile:
    def test_a_volume_that_fits_is_not_cut(self) -> None:
        assert plan_tile((100, 120, 90), bytes_per_voxel=100, available=GIB) is None

    def test_the_longest_edge_is_cut_first(self) -> None:
        tile = plan_tile((64, 200, 64), bytes_per_voxel=1000, available=700_000_000, share=1.0)
        assert tile == (64, 104, 64)

    def test_an_impossible_request_names_need_and_budget(self) -> None:
        with pytest.raises(OutOfMemory, match=r"200 x 200 x 200 voxels needs about .* and 80 MiB can be used.*Close"):
            plan_tile((200, 200, 200), bytes_per_voxel=10_000, available=100 * 1024**2)

    @given(
        shape=st.tuples(*[st.integers(1, 400)] * 3),
        bytes_per_voxel=st.integers(1, 5000),
        available=st.integers(10**6, 10**10),
        overlap=st.integers(0, 16),
    )
    def test_tiles_always_fit(
        self, shape: tuple[int, int, int], bytes_per_voxel: int, available: int, overlap: int
    ) -> None:
        try:
            tile = plan_tile(shape, bytes_per_voxel, available, overlap=overlap)
        except OutOfMemory:
            return
        edges = shape if tile is None else [min(t + 2 * overlap, s) for t, s in zip(tile, shape, strict=True)]
        assert math.prod(edges) * bytes_per_voxel <= 0.8 * available
        if tile is not None:
            assert all(t == s or t % 8 == 0 for t, s in zip(tile, shape, strict=True))


class TestDoctor:
    @pytest.fixture(autouse=True)
    def _home(self, models_home: Path) -> None:
        """The user's own models stay out of it."""

    def test_report_is_json_and_names_the_chosen_device(self) -> None:
        report = json.loads(json.dumps(doctor(measure=False)))
        assert [device["name"] for device in report["devices"] if device["chosen"]]
        assert report["packages"]["torch"]["version"] == torch.__version__
        assert report["model_folders"][-1]["writable"]

    def test_speed_is_measured_within_seconds(self) -> None:
        device = next(device for device in doctor()["devices"] if device["chosen"])
        assert device["conv_gflops"] > 0

    def test_expected_time_scales_with_voxels_and_speed(self) -> None:
        assert expected_seconds(1000.0, [1.0, 1.0, 1.0], 100.0) == 71.0
        assert expected_seconds(1000.0, [0.5, 1.0, 1.0], 100.0) == 140.0
        assert expected_seconds(1000.0, [1.0, 1.0, 1.0], 200.0) == 36.0

    def test_work_is_counted_from_the_networks(self, bundle_metadata: dict) -> None:
        work = gflop_per_megavoxel(bundle_metadata["scorefusion"])
        assert work["balanced"] == pytest.approx(4 * work["fast"], rel=1e-3)
        alone = {**bundle_metadata["scorefusion"]["networks"], "fusion": None}
        without_fusion = gflop_per_megavoxel({**bundle_metadata["scorefusion"], "networks": alone})
        assert 0 < without_fusion["fast"] < work["fast"]

    def test_work_of_a_3d_network_alone_is_counted(self, bundle_metadata: dict) -> None:
        section = bundle_metadata["scorefusion"]
        planes = {**section["networks"], "fusion": None}
        config = {**section["networks"]["fusion"]["config"], "context_size": 0}
        alone = {"volume": {"file": "models/volume.safetensors", "kind": "diffusion", "config": config}}
        fused, average, volume = (
            gflop_per_megavoxel({**section, "networks": networks})["balanced"]
            for networks in (section["networks"], planes, alone)
        )
        assert 0 < volume == pytest.approx(fused - average, rel=1e-3)

    def test_expected_times_are_told_for_a_3d_network_alone(self, tmp_path: Path, models_home: Path) -> None:
        rule = tiny_volume(InputLayout(slab_radius=0, prediction="clean"), "regression")
        import_bundle(write_tiny_bundle(tmp_path / "unet3d", rule).folder)
        model = next(model for model in doctor()["models"] if model["id"] == "unet3d")
        assert model["problem"] is None
        assert model["presets"]["fast"]["seconds"] > 0

    def test_expected_times_are_told_for_each_preset(self, tiny_bundle: Bundle) -> None:
        import_bundle(tiny_bundle.folder)
        model = next(model for model in doctor()["models"] if model["id"] == "tiny-sr")
        assert model["presets"]["fast"]["seconds"] > 0

    def test_an_unwritable_home_brings_advice(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        monkeypatch.setenv("SCOREFUSION_HOME", str(tmp_path / "file"))
        problems = doctor(measure=False)["problems"]
        assert any("SCOREFUSION_HOME" in problem["do"] for problem in problems)

    def test_works_without_torch_and_says_what_to_install(self, repository: Path) -> None:
        code = (
            "import sys; sys.modules['torch'] = None\n"
            "import importlib.metadata as m; real = m.version\n"
            "def version(name):\n"
            "    if name == 'torch': raise m.PackageNotFoundError(name)\n"
            "    return real(name)\n"
            "m.version = version\n"
            f"sys.path.insert(0, {str(repository / 'ScoreFusion')!r})\n"
            "from scorefusion.run.installation import doctor; print(doctor()['problems'][0]['do'])"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "pip install torch"
