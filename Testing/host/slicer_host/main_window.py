"""A main window, for modules that look for one: status bar, module selector, panel. Views are pictures elsewhere."""

from __future__ import annotations

from typing import Any

import slicer

from slicer_host import pythonqt  # noqa: F401  before PySide6

# isort: split
from PySide6 import QtWidgets


class ModuleSelector(QtWidgets.QWidget):
    """The list of modules."""

    def __init__(self, parent: QtWidgets.QWidget, host: Any) -> None:
        super().__init__(parent)
        self._host, self._selected = host, ""

    @property
    def selectedModule(self) -> str:
        """Name of the selected module."""
        return self._selected

    def selectModule(self, name: str) -> None:
        """Select a module by name; built-in ones have no panel, the old one is left all the same."""
        self._selected = name
        module = slicer.app.moduleManager().module(name)
        if hasattr(module, "widgetRepresentation"):
            self._host.open(module)
        else:
            self._host.leave()


class MainWindow(QtWidgets.QMainWindow):
    """The window that `slicer.util.mainWindow()` finds by its name."""

    def __init__(self, host: Any) -> None:
        super().__init__()
        self.setObjectName("qSlicerMainWindow")
        self._selector = ModuleSelector(self, host)

    def moduleSelector(self) -> ModuleSelector:
        """Return the list of modules."""
        return self._selector
