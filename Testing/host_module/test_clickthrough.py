"""The whole way by clicking, on the head of the tutorial, with the real engine; also makes the published pictures.

With SCOREFUSION_SCREENSHOTS=1 the pictures go to Resources/Screenshots, else to a temporary folder.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from loop_probe import LoopProbe
from module_host import MODULE, ROOT, SCREENSHOTS, thick_head
from test_exam_rows import choose, into_study, rows, sharp_head

slicer = pytest.importorskip("slicer")

HEAD = ROOT / "Resources" / "SampleData" / "ColinHead_T1_4mm.nii.gz"
SECONDS = 1500.0  # a head on a busy two-core machine


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    return SCREENSHOTS if os.environ.get("SCOREFUSION_SCREENSHOTS") else tmp_path / "pictures"


def load_head() -> Any:
    node = slicer.util.loadVolume(str(HEAD), {"name": "ThickSliceHead T1"})
    assert node is not None
    return node


def load_part_of_head(folder: Path) -> Any:
    """The middle of the tutorial's head: minutes less, and as real."""
    import nibabel

    path = folder / "part.nii.gz"
    nibabel.load(HEAD).slicer[42:138, 60:156, 12:34].to_filename(path)
    return slicer.util.loadVolume(str(path), {"name": "ThickSliceHead T1"})


def finish(host: Any, widget: Any) -> Any:
    host.wait_until(lambda: not widget.panel.run.is_busy, timeout=SECONDS)
    job = widget.panel.run.job
    assert job.error is None, f"{job.error}\n{job.error.details if job.error else ''}"
    return job.result


def write_exam_bundle(folder: Path) -> None:
    """A model of a few weights that sharpens FLAIR beside an optional T1w."""
    from tiny_models import tiny_ensemble, tiny_fusion, write_tiny_bundle

    from scorefusion.fusion.inputs import InputLayout

    layout = InputLayout(1, False, True, True, True, 2, 4.0, "clean")
    rule = tiny_fusion(tiny_ensemble(layout, groups=[(0, 1)], std=0.08), conditions=2, std=0.08)
    conditions = [
        {"name": "image", "contrasts": ["flair", "t2"], "optional": False},
        {"name": "t1", "contrasts": ["t1"], "optional": True},
    ]
    write_tiny_bundle(folder, rule, ["image", "t1"], conditions=conditions)


class TestLoop:
    def test_the_window_is_never_blocked_for_100_ms(self, host: Any, widget: Any) -> None:
        # With the fake worker: what is measured is our side, from the click to the views, on a volume of a head's size.
        widget.ui.modelSelector.setCurrentIndex(widget.panel.models.ids().index("test-sr"))
        widget.panel.conditions.selectors["image"].setCurrentNode(load_head())
        widget.ui.uncertaintyCheckBox.setChecked(True)
        host.process_events(0.5)
        pauses = []
        for _ in range(3):  # another test on the same core makes a pause, too, but hardly three times
            probe = LoopProbe()
            host.process_events(0.2)
            widget.ui.applyButton.click()
            result = finish(host, widget)
            host.process_events(0.2)
            probe.stop()
            assert slicer.util.arrayFromVolume(result.node).shape == (180, 217, 181)
            pauses.append((probe.busy, probe.wall))
            print(f"longest pause: {1000 * probe.busy:.0f} ms of work, {1000 * probe.wall:.0f} ms on the clock")  # noqa: T201
            if max(pauses[-1]) < 0.1:
                break
        assert min(busy for busy, _ in pauses) < 0.1
        is_quiet = os.getloadavg()[0] < (os.cpu_count() or 1)
        assert min(wall for _, wall in pauses) < 0.1 or not is_quiet


class TestTinyModel:
    """The real engine with a network of a few weights: the two sides understand each other."""

    def test_a_click_runs_the_engine(self, host: Any, tiny_bundle: Any, models_folder: Path) -> None:
        shutil.copytree(tiny_bundle.folder, models_folder / tiny_bundle.id, dirs_exist_ok=True)
        node = thick_head()
        widget = host.open(host.load_module(MODULE))
        widget.ui.modelSelector.setCurrentIndex(widget.panel.models.ids().index(tiny_bundle.id))
        widget.panel.conditions.selectors[tiny_bundle.section["conditions"][0]["name"]].setCurrentNode(node)
        widget.ui.uncertaintyCheckBox.setChecked(True)
        assert widget.ui.applyButton.enabled, widget.ui.applyButton.toolTip
        widget.ui.applyButton.click()
        result = finish(host, widget)
        assert slicer.util.arrayFromVolume(result.node).shape == (32, 30, 24)
        assert result.uncertainty is not None
        assert result.node.GetAttribute("ScoreFusion.ModelId") == tiny_bundle.id
        assert "Largest difference to the measured voxels" in widget.ui.qualityLabel.text
        assert not list(Path(slicer.app.temporaryPath).glob("ScoreFusion-*"))

    def test_a_click_with_a_guide_and_what_it_changed(self, host: Any, models_folder: Path) -> None:
        write_exam_bundle(models_folder / "tiny-exam")
        base, guide = thick_head("AX FLAIR"), sharp_head("MPRAGE")
        into_study(base, guide)
        widget = host.open(host.load_module(MODULE))
        choose(widget, "tiny-exam", base)
        assert rows(widget) == [("MPRAGE", "T1w")]
        widget.ui.registerCheckBox.setChecked(False)  # noise has no place
        widget.ui.applyButton.click()
        guided = finish(host, widget)
        record = json.loads(guided.node.GetAttribute("ScoreFusion.Provenance"))
        assert [(entry["Input"], entry["Registered"]) for entry in record["Registration"]] == [("t1", False)]
        widget.ui.guidesButton.click()
        host.wait_until(lambda: not widget.panel.run.is_busy, timeout=SECONDS)
        assert widget.panel.run.job.error is None, widget.panel.run.job.error
        assert widget.ui.overlaySelector.currentText == "What the guides changed"

    def test_cancel_reaches_the_engine(self, host: Any, tiny_bundle: Any, models_folder: Path) -> None:
        shutil.copytree(tiny_bundle.folder, models_folder / tiny_bundle.id, dirs_exist_ok=True)
        widget = host.open(host.load_module(MODULE))
        job = widget.logic.start(thick_head(), model=tiny_bundle.id, steps=90, samples=60)
        host.wait_until(lambda: job.state.value == "running" or not job.state.is_busy, timeout=120)
        assert job.state.is_busy, job.error
        started = time.monotonic()
        job.cancel()
        host.wait_until(lambda: not job.state.is_busy, timeout=20)
        assert time.monotonic() - started < 3.0
        assert job.result is None
        assert job.error is None


@pytest.mark.slow
@pytest.mark.timeout(1800)
class TestRealEngine:
    @pytest.fixture
    def shipped(self, host: Any, models_folder: Path) -> str:
        """Id of the model that comes with the extension, or of the bundle that SCOREFUSION_TEST_MODEL names."""
        from ScoreFusionLib.logic.models import list_models

        other = os.environ.get("SCOREFUSION_TEST_MODEL")
        if other:
            shutil.copytree(other, models_folder / Path(other).name)
            return Path(other).name
        found = [listed.id for listed in list_models() if listed.info is not None and listed.info.is_shipped]
        if not found:
            pytest.skip("no model in Resources/Models")
        return "brain-sr" if "brain-sr" in found else found[0]

    @pytest.mark.timeout(1200)  # a whole head on one core: 3 to 15 minutes
    def test_from_loading_to_comparing(self, host: Any, shipped: str, pictures: Path, tmp_path: Path) -> None:
        node = load_head() if pictures == SCREENSHOTS else load_part_of_head(tmp_path)
        widget = host.open(host.load_module(MODULE), width=420)
        widget.ui.modelSelector.setCurrentIndex(widget.panel.models.ids().index(shipped))
        widget.panel.conditions.selectors[widget.panel.models.model.conditions[0].name].setCurrentNode(node)
        host.wait_until(lambda: widget.ui.deviceSelector.itemText(0) != "Automatic", timeout=120)
        host.grab(widget, pictures / "panel.png", width=420)
        host.grab(widget, pictures / "panel-300.png", width=300)

        widget.ui.uncertaintyCheckBox.setChecked(True)
        widget.ui.samplesSpinBox.setValue(2)  # enough for a picture, bearable without a GPU
        widget.ui.stepsSpinBox.setValue(1)
        widget.ui.applyButton.click()
        host.wait_until(
            lambda: widget.panel.run.job.state.value == "running" or not widget.panel.run.is_busy, timeout=600
        )
        host.process_events(3.0)
        host.grab(widget, pictures / "running.png", width=420)
        result = finish(host, widget)
        host.process_events(0.3)
        host.grab(widget, pictures / "result.png", width=420)
        host.set_view_size(1200, 640)
        host.grab_layout(pictures / "compare.png")
        widget.ui.overlaySelector.setCurrentIndex(1)
        host.grab_layout(pictures / "uncertainty.png")
        host.set_dark(True)
        host.grab(widget, pictures / "panel-dark.png", width=420)
        host.set_dark(False)

        measured = slicer.util.arrayFromVolume(node).astype(float)
        slices, rows, columns = measured.shape
        assert slicer.util.arrayFromVolume(result.node).shape == (4 * slices, rows, columns)
        assert slicer.util.arrayFromVolume(result.uncertainty).min() >= 0
        record = json.loads(result.node.GetAttribute("ScoreFusion.Provenance"))
        assert record["Model"]["Id"] == shipped
        assert record["Slicer"]["Inputs"]["image"] == "ThickSliceHead T1"
        # What the scanner measured is still there: four slices of the result average to one of the input.
        averaged = slicer.util.arrayFromVolume(result.node).reshape(slices, 4, rows, columns).mean(1)
        assert abs(averaged - measured).max() < 0.02 * measured.max()

    def test_a_reference_gives_figures_and_an_error_map(self, host: Any, shipped: str, data_folder: Path) -> None:
        import numpy as np
        from module_host import add_volume

        whole = slicer.util.loadVolume(str(data_folder / "t1" / "pycortex_S1.nii.gz"), {"name": "S1 T1"})
        affine = slicer.util.arrayFromVTKMatrix(matrix_of(whole))
        voxels = slicer.util.arrayFromVolume(whole)
        # A small box of the head, made thick along its last axis by averaging fours.
        k, j, i = (n // 2 - 32 for n in voxels.shape)
        box = voxels[k : k + 64, j : j + 64, i : i + 64].astype(np.float32)
        corner = affine.copy()
        corner[:3, 3] = (affine @ [i, j, k, 1.0])[:3]
        truth = add_volume("truth T1", box, corner)
        thick = corner.copy()
        thick[:3, 2] *= 4
        thick[:3, 3] += 1.5 * corner[:3, 2]
        coarse = add_volume("thick T1", box.reshape(16, 4, 64, 64).mean(1), thick)
        module = host.load_module(MODULE)
        widget = host.open(module)
        job = widget.logic.start(coarse, model=shipped, reference=truth, device="cpu")
        job.wait()
        figures = job.result.quality["reference"]
        assert figures["psnr"] > 15
        assert 0 < figures["ssim"] <= 1
        assert job.result.error_map is not None
        error = slicer.util.arrayFromVolume(job.result.error_map)
        assert error.shape == box.shape
        assert error.min() >= 0


def matrix_of(node: Any) -> Any:
    import vtk

    matrix = vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(matrix)
    return matrix
