"""Stand-ins for widget classes that the host does not have: visible as a box, and without behaviour."""

from __future__ import annotations

from PySide6 import QtWidgets

from slicer_host.pythonqt import native

_placeholders: dict[str, type[QtWidgets.QWidget]] = {}


def placeholder(name: str) -> type[QtWidgets.QWidget]:
    """Return the inert class for a widget name, always the same one."""
    if name not in _placeholders:

        def setMRMLScene(self: QtWidgets.QWidget, scene: object) -> None:  # noqa: N802
            self._scene = scene

        _placeholders[name] = native(
            type(name, (QtWidgets.QWidget,), {"setMRMLScene": setMRMLScene, "is_placeholder": True})
        )
    return _placeholders[name]
