"""CTK's widgets for numbers."""

from __future__ import annotations

from typing import Any

from PySide6 import QtCore, QtWidgets

from slicer_host.pythonqt import native


class Number:
    """A bounded value with `value`, `minimum`, `maximum`, ...: the state that all these widgets share.

    The Qt properties themselves are declared in each class, since Qt reads them when the class is made.
    """

    def _init_number(self, minimum: float = 0.0, maximum: float = 99.0) -> None:
        self._value, self._minimum, self._maximum = max(minimum, 0.0), minimum, maximum
        self._single_step, self._decimals = 1.0, 2
        self._prefix = self._suffix = ""

    def _set_value(self, value: float) -> None:
        value = round(min(max(float(value), self._minimum), self._maximum), self._decimals)
        if value != self._value:
            self._value = value
            self._show_value()
            self.valueChanged.emit(value)

    def _set_range(self, minimum: float, maximum: float) -> None:
        self._minimum, self._maximum = float(minimum), max(float(minimum), float(maximum))
        self._show_format()
        self._set_value(self._value)

    def _set_format(self, **changes: Any) -> None:
        for name, value in changes.items():
            setattr(self, name, value)
        self._show_format()

    def _show_value(self) -> None:
        """Bring the visible parts to the value."""

    def _show_format(self) -> None:
        """Bring the visible parts to range, decimals, step, prefix and suffix."""


def _setter(attribute: str) -> Any:
    return lambda self, value: self._set_format(**{attribute: value})


def _number_properties() -> dict[str, Any]:
    """Make the properties and setters of one class; each class needs its own Property objects."""
    get = QtCore.Property
    members: dict[str, Any] = {
        "value": get(float, lambda self: self._value, lambda self, v: self._set_value(v)),
        "minimum": get(float, lambda self: self._minimum, lambda self, v: self._set_range(v, max(v, self._maximum))),
        "maximum": get(float, lambda self: self._maximum, lambda self, v: self._set_range(min(v, self._minimum), v)),
        "singleStep": get(float, lambda self: self._single_step, _setter("_single_step")),
        "decimals": get(int, lambda self: self._decimals, _setter("_decimals")),
        "prefix": get(str, lambda self: self._prefix, _setter("_prefix")),
        "suffix": get(str, lambda self: self._suffix, _setter("_suffix")),
        "setValue": lambda self, v: self._set_value(v),
        "setRange": lambda self, low, high: self._set_range(low, high),
        "setMinimum": lambda self, v: self._set_range(v, max(v, self._maximum)),
        "setMaximum": lambda self, v: self._set_range(min(v, self._minimum), v),
        "setSingleStep": _setter("_single_step"),
        "setDecimals": _setter("_decimals"),
        "setPrefix": _setter("_prefix"),
        "setSuffix": _setter("_suffix"),
        "valueChanged": QtCore.Signal(float),
        "host_signals": {"valueChanged(double)": "valueChanged"},
    }
    return members


def number_class(name: str, bases: tuple[type, ...], extra: dict[str, Any]) -> type:
    """Make a widget class with the number properties and its own `extra` members."""
    return native(type(bases[0])(name, bases, {**_number_properties(), "__module__": __name__, **extra}))


class _SpinPart(QtWidgets.QDoubleSpinBox):
    """The spin box inside a number widget; the owner keeps the value."""

    def __init__(self, owner: QtWidgets.QWidget) -> None:
        super().__init__(owner)
        self.setObjectName("SpinBox")
        self.setKeyboardTracking(False)
        self.valueChanged.connect(owner._set_value)

    def follow(self, owner: Number) -> None:
        self.blockSignals(True)
        self.setDecimals(owner._decimals)
        self.setRange(owner._minimum, owner._maximum)
        self.setSingleStep(owner._single_step)
        self.setPrefix(owner._prefix)
        self.setSuffix(owner._suffix)
        self.setValue(owner._value)
        self.blockSignals(False)


class _SliderPart(QtWidgets.QSlider):
    """The slider inside a number widget: steps from the minimum to the maximum."""

    def __init__(self, owner: QtWidgets.QWidget) -> None:
        super().__init__(QtCore.Qt.Horizontal, owner)
        self.setObjectName("Slider")
        self._owner = owner
        self.valueChanged.connect(self._moved)

    def _moved(self, position: int) -> None:
        self._owner._set_value(self._owner._minimum + position * self._owner._single_step)

    def follow(self, owner: Number) -> None:
        self.blockSignals(True)
        step = owner._single_step or 1.0
        self.setRange(0, round((owner._maximum - owner._minimum) / step))
        self.setValue(round((owner._value - owner._minimum) / step))
        self.blockSignals(False)


def _init_slider_widget(self: Any, parent: QtWidgets.QWidget | None = None) -> None:
    QtWidgets.QWidget.__init__(self, parent)
    self._init_number()
    self._tracking = True
    layout = QtWidgets.QHBoxLayout(self)
    layout.setContentsMargins(0, 0, 0, 0)
    self._slider, self._spin = _SliderPart(self), _SpinPart(self)
    layout.addWidget(self._slider, 1)
    layout.addWidget(self._spin)
    self._show_format()


def _follow_parts(self: Any) -> None:
    for part in (getattr(self, "_slider", None), getattr(self, "_spin", None)):
        if part is not None:
            part.follow(self)


def _init_spin_box(self: Any, parent: QtWidgets.QWidget | None = None) -> None:
    QtWidgets.QWidget.__init__(self, parent)
    self._init_number(0.0, 99.99)
    layout = QtWidgets.QHBoxLayout(self)
    layout.setContentsMargins(0, 0, 0, 0)
    self._spin = _SpinPart(self)
    layout.addWidget(self._spin)
    self._show_format()


def _init_slider(self: Any, *args: Any) -> None:
    parent = next((arg for arg in args if isinstance(arg, QtWidgets.QWidget)), None)
    QtWidgets.QWidget.__init__(self, parent)
    self._init_number()
    layout = QtWidgets.QHBoxLayout(self)
    layout.setContentsMargins(0, 0, 0, 0)
    self._slider = _SliderPart(self)
    layout.addWidget(self._slider)
    self._show_format()


def slider_widget_members() -> dict[str, Any]:
    """Return the members of a slider with its spin box, for the CTK class and the qMRML class."""
    return {
        "__init__": _init_slider_widget,
        "_show_value": _follow_parts,
        "_show_format": _follow_parts,
        "valueIsChanging": QtCore.Signal(float),
        "tracking": QtCore.Property(
            bool, lambda self: self._tracking, lambda self, value: setattr(self, "_tracking", value)
        ),
        "pageStep": QtCore.Property(float, lambda self: 10 * self._single_step, lambda self, value: None),
        "spinBoxVisible": QtCore.Property(
            bool, lambda self: not self._spin.isHidden(), lambda self, value: self._spin.setVisible(value)
        ),
        "host_signals": {"valueChanged(double)": "valueChanged", "valueIsChanging(double)": "valueIsChanging"},
    }


def spin_box_members() -> dict[str, Any]:
    """Return the members of a spin box, for the CTK class and the qMRML class."""
    return {"__init__": _init_spin_box, "_show_value": _follow_parts, "_show_format": _follow_parts}


ctkSliderWidget = number_class("ctkSliderWidget", (QtWidgets.QWidget, Number), slider_widget_members())
ctkDoubleSpinBox = number_class("ctkDoubleSpinBox", (QtWidgets.QWidget, Number), spin_box_members())
ctkDoubleSlider = number_class(
    "ctkDoubleSlider",
    (QtWidgets.QWidget, Number),
    {"__init__": _init_slider, "_show_value": _follow_parts, "_show_format": _follow_parts},
)


class Range:
    """Two values within bounds: the state of the range widgets."""

    def _init_range(self) -> None:
        self._minimum, self._maximum, self._low, self._high = 0.0, 99.0, 0.0, 99.0
        self._decimals, self._single_step = 2, 1.0

    def _set_values(self, low: float, high: float) -> None:
        low, high = sorted(round(min(max(v, self._minimum), self._maximum), self._decimals) for v in (low, high))
        if (low, high) != (self._low, self._high):
            self._low, self._high = low, high
            self.valuesChanged.emit(low, high)

    def _set_bounds(self, minimum: float, maximum: float) -> None:
        self._minimum, self._maximum = float(minimum), max(float(minimum), float(maximum))
        self._set_values(self._low, self._high)


def range_class(name: str) -> type:
    """Make a widget class for a range: state and signals, drawn as an empty box."""
    get = QtCore.Property

    def __init__(self: Any, parent: QtWidgets.QWidget | None = None, *_: Any) -> None:
        QtWidgets.QWidget.__init__(self, parent if isinstance(parent, QtWidgets.QWidget) else None)
        self._init_range()

    def set_plain(attribute: str) -> Any:
        return lambda self, value: setattr(self, attribute, value)

    members = {
        "__init__": __init__,
        "__module__": __name__,
        "valuesChanged": QtCore.Signal(float, float),
        "host_signals": {"valuesChanged(double,double)": "valuesChanged"},
        "minimum": get(float, lambda self: self._minimum, lambda self, v: self._set_bounds(v, self._maximum)),
        "maximum": get(float, lambda self: self._maximum, lambda self, v: self._set_bounds(self._minimum, v)),
        "minimumValue": get(float, lambda self: self._low, lambda self, v: self._set_values(v, max(v, self._high))),
        "maximumValue": get(float, lambda self: self._high, lambda self, v: self._set_values(min(v, self._low), v)),
        "singleStep": get(float, lambda self: self._single_step, set_plain("_single_step")),
        "decimals": get(int, lambda self: self._decimals, set_plain("_decimals")),
        "setValues": lambda self, low, high: self._set_values(low, high),
        "setRange": lambda self, low, high: self._set_bounds(low, high),
        "setMinimumValue": lambda self, v: self._set_values(v, max(v, self._high)),
        "setMaximumValue": lambda self, v: self._set_values(min(v, self._low), v),
    }
    return native(type(QtWidgets.QWidget)(name, (QtWidgets.QWidget, Range), members))


ctkRangeWidget = range_class("ctkRangeWidget")
ctkDoubleRangeSlider = range_class("ctkDoubleRangeSlider")
