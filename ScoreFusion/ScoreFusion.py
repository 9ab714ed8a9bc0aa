"""ScoreFusion: MRI super-resolution and translation. The door; the rooms are in ScoreFusionLib."""

import sys
from typing import Annotated

import slicer
import vtk
from slicer import vtkMRMLScalarVolumeNode
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.parameterNodeWrapper import WithinRange, parameterNodeWrapper
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)
from slicer.util import VTKObservationMixin

from ScoreFusionLib.logic.settings import Contrast, Frames, Preset, ThickAxis


class ScoreFusion(ScriptedLoadableModule):
    """Title, help and credits of the module."""

    def __init__(self, parent):
        super().__init__(parent)
        self.parent.title = _("ScoreFusion: MRI super-resolution and translation")
        self.parent.categories = [translate("qSlicerAbstractCoreModule", "Image Synthesis")]
        self.parent.dependencies = []
        self.parent.contributors = ["The ScoreFusion contributors"]
        self.parent.helpText = _(
            "MRI super-resolution and translation: makes a sharper volume from thick slices, or a contrast that was "
            "not acquired, and shows how sure the model is. Choose a volume and a model, press Apply. Results are "
            "synthetic images for research, not for diagnosis. "
            'See the <a href="{url}">step-by-step tutorial</a>.'
        ).format(url="https://github.com/scorefusion-mri/SlicerScoreFusion/blob/main/docs/slicer-tutorial.md")
        self.parent.acknowledgementText = _(
            "An independent implementation of Score-Fusion: three 2D diffusion models, one for each anatomical plane, "
            "whose scores a 3D network fuses. If you use it, please cite J. Zhu et al., "
            '"Score-Fusion: 3D MRI translation and super-resolution by fusing 2D diffusion models", ICML 2025. '
            "Each model's card names its training data and licence."
        )
        slicer.app.connect("startupCompleted()", register_parts)


def register_parts():
    """Offer the head of the tutorial in the module Sample Data, and make the layout of the comparison known."""
    from ScoreFusionLib.logic import compare, sample_data

    sample_data.register()
    compare.register_layout()


@parameterNodeWrapper
class ScoreFusionParameterNode:
    """What the panel shows, saved in the scene. The inputs are node references, since each model has its own.

    Zero means "as the model or the preset says" for `samples`, `steps`, `voxelSize` and `sliceThickness`.
    """

    model: str = ""
    outputVolume: vtkMRMLScalarVolumeNode
    makeUncertainty: bool = False
    uncertaintyVolume: vtkMRMLScalarVolumeNode
    referenceVolume: vtkMRMLScalarVolumeNode
    makeChange: bool = False
    registerScans: bool = True
    contrast: Contrast = Contrast.AUTO
    thickAxis: ThickAxis = ThickAxis.AUTO
    sliceThickness: Annotated[float, WithinRange(0.0, 30.0)] = 0.0
    frames: Frames = Frames.CURRENT
    preset: Preset = Preset.FAST
    device: str = "auto"
    samples: Annotated[int, WithinRange(0, 64)] = 0
    steps: Annotated[int, WithinRange(0, 1000)] = 0
    voxelSize: Annotated[float, WithinRange(0.0, 5.0)] = 0.0
    seed: Annotated[int, WithinRange(0, 999999)] = 0


class ScoreFusionWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    """Connects the panel with the scene; `ScoreFusionLib.widgets.panel` holds what is shown."""

    def __init__(self, parent=None):
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)
        self.logic = None
        self.panel = None
        self._parameterNode = None
        self._parameterNodeGuiTag = None

    def setup(self):
        """Build the panel. Nothing heavy is imported: torch lives in the worker alone."""
        ScriptedLoadableModuleWidget.setup(self)
        from ScoreFusionLib.widgets.panel import Panel

        uiWidget = slicer.util.loadUI(self.resourcePath("UI/ScoreFusion.ui"))
        self.layout.addWidget(uiWidget)
        self.ui = slicer.util.childWidgetVariables(uiWidget)
        uiWidget.setMRMLScene(slicer.mrmlScene)
        self.logic = ScoreFusionLogic()
        self.panel = Panel(self.ui, self.logic)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.StartCloseEvent, self.onSceneStartClose)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.EndCloseEvent, self.onSceneEndClose)
        self.initializeParameterNode()

    def cleanup(self):
        """The module is reloaded or Slicer quits: the worker must not survive."""
        self.setParameterNode(None)
        self.removeObservers()
        if self.panel is not None:
            self.panel.close()

    def enter(self):
        """The user opens the module."""
        self.initializeParameterNode()

    def exit(self):
        """The user goes to another module; a run goes on."""
        self.setParameterNode(None)

    def onReload(self):
        """Reload ScoreFusionLib too, not only this file."""
        for name in [name for name in sys.modules if name.split(".")[0] == "ScoreFusionLib"]:
            del sys.modules[name]
        super().onReload()

    def onSceneStartClose(self, caller, event):
        """The parameter node is about to be reset; a run ends by itself (see `TranslateJob`)."""
        self.setParameterNode(None)

    def onSceneEndClose(self, caller, event):
        """The scene is empty again."""
        self.panel.forget_result()
        if self.parent.isEntered:
            self.initializeParameterNode()

    def initializeParameterNode(self):
        """Make sure that there is a parameter node, and show it."""
        self.setParameterNode(self.logic.getParameterNode())

    def setParameterNode(self, parameterNode):
        """Bind the panel to a parameter node, None unbinds it."""
        if self._parameterNode:
            self._parameterNode.disconnectGui(self._parameterNodeGuiTag)
            self._parameterNodeGuiTag = None
            self.removeObserver(self._parameterNode, vtk.vtkCommand.ModifiedEvent, self.onParametersModified)
        self._parameterNode = parameterNode
        if self._parameterNode:
            self._parameterNodeGuiTag = self._parameterNode.connectGui(self.ui)
            self.addObserver(self._parameterNode, vtk.vtkCommand.ModifiedEvent, self.onParametersModified)
        if self.panel is not None:
            self.panel.set_parameter_node(parameterNode)

    def onParametersModified(self, caller=None, event=None):
        """A choice was changed, here or in the scene."""
        self.panel.refresh()


class ScoreFusionLogic(ScriptedLoadableModuleLogic):
    """Runs models on volume nodes. Knows no widget; for the panel, the Python console and other modules.

    >>> head = slicer.util.getNode("MRHead")                                   # doctest: +SKIP
    >>> sharp = ScoreFusionLogic().translate(head, model="brain-sr")           # doctest: +SKIP
    """

    def getParameterNode(self):
        """Return the settings of the panel; in a new scene they begin as the user left them last time."""
        from ScoreFusionLib.logic import preferences

        node = super().getParameterNode()
        is_new = not node.GetParameter("preset")
        parameters = ScoreFusionParameterNode(node)
        if is_new:
            preferences.fill(parameters)
        return parameters

    def models(self):
        """Return the models on this computer, as `ScoreFusionLib.logic.models.Listed`."""
        from ScoreFusionLib.logic.models import list_models

        return list_models()

    def start(self, inputs, model="brain-sr", output=None, **options):
        """Start a run and return its job at once; its signals tell progress and end, `job.cancel()` stops it.

        Args:
            inputs: Volume node for the model's first condition, or a dict of condition name to volume node.
            model: Id of a model (see `models()`), or the path of a bundle.
            output: Volume node to fill; None makes a new one.
            options: `guides` (dict of optional condition to node), `stacks` (nodes), `uncertainty` (True or a node),
                `reference` (node), `change` (True makes a map of result minus input), `all_frames`, and the engine's
                settings: `preset`, `steps`, `samples`, `seed`, `device`, `spacing` (mm), `thickness` (mm), `axis`
                (0, 1, 2), `register` (bring the guides onto the scan; True), `skip_unregistered`.

        Raises:
            ScoreFusionLib.logic.errors.RunError: An input or a setting does not fit the model.
        """
        from ScoreFusionLib.logic.api import make_job

        names = ("guides", "stacks", "uncertainty", "reference", "change", "all_frames")
        own = {name: options.pop(name) for name in names if name in options}
        job = make_job(slicer.mrmlScene, inputs, model, output=output, settings=options, **own)
        job.start()
        return job

    def translate(self, inputs, model="brain-sr", output=None, **options):
        """Run a model, wait while Slicer stays alive, and return the result's volume node. Arguments as for `start`.

        Raises:
            ScoreFusionLib.logic.errors.RunError: The run failed; the message says what to do.
        """
        return self.start(inputs, model, output, **options).wait()


class ScoreFusionTest(ScriptedLoadableModuleTest):
    """A short test for "Reload and Test"; the full suite is in Testing/in_slicer."""

    def setUp(self):
        """Start from an empty scene."""
        slicer.mrmlScene.Clear()

    def runTest(self):
        """Run the test."""
        self.setUp()
        self.test_models_and_panel()

    def test_models_and_panel(self):
        """There is a model, and the parameter node keeps what it is told."""
        had_torch = "torch" in sys.modules  # of another module, say
        logic = ScoreFusionLogic()
        parameters = logic.getParameterNode()
        parameters.preset = Preset.BEST
        assert logic.getParameterNode().preset == Preset.BEST
        assert ("torch" in sys.modules) is had_torch, "the module must not import torch"
        assert logic.models(), "no model was found beside the extension"
