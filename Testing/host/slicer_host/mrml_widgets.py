"""Slicer's `qMRML...` widgets, reachable as `slicer.qMRML...`; those that the host lacks are inert placeholders."""

from __future__ import annotations

from typing import Any

from PySide6 import QtCore, QtWidgets

from slicer_host.ctk_numbers import Number, number_class, range_class, slider_widget_members, spin_box_members
from slicer_host.mrml_node_combo_box import qMRMLNodeComboBox
from slicer_host.placeholders import placeholder
from slicer_host.pythonqt import native


@native
class qMRMLWidget(QtWidgets.QWidget):
    """A widget that knows the scene and tells its children when it changes."""

    mrmlSceneChanged = QtCore.Signal(object)
    host_signals = {"mrmlSceneChanged(vtkMRMLScene*)": "mrmlSceneChanged"}

    def __init__(self, parent: QtWidgets.QWidget | None = None) -> None:
        super().__init__(parent)
        self._scene: Any = None

    def setMRMLScene(self, scene: Any) -> None:  # noqa: N802
        """Set the scene; the signal is sent only if it differs."""
        if scene is not self._scene:
            self._scene = scene
            self.mrmlSceneChanged.emit(scene)

    def mrmlScene(self) -> Any:  # noqa: N802
        """Return the scene, or None."""
        return self._scene


def _with_scene(members: dict[str, Any]) -> dict[str, Any]:
    """Add the scene to a number widget: MRML number widgets follow the scene's units, which the host leaves out."""

    def set_scene(self: Any, scene: Any) -> None:
        self._scene = scene

    properties = {"quantity": QtCore.Property(str, lambda self: "", lambda self, value: None)}
    return {**members, "setMRMLScene": set_scene, "mrmlScene": lambda self: getattr(self, "_scene", None), **properties}


qMRMLSliderWidget = number_class("qMRMLSliderWidget", (QtWidgets.QWidget, Number), _with_scene(slider_widget_members()))
qMRMLSpinBox = number_class("qMRMLSpinBox", (QtWidgets.QWidget, Number), _with_scene(spin_box_members()))
qMRMLRangeWidget = range_class("qMRMLRangeWidget")

_CLASSES: dict[str, type] = {
    cls.__name__: cls for cls in (qMRMLWidget, qMRMLNodeComboBox, qMRMLSliderWidget, qMRMLSpinBox, qMRMLRangeWidget)
}

# Placeholders that are put into the `slicer` namespace beforehand, because connectors and modules name them.
_NAMED_PLACEHOLDERS = (
    "qMRMLSubjectHierarchyTreeView",
    "qMRMLSubjectHierarchyComboBox",
    "qMRMLVolumeThresholdWidget",
    "qMRMLSegmentSelectorWidget",
    "qMRMLSegmentEditorWidget",
    "qMRMLTableView",
    "qMRMLCheckableNodeComboBox",
)


def widget_class(name: str) -> type:
    """Return the class of a `qMRML...` or `qSlicer...` widget name."""
    return _CLASSES.get(name) or placeholder(name)


def exported_classes() -> dict[str, type]:
    """Return the classes that the host adds to the `slicer` namespace, by name."""
    return {**_CLASSES, **{name: placeholder(name) for name in _NAMED_PLACEHOLDERS}}
