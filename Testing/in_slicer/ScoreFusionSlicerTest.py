"""The module inside a running Slicer: panel, run, cancel, failure, geometry, console.

Registered with ctest; in CI run by run_in_slicer.py. It also runs in our own host (test_in_host.py), so that it is
known to work before a real Slicer sees it. The worker is the fake one of Testing/host_module, apart from the last test.
"""

import os
import signal
import sys
import tempfile
import time
import unittest
from pathlib import Path

import numpy as np
import slicer
import slicer.util

ROOT = Path(__file__).resolve().parents[2]
FAKE_WORKER = ROOT / "Testing" / "host_module" / "fake_worker.py"
SECONDS = 120.0


class ScoreFusionSlicerTest(unittest.TestCase):
    """Every test starts from an empty scene and two models of its own."""

    def setUp(self):
        for folder in (ROOT / "Testing" / "host_module", ROOT / "Testing" / "mrml"):
            if str(folder) not in sys.path:
                sys.path.append(str(folder))
        from models_on_disk import SHARPENING, write_model

        from ScoreFusionLib.logic import engine

        slicer.mrmlScene.Clear(0)
        self._home = tempfile.TemporaryDirectory()
        self._saved = dict(os.environ)
        os.environ["SCOREFUSION_HOME"] = self._home.name
        write_model(Path(self._home.name) / "models" / "test-sr", SHARPENING)
        self._engine, self._command, self._environment = engine, engine.engine_command, engine.worker_environment
        engine.engine_command = self._fake_command
        self._behaviour = "ok"
        engine.worker_environment = lambda: {**self._environment(), "FAKE_WORKER": self._behaviour}
        self.widget = slicer.modules.scorefusion.widgetRepresentation().self()
        self.widget.enter()
        self.widget.panel.models.reload(select="test-sr")
        self.widget._parameterNode.model = "test-sr"
        self.widget._parameterNode.makeUncertainty = False

    def tearDown(self):
        self._engine.engine_command, self._engine.worker_environment = self._command, self._environment
        if self.widget.panel.run.job is not None:
            self.widget.panel.run.job.abort()
        slicer.mrmlScene.Clear(0)
        os.environ.clear()
        os.environ.update(self._saved)
        self._home.cleanup()

    def _fake_command(self, arguments, *, stop_with_slicer=False):
        if arguments[0] != "translate":
            return self._command(arguments, stop_with_slicer=stop_with_slicer)
        return [self._engine.python_executable(), str(FAKE_WORKER), *arguments]

    def add_volume(self, name, voxels_kji, affine):
        node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", name)
        slicer.util.updateVolumeFromArray(node, voxels_kji)
        node.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(affine))
        node.CreateDefaultDisplayNodes()
        return node

    def thick_head(self):
        voxels = np.random.default_rng(0).integers(0, 900, (8, 30, 24)).astype(np.int16)
        node = self.add_volume("MRHead T1", voxels, np.diag([1.0, 1.0, 4.0, 1.0]))
        self.widget.panel.conditions.selectors["image"].setCurrentNode(node)
        return node

    def wait(self, condition):
        end = time.monotonic() + SECONDS
        while not condition():
            assert time.monotonic() < end, "waited too long"
            slicer.app.processEvents()
            time.sleep(0.005)

    def wait_for(self, state):
        self.wait(lambda: self.widget.panel.run.job.state.value == state)

    def test_apply_is_off_until_there_is_an_input(self):
        assert not self.widget.ui.applyButton.enabled
        assert "Choose a volume" in self.widget.ui.applyButton.toolTip
        self.thick_head()
        assert self.widget.ui.applyButton.enabled
        assert "4.0 times coarser" in self.widget.ui.gridValue.text

    def test_a_click_leads_to_a_result_beside_the_input(self):
        node = self.thick_head()
        self.widget.ui.uncertaintyCheckBox.checked = True
        self.widget.ui.applyButton.click()
        self.wait(lambda: not self.widget.panel.run.is_busy)
        result = self.widget.panel.run.job.result
        assert result is not None, self.widget.ui.warningsLabel.text
        assert result.node.GetName() == "MRHead T1 - synthetic high resolution"
        assert np.array_equal(
            slicer.util.arrayFromVolume(result.node), np.repeat(slicer.util.arrayFromVolume(node), 4, axis=0)
        )
        hierarchy = slicer.mrmlScene.GetSubjectHierarchyNode()
        parents = {hierarchy.GetItemParent(hierarchy.GetItemByDataNode(n)) for n in (node, result.node)}
        assert len(parents) == 1
        assert result.uncertainty.GetDisplayNode().GetColorNode().GetName() == "ScoreFusion uncertainty"

    def test_cancel_leaves_the_scene_as_it_was(self):
        self._behaviour = "slow"
        self.thick_head()
        before = slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLVolumeNode")
        self.widget.ui.applyButton.click()
        self.wait_for("running")
        assert self.widget.ui.applyButton.text == "Cancel"
        started = time.monotonic()
        self.widget.ui.applyButton.click()
        self.wait(lambda: not self.widget.panel.run.is_busy)
        assert time.monotonic() - started < 3.0
        assert slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLVolumeNode") == before

    @unittest.skipIf(os.name == "nt", "signals are POSIX")
    def test_a_killed_worker_is_explained(self):
        self._behaviour = "slow"
        self.thick_head()
        self.widget.ui.applyButton.click()
        self.wait_for("running")
        # The worker itself, not PythonSlicer above it, which hides how its child died.
        log = self.widget.panel.run.job.log
        os.kill(int(next(line for line in log if line.startswith("fake worker, ")).split()[-1]), signal.SIGKILL)
        self.wait(lambda: not self.widget.panel.run.is_busy)
        assert "ran out of memory" in self.widget.ui.warningsLabel.text
        assert self.widget.ui.applyButton.enabled

    def test_closing_the_scene_ends_the_run(self):
        self._behaviour = "slow"
        self.thick_head()
        self.widget.ui.applyButton.click()
        self.wait_for("running")
        slicer.mrmlScene.Clear(0)
        slicer.app.processEvents()
        assert not self.widget.panel.run.is_busy

    def test_landmarks_stay_in_place(self):
        from helpers_geometry import blob, centre_of_mass, oblique_affine, rigid

        from ScoreFusionLib.logic.geometry import world_affine

        for seed in range(6):  # fifty of them in Testing/mrml; here each costs the start of a Python
            rng = np.random.default_rng(seed)
            affine = oblique_affine(rng)
            landmark = np.array([6.0, 7.0, 8.0]) + rng.uniform(-1.0, 1.0, size=3)
            node = self.add_volume("head", blob((13, 15, 17), landmark).transpose(2, 1, 0), affine)
            if seed % 2:
                transform = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "T")
                transform.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(rigid(rng)))
                node.SetAndObserveTransformNodeID(transform.GetID())
            centre = centre_of_mass(slicer.util.arrayFromVolume(node).transpose(2, 1, 0))
            before = world_affine(node) @ [*centre, 1.0]
            result = self.widget.logic.translate(node, model="test-sr")
            found = centre_of_mass(slicer.util.arrayFromVolume(result).transpose(2, 1, 0))
            error = np.linalg.norm((world_affine(result) @ [*found, 1.0] - before)[:3])
            assert error / np.linalg.norm(affine[:3, :3], axis=0).min() < 0.1

    def test_the_shipped_model_runs_without_a_network(self):
        from ScoreFusionLib.logic.models import list_models

        shipped = [listed.id for listed in list_models() if listed.info is not None and listed.info.is_shipped]
        if not shipped:
            self.skipTest("no model is shipped with this build")
        self._engine.engine_command = self._command
        rng = np.random.default_rng(0)
        ball = np.linalg.norm(
            np.stack(np.meshgrid(*[np.linspace(-1.2, 1.2, n) for n in (10, 40, 36)], indexing="ij")), axis=0
        )
        voxels = (600 * (ball < 1) + 20 * rng.normal(size=ball.shape)).astype(np.float32)
        node = self.add_volume("ball T1", voxels, np.diag([1.0, 1.0, 4.0, 1.0]))
        result = self.widget.logic.translate(node, model=shipped[0], preset="fast", device="cpu")
        assert slicer.util.arrayFromVolume(result).shape == (40, 40, 36)


if __name__ == "__main__":
    unittest.main()
