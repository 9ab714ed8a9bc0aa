"""The `qt` module of Slicer: all of Qt's classes in one flat namespace, with PythonQt's manners."""

from __future__ import annotations

from typing import Any

from slicer_host import pythonqt  # first: it decides how PySide6 makes its enums

# isort: split
from PySide6 import QtCore, QtGui, QtNetwork, QtWidgets
from PySide6.QtCore import Property, Signal, Slot  # noqa: F401

from slicer_host.ui_loader import QUiLoader  # noqa: F401

_MODULES = (QtWidgets, QtGui, QtCore, QtNetwork)

pythonqt.install()


def __getattr__(name: str) -> Any:
    if not name.startswith("_"):
        for module in _MODULES:
            if hasattr(module, name):
                value = getattr(module, name)
                globals()[name] = value
                return value
    msg = f"module 'qt' has no attribute '{name}'"
    raise AttributeError(msg)
