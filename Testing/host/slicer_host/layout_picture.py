"""A picture of the views as the current layout arranges them."""

from __future__ import annotations

from typing import Any
from xml.etree import ElementTree

from slicer_host import pythonqt  # noqa: F401  before PySide6

# isort: split
from PySide6 import QtCore, QtGui

_BAR_HEIGHT = 18
_GAP = 2


def draw_layout(manager: Any) -> QtGui.QImage:
    """Draw all views of the current layout.

    Slice views are real. The bar above each (colour, label, offset) stands for Slicer's slice controller, and a 3D view
    is an empty background.
    """
    canvas = QtGui.QImage(*manager.size, QtGui.QImage.Format_RGB888)
    canvas.fill(QtGui.QColor(40, 40, 40))
    painter = QtGui.QPainter(canvas)
    for view, rect in view_places(manager):
        _draw_view(painter, manager, view, rect)
    painter.end()
    return canvas


def view_places(manager: Any) -> list[tuple[ElementTree.Element, QtCore.QRect]]:
    """Return the views of the current layout (their XML elements) with their places in pixels."""
    description = manager.layoutLogic().GetLayoutNode().GetCurrentLayoutDescription()
    if not description:
        return []
    half = _GAP // 2
    places = _views_in(ElementTree.fromstring(description), QtCore.QRect(0, 0, *manager.size))
    return [(view, rect.adjusted(half, half, -half, -half)) for view, rect in places]


def slice_rect(widget: Any, rect: QtCore.QRect) -> QtCore.QRect:
    """Return the part of a slice widget's place that is left below its bar."""
    return rect.adjusted(0, _BAR_HEIGHT if widget.sliceController().visible else 0, 0, 0)


def _views_in(element: ElementTree.Element, rect: QtCore.QRect) -> list[tuple[ElementTree.Element, QtCore.QRect]]:
    """Return the views below a <layout>, <item> or <view> element, with their places."""
    if element.tag == "view":
        return [(element, rect)]
    items = [item for item in element if item.tag in ("item", "layout", "view")]
    if element.tag == "item":
        return _views_in(items[0], rect) if items else []
    kind = element.get("type", "horizontal")
    if kind == "tab":
        return _views_in(items[0], rect) if items else []
    places = _grid_places(items) if kind == "grid" else _line_places(items, vertical=kind == "vertical")
    rows = max(row + row_span for row, _, row_span, _ in places)
    columns = max(column + column_span for _, column, _, column_span in places)
    views = []
    for item, (row, column, row_span, column_span) in zip(items, places, strict=True):
        left, right = (rect.width() * c // columns for c in (column, column + column_span))
        top, bottom = (rect.height() * r // rows for r in (row, row + row_span))
        cell = QtCore.QRect(rect.x() + left, rect.y() + top, right - left, bottom - top)
        views += _views_in(item, cell)
    return views


def _line_places(items: list[ElementTree.Element], vertical: bool) -> list[tuple[int, int, int, int]]:
    """Return (row, column, row span, column span) of items in a row or column; splitSize gives their shares."""
    sizes = [int(item.get("splitSize", "0")) for item in items]
    if not all(sizes):
        sizes = [1] * len(items)
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    if vertical:
        return [(start, 0, size, 1) for start, size in zip(starts, sizes, strict=True)]
    return [(0, start, 1, size) for start, size in zip(starts, sizes, strict=True)]


def _grid_places(items: list[ElementTree.Element]) -> list[tuple[int, int, int, int]]:
    keys = (("row", 0), ("column", 0), ("rowspan", 1), ("colspan", 1))
    return [tuple(int(item.get(key, default)) for key, default in keys) for item in items]


def _draw_view(painter: QtGui.QPainter, manager: Any, view: ElementTree.Element, rect: QtCore.QRect) -> None:
    name = view.get("singletontag", "")
    if view.get("class") == "vtkMRMLSliceNode":
        widget = manager.sliceWidget(name)
        if widget.sliceController().visible:
            _draw_bar(painter, rect, widget)
        below = slice_rect(widget, rect)
        painter.drawImage(below.topLeft(), widget.sliceView().picture(below.width(), below.height()))
        return
    gradient = QtGui.QLinearGradient(rect.topLeft(), rect.bottomLeft())
    gradient.setColorAt(0.0, QtGui.QColor(118, 121, 222))
    gradient.setColorAt(1.0, QtGui.QColor(193, 195, 232))
    painter.fillRect(rect, gradient)


def _draw_bar(painter: QtGui.QPainter, rect: QtCore.QRect, widget: Any) -> None:
    node = widget.mrmlSliceNode()
    color = QtGui.QColor.fromRgbF(*node.GetLayoutColor())
    bar = QtCore.QRect(rect.x(), rect.y(), rect.width(), _BAR_HEIGHT)
    painter.fillRect(bar, color)
    painter.setPen(QtGui.QColor("black" if color.lightnessF() > 0.45 else "white"))
    text = bar.adjusted(6, 0, -6, 0)
    middle = int(QtCore.Qt.AlignVCenter)
    painter.drawText(text, int(QtCore.Qt.AlignLeft) | middle, f"{node.GetLayoutLabel()}   {node.GetOrientation()}")
    offset = widget.sliceLogic().GetSliceOffset()
    painter.drawText(text, int(QtCore.Qt.AlignRight) | middle, f"{offset:.2f} mm")
