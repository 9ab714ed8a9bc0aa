"""A whole module in the host: load, fill in, apply, close the scene."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import slicer

SAMPLE = Path(__file__).parent / "sample_module" / "HostSample.py"


@pytest.fixture
def volume(host):
    """An anisotropic volume in the scene, with its axes permuted."""
    ijk_to_ras = np.array([[0.0, -1.5, 0.0, 3.0], [1.0, 0.0, 0.0, -7.0], [0.0, 0.0, 4.0, 11.0], [0.0, 0.0, 0.0, 1.0]])
    return slicer.util.addVolumeFromArray(np.arange(60.0).reshape(3, 4, 5), ijkToRAS=ijk_to_ras, name="In")


class TestApply:
    def test_the_result_equals_numpy_and_keeps_the_geometry(self, host, volume) -> None:
        widget = host.open(host.load_module(SAMPLE))
        assert widget.ui.applyButton.enabled is False
        assert widget.ui.applyButton.toolTip == "Select input and output volume"
        assert widget.ui.inputSelector.currentNode() is volume  # suggested by the module

        output = widget.ui.outputSelector.addNode()
        host.process_events()
        assert widget.ui.applyButton.enabled is True
        assert output.GetName() == "Scaled"  # baseName of the .ui file
        widget.ui.factorSlider.value = 3
        widget.ui.applyButton.click()
        host.wait_until(lambda: widget.ui.statusLabel.text == "done")

        np.testing.assert_array_equal(
            slicer.util.arrayFromVolume(output), 3 * np.arange(60.0, dtype=np.float32).reshape(3, 4, 5)
        )
        assert slicer.modules.volumes.logic().CompareVolumeGeometry(volume, output) == ""

    def test_the_self_test_of_the_module_runs(self, host) -> None:
        host.load_module(SAMPLE)
        slicer.selfTests["HostSample"]()
        assert slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLScalarVolumeNode") == 2


class TestLifecycle:
    def test_closing_the_scene_gives_an_empty_parameter_node(self, host, volume) -> None:
        widget = host.open(host.load_module(SAMPLE))
        widget.ui.factorSlider.value = 7
        host.close_scene()
        assert widget._parameterNode.inputVolume is None
        assert widget._parameterNode.factor == 2.0
        assert widget.ui.factorSlider.value == 2.0

    def test_leaving_the_module_disconnects_the_panel(self, host, volume) -> None:
        widget = host.open(host.load_module(SAMPLE))
        host.leave()
        widget.ui.factorSlider.value = 5
        assert widget._parameterNode.factor == 2.0

    def test_the_parameter_node_is_a_singleton(self, host) -> None:
        widget = host.open(host.load_module(SAMPLE))
        assert widget.logic.getParameterNode().parameterNode is widget._parameterNode.parameterNode

    def test_sample_data_is_registered_at_startup(self, host) -> None:
        host.load_module(SAMPLE)
        (source,) = slicer.modules.sampleDataSources["HostSample"]
        assert source.nodeNames == ["Sample"]

    def test_unloading_calls_cleanup(self, host) -> None:
        module = host.load_module(SAMPLE)
        widget = host.open(module)
        host.unload(module)
        assert widget.Observations == []
        assert not hasattr(slicer.modules, "hostsample")
