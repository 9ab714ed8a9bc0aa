"""CTK's collapsible containers."""

from __future__ import annotations

from typing import Any

from PySide6 import QtCore, QtGui, QtWidgets

from slicer_host.pythonqt import native


def _show_children(widget: QtWidgets.QWidget, visible: bool, hidden_before: set[int]) -> None:
    """Hide or show the direct children, leaving those alone that were hidden by themselves."""
    children = [child for child in widget.children() if isinstance(child, QtWidgets.QWidget)]
    if not visible:
        hidden_before.clear()
        hidden_before.update(id(child) for child in children if child.isHidden())
    for child in children:
        if not visible or id(child) not in hidden_before:
            child.setVisible(visible)


@native
class ctkCollapsibleButton(QtWidgets.QAbstractButton):
    """A titled section that opens and closes at a click."""

    contentsCollapsed = QtCore.Signal(bool)

    def __init__(self, *args: Any) -> None:
        parent = next((arg for arg in args if isinstance(arg, QtWidgets.QWidget)), None)
        super().__init__(parent)
        self._collapsed = False
        self._hidden_before: set[int] = set()
        if args and isinstance(args[0], str):
            self.setText(args[0])
        self.setCheckable(True)
        self.setChecked(True)
        self.setSizePolicy(QtWidgets.QSizePolicy.Preferred, QtWidgets.QSizePolicy.Preferred)
        self.setContentsMargins(0, self._header_height(), 0, 0)
        self.toggled.connect(lambda opened: self._set_collapsed(not opened))

    def _header_height(self) -> int:
        return max(22, self.fontMetrics().height() + 8)

    def _set_collapsed(self, collapsed: bool) -> None:
        if collapsed == self._collapsed:
            return
        self._collapsed = collapsed
        self.setChecked(not collapsed)
        _show_children(self, not collapsed, self._hidden_before)
        self.setMaximumHeight(self._header_height() if collapsed else 16777215)
        self.updateGeometry()
        self.contentsCollapsed.emit(collapsed)

    collapsed = QtCore.Property(bool, lambda self: self._collapsed, lambda self, value: self._set_collapsed(value))
    flat = QtCore.Property(bool, lambda self: False, lambda self, value: None)

    def setCollapsed(self, collapsed: bool) -> None:  # noqa: N802
        """Close or open the section."""
        self._set_collapsed(collapsed)

    def childEvent(self, event: QtCore.QChildEvent) -> None:  # noqa: N802
        """Hide what is added to a closed section."""
        super().childEvent(event)
        child = event.child()
        if event.type() == QtCore.QEvent.ChildPolished and self._collapsed and isinstance(child, QtWidgets.QWidget):
            child.setVisible(False)

    def sizeHint(self) -> QtCore.QSize:  # noqa: N802
        """Return the size of the header, or of header and contents."""
        header = QtCore.QSize(self.fontMetrics().horizontalAdvance(self.text) + 40, self._header_height())
        layout = self.layout()
        return header if self._collapsed or layout is None else layout.totalSizeHint().expandedTo(header)

    def minimumSizeHint(self) -> QtCore.QSize:  # noqa: N802
        """Return the smallest size of header and contents."""
        layout = self.layout()
        if self._collapsed or layout is None:
            return QtCore.QSize(0, self._header_height())
        return layout.totalMinimumSize()

    def hitButton(self, position: QtCore.QPoint) -> bool:  # noqa: N802
        """Only the header reacts to the mouse."""
        return position.y() < self._header_height()

    def paintEvent(self, event: QtGui.QPaintEvent) -> None:  # noqa: N802
        """Draw the header with its arrow, and a frame round the contents."""
        painter = QtWidgets.QStylePainter(self)
        height = self._header_height()
        option = QtWidgets.QStyleOptionButton()
        option.initFrom(self)
        option.rect = QtCore.QRect(0, 0, self.width, height)
        painter.drawControl(QtWidgets.QStyle.CE_PushButtonBevel, option)
        arrow = QtWidgets.QStyleOption()
        arrow.initFrom(self)
        arrow.rect = QtCore.QRect(6, height // 2 - 5, 10, 10)
        down = QtWidgets.QStyle.PE_IndicatorArrowDown
        painter.drawPrimitive(QtWidgets.QStyle.PE_IndicatorArrowRight if self._collapsed else down, arrow)
        text = QtCore.QRect(22, 0, self.width - 24, height)
        painter.drawText(text, int(QtCore.Qt.AlignLeft | QtCore.Qt.AlignVCenter), self.text)
        if not self._collapsed:
            painter.setPen(self.palette.color(QtGui.QPalette.Mid))
            painter.drawRect(0, height - 1, self.width - 1, self.height - height)


@native
class ctkCollapsibleGroupBox(QtWidgets.QGroupBox):
    """A group box whose title opens and closes it."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._hidden_before: set[int] = set()
        self.setCheckable(True)
        self.setChecked(True)
        self.toggled.connect(self._on_toggled)

    def _on_toggled(self, opened: bool) -> None:
        _show_children(self, opened, self._hidden_before)
        self.setMaximumHeight(16777215 if opened else self.fontMetrics().height() + 8)
        self.updateGeometry()

    collapsed = QtCore.Property(bool, lambda self: not self.isChecked(), lambda self, value: self.setChecked(not value))
    collapsedHeight = QtCore.Property(int, lambda self: 14, lambda self, value: None)  # noqa: N815

    def setCollapsed(self, collapsed: bool) -> None:  # noqa: N802
        """Close or open the box."""
        self.setChecked(not collapsed)

    def childEvent(self, event: QtCore.QChildEvent) -> None:  # noqa: N802
        """Hide what is added to a closed box."""
        super().childEvent(event)
        child = event.child()
        if (
            event.type() == QtCore.QEvent.ChildPolished
            and not self.isChecked()
            and isinstance(child, QtWidgets.QWidget)
        ):
            child.setVisible(False)

    def paintEvent(self, event: QtGui.QPaintEvent) -> None:  # noqa: N802
        """Draw the title with an arrow instead of a check mark."""
        painter = QtWidgets.QStylePainter(self)
        option = QtWidgets.QStyleOptionGroupBox()
        self.initStyleOption(option)
        option.subControls &= ~QtWidgets.QStyle.SC_GroupBoxCheckBox
        indicator = self.style().subControlRect(
            QtWidgets.QStyle.CC_GroupBox, option, QtWidgets.QStyle.SC_GroupBoxLabel, self
        )
        option.text = "    " + option.text
        painter.drawComplexControl(QtWidgets.QStyle.CC_GroupBox, option)
        arrow = QtWidgets.QStyleOption()
        arrow.initFrom(self)
        arrow.rect = QtCore.QRect(indicator.x() + 2, indicator.center().y() - 4, 9, 9)
        opened = QtWidgets.QStyle.PE_IndicatorArrowDown
        painter.drawPrimitive(opened if self.isChecked() else QtWidgets.QStyle.PE_IndicatorArrowRight, arrow)
