"""The scans of an exam in the panel: filled by themselves, edited, saved, run, and what of the result is theirs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from module_host import MODULE, add_volume, thick_head

slicer = pytest.importorskip("slicer")

SECONDS = 60.0


def sharp_head(name: str) -> Any:
    voxels = np.random.default_rng(1).integers(0, 900, (32, 30, 24)).astype(np.int16)
    return add_volume(name, voxels, np.diag([1.0, 1.0, 1.0, 1.0]))


def into_study(*nodes: Any, patient: str = "Ann") -> None:
    """Put volumes under one visit of a patient."""
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    subject = hierarchy.CreateSubjectItem(hierarchy.GetSceneItemID(), patient)
    study = hierarchy.CreateStudyItem(subject, "May")
    for node in nodes:
        item = hierarchy.GetItemByDataNode(node) or hierarchy.CreateItem(study, node)
        hierarchy.SetItemParent(item, study)


def choose(widget: Any, model: str, node: Any) -> None:
    widget.ui.modelSelector.setCurrentIndex(widget.panel.models.ids().index(model))
    next(iter(widget.panel.conditions.selectors.values())).setCurrentNode(node)


def rows(widget: Any) -> list[tuple[str, str]]:
    """Name and role as the panel shows them."""
    shown = [(row.volume.currentNode(), row.role.currentText) for row in widget.panel.exam.rows]
    return [(node.GetName() if node is not None else "", role) for node, role in shown]


def set_volume(host: Any, widget: Any, index: int, node: Any) -> None:
    widget.panel.exam.rows[index].volume.setCurrentNode(node)
    host.process_events()


def set_role(widget: Any, index: int, text: str) -> None:
    selector = widget.panel.exam.rows[index].role
    selector.setCurrentIndex(selector.findText(text))


def run(host: Any, widget: Any) -> Any:
    assert widget.ui.applyButton.enabled, widget.ui.applyButton.toolTip
    widget.ui.applyButton.click()
    host.wait_until(lambda: not widget.panel.run.is_busy, timeout=SECONDS)
    assert widget.panel.run.job.error is None, widget.panel.run.job.error
    return widget.panel.run.job


@pytest.fixture
def exam(in_process_worker: None, widget: Any) -> Any:
    """A patient with a thick FLAIR, chosen to be restored, a sharp T1w and a sharp FLAIR."""
    base = thick_head("AX FLAIR")
    into_study(base, sharp_head("MPRAGE"), sharp_head("SAG FLAIR"))
    choose(widget, "test-exam", base)
    return widget


class TestRows:
    def test_the_scans_of_the_patient_fill_them(self, exam: Any) -> None:
        assert rows(exam) == [("MPRAGE", "T1w"), ("SAG FLAIR", "Not used")]
        assert "shows the same contrast (FLAIR)" in exam.panel.exam.rows[1].role.toolTip
        roles = exam.panel.exam.rows[0].role
        texts = [roles.itemText(index) for index in range(roles.count)]
        assert texts == ["T1w", "T1w+C", "T2w", "FLAIR", "PD", "Stack", "Not used"]

    def test_without_a_patient_there_are_none_and_a_scan_can_be_added(self, host: Any, widget: Any) -> None:
        base = thick_head("AX FLAIR")
        sharp_head("AX T2")
        choose(widget, "test-exam", base)
        assert rows(widget) == []
        widget.ui.addScanButton.click()
        assert rows(widget) == [("AX T2", "T2w")]
        widget.ui.addScanButton.click()
        assert rows(widget)[1] == ("", "Not used")
        set_volume(host, widget, 1, sharp_head("localizer"))
        set_role(widget, 1, "PD")
        assert rows(widget) == [("AX T2", "T2w"), ("localizer", "PD")]

    def test_no_scan_takes_a_row_out_and_it_does_not_come_back(self, host: Any, exam: Any) -> None:
        set_volume(host, exam, 0, None)
        exam.ui.seedSpinBox.setValue(4)
        assert rows(exam) == [("SAG FLAIR", "Not used")]

    @pytest.mark.parametrize("edited", [False, True])
    def test_a_deleted_volume_takes_its_row_along(self, edited: bool, host: Any, exam: Any) -> None:
        if edited:
            set_role(exam, 0, "PD")
        slicer.mrmlScene.RemoveNode(slicer.util.getNode("SAG FLAIR"))
        host.process_events()
        assert rows(exam) == [("MPRAGE", "PD" if edited else "T1w")]

    def test_another_scan_to_restore_begins_anew(self, exam: Any) -> None:
        set_role(exam, 0, "PD")
        assert rows(exam)[0] == ("MPRAGE", "PD")
        other = thick_head("AX T2")
        into_study(other, sharp_head("T1 of Ben"), patient="Ben")
        choose(exam, "test-exam", other)
        assert rows(exam) == [("T1 of Ben", "T1w")]

    def test_the_contrast_that_the_user_corrects_counts(self, exam: Any) -> None:
        exam._parameterNode.contrast = type(exam._parameterNode.contrast).T1
        assert rows(exam) == [("MPRAGE", "Not used"), ("SAG FLAIR", "FLAIR")]

    def test_a_model_without_optional_inputs_shows_nothing_of_it(self, exam: Any) -> None:
        assert exam.ui.examContainer.visible
        choose(exam, "test-sr", slicer.util.getNode("AX FLAIR"))
        assert not exam.ui.examContainer.visible
        assert exam.panel.exam.scans == []

    def test_two_scans_of_one_role_cannot_run(self, exam: Any) -> None:
        set_role(exam, 1, "T1w")
        assert not exam.ui.applyButton.enabled
        assert exam.ui.applyButton.toolTip == "Two scans have the role 'T1w'. Set one of them to 'Not used'."

    def test_one_volume_in_two_rows_cannot_run(self, host: Any, exam: Any) -> None:
        set_volume(host, exam, 1, slicer.util.getNode("MPRAGE"))
        set_role(exam, 1, "Stack")
        assert exam.ui.applyButton.toolTip == "The same volume is chosen for two inputs."

    def test_a_saved_scene_brings_them_back(self, host: Any, exam: Any, tmp_path: Path) -> None:
        set_role(exam, 1, "Stack")
        exam.ui.registerCheckBox.setChecked(False)
        path = str(tmp_path / "exam.mrb")
        assert slicer.util.saveScene(path, {})
        host.close_scene()
        assert rows(exam) == []
        slicer.util.loadScene(path, {})
        exam.initializeParameterNode()
        assert rows(exam) == [("MPRAGE", "T1w"), ("SAG FLAIR", "Stack")]
        assert not exam.ui.registerCheckBox.checked


class TestRun:
    def test_what_was_moved_is_told_and_what_the_guides_changed_is_shown(self, host: Any, exam: Any) -> None:
        slicer.util.getNode("MPRAGE").SetOrigin(0.0, 3.0, 1.0)
        set_role(exam, 1, "Stack")
        exam.ui.seedSpinBox.setValue(3)
        job = run(host, exam)
        arguments = job._worker.args
        (guide,) = (arguments[at + 1] for at, word in enumerate(arguments) if word == "--input")
        assert guide.startswith("t1=")
        assert "--stack" in arguments
        assert "--no-register" not in arguments
        assert "T1w: moved 3.2 mm, 1.1 degrees" in exam.ui.qualityLabel.text
        assert job.result.node.GetAttribute("ScoreFusion.Registration.t1.TurnedDegrees") == "1.1"

        assert exam.ui.guidesButton.visible
        exam.ui.guidesButton.click()
        host.wait_until(lambda: not exam.panel.run.is_busy, timeout=SECONDS)
        part = exam.panel.run.job
        assert part.error is None, part.error
        assert exam.ui.overlaySelector.currentText == "What the guides changed"
        change = part.result.guides_map
        assert np.allclose(slicer.util.arrayFromVolume(change), 7.0, atol=1e-3)  # the stand-in's, for one guide
        assert change.GetDisplayNode().GetColorNode().GetName() == "ScoreFusion change"
        assert part.request.seed == 3

    def test_without_guides_there_is_nothing_to_show(self, host: Any, exam: Any) -> None:
        set_role(exam, 0, "Not used")
        exam.ui.registerCheckBox.setChecked(False)
        assert "--input" not in run(host, exam)._worker.args
        assert not exam.ui.guidesButton.visible
        assert "moved" not in exam.ui.qualityLabel.text

    def test_registration_can_be_switched_off(self, host: Any, exam: Any) -> None:
        exam.ui.registerCheckBox.setChecked(False)
        assert "--no-register" in run(host, exam)._worker.args
        assert "T1w: not registered, taken to lie right" in exam.ui.qualityLabel.text

    def test_the_console_takes_guides_by_name(self, host: Any, exam: Any) -> None:
        base, t1 = slicer.util.getNode("AX FLAIR"), slicer.util.getNode("MPRAGE")
        node = exam.logic.translate(base, model="test-exam", guides={"t1": t1}, register=True)
        assert node.GetAttribute("ScoreFusion.Registration.t1.Used") == "True"


class TestLook:
    @pytest.mark.parametrize(("scale", "width"), [(1.0, 300), (1.5, 320)], ids=["usual font", "high-DPI font"])
    def test_no_text_is_cut_in_a_narrow_panel(self, scale: float, width: int, host: Any, fake_worker: Any) -> None:
        from text_fit import cut_texts, usual_font_times

        with usual_font_times(scale):
            widget = host.open(host.load_module(MODULE), width=width)
            base, long = thick_head("AX FLAIR"), sharp_head("MPRAGE of a person with a very long name")
            into_study(base, long, sharp_head("T2"))
            choose(widget, "test-exam", base)
            widget.ui.resultSection.collapsed = False
            widget.ui.guidesButton.setVisible(True)
            for _settling in range(2):
                host.grab(widget, width=width)
            assert widget.ui.ScoreFusion.width <= width
            # A long name is the user's own; it is cut in the row, and whole in the tooltip.
            assert [text for text in cut_texts(widget.ui.ScoreFusion) if long.GetName() not in text] == []
            assert widget.panel.exam.rows[0].volume.toolTip == long.GetName()
