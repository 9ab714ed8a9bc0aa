"""The `ctk` module of Slicer: the widgets that panels use. An unknown name gets an inert placeholder."""

from __future__ import annotations

from slicer_host import pythonqt

# isort: split
from PySide6 import QtWidgets

from slicer_host.ctk_containers import ctkCollapsibleButton, ctkCollapsibleGroupBox  # noqa: F401
from slicer_host.ctk_inputs import (  # noqa: F401
    ctkCheckablePushButton,
    ctkCheckBox,
    ctkColorPickerButton,
    ctkComboBox,
    ctkDirectoryButton,
    ctkMessageBox,
    ctkPathLineEdit,
    ctkPushButton,
)
from slicer_host.ctk_numbers import (  # noqa: F401
    ctkDoubleRangeSlider,
    ctkDoubleSlider,
    ctkDoubleSpinBox,
    ctkRangeWidget,
    ctkSliderWidget,
)
from slicer_host.placeholders import placeholder

pythonqt.install()


def __getattr__(name: str) -> type[QtWidgets.QWidget]:
    if name.startswith("ctk"):
        return placeholder(name)
    msg = f"module 'ctk' has no attribute '{name}'"
    raise AttributeError(msg)
