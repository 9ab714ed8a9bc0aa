"""A small scripted module with every part that a real one has; the host's own tests load it."""

from __future__ import annotations

import enum
from typing import Annotated, Optional

import numpy as np
import qt
import slicer
import vtk
from slicer.i18n import tr as _
from slicer.parameterNodeWrapper import Choice, Decimals, WithinRange, parameterNodeWrapper, parameterPack
from slicer.ScriptedLoadableModule import *  # noqa: F403
from slicer.util import VTKObservationMixin


class HostSample(ScriptedLoadableModule):  # noqa: F405
    """Module."""

    def __init__(self, parent):
        super().__init__(parent)
        self.parent.title = _("Host sample")
        self.parent.categories = ["Testing"]
        self.parent.helpText = _("Scales a volume.")
        slicer.app.connect("startupCompleted()", registerSampleData)


def registerSampleData():
    """Add a sample."""
    import SampleData

    SampleData.SampleDataLogic.registerCustomSampleDataSource(
        category="HostSample",
        sampleName="HostSample1",
        uris="https://example.org/sample.nrrd",
        fileNames="sample.nrrd",
        nodeNames="Sample",
    )


class Mode(enum.Enum):
    """How to scale."""

    PLAIN = "plain"
    INVERTED = "inverted"

    def label(self):
        """Return the text in the combo box."""
        return self.value.capitalize()


@parameterPack
class Advanced:
    """Options that belong together."""

    offset: Annotated[int, WithinRange(-10, 10)] = 0
    note: str


@parameterNodeWrapper
class HostSampleParameterNode:
    """Parameters."""

    inputVolume: slicer.vtkMRMLScalarVolumeNode
    outputVolume: Optional[slicer.vtkMRMLScalarVolumeNode]  # noqa: UP045  the older spelling is common in modules
    factor: Annotated[float, WithinRange(0, 10), Decimals(2)] = 2.0
    quality: Annotated[str, Choice(["fast", "best"])] = "fast"
    mode: Mode
    showAfter: bool = True
    advanced: Advanced


class HostSampleWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):  # noqa: F405
    """Panel."""

    def __init__(self, parent=None):
        ScriptedLoadableModuleWidget.__init__(self, parent)  # noqa: F405
        VTKObservationMixin.__init__(self)
        self.logic = None
        self._parameterNode = None
        self._parameterNodeGuiTag = None

    def setup(self):
        """Build the panel."""
        super().setup()
        uiWidget = slicer.util.loadUI(self.resourcePath("UI/HostSample.ui"))
        self.layout.addWidget(uiWidget)
        self.ui = slicer.util.childWidgetVariables(uiWidget)
        uiWidget.setMRMLScene(slicer.mrmlScene)
        self.logic = HostSampleLogic()
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.StartCloseEvent, self.onSceneStartClose)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.EndCloseEvent, self.onSceneEndClose)
        self.ui.applyButton.connect("clicked(bool)", self.onApply)
        self.initializeParameterNode()

    def cleanup(self):
        """End."""
        self.removeObservers()

    def enter(self):
        """Shown."""
        self.initializeParameterNode()

    def exit(self):
        """Left."""
        if self._parameterNode:
            self._parameterNode.disconnectGui(self._parameterNodeGuiTag)
            self._parameterNodeGuiTag = None
            self.removeObserver(self._parameterNode, vtk.vtkCommand.ModifiedEvent, self._checkCanApply)

    def onSceneStartClose(self, caller, event):
        """Let the parameter node go."""
        self.setParameterNode(None)

    def onSceneEndClose(self, caller, event):
        """Make a new one."""
        if self.parent.isEntered:
            self.initializeParameterNode()

    def initializeParameterNode(self):
        """Find the parameter node and suggest an input."""
        self.setParameterNode(self.logic.getParameterNode())
        if not self._parameterNode.inputVolume:
            first = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLScalarVolumeNode")
            if first:
                self._parameterNode.inputVolume = first

    def setParameterNode(self, node):
        """Bind the panel to a node."""
        if self._parameterNode:
            self._parameterNode.disconnectGui(self._parameterNodeGuiTag)
            self.removeObserver(self._parameterNode, vtk.vtkCommand.ModifiedEvent, self._checkCanApply)
        self._parameterNode = node
        if self._parameterNode:
            self._parameterNodeGuiTag = self._parameterNode.connectGui(self.ui)
            self.addObserver(self._parameterNode, vtk.vtkCommand.ModifiedEvent, self._checkCanApply)
            self._checkCanApply()

    def _checkCanApply(self, caller=None, event=None):
        ready = bool(self._parameterNode and self._parameterNode.inputVolume and self._parameterNode.outputVolume)
        self.ui.applyButton.enabled = ready
        self.ui.applyButton.toolTip = _("Scale the volume") if ready else _("Select input and output volume")

    def onApply(self):
        """Do the work."""
        with slicer.util.tryWithErrorDisplay(_("Failed to compute."), waitCursor=True):
            parameters = self._parameterNode
            self.logic.process(parameters.inputVolume, parameters.outputVolume, parameters.factor, parameters.mode)
            if parameters.showAfter:
                slicer.util.setSliceViewerLayers(background=parameters.outputVolume, fit=True)
        qt.QTimer.singleShot(0, lambda: setattr(self.ui.statusLabel, "text", "done"))


class HostSampleLogic(ScriptedLoadableModuleLogic):  # noqa: F405
    """Computation."""

    def getParameterNode(self):
        """Return the wrapped node."""
        return HostSampleParameterNode(super().getParameterNode())

    def process(self, inputVolume, outputVolume, factor, mode):
        """Scale."""
        array = slicer.util.arrayFromVolume(inputVolume).astype(np.float32) * factor
        if mode is Mode.INVERTED:
            array = -array
        outputVolume.CopyOrientation(inputVolume)
        slicer.util.updateVolumeFromArray(outputVolume, array)
        outputVolume.CreateDefaultDisplayNodes()


class HostSampleTest(ScriptedLoadableModuleTest):  # noqa: F405
    """Self test."""

    def setUp(self):
        """Start empty."""
        slicer.mrmlScene.Clear()

    def test_scaling(self):
        """Scale a small volume."""
        self.delayDisplay("Starting the test")
        node = slicer.util.addVolumeFromArray(np.ones((3, 4, 5)))
        out = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode")
        HostSampleLogic().process(node, out, 3.0, Mode.PLAIN)
        np.testing.assert_array_equal(slicer.util.arrayFromVolume(out), 3)
