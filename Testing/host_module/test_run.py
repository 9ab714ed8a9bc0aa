"""Runs by clicking: to the result, cancelled, killed, without torch, with the scene closed underneath."""

from __future__ import annotations

import html
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from module_host import MODULE, thick_head

from ScoreFusionLib.logic.compare import INPUT_VIEW, LAYOUT_ID, RESULT_VIEW

slicer = pytest.importorskip("slicer")

SECONDS = 60.0  # a busy machine may take that long to start a Python


def prepare(widget: Any, node: Any) -> None:
    widget.ui.modelSelector.setCurrentIndex(widget.panel.models.ids().index("test-sr"))
    widget.panel.conditions.selectors["image"].setCurrentNode(node)


def run_to_end(host: Any, widget: Any) -> Any:
    widget.ui.applyButton.click()
    host.wait_until(lambda: not widget.panel.run.is_busy, timeout=SECONDS)
    return widget.panel.run.job.result


def worker_of(widget: Any) -> int:
    """Process id of the worker itself; `job._worker.pid` is that of PythonSlicer, its launcher."""
    return int(next(line for line in widget.panel.run.job.log if line.startswith("fake worker, ")).split()[-1])


def wait_for(host: Any, widget: Any, state: str) -> None:
    host.wait_until(lambda: widget.panel.run.job.state.value == state, timeout=SECONDS)


class TestClickThrough:
    @pytest.fixture
    def finished(self, host: Any, widget: Any) -> Any:
        prepare(widget, thick_head())
        widget.ui.uncertaintyCheckBox.setChecked(True)
        assert run_to_end(host, widget) is not None
        return widget

    def test_result_and_uncertainty_are_in_the_scene(self, finished: Any) -> None:
        names = {node.GetName() for node in slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")}
        result = "MRHead T1 - synthetic high resolution"
        assert names == {"MRHead T1", result, f"{result} - uncertainty"}

    def test_the_button_is_apply_again_and_the_bar_is_gone(self, finished: Any) -> None:
        assert finished.ui.applyButton.text == "Apply"
        assert finished.ui.applyButton.enabled
        assert not finished.ui.progressBar.visible

    def test_the_quality_box_holds_the_figures(self, finished: Any) -> None:
        text = finished.ui.qualityLabel.text
        assert "Largest difference to the measured voxels" in text
        assert "Uncertainty in the head" in text
        assert not finished.ui.resultSection.collapsed

    def test_the_warning_of_the_engine_is_in_the_panel(self, finished: Any) -> None:
        shown = html.unescape(finished.ui.warningsLabel.text)
        assert "'MRHead T1' went through the fake worker (MRHead T1)." in shown  # the engine said the file's path

    def test_warnings_of_a_run_are_not_shown_beside_another_input(self, host: Any, finished: Any) -> None:
        assert "went through the fake worker" in finished.ui.warningsLabel.text
        finished.panel.conditions.selectors["image"].setCurrentNode(thick_head("other"))
        assert "went through the fake worker" not in finished.ui.warningsLabel.text

    def test_input_and_result_are_compared_in_linked_views(self, finished: Any) -> None:
        manager = slicer.app.layoutManager()
        assert manager.layout == LAYOUT_ID
        left, right = (
            manager.sliceWidget(tag).sliceLogic().GetSliceCompositeNode() for tag in (INPUT_VIEW, RESULT_VIEW)
        )
        assert slicer.mrmlScene.GetNodeByID(left.GetBackgroundVolumeID()).GetName() == "MRHead T1"
        assert "synthetic" in slicer.mrmlScene.GetNodeByID(right.GetForegroundVolumeID()).GetName()
        assert left.GetLinkedControl()
        assert right.GetLinkedControl()
        # Axial slices are thick, so they are looked at from the front.
        assert manager.sliceWidget(RESULT_VIEW).sliceLogic().GetSliceNode().GetOrientation() == "Coronal"

    def test_the_slider_fades(self, finished: Any) -> None:
        composite = slicer.app.layoutManager().sliceWidget(RESULT_VIEW).sliceLogic().GetSliceCompositeNode()
        finished.ui.fadeSlider.setValue(30)
        assert composite.GetForegroundOpacity() == pytest.approx(0.3)

    def test_the_uncertainty_can_be_laid_over_the_result(self, finished: Any) -> None:
        finished.ui.overlaySelector.setCurrentIndex(1)
        composite = slicer.app.layoutManager().sliceWidget(RESULT_VIEW).sliceLogic().GetSliceCompositeNode()
        assert slicer.mrmlScene.GetNodeByID(composite.GetForegroundVolumeID()).GetName().endswith("uncertainty")
        assert composite.GetForegroundOpacity() == pytest.approx(0.6)

    def test_leaving_the_comparison_gives_the_layout_back(self, finished: Any) -> None:
        finished.ui.compareButton.setChecked(False)
        assert slicer.app.layoutManager().layout != LAYOUT_ID

    @pytest.mark.parametrize("size", [(400, 900), (1800, 400)])
    def test_both_volumes_fill_their_views(self, size: tuple[int, int], host: Any, widget: Any) -> None:
        """The views get their size after the layout was chosen: a fit before that shows a part, or a stamp."""
        host.set_view_size(*size)
        prepare(widget, thick_head())
        assert run_to_end(host, widget) is not None
        host.process_events()
        for tag in (INPUT_VIEW, RESULT_VIEW):
            logic = slicer.app.layoutManager().sliceWidget(tag).sliceLogic()
            shown = logic.GetSliceNode().GetFieldOfView()
            logic.FitSliceToAll()
            assert shown == pytest.approx(logic.GetSliceNode().GetFieldOfView()), tag

    def test_the_button_follows_the_layout_that_the_user_picks(self, host: Any, finished: Any) -> None:
        manager = slicer.app.layoutManager()
        manager.setLayout(slicer.vtkMRMLLayoutNode.SlicerLayoutOneUpRedSliceView)
        host.process_events()
        assert not finished.ui.compareButton.checked
        assert not finished.ui.fadeContainer.enabled
        finished.ui.compareButton.click()  # one click, not two
        assert manager.layout == LAYOUT_ID
        finished.ui.compareButton.click()
        assert manager.layout == slicer.vtkMRMLLayoutNode.SlicerLayoutOneUpRedSliceView

    def test_deleting_the_result_ends_the_comparison(self, host: Any, finished: Any) -> None:
        slicer.mrmlScene.RemoveNode(finished.panel.run.job.result.node)
        host.process_events()
        assert slicer.app.layoutManager().layout != LAYOUT_ID
        assert not finished.ui.compareButton.checked
        assert not finished.ui.compareButton.enabled

    def test_deleting_a_map_leaves_the_comparison_of_the_volumes(self, host: Any, finished: Any) -> None:
        finished.ui.overlaySelector.setCurrentIndex(1)
        slicer.mrmlScene.RemoveNode(finished.panel.run.job.result.uncertainty)
        host.process_events()
        assert [finished.ui.overlaySelector.itemText(i) for i in range(finished.ui.overlaySelector.count)] == [
            "Result over input"
        ]
        composite = slicer.app.layoutManager().sliceWidget(RESULT_VIEW).sliceLogic().GetSliceCompositeNode()
        assert "synthetic" in slicer.mrmlScene.GetNodeByID(composite.GetForegroundVolumeID()).GetName()
        assert finished.ui.compareButton.checked

    def test_closing_the_scene_takes_the_result_from_the_panel(self, host: Any, finished: Any) -> None:
        host.close_scene()
        assert finished.ui.qualityLabel.text == "No result yet."
        assert not finished.ui.compareButton.enabled
        assert slicer.app.layoutManager().layout != LAYOUT_ID

    def test_a_second_run_into_the_same_volume_replaces_it(self, host: Any, finished: Any) -> None:
        node = finished.panel.run.job.result.node
        finished.ui.outputSelector.setCurrentNode(node)
        assert run_to_end(host, finished).node is node


class TestSavedScene:
    def test_a_scene_saved_while_comparing_opens_with_its_views(
        self, models_folder: Path, fake_worker: Any, tmp_path: Path
    ) -> None:
        from slicer_host import Host

        scene = str(tmp_path / "comparing.mrb")
        with Host() as host:
            widget = host.open(host.load_module(MODULE))
            prepare(widget, thick_head())
            assert run_to_end(host, widget) is not None
            assert slicer.app.layoutManager().layout == LAYOUT_ID
            assert slicer.util.saveScene(scene, {})
        with Host() as host:  # another day; nobody has opened the module yet
            host.load_module(MODULE)
            slicer.util.loadScene(scene, {})
            host.process_events()
            manager = slicer.app.layoutManager()
            assert [node.GetLayoutName() for node in manager.visible_view_nodes()] == [INPUT_VIEW, RESULT_VIEW]
            composite = manager.sliceWidget(RESULT_VIEW).sliceLogic().GetSliceCompositeNode()
            assert "synthetic" in slicer.mrmlScene.GetNodeByID(composite.GetForegroundVolumeID()).GetName()


class TestCancel:
    def test_apply_becomes_cancel_and_cancel_leaves_the_scene_as_it_was(
        self, host: Any, widget: Any, fake_worker: Any
    ) -> None:
        fake_worker("slow")
        prepare(widget, thick_head())
        before = {node.GetID() for node in slicer.util.getNodesByClass("vtkMRMLVolumeNode")}
        widget.ui.applyButton.click()
        wait_for(host, widget, "running")
        assert widget.ui.applyButton.text == "Cancel"
        assert widget.ui.progressBar.visible
        assert "left" in widget.ui.statusLabel.text
        started = time.monotonic()
        widget.ui.applyButton.click()
        assert not widget.ui.applyButton.enabled
        host.wait_until(lambda: not widget.panel.run.is_busy, timeout=SECONDS)
        assert time.monotonic() - started < 3.0
        assert widget.ui.applyButton.text == "Apply"
        assert widget.ui.applyButton.enabled
        assert {node.GetID() for node in slicer.util.getNodesByClass("vtkMRMLVolumeNode")} == before

    def test_closing_the_scene_ends_the_run(self, host: Any, widget: Any, fake_worker: Any) -> None:
        fake_worker("slow")
        prepare(widget, thick_head())
        widget.ui.applyButton.click()
        wait_for(host, widget, "running")
        host.close_scene()
        assert not widget.panel.run.is_busy
        assert not widget.ui.applyButton.enabled
        assert not widget.ui.progressBar.visible

    def test_unloading_the_module_ends_the_worker(self, host: Any, fake_worker: Any) -> None:
        fake_worker("slow")
        module = host.load_module(MODULE)
        widget = host.open(module)
        prepare(widget, thick_head())
        widget.ui.applyButton.click()
        wait_for(host, widget, "running")
        pids = [widget.panel.run.job._worker.pid, worker_of(widget)]
        host.unload(module)
        time.sleep(0.2)
        for pid in pids:
            assert not Path(f"/proc/{pid}/cmdline").exists() or not Path(f"/proc/{pid}/cmdline").read_bytes()

    def test_a_run_goes_on_while_another_module_is_open(self, host: Any, widget: Any, fake_worker: Any) -> None:
        prepare(widget, thick_head())
        widget.ui.applyButton.click()
        host.leave()
        host.wait_until(lambda: not widget.panel.run.is_busy, timeout=SECONDS)
        assert widget.panel.run.job.result is not None
        assert slicer.app.layoutManager().layout != LAYOUT_ID  # the user is busy elsewhere
        widget.enter()
        assert "made in" in widget.ui.qualityLabel.text


class TestFailure:
    @pytest.mark.skipif(os.name == "nt", reason="signals are POSIX")
    def test_a_killed_worker_is_explained_and_the_log_can_be_copied(
        self, host: Any, widget: Any, fake_worker: Any
    ) -> None:
        import qt

        fake_worker("slow")
        prepare(widget, thick_head())
        widget.ui.applyButton.click()
        wait_for(host, widget, "running")
        os.kill(worker_of(widget), signal.SIGKILL)
        host.wait_until(lambda: not widget.panel.run.is_busy, timeout=SECONDS)
        assert "The worker was killed from outside" in widget.ui.warningsLabel.text
        assert not widget.ui.logSection.collapsed
        widget.ui.copyLogButton.click()
        copied = qt.QApplication.clipboard().text()
        assert "fake worker" in copied
        assert "The worker was killed" in copied
        assert widget.ui.applyButton.enabled  # ready for another try

    @pytest.mark.skipif(os.name == "nt", reason="signals are POSIX")
    def test_a_crash_is_told_from_a_kill(self, host: Any, widget: Any, fake_worker: Any) -> None:
        fake_worker("crash")
        prepare(widget, thick_head())
        widget.ui.applyButton.click()
        host.wait_until(lambda: not widget.panel.run.is_busy, timeout=SECONDS)
        assert "The worker crashed (Segmentation fault)" in widget.ui.warningsLabel.text
        assert "last words" in widget.ui.logText.plainText

    def test_the_message_of_the_engine_is_shown_as_it_is(self, host: Any, widget: Any, fake_worker: Any) -> None:
        fake_worker("error")
        prepare(widget, thick_head())
        widget.ui.applyButton.click()
        host.wait_until(lambda: not widget.panel.run.is_busy, timeout=SECONDS)
        assert "is constant: every voxel is 0" in widget.ui.warningsLabel.text.replace("&#x27;", "'")

    @pytest.mark.parametrize("change", ["input", "model"])
    def test_a_failure_is_not_shown_beside_another_input_or_model(
        self, change: str, host: Any, widget: Any, fake_worker: Any
    ) -> None:
        fake_worker("error")
        prepare(widget, thick_head())
        widget.ui.applyButton.click()
        host.wait_until(lambda: not widget.panel.run.is_busy, timeout=SECONDS)
        assert "is constant" in widget.ui.warningsLabel.text
        widget.ui.seedSpinBox.setValue(5)
        assert "is constant" in widget.ui.warningsLabel.text  # the same question still
        if change == "input":
            widget.panel.conditions.selectors["image"].setCurrentNode(thick_head("other"))
        else:
            widget.ui.modelSelector.setCurrentIndex(widget.panel.models.ids().index("test-flair"))
        assert "is constant" not in widget.ui.warningsLabel.text

    def test_the_log_can_be_saved(
        self, host: Any, widget: Any, fake_worker: Any, tmp_path: Path, monkeypatch: Any
    ) -> None:
        fake_worker("crash")
        prepare(widget, thick_head())
        widget.ui.applyButton.click()
        host.wait_until(lambda: not widget.panel.run.is_busy, timeout=SECONDS)
        monkeypatch.setattr("qt.QFileDialog.getSaveFileName", lambda *_args: str(tmp_path / "log.txt"))
        widget.ui.saveLogButton.click()
        assert "last words" in (tmp_path / "log.txt").read_text()


class TestConsole:
    def test_translate_returns_the_node_while_the_event_loop_lives(self, host: Any, widget: Any) -> None:
        import qt

        ticks: list[int] = []
        timer = qt.QTimer()
        timer.setInterval(20)
        timer.connect("timeout()", lambda: ticks.append(1))
        timer.start()
        node = widget.logic.translate(thick_head(), model="test-sr", seed=3)
        timer.stop()
        assert node.GetName() == "MRHead T1 - synthetic high resolution"
        assert node.GetAttribute("ScoreFusion.Seed") == "3"
        assert len(ticks) > 5

    def test_errors_are_raised_with_the_way_out(self, host: Any, widget: Any, fake_worker: Any) -> None:
        from ScoreFusionLib.logic.errors import RunError

        with pytest.raises(RunError, match="test-flair"):
            widget.logic.translate(thick_head(), model="test-flaire")
        with pytest.raises(RunError, match="Unknown setting 'sed'"):
            widget.logic.translate(thick_head(), model="test-sr", sed=3)
        with pytest.raises(RunError, match="has no input 't3'. Its inputs: t1, t2"):
            widget.logic.translate({"t3": thick_head()}, model="test-flair")
