"""A run in a bare scene: result, provenance, place, look; cancellation and every way to fail."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import slicer
import slicer.util

from ScoreFusionLib.logic.errors import RunCancelled, RunError
from ScoreFusionLib.logic.job import TranslateJob
from ScoreFusionLib.logic.node_import import read_provenance
from ScoreFusionLib.logic.request import JobInputs, TranslateRequest
from ScoreFusionLib.logic.run_state import RunState

THICK = np.diag([1.0, 1.2, 4.0, 1.0])


def head(add_volume: Any, name: str = "MRHead") -> Any:
    rng = np.random.default_rng(0)
    return add_volume(name, rng.integers(0, 900, (6, 14, 12)).astype(np.int16), THICK)


def make_job(scene: Any, model: Any, node: Any, *, uncertainty: bool = False, **inputs: Any) -> TranslateJob:
    request = TranslateRequest(model="test-sr", seed=7, uncertainty=uncertainty)
    return TranslateJob(scene, JobInputs({"image": node}, **inputs), request, model)


def poll_until(job: TranslateJob, state: RunState, seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while job.state is not state and time.monotonic() < deadline:
        job.poll()
        time.sleep(0.005)
    assert job.state is state


def scene_ids(scene: Any) -> set[str]:
    return {scene.GetNthNode(index).GetID() for index in range(scene.GetNumberOfNodes())}


def left_folders() -> set[Path]:
    import tempfile

    return set(Path(tempfile.gettempdir()).glob("ScoreFusion-*"))


def worker_of(job: TranslateJob) -> int:
    """Process id of the worker itself; `job._worker.pid` is its launcher's."""
    return int(next(line for line in job.log if line.startswith("fake worker, ")).split()[-1])


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"


class TestResult:
    @pytest.fixture
    def result(self, scene: Any, add_volume: Any, fake_worker: Any, model: Any) -> Any:
        node = head(add_volume)
        node.GetDisplayNode().AutoWindowLevelOff()
        node.GetDisplayNode().SetWindowLevel(700, 350)
        hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
        study = hierarchy.CreateStudyItem(hierarchy.GetSceneItemID(), "Visit 1")
        hierarchy.SetItemParent(hierarchy.GetItemByDataNode(node), study)
        job = make_job(scene, model, node, uncertainty=True)
        job.start()
        job.wait()
        return job.result

    def test_the_result_is_named_after_input_and_target(self, result: Any) -> None:
        assert result.node.GetName() == "MRHead - synthetic high resolution"
        assert result.uncertainty.GetName() == "MRHead - synthetic high resolution - uncertainty"

    def test_voxels_and_grid_are_those_of_the_file(self, result: Any, scene: Any) -> None:
        node = scene.GetFirstNodeByName("MRHead")
        expected = np.repeat(slicer.util.arrayFromVolume(node), 4, axis=0)
        assert np.array_equal(slicer.util.arrayFromVolume(result.node), expected)
        assert np.allclose(result.node.GetSpacing(), (1.0, 1.2, 1.0), atol=1e-6)
        assert np.allclose(result.node.GetOrigin(), (0.0, 0.0, -1.5), atol=1e-6)  # outer corners meet

    def test_the_result_lies_in_the_study_of_the_input(self, result: Any, scene: Any) -> None:
        hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
        for node in (result.node, result.uncertainty):
            parent = hierarchy.GetItemParent(hierarchy.GetItemByDataNode(node))
            assert hierarchy.GetItemName(parent) == "Visit 1"

    def test_window_and_level_follow_the_input_of_the_same_contrast(self, result: Any) -> None:
        display = result.node.GetDisplayNode()
        assert (display.GetWindow(), display.GetLevel()) == (700, 350)
        assert not display.GetAutoWindowLevel()

    def test_uncertainty_has_its_own_colours_and_a_legend(self, result: Any) -> None:
        display = result.uncertainty.GetDisplayNode()
        assert display.GetColorNode().GetName() == "ScoreFusion uncertainty"
        assert display.GetApplyThreshold()
        legend = slicer.vtkSlicerColorLogic.GetColorLegendDisplayNode(result.uncertainty)
        assert legend is not None
        assert legend.GetTitleText() == "Uncertainty (SD)"

    def test_provenance_is_in_the_attributes(self, result: Any) -> None:
        assert result.node.GetAttribute("ScoreFusion.Synthetic") == "true"
        assert result.node.GetAttribute("ScoreFusion.Seed") == "7"
        assert result.node.GetAttribute("ScoreFusion.ModelSha256") == "0" * 64
        record = read_provenance(result.node)
        assert record["Model"]["Id"] == "test-sr"
        assert record["Slicer"]["Inputs"] == {"image": "MRHead"}
        assert json.loads(result.uncertainty.GetAttribute("ScoreFusion.Provenance")) == record

    def test_quality_and_warnings_come_with_the_result(self, result: Any) -> None:
        assert result.quality == {"measurement_residual_max": 0.001, "mean_uncertainty": 2.5}
        assert result.warnings == ["'MRHead' went through the fake worker (MRHead)."]

    def test_provenance_names_the_volume_and_no_temporary_file(self, result: Any) -> None:
        record = read_provenance(result.node)
        assert record["Sources"]["first"]["Name"] == "MRHead"
        assert record["Warnings"][0]["message"] == "'MRHead' went through the fake worker (MRHead)."
        everything = result.node.GetAttribute("ScoreFusion.Provenance")
        assert "input-" not in everything
        assert "ScoreFusion-" not in everything

    def test_no_temporary_folder_is_left(self, result: Any) -> None:
        assert result.node is not None
        assert not left_folders()


class TestExistingOutput:
    def test_it_is_filled_and_says_synthetic(self, scene: Any, add_volume: Any, fake_worker: Any, model: Any) -> None:
        mine = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "mine")
        job = make_job(scene, model, head(add_volume), output=mine)
        job.start()
        assert job.wait() is mine
        assert mine.GetName() == "mine - synthetic"


class TestCancel:
    def test_cancel_ends_a_run_and_leaves_the_scene_as_it_was(
        self, scene: Any, add_volume: Any, fake_worker: Any, model: Any
    ) -> None:
        fake_worker("slow")
        job = make_job(scene, model, head(add_volume))
        before = scene_ids(scene)
        job.start()
        poll_until(job, RunState.RUNNING)
        job.cancel()
        assert job.state is RunState.CANCELLING
        with pytest.raises(RunCancelled, match="scene is as it was"):
            job.wait()
        assert scene_ids(scene) == before
        assert not left_folders()

    @pytest.mark.skipif(os.name == "nt", reason="signals are POSIX")
    def test_a_stubborn_tree_is_gone_within_three_seconds(
        self, scene: Any, add_volume: Any, fake_worker: Any, model: Any
    ) -> None:
        fake_worker("stubborn")
        job = make_job(scene, model, head(add_volume))
        job.start()
        deadline = time.monotonic() + 20
        while not any("child" in line for line in job.log) and time.monotonic() < deadline:
            job.poll()
        child = int(next(line for line in job.log if "child" in line).split()[1])
        started = time.monotonic()
        job.cancel()
        with pytest.raises(RunCancelled):
            job.wait()
        assert time.monotonic() - started < 3.0
        time.sleep(0.1)
        assert not is_alive(child)

    def test_closing_the_scene_ends_the_run(self, scene: Any, add_volume: Any, fake_worker: Any, model: Any) -> None:
        fake_worker("slow")
        job = make_job(scene, model, head(add_volume))
        job.start()
        poll_until(job, RunState.RUNNING)
        pid = job._worker.pid
        scene.Clear(False)
        assert job.state is RunState.IDLE
        assert job.result is None
        time.sleep(0.1)
        assert not is_alive(pid)
        assert not left_folders()


class TestFailure:
    @pytest.mark.parametrize(
        ("behaviour", "expected"),
        [
            ("error", "^'MRHead' is constant"),
            ("silent", "ended without a result"),
            ("no_torch", "The Python package 'torch' is missing"),
            ("crash", r"crashed \(Segmentation fault\)"),
        ],
    )
    def test_the_message_says_what_happened(
        self, behaviour: str, expected: str, scene: Any, add_volume: Any, fake_worker: Any, model: Any
    ) -> None:
        fake_worker(behaviour)
        job = make_job(scene, model, head(add_volume))
        before = scene_ids(scene)
        job.start()
        with pytest.raises(RunError, match=expected):
            job.wait()
        assert job.state is RunState.FAILED
        assert scene_ids(scene) == before
        assert not left_folders()

    def test_the_last_lines_of_the_log_come_with_the_error(
        self, scene: Any, add_volume: Any, fake_worker: Any, model: Any
    ) -> None:
        fake_worker("crash")
        job = make_job(scene, model, head(add_volume))
        job.start()
        with pytest.raises(RunError) as caught:
            job.wait()
        assert "last words" in caught.value.details

    @pytest.mark.skipif(os.name == "nt", reason="signals are POSIX")
    def test_a_worker_killed_below_its_launcher_is_explained(
        self, scene: Any, add_volume: Any, fake_worker: Any, model: Any
    ) -> None:
        fake_worker("slow")
        job = make_job(scene, model, head(add_volume))
        job.start()
        poll_until(job, RunState.RUNNING)
        os.kill(worker_of(job), signal.SIGKILL)
        with pytest.raises(RunError, match="ran out of memory"):
            job.wait()
        assert job._worker.returncode == 1  # all that the launcher tells

    @pytest.mark.skipif(os.name == "nt", reason="signals are POSIX")
    def test_a_killed_launcher_is_explained(self, scene: Any, add_volume: Any, fake_worker: Any, model: Any) -> None:
        fake_worker("slow")
        job = make_job(scene, model, head(add_volume))
        job.start()
        poll_until(job, RunState.RUNNING)
        os.kill(job._worker.pid, signal.SIGKILL)
        with pytest.raises(RunError, match="ran out of memory"):
            job.wait()

    def test_junk_on_the_worker_s_output_does_no_harm(
        self, scene: Any, add_volume: Any, fake_worker: Any, model: Any
    ) -> None:
        fake_worker("junk")
        job = make_job(scene, model, head(add_volume))
        job.start()
        assert job.wait() is not None
        assert "{not json" in job.log
        assert "Grüße aus der Bibliothek" in job.log

    @pytest.mark.parametrize(
        ("make", "expected"),
        [
            (
                lambda scene, _add: scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "empty"),
                "'empty' holds no voxels",
            ),
            (lambda _scene, add: add("flat", np.zeros((1, 5, 6), np.int16)), "one slice is not enough"),
        ],
    )
    def test_an_unusable_input_is_refused_before_a_worker_starts(
        self, make: Any, expected: str, scene: Any, add_volume: Any, fake_worker: Any, model: Any
    ) -> None:
        job = make_job(scene, model, make(scene, add_volume))
        job.start()
        with pytest.raises(RunError, match=expected):
            job.wait()
        assert job._worker is None


class TestSequence:
    def test_all_frames_become_a_sequence_in_step_with_the_input(
        self, scene: Any, add_volume: Any, in_process_worker: None, model: Any
    ) -> None:
        proxy, browser = self.add_sequence(scene, add_volume)
        job = make_job(scene, model, proxy, all_frames=True)
        job.start()
        node = job.wait()
        sequence = browser.GetSequenceNode(node)
        assert sequence.GetNumberOfDataNodes() == 3
        for index in range(3):
            voxels = slicer.util.arrayFromVolume(sequence.GetNthDataNode(index))
            assert voxels.shape == (24, 14, 12)
            assert voxels[0, 0, 0] == 100 * (index + 1)
            assert sequence.GetNthIndexValue(index) == str(index)

    def test_the_current_frame_alone_stays_a_volume(
        self, scene: Any, add_volume: Any, in_process_worker: None, model: Any
    ) -> None:
        proxy, browser = self.add_sequence(scene, add_volume)
        job = make_job(scene, model, proxy)
        job.start()
        assert browser.GetSequenceNode(job.wait()) is None

    @staticmethod
    def add_sequence(scene: Any, add_volume: Any) -> tuple[Any, Any]:
        sequence = scene.AddNewNodeByClass("vtkMRMLSequenceNode", "dynamic")
        for index in range(3):
            volume = slicer.vtkMRMLScalarVolumeNode()
            slicer.util.updateVolumeFromArray(volume, np.full((6, 14, 12), 100 * (index + 1), np.int16))
            volume.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(THICK))
            sequence.SetDataNodeAtValue(volume, str(index))
        browser = scene.AddNewNodeByClass("vtkMRMLSequenceBrowserNode", "browser")
        browser.AddSynchronizedSequenceNode(sequence)
        proxy = head(add_volume, "dynamic")
        browser.AddProxyNode(proxy, sequence, False)
        return proxy, browser
