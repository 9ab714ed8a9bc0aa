"""The base classes of a scripted module."""

from __future__ import annotations

import logging
import sys
import unittest
from pathlib import Path
from typing import Any

import ctk
import qt
import slicer

__all__ = [
    "ScriptedLoadableModule",
    "ScriptedLoadableModuleLogic",
    "ScriptedLoadableModuleTest",
    "ScriptedLoadableModuleWidget",
]

_NODE_CLASS = "vtkMRMLScriptedModuleNode"


class ScriptedLoadableModule:
    """What the application knows of a module: title, category, help; and how its tests are run."""

    def __init__(self, parent: Any) -> None:
        super().__init__()
        self.parent = parent
        self.moduleName = type(self).__name__
        parent.title = ""
        parent.categories = []
        parent.dependencies = []
        parent.contributors = ["Unknown"]
        parent.helpText = "This module has no help text yet."
        parent.acknowledgementText = "This module has no acknowledgements yet."
        for suffix in (".svg", ".png"):
            icon = self.resourcePath(f"Icons/{self.moduleName}{suffix}")
            if Path(icon).is_file():
                parent.icon = qt.QIcon(icon)
                break
        slicer.selfTests[self.moduleName] = self.runTest

    def resourcePath(self, filename: str) -> str:
        """Return the path of a file in the module's Resources folder."""
        return str(Path(self.parent.path).parent / "Resources" / filename)

    def getDefaultModuleDocumentationLink(self, docPage: str | None = None) -> str:
        """Return a paragraph of HTML that links to the documentation."""
        page = docPage or f"https://slicer.readthedocs.io/en/latest/user_guide/modules/{self.moduleName.lower()}.html"
        return f'<p>For more information see the <a href="{page}">module documentation</a>.</p>'

    def runTest(self, msec: int = 100, **kwargs: Any) -> None:
        """Run the test class that stands in the same file."""
        python_module = sys.modules[type(self).__module__]
        test_class = getattr(python_module, f"{self.moduleName}Test", None)
        if test_class is None:
            msg = f"Test case class not found: {self.moduleName}Test"
            raise AssertionError(msg)
        test_case = test_class()
        test_case.messageDelay = msec
        test_case.runTest(**kwargs)


class ScriptedLoadableModuleWidget:
    """The panel of a module."""

    def __init__(self, parent: Any = None) -> None:
        super().__init__()
        self.moduleName = type(self).__name__.removesuffix("Widget")
        self.developerMode = slicer.util.settingsValue("Developer/DeveloperMode", False, converter=slicer.util.toBool)
        if parent is None:
            self.parent = slicer.qMRMLWidget()
            self.parent.setLayout(qt.QVBoxLayout())
            self.parent.setMRMLScene(slicer.mrmlScene)
            self.layout = self.parent.layout()
            self.setup()
            self.parent.show()
        else:
            self.parent = parent
            self.layout = parent.layout()
        slicer.app.moduleManager().connect("moduleAboutToBeUnloaded(QString)", self._onModuleAboutToBeUnloaded)

    def resourcePath(self, filename: str) -> str:
        """Return the path of a file in the module's Resources folder."""
        return str(Path(slicer.util.modulePath(self.moduleName)).parent / "Resources" / filename)

    def cleanup(self) -> None:
        """Called before the module is unloaded; modules override it."""

    def _onModuleAboutToBeUnloaded(self, moduleName: str) -> None:
        if moduleName == self.moduleName:
            self.cleanup()
            slicer.app.moduleManager().disconnect("moduleAboutToBeUnloaded(QString)", self._onModuleAboutToBeUnloaded)

    def setup(self) -> None:
        """Build the panel; modules call this first. Only developers see what it adds."""
        if self.developerMode:
            self._setup_developer_section()

    def _setup_developer_section(self) -> None:
        section = ctk.ctkCollapsibleButton()
        section.text = "Reload && Test"
        self.layout.addWidget(section)
        form = qt.QFormLayout(section)
        self.reloadButton = qt.QPushButton("Reload")
        self.reloadButton.name = "ScriptedLoadableModuleTemplate Reload"
        self.reloadButton.connect("clicked()", self.onReload)
        self.reloadAndTestButton = qt.QPushButton("Reload and Test")
        self.reloadAndTestButton.connect("clicked()", self.onReloadAndTest)
        form.addRow(self.reloadButton, self.reloadAndTestButton)

    def onReload(self) -> None:
        """Load the module's file again and rebuild the panel."""
        slicer.util.reloadScriptedModule(self.moduleName)

    def onReloadAndTest(self, **kwargs: Any) -> None:
        """Reload, then run the module's tests."""
        with slicer.util.tryWithErrorDisplay("Reload and Test failed."):
            self.onReload()
            test = slicer.selfTests[self.moduleName]
            test(msec=int(slicer.app.userSettings().value("Developer/SelfTestDisplayMessageDelay", 100)), **kwargs)


class ScriptedLoadableModuleLogic:
    """What a module computes; it has no widgets."""

    def __init__(self, parent: Any = None) -> None:
        super().__init__()
        self.moduleName = type(self).__name__.removesuffix("Logic")
        # A module with several sets of parameters sets this to False.
        self.isSingletonParameterNode = True

    def getParameterNode(self) -> Any:
        """Return the node that holds the module's parameters, making it if there is none."""
        scene = slicer.mrmlScene
        if self.isSingletonParameterNode:
            node = scene.GetSingletonNode(self.moduleName, _NODE_CLASS)
            if node is not None:
                # A scene written by other software may have lost the attribute.
                if node.GetAttribute("ModuleName") != self.moduleName:
                    node.SetAttribute("ModuleName", self.moduleName)
                return node
        else:
            existing = self.getAllParameterNodes()
            if existing:
                return existing[0]
        return scene.AddNode(self.createParameterNode())

    def getAllParameterNodes(self) -> list[Any]:
        """Return all nodes that hold parameters of this module."""
        scene = slicer.mrmlScene
        nodes = (scene.GetNthNodeByClass(i, _NODE_CLASS) for i in range(scene.GetNumberOfNodesByClass(_NODE_CLASS)))
        return [node for node in nodes if node.GetAttribute("ModuleName") == self.moduleName]

    def createParameterNode(self) -> Any:
        """Create a node for parameters, not yet in the scene; None without a scene."""
        scene = slicer.mrmlScene
        if scene is None:
            return None
        node = scene.CreateNodeByClass(_NODE_CLASS)
        node.UnRegister(None)
        if self.isSingletonParameterNode:
            node.SetSingletonTag(self.moduleName)
        node.SetAttribute("ModuleName", self.moduleName)
        node.SetName(scene.GenerateUniqueName(self.moduleName))
        return node


class ScriptedLoadableModuleTest(unittest.TestCase):
    """The self test of a module: `runTest` calls every method with "test" in its name."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.messageDelay: int | None = None
        self.enableScreenshots = False
        self.screenshotScaleFactor = 1.0

    @property
    def moduleTestNames(self) -> list[str]:
        """Names of the methods that are tests."""
        own = [name for name in dir(type(self)) if "test" in name and callable(getattr(type(self), name))]
        return [name for name in own if not hasattr(ScriptedLoadableModuleTest, name)]

    def delayDisplay(self, message: str, requestedDelay: int | None = None, msec: int | None = None) -> None:
        """Log a message and show it for a short time."""
        delay = requestedDelay if requestedDelay is not None else msec
        if self.messageDelay is not None:
            delay = self.messageDelay
        slicer.util.delayDisplay(message, 100 if delay is None else delay)

    def takeScreenshot(self, name: str, description: str = "", type: int = -1) -> None:  # noqa: A002
        """Show the description; the host keeps no screenshots."""
        if self.enableScreenshots:
            self.delayDisplay(description or name)

    def runTest(self, **kwargs: Any) -> None:
        """Run all tests; the first exception ends the run."""
        names = self.moduleTestNames
        if not names:
            logging.warning("No tests found in %s", type(self).__name__)
        type(self).setUpClass()
        for name in names:
            self.setUp()
            try:
                getattr(self, name)()
            finally:
                self.tearDown()
        type(self).tearDownClass()
