"""Modules as the application sees them: scripted ones loaded from a file, and the logics of built-in ones."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import slicer

from slicer_host import pythonqt

# isort: split
from PySide6 import QtGui, QtWidgets

from slicer_host.mrml_widgets import qMRMLWidget


@pythonqt.native
class ScriptedModuleWidget(qMRMLWidget):
    """The C++ side of a module's panel; its Python side is `self()`."""

    def __init__(self, module: ScriptedModule) -> None:
        super().__init__()
        self._module, self._python_widget = module, None
        self._entered = False
        self.setObjectName(f"{module.name}ModuleWidget")
        self.setLayout(QtWidgets.QVBoxLayout())

    # `isEntered` and `self` are methods in Slicer too.
    def isEntered(self) -> bool:  # noqa: N802
        """Tell whether this is the selected module."""
        return self._entered

    def self(self) -> Any:
        """Return the module's own widget object."""
        return self._python_widget

    def build(self) -> Any:
        """Create the module's widget object and set it up."""
        python_module = sys.modules[self._module.name]
        name = f"{self._module.name}Widget"
        self.setMRMLScene(slicer.mrmlScene)
        self._python_widget = getattr(python_module, name)(self)
        setattr(slicer.modules, name, self._python_widget)
        self._python_widget.setup()
        return self._python_widget

    def reload(self) -> None:
        """Build the panel anew from the reloaded file."""
        was_entered = self._entered
        self.exit()
        self.build()
        if was_entered:
            self.enter()

    def enter(self) -> None:
        """Tell the panel that it is shown."""
        if not self._entered:
            self._entered = True
            if hasattr(self._python_widget, "enter"):
                self._python_widget.enter()

    def exit(self) -> None:
        """Tell the panel that it is left."""
        if self._entered:
            self._entered = False
            if hasattr(self._python_widget, "exit"):
                self._python_widget.exit()


class ScriptedModule:
    """The C++ side of a module: what `ScriptedLoadableModule` gets as its parent, and `slicer.modules.<name>`."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self.name = path.stem
        self.title = self.helpText = self.acknowledgementText = ""
        self.categories: list[str] = []
        self.dependencies: list[str] = []
        self.contributors: list[str] = []
        self.associatedNodeTypes: list[str] = []
        self.hidden = self.widgetRepresentationCreationEnabled = False
        self.index = -1
        self.icon = QtGui.QIcon()
        self._widget: ScriptedModuleWidget | None = None
        self._logic: Any = None
        self.instance: Any = None

    def self(self) -> Any:
        """Return the module's own object."""
        return self.instance

    def widgetRepresentation(self) -> ScriptedModuleWidget:
        """Return the panel, made at the first call."""
        if self._widget is None:
            self._widget = ScriptedModuleWidget(self)
            self._widget.build()
        return self._widget

    def createNewWidgetRepresentation(self) -> ScriptedModuleWidget:
        """Return a second panel."""
        widget = ScriptedModuleWidget(self)
        widget.build()
        return widget

    def logic(self) -> Any:
        """Return the C++ logic: for scripted modules one without methods of its own."""
        if self._logic is None:
            self._logic = slicer.vtkSlicerScriptedLoadableModuleLogic()
            self._logic.SetMRMLScene(slicer.mrmlScene)
        return self._logic

    def panel(self) -> ScriptedModuleWidget | None:
        """Return the panel if it was made already."""
        return self._widget

    def forget_panel(self) -> None:
        """Let the panel go."""
        if self._widget is not None:
            self._widget.deleteLater()
            self._widget = None


class BuiltInModule:
    """A module of Slicer itself: a name and a logic."""

    def __init__(self, name: str, logic: Any) -> None:
        self.name, self._logic = name, logic

    def logic(self) -> Any:
        """Return the module's logic."""
        return self._logic


# What loading a module brought: module name -> names in sys.modules before, and the folder if it was not on sys.path.
_before_load: dict[str, tuple[set[str], str | None]] = {}


def forget_imports(name: str) -> None:
    """Forget a module and its library `<name>Lib`, so that the next load sees fresh state.

    What was imported before the load stays: a test that holds it would otherwise see two copies.
    """
    before, added_folder = _before_load.pop(name)
    for python_name in set(sys.modules) - before:
        if python_name == name or python_name.split(".")[0] == f"{name}Lib":
            del sys.modules[python_name]
            parent, _, child = python_name.rpartition(".")
            if hasattr(sys.modules.get(parent), child):  # `from parent import child` would find the old one
                delattr(sys.modules[parent], child)
    if added_folder in sys.path:
        sys.path.remove(added_folder)


def import_file(path: Path) -> ModuleType:
    """Import a module's file under its own name, with its folder on `sys.path`, as the application does."""
    folder = str(path.parent)
    is_new = folder not in sys.path
    _before_load[path.stem] = (set(sys.modules) - {path.stem}, folder if is_new else None)
    if is_new:
        sys.path.insert(0, folder)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    python_module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = python_module
    try:
        spec.loader.exec_module(python_module)
    except BaseException:
        forget_imports(path.stem)
        raise
    return python_module
