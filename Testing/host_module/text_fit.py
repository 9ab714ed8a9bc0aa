"""Which texts of a panel are cut: real font metrics against the room that each widget has."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ctk
import slicer
from PySide6 import QtGui, QtWidgets


@contextmanager
def usual_font_times(scale: float) -> Iterator[None]:
    """Every text of the application larger, as on a high-DPI screen, until the end."""
    usual = QtWidgets.QApplication.font()
    font = QtGui.QFont(usual)
    font.setPointSizeF(scale * usual.pointSizeF())
    QtWidgets.QApplication.setFont(font)
    try:
        yield
    finally:
        QtWidgets.QApplication.setFont(usual)


def cut_texts(panel: Any) -> list[str]:
    """Return, for each visible widget below `panel` whose text has too little room, its name, text and the pixels."""
    return [
        f"{widget.objectName or type(widget).__name__}: '{text}' needs {needed} pixels, has {given}"
        for widget in panel.findChildren(QtWidgets.QWidget)
        if widget.isVisibleTo(panel)
        for text, needed, given in _measure(widget)
        if needed > given
    ]


def _measure(widget: Any) -> Iterator[tuple[str, int, int]]:
    """Yield texts of a widget with the pixels that they need and have."""
    if isinstance(widget, QtWidgets.QLabel):
        if widget.wordWrap:
            yield widget.text, widget.heightForWidth(widget.width), widget.height
        else:
            yield widget.text, widget.sizeHint.width(), widget.width
    elif isinstance(widget, (QtWidgets.QPushButton, QtWidgets.QToolButton, QtWidgets.QCheckBox)):
        yield widget.text, widget.sizeHint.width(), widget.width
    elif isinstance(widget, QtWidgets.QComboBox):
        option = QtWidgets.QStyleOptionComboBox()
        widget.initStyleOption(option)
        room = widget.style().subControlRect(
            QtWidgets.QStyle.CC_ComboBox, option, QtWidgets.QStyle.SC_ComboBoxEditField, widget
        )
        # Any item may be chosen; but the names of nodes and of imported models are the user's own.
        is_ours = not isinstance(widget.parent(), slicer.qMRMLNodeComboBox) and widget.objectName != "modelSelector"
        texts = [widget.itemText(index) for index in range(widget.count)] if is_ours else [widget.currentText]
        for text in texts:
            yield text, widget.fontMetrics().horizontalAdvance(text), room.width()
    elif isinstance(widget, ctk.ctkCollapsibleButton):
        arrow = widget.style().pixelMetric(QtWidgets.QStyle.PM_IndicatorWidth) + 12
        yield widget.text, widget.fontMetrics().horizontalAdvance(widget.text) + arrow, widget.width
    elif isinstance(widget, QtWidgets.QAbstractSpinBox):
        line = widget.lineEdit()
        yield line.text, line.fontMetrics().horizontalAdvance(line.text), line.width
