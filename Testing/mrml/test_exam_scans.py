"""The scans of an exam in a bare scene: which are found, what role they get, what of them reaches the worker."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import slicer
import slicer.util

from ScoreFusionLib.logic import exam
from ScoreFusionLib.logic.errors import RunError
from ScoreFusionLib.logic.exam import STACK, UNUSED, Scan
from ScoreFusionLib.logic.guides_part import GuidesPart, can_show_guides
from ScoreFusionLib.logic.job import TranslateJob
from ScoreFusionLib.logic.models import ModelInfo
from ScoreFusionLib.logic.request import JobInputs, RunFiles, TranslateRequest, command_arguments

pytestmark = pytest.mark.usefixtures("in_process_worker")
GUIDES = ("t1", "t1ce", "t2", "flair", "pd")
THICK, SHARP = (1.0, 1.0, 5.0), (1.0, 1.0, 1.0)


def exam_model(task: str = "super_resolution", base: str = "image", guides: tuple[str, ...] = GUIDES) -> ModelInfo:
    section = {
        "task": task,
        "conditions": [
            {"name": base, "contrasts": [] if base == "image" else [base]},
            *({"name": name, "contrasts": [name], "optional": True} for name in guides),
        ],
        "target": {"name": "image", "same_contrast_as": "image" if task == "super_resolution" else None},
        "spacing_mm": [1.0, 1.0, 1.0],
        "presets": {"fast": {"steps": 1}},
    }
    return ModelInfo.from_metadata("test-exam", Path("nowhere"), {"scorefusion": section}, is_shipped=False)


@pytest.fixture
def scan(scene: Any, add_volume: Any) -> Callable[..., Any]:
    """Add a volume of a patient and a visit: `scan("AX FLAIR", (1, 1, 5))`."""
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)

    def item(name: str, parent: int, create: Any) -> int:
        return hierarchy.GetItemChildWithName(parent, name) or create(parent, name)

    def add(name: str, spacing: tuple[float, ...] = SHARP, patient: str = "Ann", visit: str = "May", turn: Any = None):
        affine = np.diag([*spacing, 1.0])
        if turn is not None:
            affine = turn @ affine
        node = add_volume(name, np.random.default_rng(0).integers(0, 900, (6, 8, 10)).astype(np.int16), affine)
        if patient:
            above = item(patient, hierarchy.GetSceneItemID(), hierarchy.CreateSubjectItem)
            study = item(visit, above, hierarchy.CreateStudyItem)
            hierarchy.SetItemParent(hierarchy.GetItemByDataNode(node), study)
        return node

    return add


def proposed(base: Any, contrast: str | None = "flair", model: ModelInfo | None = None) -> dict[str, Scan]:
    scans = exam.propose(model or exam_model(), base, contrast, exam.scans_beside(base, []))
    return {scan.node.GetName(): scan for scan in scans}


class TestFound:
    def test_the_other_scans_of_the_patient_are_found_and_nobody_else_s(self, scan: Any) -> None:
        base = scan("AX FLAIR", THICK)
        scan("MPRAGE")
        scan("AX T2 TSE")
        scan("somebody's MPRAGE", patient="Ben")
        assert set(proposed(base)) == {"MPRAGE", "AX T2 TSE"}

    def test_without_a_patient_nothing_is_found(self, scan: Any) -> None:
        base = scan("AX FLAIR", THICK, patient="")
        scan("MPRAGE", patient="")
        assert proposed(base) == {}

    def test_results_of_ours_label_maps_and_single_slices_are_passed_over(self, scan: Any, scene: Any) -> None:
        base = scan("AX FLAIR", THICK)
        scan("T1 result").SetAttribute("ScoreFusion.Synthetic", "true")
        slicer.util.updateVolumeFromArray(scan("T2 slice"), np.zeros((1, 8, 10), np.int16))
        hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
        labels = scene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "T1 labels")
        study = hierarchy.GetItemParent(hierarchy.GetItemByDataNode(base))
        hierarchy.SetItemParent(hierarchy.CreateItem(study, labels), study)
        assert proposed(base) == {}


class TestRoles:
    @pytest.mark.parametrize(
        ("name", "role"),
        [("MPRAGE", "t1"), ("MPRAGE post gd", "t1ce"), ("AX T2 TSE", "t2"), ("PDw", "pd"), ("localizer", UNUSED)],
    )
    def test_the_name_tells_the_role(self, name: str, role: str, scan: Any) -> None:
        base = scan("AX FLAIR", THICK)
        scan(name)
        assert proposed(base)[name].role == role

    def test_dicom_s_description_tells_it_where_the_name_is_silent(self, scan: Any, scene: Any) -> None:
        base = scan("AX FLAIR", THICK)
        hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
        item = hierarchy.GetItemByDataNode(scan("7: head"))
        hierarchy.SetItemAttribute(item, "DICOM.SeriesDescription", "sag mprage")
        assert proposed(base)["7: head"].role == "t1"

    def test_of_two_with_one_role_the_sharper_across_the_thick_slices_keeps_it(self, scan: Any) -> None:
        base = scan("AX FLAIR", THICK)
        scan("AX T1", (0.5, 0.5, 3.0))  # the smaller voxel, and the coarser slices
        scan("MPRAGE", (1.0, 1.0, 1.0))
        scans = proposed(base)
        assert (scans["MPRAGE"].role, scans["AX T1"].role) == ("t1", UNUSED)
        assert scans["AX T1"].reason == "'MPRAGE' has the role 'T1w', too, and is sharper."

    def test_the_contrast_of_the_scan_to_restore_is_not_its_own_guide(self, scan: Any) -> None:
        base = scan("AX FLAIR", THICK)
        scan("COR FLAIR")
        found = proposed(base)["COR FLAIR"]
        assert found.role == UNUSED
        assert "shows the same contrast (FLAIR) as the scan to restore" in found.reason
        assert "choose 'Stack'" in found.reason

    def test_a_scan_that_is_nowhere_sharper_is_no_guide(self, scan: Any) -> None:
        base = scan("AX FLAIR", THICK)
        scan("AX T2", (1.0, 1.0, 6.0))
        found = proposed(base)["AX T2"]
        assert found.role == UNUSED
        assert found.reason == "'AX T2' is in no direction sharper than the scan to restore."

    def test_thick_slices_across_those_of_the_scan_are_sharper_in_one_direction(self, scan: Any) -> None:
        base = scan("AX FLAIR", THICK)
        coronal = np.array([[1.0, 0, 0, 0], [0, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 1]])
        scan("COR T2", (1.0, 1.0, 6.0), turn=coronal)
        assert proposed(base)["COR T2"].role == "t2"

    def test_a_scan_of_another_visit_is_listed_last_and_not_used(self, scan: Any) -> None:
        base = scan("AX FLAIR", THICK)
        scan("MPRAGE of June", visit="June")
        scan("MPRAGE of May")
        scans = proposed(base)
        assert list(scans) == ["MPRAGE of May", "MPRAGE of June"]
        assert scans["MPRAGE of May"].role == "t1"
        assert scans["MPRAGE of June"].reason == "'MPRAGE of June' is of another visit than 'AX FLAIR'."

    def test_a_translation_takes_a_scan_that_is_no_sharper(self, scan: Any) -> None:
        base = scan("T1", SHARP)
        scan("T2", (2.0, 2.0, 2.0))
        model = exam_model("translation", "t1", ("t2",))
        assert proposed(base, "t1", model)["T2"].role == "t2"
        assert STACK not in exam.roles_of(model)


class TestWorker:
    def test_guides_stacks_and_what_to_do_with_them_are_on_the_command_line(self) -> None:
        files = RunFiles({"image": Path("a.nii"), "t1": Path("b.nii")}, Path("o.nii"), None, (Path("c.nii"),))
        usual = command_arguments(TranslateRequest(), files)
        assert usual[:6] == ["translate", "a.nii", "--input", "t1=b.nii", "--stack", "c.nii"]
        assert "--no-register" not in usual
        careful = command_arguments(TranslateRequest(register=False, skip_unregistered=True), files)
        assert {"--no-register", "--skip-unregistered"} < set(careful)

    def test_one_scan_alone_is_not_told_of_registration(self) -> None:
        files = RunFiles({"image": Path("a.nii")}, Path("o.nii"), None)
        assert "--no-register" not in command_arguments(TranslateRequest(register=False), files)

    def test_the_transform_above_a_guide_is_in_what_the_worker_gets(self, scan: Any, scene: Any) -> None:
        """The stand-in tells how far the guide's file lies from the base's."""
        base, guide = scan("AX FLAIR", THICK), scan("MPRAGE")
        shift = np.eye(4)
        shift[:3, 3] = 3.0, 0.0, 4.0
        transform = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
        transform.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(shift))
        guide.SetAndObserveTransformNodeID(transform.GetID())
        job = TranslateJob(scene, JobInputs({"image": base, "t1": guide}), TranslateRequest(), exam_model())
        job.start()
        node = job.wait()
        (moved,) = job.result.provenance["Registration"]
        assert moved["MovedMm"] == pytest.approx(5.0, abs=1e-4)
        assert moved["Name"] == "MPRAGE"
        assert float(node.GetAttribute("ScoreFusion.Registration.t1.MovedMm")) == pytest.approx(5.0, abs=1e-4)
        assert node.GetAttribute("ScoreFusion.Registration.t1.Used") == "True"
        assert job.result.provenance["Slicer"]["Inputs"] == {"image": "AX FLAIR", "t1": "MPRAGE"}

    def test_a_run_without_its_guides_gives_the_map_and_nothing_else(self, scan: Any, scene: Any) -> None:
        base, guide, stack = scan("AX FLAIR", THICK), scan("MPRAGE"), scan("COR FLAIR")
        request = TranslateRequest(seed=5, uncertainty=True)
        job = TranslateJob(scene, JobInputs({"image": base, "t1": guide}, stacks=[stack]), request, exam_model())
        job.start()
        job.wait()
        assert can_show_guides(job)
        base.SetOrigin(50.0, 0.0, 0.0)  # since the run; the difference is of what was run
        before = scene.GetNumberOfNodesByClass("vtkMRMLScalarVolumeNode")
        part = GuidesPart(job)
        part.start()
        assert part.wait() is job.result.node
        change = part.result.guides_map
        assert scene.GetNumberOfNodesByClass("vtkMRMLScalarVolumeNode") == before + 1
        assert change.GetName() == "AX FLAIR - synthetic high resolution - what the guides changed"
        assert np.allclose(slicer.util.arrayFromVolume(change), 7.0)  # one guide of the stand-in; the stack was kept
        assert np.allclose(change.GetOrigin(), job.result.node.GetOrigin())
        assert change.GetAttribute("ScoreFusion.Role") == "guides"
        assert change.GetAttribute("ScoreFusion.Seed") == "5"

    def test_a_run_without_guides_has_nothing_to_show(self, scan: Any, scene: Any) -> None:
        job = TranslateJob(scene, JobInputs({"image": scan("FLAIR", THICK)}), TranslateRequest(), exam_model())
        assert not can_show_guides(job)


class TestKept:
    def test_rows_come_back_with_the_scene_also_where_ids_change(self, scan: Any, scene: Any, tmp_path: Path) -> None:
        base, t1, t2 = scan("AX FLAIR", THICK), scan("MPRAGE"), scan("T2")
        rows = [Scan(t1, UNUSED), Scan(None, "pd"), Scan(t2, STACK)]
        node = scene.AddNewNodeByClass("vtkMRMLScriptedModuleNode", "parameters")
        exam.write_scans(node, rows, exam_model(), base, edited=True)
        assert exam.read_scans(node) == rows
        path = tmp_path / "scene.mrml"
        scene.SetURL(str(path))
        scene.Commit(str(path))
        scene.Import()  # into itself: the volumes of the file get other ids
        again = scene.GetNodesByName("parameters").GetItemAsObject(1)
        kept = exam.read_scans(again)
        assert [scan.role for scan in kept] == [UNUSED, "pd", STACK]
        assert [scan.node and scan.node.GetName() for scan in kept] == ["MPRAGE", None, "T2"]
        assert kept[0].node is not t1
        assert not exam.are_edited(again, exam_model(), base)
        assert exam.are_edited(node, exam_model(), base)

    def test_the_same_rows_modify_nothing(self, scan: Any, scene: Any) -> None:
        base, rows = scan("AX FLAIR", THICK), [Scan(scan("MPRAGE"), "t1")]
        node = scene.AddNewNodeByClass("vtkMRMLScriptedModuleNode", "parameters")
        exam.write_scans(node, rows, exam_model(), base, edited=False)
        count = node.GetMTime()
        exam.write_scans(node, rows, exam_model(), base, edited=False)
        assert node.GetMTime() == count
        exam.write_scans(node, [], exam_model(), base, edited=False)
        assert exam.read_scans(node) == []


class TestConsole:
    @pytest.fixture(autouse=True)
    def known(self, monkeypatch: pytest.MonkeyPatch) -> None:
        models = {"exam": exam_model(), "flair": exam_model("translation", "t1", ("t2",))}
        monkeypatch.setattr("ScoreFusionLib.logic.api.find_model", models.__getitem__)

    def test_guides_are_given_by_name_in_the_model_s_order(self, scan: Any, scene: Any) -> None:
        from ScoreFusionLib.logic.api import make_job

        base, t1, t2 = scan("FLAIR", THICK), scan("T1"), scan("T2")
        job = make_job(scene, base, "exam", guides={"t2": t2, "t1": t1}, settings={"register": False})
        assert list(job.inputs.volumes) == ["image", "t1", "t2"]
        assert job.request.register is False

    @pytest.mark.parametrize(
        ("model", "options", "message"),
        [
            ("exam", {"guides": {"t3": 0}}, "has no input 't3'. Its inputs: image, t1, t1ce, t2, flair, pd"),
            ("exam", {"guides": {"image": 0}}, "'image' is an input of its own, not a guide"),
            ("flair", {"stacks": [0]}, "takes no further stacks"),
        ],
    )
    def test_what_does_not_fit_is_refused(
        self, model: str, options: dict[str, Any], message: str, scan: Any, scene: Any
    ) -> None:
        from ScoreFusionLib.logic.api import make_job

        with pytest.raises(RunError, match=message):
            make_job(scene, scan("FLAIR", THICK), model, **options)
