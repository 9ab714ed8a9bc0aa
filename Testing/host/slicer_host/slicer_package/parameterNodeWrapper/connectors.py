"""Which widget can show which parameter, and how. The exact type of the widget decides, as in Slicer."""

from __future__ import annotations

import abc
import enum
import logging
import typing
from typing import Any

import ctk
import qt
import slicer

from .annotations import (
    Choice,
    Decimals,
    Maximum,
    Minimum,
    RangeBounds,
    SingleStep,
    WithinRange,
    find,
    is_union,
    splitAnnotations,
)

_registered: list[type[GuiConnector]] = []


class GuiConnector(abc.ABC):
    """Binds one widget to one parameter."""

    def __init__(self) -> None:
        self._callback: Any = None

    @staticmethod
    @abc.abstractmethod
    def canRepresent(widget: Any, datatype: Any) -> bool:
        """Tell whether this class can bind a widget to a type."""

    @classmethod
    def create(cls, widget: Any, datatype: Any) -> GuiConnector:
        """Make the connector."""
        return cls(widget, datatype)

    @abc.abstractmethod
    def _connect(self) -> None: ...

    @abc.abstractmethod
    def _disconnect(self) -> None: ...

    @abc.abstractmethod
    def widget(self) -> Any:
        """Return the widget."""

    @abc.abstractmethod
    def read(self) -> Any:
        """Return the value that the widget shows."""

    @abc.abstractmethod
    def write(self, value: Any) -> None:
        """Show a value."""

    def changed(self, *args: Any) -> None:
        """Report that the user changed the widget."""
        if self._callback is not None:
            self._callback()

    def onChanged(self, callback: Any) -> None:
        """Set what is called when the widget changes; None ends it."""
        if self._callback is not None:
            self._disconnect()
        self._callback = callback
        if callback is not None:
            self._connect()


def parameterNodeGuiConnector(cls: type[GuiConnector] | None = None) -> Any:
    """Class decorator: make a connector known. Later ones come first, so that they can replace the built-in ones."""

    def register(connector: type[GuiConnector]) -> type[GuiConnector]:
        _registered.insert(0, connector)
        return connector

    return register if cls is None else register(cls)


def create_connector(widget: Any, datatype: Any) -> GuiConnector:
    """Make the connector of a widget and a type.

    Raises:
        RuntimeError: no connector is known for the pair.
    """
    for cls in _registered:
        if cls.canRepresent(widget, datatype):
            return cls.create(widget, datatype)
    msg = f"Unable to create a GUI connector from widget {type(widget).__name__} to datatype {datatype}"
    raise RuntimeError(msg)


class _SignalConnector(GuiConnector):
    """A connector for one signal; `pairs` names the exact widget types, `kinds` the parameter types."""

    widgets: tuple[Any, ...] = ()
    kinds: tuple[Any, ...] = ()
    signal: str | None = ""

    @classmethod
    def canRepresent(cls, widget: Any, datatype: Any) -> bool:
        return type(widget) in cls.widgets and splitAnnotations(datatype)[0] in cls.kinds

    def __init__(self, widget: Any, datatype: Any) -> None:
        super().__init__()
        self._widget = widget
        self.kind, self.annotations = splitAnnotations(datatype)
        self.prepare()

    def prepare(self) -> None:
        """Set up the widget from the type and its annotations."""

    def widget(self) -> Any:
        return self._widget

    def _connect(self) -> None:
        if self.signal:
            self._widget.connect(self.signal, self.changed)

    def _disconnect(self) -> None:
        if self.signal:
            self._widget.disconnect(self.signal, self.changed)


@parameterNodeGuiConnector
class CheckBoxConnector(_SignalConnector):
    """A check box."""

    widgets, kinds, signal = (qt.QCheckBox, ctk.ctkCheckBox), (bool,), "stateChanged(int)"

    def read(self) -> bool:
        return self._widget.checked

    def write(self, value: bool) -> None:
        self._widget.checked = value


@parameterNodeGuiConnector
class CheckableButtonConnector(_SignalConnector):
    """A button that stays down."""

    widgets, kinds, signal = (qt.QPushButton, ctk.ctkCheckablePushButton), (bool,), "toggled(bool)"

    def prepare(self) -> None:
        if not self._widget.checkable:
            logging.warning("Making push button %s checkable, to show a bool", self._widget.name)
            self._widget.checkable = True

    def read(self) -> bool:
        return self._widget.checked

    def write(self, value: bool) -> None:
        self._widget.checked = value


class _NumberConnector(_SignalConnector):
    """A widget with a value within a range."""

    must_be_bounded = False
    has_decimals = True

    def prepare(self) -> None:
        low, high = _bounds(self.annotations)
        if self.must_be_bounded and (low is None or high is None):
            msg = f"Cannot have a non-fully-bounded numeric type for {type(self._widget).__name__}"
            raise RuntimeError(msg)
        decimals, step = find(self.annotations, Decimals), find(self.annotations, SingleStep)
        if self.has_decimals and (decimals is not None or self.kind is int):
            self._widget.decimals = 0 if self.kind is int else decimals.value  # before the range, which is rounded
        if step is not None:
            self._widget.singleStep = step.value
        self._widget.minimum = self.lowest() if low is None else low
        self._widget.maximum = self.highest() if high is None else high

    def lowest(self) -> float:
        return float("-inf")

    def highest(self) -> float:
        return float("inf")

    def read(self) -> Any:
        return self.kind(self._widget.value)

    def write(self, value: Any) -> None:
        self._widget.value = value


def _bounds(annotations: list[Any]) -> tuple[Any, Any]:
    both, low, high = (find(annotations, kind) for kind in (WithinRange, Minimum, Maximum))
    if both is not None:
        return both.minimum, both.maximum
    return (low.minimum if low is not None else None), (high.maximum if high is not None else None)


@parameterNodeGuiConnector
class SliderConnector(_NumberConnector):
    """A plain slider, for whole numbers; needs both bounds."""

    widgets, kinds, signal = (qt.QSlider,), (int,), "valueChanged(int)"
    must_be_bounded, has_decimals = True, False


@parameterNodeGuiConnector
class SpinBoxConnector(_NumberConnector):
    """A spin box for whole numbers."""

    widgets, kinds, signal = (qt.QSpinBox,), (int,), "valueChanged(int)"
    has_decimals = False

    def lowest(self) -> int:
        return -(2**31)

    def highest(self) -> int:
        return 2**31 - 1


@parameterNodeGuiConnector
class DoubleSpinBoxConnector(_NumberConnector):
    """A spin box for any numbers."""

    widgets = (qt.QDoubleSpinBox, ctk.ctkDoubleSpinBox, slicer.qMRMLSpinBox)
    kinds, signal = (float, int), "valueChanged(double)"


@parameterNodeGuiConnector
class DoubleSliderConnector(_NumberConnector):
    """CTK's bare slider."""

    widgets, kinds, signal = (ctk.ctkDoubleSlider,), (float, int), "valueChanged(double)"
    has_decimals = False


@parameterNodeGuiConnector
class SliderWidgetConnector(_NumberConnector):
    """A slider with its spin box; needs both bounds."""

    widgets = (ctk.ctkSliderWidget, slicer.qMRMLSliderWidget)
    kinds, signal = (float, int), "valueChanged(double)"
    must_be_bounded = True


@parameterNodeGuiConnector
class ChoiceConnector(_SignalConnector):
    """A combo box with the choices of a parameter; without `Choice` there is no connector."""

    widgets = (qt.QComboBox, ctk.ctkComboBox)
    kinds, signal = (int, float, str, bool), "currentIndexChanged(int)"

    @classmethod
    def canRepresent(cls, widget: Any, datatype: Any) -> bool:
        return super().canRepresent(widget, datatype) and find(splitAnnotations(datatype)[1], Choice) is not None

    def prepare(self) -> None:
        self.choices = find(self.annotations, Choice).choices
        self._widget.clear()
        self._widget.addItems([str(choice) for choice in self.choices])

    def read(self) -> Any:
        return self.choices[self._widget.currentIndex]

    def write(self, value: Any) -> None:
        self._widget.setCurrentIndex(self.choices.index(value))


@parameterNodeGuiConnector
class EnumConnector(_SignalConnector):
    """A combo box with the members of an enumeration."""

    widgets, signal = (qt.QComboBox, ctk.ctkComboBox), "currentIndexChanged(int)"

    @classmethod
    def canRepresent(cls, widget: Any, datatype: Any) -> bool:
        kind = splitAnnotations(datatype)[0]
        return type(widget) in cls.widgets and isinstance(kind, type) and issubclass(kind, enum.Enum)

    def prepare(self) -> None:
        self.choices = list(self.kind)
        self._widget.clear()
        self._widget.addItems([m.label() if hasattr(m, "label") else m.name for m in self.choices])

    def read(self) -> Any:
        return self.choices[self._widget.currentIndex]

    def write(self, value: Any) -> None:
        self._widget.setCurrentIndex(self.choices.index(value))


@parameterNodeGuiConnector
class LineEditConnector(_SignalConnector):
    """A line of text."""

    widgets, kinds, signal = (qt.QLineEdit,), (str,), "textChanged(QString)"

    def read(self) -> str:
        return self._widget.text

    def write(self, value: str) -> None:
        self._widget.text = value  # even if it is the same, which moves the cursor to the end, as in Slicer


@parameterNodeGuiConnector
class TextEditConnector(_SignalConnector):
    """Plain text of several lines."""

    widgets, kinds, signal = (qt.QTextEdit,), (str,), "textChanged()"

    def read(self) -> str:
        return self._widget.toPlainText()

    def write(self, value: str) -> None:
        self._widget.setPlainText(value)


@parameterNodeGuiConnector
class LabelConnector(_SignalConnector):
    """A label: shows the parameter and never changes it."""

    widgets, kinds, signal = (qt.QLabel,), (str,), None

    def read(self) -> str:
        return self._widget.text

    def write(self, value: str) -> None:
        self._widget.text = value


class _PathConnector(_SignalConnector):
    path_property = ""

    @classmethod
    def canRepresent(cls, widget: Any, datatype: Any) -> bool:
        from .serializers import PathSerializer

        return type(widget) in cls.widgets and PathSerializer.canSerialize(splitAnnotations(datatype)[0])

    def read(self) -> Any:
        return self.kind(getattr(self._widget, self.path_property))

    def write(self, value: Any) -> None:
        setattr(self._widget, self.path_property, str(value))


@parameterNodeGuiConnector
class PathLineEditConnector(_PathConnector):
    """A path that can be typed."""

    widgets, signal, path_property = (ctk.ctkPathLineEdit,), "currentPathChanged(QString)", "currentPath"


@parameterNodeGuiConnector
class DirectoryButtonConnector(_PathConnector):
    """A button that holds a folder."""

    widgets, signal, path_property = (ctk.ctkDirectoryButton,), "directoryChanged(QString)", "directory"


@parameterNodeGuiConnector
class ColorConnector(_SignalConnector):
    """A button that holds a colour."""

    widgets, kinds, signal = (ctk.ctkColorPickerButton,), (qt.QColor,), "colorChanged(QColor)"

    def read(self) -> Any:
        return self._widget.color

    def write(self, value: Any) -> None:
        self._widget.setColor(value)


@parameterNodeGuiConnector
class RangeConnector(_SignalConnector):
    """Two sliders on one rail; needs the bounds."""

    widgets = (ctk.ctkRangeWidget, ctk.ctkDoubleRangeSlider, slicer.qMRMLRangeWidget)
    signal = "valuesChanged(double,double)"

    @classmethod
    def canRepresent(cls, widget: Any, datatype: Any) -> bool:
        from .packs import FloatRange

        return type(widget) in cls.widgets and splitAnnotations(datatype)[0] is FloatRange

    def prepare(self) -> None:
        bounds = find(self.annotations, RangeBounds)
        if bounds is None:
            msg = f"Cannot use {type(self._widget).__name__} without a RangeBounds annotation"
            raise RuntimeError(msg)
        self._widget.setRange(bounds.minimum, bounds.maximum)
        step, decimals = find(self.annotations, SingleStep), find(self.annotations, Decimals)
        if step is not None:
            self._widget.singleStep = step.value
        if decimals is not None and type(self._widget) is not ctk.ctkDoubleRangeSlider:
            self._widget.decimals = decimals.value

    def read(self) -> Any:
        return self.kind(self._widget.minimumValue, self._widget.maximumValue)

    def write(self, value: Any) -> None:
        self._widget.setValues(value.minimum, value.maximum)


@parameterNodeGuiConnector
class NodeComboBoxConnector(_SignalConnector):
    """A node selector; its node types come from the parameter."""

    widgets = (slicer.qMRMLNodeComboBox, slicer.qMRMLSubjectHierarchyComboBox, slicer.qMRMLSubjectHierarchyTreeView)
    signal = "currentNodeChanged(vtkMRMLNode*)"

    @classmethod
    def canRepresent(cls, widget: Any, datatype: Any) -> bool:
        return type(widget) in cls.widgets and bool(node_types(splitAnnotations(datatype)[0]))

    def prepare(self) -> None:
        self._widget.nodeTypes = node_types(self.kind)

    def read(self) -> Any:
        return self._widget.currentNode()

    def write(self, value: Any) -> None:
        self._widget.setCurrentNode(value)


def node_types(kind: Any) -> list[str]:
    """Return the node classes of a type, or nothing if it is not a node or a union of nodes and None."""
    kinds = typing.get_args(kind) if is_union(kind) else (kind,)
    nodes = [k for k in kinds if isinstance(k, type) and issubclass(k, slicer.vtkMRMLNode)]
    return [node.__name__ for node in nodes] if len(nodes) + (type(None) in kinds) == len(kinds) else []
