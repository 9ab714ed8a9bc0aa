"""Rows of the table: which rules a model brings, which are shown on request, and what a 3D network alone adds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_models import tiny_ensemble, tiny_fusion, tiny_volume, write_tiny_bundle

from scorefusion.bundle.folder import Bundle
from scorefusion.bundle.load import load_model
from scorefusion.datasets.case import Case
from scorefusion.errors import OutOfMemory, RequestError
from scorefusion.evaluation.benchmark import Subject, classical_methods, learned_methods, prepare
from scorefusion.evaluation.meter import Meter
from scorefusion.evaluation.metrics import data_residual
from scorefusion.evaluation.models import Settings, restoring_rows, sampling_plans
from scorefusion.evaluation.rows import Method, choose
from scorefusion.evaluation.simulate import Setting
from scorefusion.evaluation.suites import SuiteCase
from scorefusion.fusion.inputs import InputLayout
from scorefusion.fusion.rules import PlaneAverage
from scorefusion.imaging.files import write_volume
from scorefusion.imaging.volume import Volume
from scorefusion.progress import Reporter
from scorefusion.run import pieces

INPUTS = InputLayout(slab_radius=1, plane_context=True, residual_gain=4.0, prediction="clean")


@pytest.fixture
def fused(tmp_path: Path) -> Bundle:
    return write_tiny_bundle(tmp_path / "fused", tiny_fusion(tiny_ensemble(INPUTS, shared=False)))


def _alone(folder: Path, kind: Any) -> Bundle:
    return write_tiny_bundle(folder / kind, tiny_volume(InputLayout(slab_radius=0, prediction="clean"), kind))


def _methods(bundle: Bundle, *plans: str) -> list[Method]:
    return learned_methods([str(bundle.folder)], Settings(plans or None, device="cpu"))


def _subject(folder: Path) -> Subject:
    rng = np.random.default_rng(1)
    volume = Volume(rng.random((1, 26, 29, 28), dtype=np.float32) * 300 + 20, np.diag([1.0, 1.0, 1.0, 1.0]))
    write_volume(volume, folder / "S01.nii.gz")
    case = Case("S01", {"t1": folder / "S01.nii.gz"}, skull_stripped=True)
    return prepare(SuiteCase(case, "t1"), Setting.parse("thick4"))


def _keys(bundle: Bundle, wanted: list[str]) -> list[str]:
    return [method.key for method in choose(_methods(bundle, "fast"), wanted)]


class TestRows:
    def test_ablations_are_shown_on_request_only(self, fused: Bundle) -> None:
        usual = _keys(fused, [])
        assert usual == [
            f"{key}@fast" for key in ("plane", "plane+proj", "average", "average+proj", "fusion", "fusion+proj")
        ]
        assert _keys(fused, ["model"]) == usual
        wanted = ["plane:axial", "average:coronal+sagittal+proj", "fusion-scores@fast", "average:axial+sagittal"]
        asked = _keys(fused, wanted)
        assert sorted(asked) == sorted(f"{key.split('@')[0]}@fast" for key in wanted)

    def test_every_plane_and_every_pair_can_be_asked_for(self, fused: Bundle) -> None:
        rows = {row.key: row for row in restoring_rows(load_model(fused)) if row.on_request}
        planes = [f"plane:{name}" for name in ("axial", "coronal", "sagittal")]
        pairs = ["average:axial+coronal", "average:axial+sagittal", "average:coronal+sagittal"]
        assert set(rows) == {key + end for key in ("fusion-scores", *planes, *pairs) for end in ("", "+proj")}
        assert rows["fusion-scores"].label == "fusion, features off, same weights"
        assert rows["average:coronal+sagittal+proj"].label == "average of coronal and sagittal + projection"

    def test_a_model_brings_only_what_it_has(self, tmp_path: Path) -> None:
        average = write_tiny_bundle(tmp_path / "average", PlaneAverage(tiny_ensemble(INPUTS)))
        assert not any("fusion" in row.key for row in restoring_rows(load_model(average)))
        scores = write_tiny_bundle(tmp_path / "scores", tiny_fusion(tiny_ensemble(INPUTS), features=False))
        assert not any("fusion-scores" in row.key for row in restoring_rows(load_model(scores)))

    def test_costly_plans_run_with_the_main_rules_only(self, fused: Bundle, tmp_path: Path) -> None:
        methods = choose(_methods(fused, "20"), [])
        assert [method.key for method in methods] == ["average+proj@20", "fusion+proj@20"]
        methods = _methods(_alone(tmp_path, "diffusion"), "20")
        assert [method.key for method in methods] == ["volume+proj@20"]

    def test_an_unknown_row_brings_the_known_ones(self, fused: Bundle) -> None:
        with pytest.raises(RequestError, match=r"no method 'plane:oblique'.*plane:axial\+proj@fast"):
            _keys(fused, ["plane:oblique"])


class TestVolumeAlone:
    @pytest.mark.parametrize(
        ("kind", "keys", "label"),
        [
            ("regression", ["regression", "regression+proj"], "3D U-Net regression"),
            ("diffusion", ["volume", "volume+proj"], "3D diffusion alone"),
        ],
    )
    def test_two_rows(self, tmp_path: Path, kind: str, keys: list[str], label: str) -> None:
        methods = _methods(_alone(tmp_path, kind), "fast")
        assert [method.key for method in methods] == [f"{key}@fast" for key in keys]
        assert [method.label for method in methods] == [
            f"{label} (fast: 1 step)",
            f"{label} + projection (fast: 1 step)",
        ]

    @pytest.mark.parametrize("asked", [None, ["fast", "balanced", "uncertainty"], ["7"]])
    def test_a_regression_has_one_plan_whatever_is_asked(self, tmp_path: Path, asked: list[str] | None) -> None:
        plans = sampling_plans(_alone(tmp_path, "regression"), asked)
        assert list(plans) == ["fast"]
        assert (plans["fast"].steps, plans["fast"].samples) == (1, 1)

    @pytest.mark.parametrize("kind", ["regression", "diffusion"])
    def test_restores_and_is_counted_as_one_volume_pass(self, tmp_path: Path, kind: str) -> None:
        subject = _subject(tmp_path)
        plain, projected = _methods(_alone(tmp_path, kind), "fast")
        with Meter(projected.modules) as meter:
            restored = projected.make(subject)
        assert (meter.cost.slice_passes, meter.cost.volume_passes) == (0, 1)
        assert restored.data.shape == subject.shape
        measured = subject.measured[0, 0]
        residuals = [
            data_residual(subject.scan.acquisition, method.make(subject).data, measured)
            for method in (plain, projected)
        ]
        assert residuals[1] < 0.01 < residuals[0]  # of 300

    def test_stands_beside_the_classical_methods(self, tmp_path: Path) -> None:
        rows = [*classical_methods(), *_methods(_alone(tmp_path, "regression"))]
        assert [method.key for method in choose(rows, ["cubic", "regression+proj"])] == [
            "cubic",
            "regression+proj@fast",
        ]


class TestMemory:
    def test_tables_are_made_in_tiles_where_memory_is_short_and_say_so(
        self, fused: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The same choice as for users: with little memory the 3D network sees tiles, and the run reports it."""
        subject, seen = _subject(tmp_path), []

        def little_memory(*_: Any, overlap: int, **__: Any) -> tuple[int, int, int]:
            if overlap > 20:  # with all that counts around it, a tile of this small head would be the whole
                msg = "none fits"
                raise OutOfMemory(msg)
            return 8, 8, 8

        heard = Reporter()
        how = Settings(["fast"], device="cpu")
        (method,) = (m for m in learned_methods([str(fused.folder)], how, heard) if m.key == "fusion+proj@fast")
        network = method.modules[-1]
        network.register_forward_pre_hook(lambda _, inputs: seen.append(tuple(inputs[0].shape[2:])))
        whole = method.make(subject).data
        assert len(seen) == 1
        assert min(seen[0]) >= min(subject.shape)  # padded to what the network halves
        assert heard.warnings == []
        monkeypatch.setattr(pieces, "plan_tile", little_memory)
        seen.clear()
        assert method.make(subject).data.shape == whole.shape
        assert len(seen) > 8
        assert [warning["code"] for warning in heard.warnings] == ["tiles"]

    def test_a_full_device_is_told_in_words(
        self, fused: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        subject = _subject(tmp_path)
        (method,) = (m for m in _methods(fused, "fast") if m.key == "fusion+proj@fast")

        def full(*_: Any) -> None:
            raise MemoryError

        method.modules[-1].register_forward_pre_hook(full)
        with pytest.raises(OutOfMemory, match="cpu ran out of memory, in smaller pieces, too. Close other programs"):
            method.make(subject)
