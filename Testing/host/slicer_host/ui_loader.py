"""Load Qt Designer files that name Slicer's widgets."""

from __future__ import annotations

from xml.etree import ElementTree

from slicer_host import pythonqt

# isort: split
from PySide6 import QtCore, QtUiTools, QtWidgets

# Widgets that Qt itself created have no other Python owner: without this the Python half of a host widget,
# with its state, could be collected while the C++ half lives on.
_alive: dict[int, QtCore.QObject] = {}


def keep_until_destroyed(obj: QtCore.QObject) -> None:
    """Keep the Python half of a Qt object for as long as the C++ half lives."""
    key = id(obj)
    _alive[key] = obj
    obj.destroyed.connect(lambda: _alive.pop(key, None))


def host_class(name: str) -> type[QtWidgets.QWidget] | None:
    """Return the host's class for a `ctk...` or `qMRML...` name, None for any other name."""
    from slicer_host import ctk, mrml_widgets

    if name.startswith("ctk"):
        return getattr(ctk, name)
    if name.startswith(("qMRML", "qSlicer")):
        return mrml_widgets.widget_class(name)
    return None


class QUiLoader(QtUiTools.QUiLoader):
    """Creates the host's widgets, and connects the MRML signals that Qt's own loader cannot connect."""

    def createWidget(  # noqa: N802
        self, class_name: str, parent: QtWidgets.QWidget | None = None, name: str = ""
    ) -> QtWidgets.QWidget:
        cls = host_class(class_name)
        if cls is None:
            return super().createWidget(class_name, parent, name)
        widget = cls(parent)
        widget.setObjectName(name)
        keep_until_destroyed(widget)
        return widget

    def load(self, device: QtCore.QIODevice, parent: QtWidgets.QWidget | None = None) -> QtWidgets.QWidget | None:
        """Load a .ui file.

        Args:
            device: open file.
            parent: parent of the new widget.

        Returns:
            The top-level widget; None if the file is not a .ui file.
        """
        content = device.readAll().data()
        try:
            tree = ElementTree.fromstring(content)
        except ElementTree.ParseError:
            return None
        connections = _take_connections(tree)
        buffer = QtCore.QBuffer()
        buffer.setData(ElementTree.tostring(tree))
        buffer.open(QtCore.QIODevice.ReadOnly)
        pythonqt.loading_ui = True
        try:
            widget = super().load(buffer, parent)
        finally:
            pythonqt.loading_ui = False
        if widget is None:
            return None
        for sender_name, signal, receiver_name, slot in connections:
            sender, receiver = (_by_name(widget, name) for name in (sender_name, receiver_name))
            if sender is not None and receiver is not None:
                sender.connect(signal, receiver, slot)
        return widget


def _by_name(root: QtWidgets.QWidget, name: str) -> QtCore.QObject | None:
    return root if root.objectName == name else root.findChild(QtCore.QObject, name)


def _take_connections(tree: ElementTree.Element) -> list[tuple[str, str, str, str]]:
    """Remove the connections from the XML, and return them as (sender, signal, receiver, slot)."""
    found = []
    for block in tree.findall("connections"):
        for connection in block.findall("connection"):
            parts = [connection.findtext(tag, "") for tag in ("sender", "signal", "receiver", "slot")]
            found.append(tuple(part.strip() for part in parts))
        tree.remove(block)
    return found


pythonqt.install()
