"""Light and dark colours, for pictures of a panel in both."""

from __future__ import annotations

from slicer_host import pythonqt  # noqa: F401  before PySide6

# isort: split
from PySide6 import QtGui, QtWidgets

_LIGHT = {
    "Window": "#efefef",
    "WindowText": "#000000",
    "Base": "#ffffff",
    "AlternateBase": "#f7f7f7",
    "Text": "#000000",
    "Button": "#efefef",
    "ButtonText": "#000000",
    "ToolTipBase": "#ffffdc",
    "ToolTipText": "#000000",
    "PlaceholderText": "#808080",
    "Link": "#0000ff",
    "Highlight": "#308cc6",
    "HighlightedText": "#ffffff",
}
_DARK = {
    "Window": "#353535",
    "WindowText": "#ffffff",
    "Base": "#232323",
    "AlternateBase": "#353535",
    "Text": "#ffffff",
    "Button": "#353535",
    "ButtonText": "#ffffff",
    "ToolTipBase": "#232323",
    "ToolTipText": "#ffffff",
    "PlaceholderText": "#9a9a9a",
    "Link": "#56b4ff",
    "Highlight": "#2a82da",
    "HighlightedText": "#ffffff",
}


def apply(dark: bool) -> None:
    """Set the application's palette; `widget.palette.window` and the like then tell a module which it is."""
    palette = QtGui.QPalette(QtGui.QColor(_DARK["Window"] if dark else _LIGHT["Window"]))
    for role, color in (_DARK if dark else _LIGHT).items():
        palette.setColor(getattr(QtGui.QPalette, role), QtGui.QColor(color))
    grey = QtGui.QColor("#8a8a8a" if dark else "#a0a0a0")
    for role in ("WindowText", "Text", "ButtonText"):
        palette.setColor(QtGui.QPalette.Disabled, getattr(QtGui.QPalette, role), grey)
    QtWidgets.QApplication.setPalette(palette)
