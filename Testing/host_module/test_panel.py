"""The panel: what it shows, when Apply may be pressed, what is saved with the scene."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from models_on_disk import SHARPENING, write_model
from module_host import MODULE, add_volume, thick_head

slicer = pytest.importorskip("slicer")


def choose_model(widget: Any, model_id: str) -> None:
    widget.ui.modelSelector.setCurrentIndex(widget.panel.models.ids().index(model_id))


def choose_input(widget: Any, name: str, node: Any) -> None:
    widget.panel.conditions.selectors[name].setCurrentNode(node)


class ImportWatch:
    """Notes every attempt to import a package, and lets it pass."""

    def __init__(self, package: str) -> None:
        self.seen: list[str] = []
        self._package = package

    def find_spec(self, name: str, _path: Any = None, _target: Any = None) -> None:
        if name.split(".")[0] == self._package:
            self.seen.append(name)


class TestOpening:
    def test_it_takes_less_than_300_ms_of_work_and_imports_no_torch(
        self, host: Any, fake_worker: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # Processor time, since this machine may be busy with other things; the first opening also teaches PySide6 what
        # PythonQt knows, which is the host's business, so the best of three openings counts, each with fresh imports.
        watch = ImportWatch("torch")
        monkeypatch.setattr(sys, "meta_path", [watch, *sys.meta_path])
        monkeypatch.delitem(sys.modules, "torch", raising=False)  # another test may have imported it
        seconds = []
        for _attempt in range(3):
            module = host.load_module(MODULE)
            started = time.process_time()
            host.open(module)
            seconds.append(time.process_time() - started)
            host.unload(module)
        assert not watch.seen
        assert min(seconds) < 0.3, f"opening took {[round(s, 3) for s in seconds]} s"

    def test_loading_the_module_imports_no_third_party_package(self) -> None:
        code = "import ast, sys; tree = ast.parse(open(sys.argv[1]).read());" + (
            "print(*sorted({(n.module if isinstance(n, ast.ImportFrom) else n.names[0].name).split('.')[0]"
            " for n in tree.body if isinstance(n, (ast.Import, ast.ImportFrom))}))"
        )
        found = subprocess.run([sys.executable, "-c", code, str(MODULE)], capture_output=True, text=True, check=True)
        assert set(found.stdout.split()) <= {"ScoreFusionLib", "slicer", "sys", "typing", "vtk"}

    def test_the_door_is_thin(self) -> None:
        assert len(MODULE.read_text(encoding="utf-8").splitlines()) < 250

    def test_research_use_is_visible(self, widget: Any) -> None:
        assert widget.ui.researchLabel.visible
        assert "Research use only" in widget.ui.researchLabel.text

    @pytest.mark.parametrize("width", [300, 420])
    def test_nothing_sticks_out_at(self, width: int, host: Any, widget: Any) -> None:
        thick_head()
        widget.ui.advancedSection.collapsed = False
        host.grab(widget, width=width)
        content = widget.ui.ScoreFusion
        assert content.minimumSizeHint.width() <= width
        assert content.width <= width

    @pytest.mark.parametrize("scale", [1.0, 1.5], ids=["usual font", "high-DPI font"])
    @pytest.mark.parametrize("model", ["brain-sr", "brain-t1-t2-to-flair"])
    def test_no_text_is_cut_in_320_pixels(self, model: str, scale: float, host: Any, fake_worker: Any) -> None:
        from text_fit import cut_texts, usual_font_times

        with usual_font_times(scale):
            thick_head()
            widget = host.open(host.load_module(MODULE), width=320)
            widget.panel.devices.close()  # no answer while we measure, but the longest one
            widget.panel.devices._remember({(model, "fast"): 700.0})
            choose_model(widget, model)
            for name in ("understoodSection", "advancedSection", "resultSection", "logSection"):
                getattr(widget.ui, name).collapsed = False
            for title in ("Uncertainty over result", "What changed", "Error over result", "Result over input"):
                widget.ui.overlaySelector.addItem(title)
            for _settling in range(2):  # heights follow widths a round later
                host.grab(widget, width=320)
            assert not cut_texts(widget.ui.ScoreFusion)
            widget.ui.applyButton.setText("Cancel a run that has a very long name indeed")  # the measure does measure
            assert len(cut_texts(widget.ui.ScoreFusion)) == 1

    def test_the_log_is_closed(self, widget: Any) -> None:
        assert widget.ui.logSection.collapsed


class TestShortTest:
    def test_reload_and_test_passes_where_another_module_has_imported_torch(
        self, host: Any, fake_worker: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "torch", ModuleType("torch"))
        host.load_module(MODULE)
        slicer.selfTests["ScoreFusion"]()


class TestApplyButton:
    def test_it_is_off_without_an_input_and_says_why(self, widget: Any) -> None:
        choose_model(widget, "test-sr")
        assert not widget.ui.applyButton.enabled
        assert widget.ui.applyButton.toolTip == "Choose a volume for 'Image'."

    def test_it_is_on_when_the_first_volume_of_the_scene_fits(self, host: Any, fake_worker: Any) -> None:
        node = thick_head()
        widget = host.open(host.load_module(MODULE))
        assert widget.ui.applyButton.enabled
        assert next(iter(widget.panel.conditions.selectors.values())).currentNode() is node

    @pytest.mark.parametrize(
        ("arrange", "reason"),
        [
            ("empty", "holds no voxels"),
            ("output is input", "is an input; choose another volume"),
            ("no preset", "This model has no preset 'best'"),
        ],
    )
    def test_it_is_off_when(self, arrange: str, reason: str, widget: Any) -> None:
        choose_model(widget, "test-sr")
        node = thick_head()
        choose_input(widget, "image", node)
        assert widget.ui.applyButton.enabled
        if arrange == "empty":
            choose_input(widget, "image", slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "empty"))
        elif arrange == "output is input":
            widget.ui.outputSelector.setCurrentNode(node)
        else:
            widget.ui.presetSelector.setCurrentIndex(2)
        assert not widget.ui.applyButton.enabled
        assert reason in widget.ui.applyButton.toolTip

    def test_it_is_off_without_any_model(
        self, host: Any, fake_worker: Any, models_folder: Path, monkeypatch: Any, tmp_path: Path
    ) -> None:
        from scorefusion.bundle import store

        monkeypatch.setattr(store, "shipped_folders", lambda: [])
        monkeypatch.setattr(store, "user_models_folder", lambda: tmp_path / "none")
        widget = host.open(host.load_module(MODULE))
        assert "There is no model" in widget.ui.applyButton.toolTip


class TestInputs:
    def test_there_is_a_selector_for_each_input_that_the_model_cannot_do_without(self, widget: Any) -> None:
        choose_model(widget, "test-flair")
        assert list(widget.panel.conditions.selectors) == ["t1"]
        assert [label.text for label in widget.panel.conditions._labels] == ["T1:"]
        choose_model(widget, "test-sr")
        assert list(widget.panel.conditions.selectors) == ["image"]

    def test_each_contrast_finds_its_own_volume(self, host: Any, fake_worker: Any) -> None:
        thick_head("patient T2 tse")
        t1 = thick_head("patient MPRAGE")
        widget = host.open(host.load_module(MODULE))
        choose_model(widget, "test-flair")
        assert widget.panel.conditions.selectors["t1"].currentNode() is t1

    def test_what_was_understood_is_shown_and_can_be_corrected(self, widget: Any) -> None:
        choose_model(widget, "test-sr")
        choose_input(widget, "image", thick_head())
        text = widget.ui.gridValue.text
        assert "24 x 30 x 8 voxels of 1.00 x 1.00 x 4.00 mm" in text
        assert "bottom-top, 4.0 times coarser" in text
        assert "T1" in text
        widget.ui.axisSelector.setCurrentIndex(2)
        assert widget._parameterNode.thickAxis.name == "BACK_FRONT"

    def test_choices_are_saved_with_the_scene(self, host: Any, widget: Any, tmp_path: Path) -> None:
        choose_model(widget, "test-flair")
        choose_input(widget, "t1", thick_head())
        widget.ui.seedSpinBox.setValue(11)
        widget.ui.presetSelector.setCurrentIndex(1)
        path = tmp_path / "scene.mrml"
        slicer.mrmlScene.SetURL(str(path))
        slicer.mrmlScene.Commit(str(path))
        host.close_scene()
        slicer.mrmlScene.SetURL(str(path))
        slicer.mrmlScene.Connect()
        widget.initializeParameterNode()
        assert widget._parameterNode.model == "test-flair"
        assert widget.panel.conditions.selectors["t1"].currentNode().GetName() == "MRHead T1"
        assert widget.ui.seedSpinBox.value == 11
        assert widget._parameterNode.preset.value == "balanced"

    def test_a_result_is_not_suggested_as_input(self, host: Any, fake_worker: Any) -> None:
        thick_head("result T1").SetAttribute("ScoreFusion.Synthetic", "true")
        node = thick_head("other")
        widget = host.open(host.load_module(MODULE))
        choose_model(widget, "test-sr")
        assert widget.panel.conditions.selectors["image"].currentNode() is node


class TestWarnings:
    @pytest.mark.parametrize(
        ("name", "spacing", "low", "expected"),
        [
            ("head", (1.0, 1.0, 1.0), 0, "already as fine"),
            ("head", (1.0, 1.0, 9.0), 0, "9.0 times too thick"),
            ("head", (3.0, 3.0, 6.0), 0, "3.00 mm; the model was trained on 0.7 to 1.3 mm"),
            ("head PD", (1.0, 1.0, 4.0), 0, "seems to be PD"),
            ("cranium", (1.0, 1.0, 4.0), -1000, "looks like a CT"),
        ],
    )
    def test_the_panel_warns(
        self, name: str, spacing: tuple[float, float, float], low: int, expected: str, widget: Any
    ) -> None:
        choose_model(widget, "test-sr")
        rng = np.random.default_rng(0)
        voxels = rng.integers(low, low + 900, (8, 30, 24)).astype(np.int16)
        choose_input(widget, "image", add_volume(name, voxels, np.diag([*spacing, 1.0])))
        assert widget.ui.warningsLabel.visible
        assert expected in widget.ui.warningsLabel.text
        assert widget.ui.applyButton.enabled  # advice only

    @pytest.mark.parametrize(("spacing", "warned"), [(4.2, False), (5.0, True)])
    def test_a_whole_head_is_told_from_a_brain(self, spacing: float, warned: bool, widget: Any) -> None:
        """2.0 litres of tissue on a dark background, and 3.4."""
        choose_model(widget, "test-flair")
        voxels = np.zeros((40, 40, 40), np.int16)
        voxels[5:35, 5:35, 5:35] = np.random.default_rng(0).integers(100, 900, (30, 30, 30))
        choose_input(widget, "t1", add_volume("head T1", voxels, np.diag([spacing] * 3 + [1.0])))
        assert ("is a whole head (3.4 litres)" in widget.ui.warningsLabel.text) is warned

    def test_little_memory_is_told(self, widget: Any) -> None:
        from ScoreFusionLib.logic.devices import Device

        choose_model(widget, "test-sr")
        choose_input(widget, "image", thick_head())
        widget.panel.devices._show([Device("auto", "Automatic"), Device("cuda:0", "GPU", memory=8 << 30, free=1 << 30)])
        widget.panel.refresh()
        assert "Only 1.0 GB of memory are free" in widget.ui.warningsLabel.text

    def test_a_fitting_volume_gives_no_warning(self, widget: Any) -> None:
        choose_model(widget, "test-sr")
        choose_input(widget, "image", thick_head())
        assert not widget.ui.warningsLabel.visible


class TestModels:
    def test_the_summary_names_domain_and_licence(self, widget: Any) -> None:
        choose_model(widget, "test-sr")
        text = widget.ui.modelSummary.text
        assert "Makes 1 mm volumes from thick slices." in text
        assert "human brain; MR" in text
        assert "Apache-2.0" in text

    def test_a_zip_is_imported_and_chosen(self, widget: Any, tmp_path: Path, monkeypatch: Any) -> None:
        import shutil

        folder = write_model(tmp_path / "new" / "new-model", {**SHARPENING, "title": "New model"})
        archive = shutil.make_archive(str(tmp_path / "new-model"), "zip", folder.parent)
        monkeypatch.setattr("qt.QFileDialog.getOpenFileName", lambda *_args: archive)
        widget.panel.models.import_zip()
        assert widget._parameterNode.model == "new-model"
        assert widget.ui.modelSelector.currentText == "New model"

    def test_a_zip_that_wants_out_of_its_folder_is_refused(
        self, host: Any, widget: Any, tmp_path: Path, models_folder: Path, monkeypatch: Any
    ) -> None:
        import zipfile

        archive = tmp_path / "evil.zip"
        with zipfile.ZipFile(archive, "w") as file:
            file.writestr("configs/metadata.json", "{}")
            file.writestr("../outside.txt", "x")
        shown: list[str] = []
        monkeypatch.setattr("slicer.util.errorDisplay", lambda text, **_options: shown.append(text))
        monkeypatch.setattr("qt.QFileDialog.getOpenFileName", lambda *_args: str(archive))
        before = widget.panel.models.ids()
        widget.panel.models.import_zip()
        assert shown
        assert widget.panel.models.ids() == before
        assert not (models_folder.parent / "outside.txt").exists()

    def test_a_model_of_the_user_can_be_removed(self, widget: Any, models_folder: Path, monkeypatch: Any) -> None:
        monkeypatch.setattr("slicer.util.confirmOkCancelDisplay", lambda *_args, **_options: True)
        choose_model(widget, "test-flair")
        widget.panel.models.remove_current()
        assert "test-flair" not in widget.panel.models.ids()
        assert not (models_folder / "test-flair").exists()

    def test_the_card_is_shown(self, widget: Any) -> None:
        choose_model(widget, "test-sr")
        widget.panel.models.show_card()
        assert "A model card." in widget.panel.models._card.toPlainText()

    def test_the_devices_come_from_the_worker(self, host: Any, fake_worker: Any, monkeypatch: Any) -> None:
        from ScoreFusionLib.logic import devices

        report = (
            '{"models": [{"id": "test-flair", "presets": {"fast": {"seconds": 48}}}],'
            ' "devices": [{"name": "cpu", "description": "8 cores", "memory_total": 17179869184,'
            ' "memory_free": 8589934592, "problem": null, "chosen": false}, {"name": "cuda:0", "description": "RTX",'
            ' "memory_total": 25769803776, "memory_free": 2147483648, "problem": null, "chosen": true}]}'
        )
        monkeypatch.setattr(
            devices.engine, "engine_command", lambda *_a, **_k: [sys.executable, "-c", f"print('''{report}''')"]
        )
        widget = host.open(host.load_module(MODULE))
        host.wait_until(lambda: widget.ui.deviceSelector.count == 3, timeout=20)
        assert widget.ui.deviceSelector.itemText(0) == "Automatic: cuda:0 (2.0 of 24.0 GB free)"
        assert widget.ui.deviceSelector.itemText(1) == "cuda:0 - RTX (2.0 of 24.0 GB free)"
        choose_model(widget, "test-flair")
        assert "About 48 s for a whole head on this computer." in widget.ui.presetNote.text
        widget.ui.deviceSelector.setCurrentIndex(2)
        assert widget._parameterNode.device == "cpu"


class TestScans:
    """Looking at all voxels takes tenths of a second in a large head: once for a volume, not at each click."""

    @pytest.fixture
    def scans(self, widget: Any, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        from ScoreFusionLib.logic import advice

        real, seen = advice.voxels_from_node, []
        monkeypatch.setattr(advice, "voxels_from_node", lambda node: (seen.append(node.GetName()), real(node))[1])
        return seen

    @pytest.mark.parametrize("model", ["test-sr", "test-flair"])
    def test_a_change_of_a_parameter_scans_nothing_again(self, model: str, widget: Any, scans: list[str]) -> None:
        choose_model(widget, model)
        choose_input(widget, next(iter(widget.panel.conditions.selectors)), thick_head("head"))
        first = len(scans)
        assert first > 0
        for seed in range(5):
            widget.ui.seedSpinBox.setValue(10 + seed)
            widget.ui.presetSelector.setCurrentIndex(seed % 2)
        assert len(scans) == first

    def test_other_voxels_are_scanned_again(self, widget: Any, scans: list[str]) -> None:
        choose_model(widget, "test-sr")
        node = thick_head("head")
        choose_input(widget, "image", node)
        first = len(scans)
        assert "CT" not in widget.ui.warningsLabel.text
        voxels = slicer.util.arrayFromVolume(node)
        voxels -= 1000
        slicer.util.arrayFromVolumeModified(node)
        widget.panel.refresh()
        assert len(scans) == first + 1
        assert "looks like a CT" in widget.ui.warningsLabel.text

    def test_going_back_to_a_volume_scans_nothing(self, widget: Any, scans: list[str]) -> None:
        choose_model(widget, "test-sr")
        one, other = thick_head("one"), thick_head("other")
        for node in (one, other, one, other):
            choose_input(widget, "image", node)
        assert scans.count("one") == scans.count("other") == 1
