"""Teach PySide6 the manners of PythonQt, the binding that Slicer uses.

The two bindings differ in ways that decide whether a scripted module runs. Here PySide6 is changed, for the
whole process, so that

- every Q_PROPERTY is an attribute: ``label.text``, ``button.enabled = False``; the setters stay callable;
- ``obj.connect("clicked(bool)", fn)`` takes a signature, and only complains on stderr if there is no such signal;
- an attribute that the C++ class does not have cannot be created on its objects;
- ``name``, ``className()``, ``delete()``, ``exec_()`` and ``findChildren("QLabel")`` exist;
- enums are integers;
- file dialogs return a plain string, and no dialog waits for a user who is not there (see `dialogs`).

Importing this module has no effect; `install` does the work, once.
"""

from __future__ import annotations

import ctypes
import inspect
import sys
from collections.abc import Callable
from typing import Any

if "PySide6.QtCore" not in sys.modules:
    # Must be set before the first import: PySide6 then makes every enum an IntEnum, as PythonQt does.
    sys.pyside6_option_python_enum = 0x2  # type: ignore[attr-defined]

import shiboken6
from PySide6 import QtCore, QtGui, QtWidgets

# The C getters that were replaced. Classes with a method that is static as well (QFile.exists) have their own one.
_getattribute_of_class: dict[type, Callable[[Any, str], Any]] = {}
_getattribute_of_type: dict[type, Callable[[Any, str], Any]] = {}
# QObject itself keeps its C __setattr__: Python applies it to objects of derived classes only as long as it is there.
_object_setattr = QtCore.QObject.__setattr__

# Properties of a Python type, by name. Filled on first use, because a type's meta-object is fixed.
_properties_of_type: dict[type, dict[str, QtCore.QMetaProperty]] = {}

# (address of sender, signature) -> [(callable given by the user, function that undoes the connection)]
_connections: dict[tuple[int, str], list[tuple[Callable, Callable[[], Any]]]] = {}

# Signals that were asked for and do not exist, as "signature on class": Slicer writes them to its log.
unknown_signals: list[str] = []


def _object_getattribute(obj: QtCore.QObject, name: str) -> Any:
    """Look an attribute up as PySide6 does by itself."""
    cls = type(obj)
    getter = _getattribute_of_type.get(cls)
    if getter is None:
        getter = next(_getattribute_of_class[base] for base in cls.__mro__ if base in _getattribute_of_class)
        _getattribute_of_type[cls] = getter
    return getter(obj, name)


def native(cls: type) -> type:
    """Mark a host class as one that is C++ in Slicer: no new attributes on its objects, except private ones."""
    cls._host_native = True
    return cls


def is_native(cls: type) -> bool:
    """Tell whether a class is C++ in Slicer, and not a Python class derived from one."""
    return cls.__module__.startswith("PySide6.") or "_host_native" in vars(cls)


# --- properties as attributes ---------------------------------------------------------------------------------


def _qt_properties(cls: type, meta_object: QtCore.QMetaObject) -> dict[str, QtCore.QMetaProperty]:
    """Return the C++ properties of `cls`, without those that one of its Python classes defines anew."""
    if cls not in _properties_of_type:
        redefined: set[str] = set()
        for base in cls.__mro__:
            if not base.__module__.startswith(("PySide6.", "Shiboken")):
                redefined.update(vars(base))
        properties = (meta_object.property(index) for index in range(meta_object.propertyCount()))
        _properties_of_type[cls] = {
            prop.name(): prop for prop in properties if prop.name() not in redefined and prop.isReadable()
        }
    return _properties_of_type[cls]


def _read_property(obj: QtCore.QObject, name: str) -> Any:
    """Read by the C++ getter where it has a usual name (it keeps the precise type), else through the meta-object."""
    capital = name[0].upper() + name[1:]
    for getter in (name, "is" + capital, "has" + capital, "to" + capital):
        method = getattr(type(obj), getter, None)
        if method is not None and not isinstance(method, QtCore.Signal) and getter != "singleShot":
            try:
                return _object_getattribute(obj, getter)()
            except TypeError:
                continue  # a static or a signal of that name, or a getter that needs arguments
    return _object_getattribute(obj, "property")(name)


def _write_property(obj: QtCore.QObject, name: str, prop: QtCore.QMetaProperty, value: Any) -> None:
    class_name = type(obj).__name__
    if not prop.isWritable():
        msg = f"Property '{name}' of {class_name} object is not writable"
        raise AttributeError(msg)
    setter = getattr(type(obj), "set" + name[0].upper() + name[1:], None)
    if setter is not None:
        try:
            setter(obj, value)
        except (TypeError, ValueError):
            pass
        else:
            return
    if value is None or not _object_getattribute(obj, "setProperty")(name, value):
        msg = (
            f"Property '{name}' of type '{prop.typeName()}' does not accept an object of type "
            f"{type(value).__name__} ({value!r})"
        )
        raise AttributeError(msg)


def _getattribute(self: QtCore.QObject, name: str) -> Any:
    extra = _EXTRA_METHODS.get(name)
    if extra is not None and extra.applies(type(self)):
        return extra.bind(self)
    if not name.startswith("_"):
        cls = type(self)
        properties = _properties_of_type.get(cls)
        if properties is None:
            properties = _qt_properties(cls, _object_getattribute(self, "metaObject")())
        if name in properties:
            return _read_property(self, name)
    try:
        return _object_getattribute(self, name)
    except AttributeError:
        if name.startswith("_"):
            raise
        return _dynamic_property_or_child(self, name)


def _dynamic_property_or_child(obj: QtCore.QObject, name: str) -> Any:
    """PythonQt's last resorts: a dynamic property, then a direct child of that name."""
    value = _object_getattribute(obj, "property")(name)
    if value is not None:
        return value
    for child in _object_getattribute(obj, "children")():
        if _object_getattribute(child, "objectName")() == name:
            return child
    msg = f"{type(obj).__name__} has no attribute named '{name}'"
    raise AttributeError(msg)


# True while a .ui file is loaded: PySide6 then makes each descendant an attribute of the top widget, PythonQt does not.
loading_ui = False


def _setattr(self: QtCore.QObject, name: str, value: Any) -> None:
    cls = type(self)
    if loading_ui and isinstance(value, QtCore.QObject) and not name.startswith("_"):
        return
    if isinstance(value, QtCore.SignalInstance):  # PySide6 keeps a signal on its object at first use
        _object_setattr(self, name, value)
        return
    if name == "name" and not hasattr(cls, "name"):
        self.setObjectName(value)
        return
    prop = _qt_properties(cls, _object_getattribute(self, "metaObject")()).get(name)
    if prop is not None:
        _write_property(self, name, prop, value)
        return
    descriptor = inspect.getattr_static(cls, name, None)
    is_property = isinstance(descriptor, (QtCore.Property, property))
    is_private = "_host_native" in vars(cls) and name.startswith("_")
    if is_property or is_private or not is_native(cls):
        _object_setattr(self, name, value)
    elif _object_getattribute(self, "property")(name) is not None:
        _object_getattribute(self, "setProperty")(name, value)
    elif descriptor is not None:
        msg = f"Slot '{name}' can not be overwritten on {cls.__name__} object"
        raise AttributeError(msg)
    else:
        msg = f"'{name}' does not exist on {cls.__name__} and creating new attributes on C++ objects is not allowed"
        raise AttributeError(msg)


# --- string connections ---------------------------------------------------------------------------------------


def _accepted_arguments(function: Callable) -> int | None:
    """Count the positional arguments that a callable takes; None means any number."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return None
    if any(p.kind is p.VAR_POSITIONAL for p in parameters):
        return None
    return sum(p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in parameters)


def _normalised(signal: str) -> str:
    if signal[:1].isdigit():  # SIGNAL() and SLOT() of C++ put a 2 or a 1 in front
        signal = signal[1:]
    return QtCore.QMetaObject.normalizedSignature(signal).toStdString()


def _argument_count(signature: str) -> int:
    arguments = signature[signature.index("(") + 1 : signature.rindex(")")]
    return len(arguments.split(",")) if arguments else 0


def _signal(obj: QtCore.QObject, signature: str) -> Any:
    """Find a signal by its signature, or None.

    Host widgets name theirs in `host_signals`, since PySide6 knows them by another signature than Slicer.
    """
    for cls in type(obj).__mro__:
        attribute = vars(cls).get("host_signals", {}).get(signature)
        if attribute:
            return _object_getattribute(obj, attribute)
    meta_object = _object_getattribute(obj, "metaObject")()
    index = meta_object.indexOfSignal(signature)
    if index < 0:
        return None
    # A default argument makes two signatures of one signal: clicked() and clicked(bool). The longer one is the signal.
    name = signature[: signature.index("(")]
    methods = (meta_object.method(i) for i in range(meta_object.methodCount()))
    longest = max(
        (m.methodSignature().toStdString() for m in methods if m.name() == name.encode()), key=_argument_count
    )
    bound = _object_getattribute(obj, name)
    arguments = longest[longest.index("(") + 1 : -1]
    return bound[arguments] if arguments else bound


def _connect(obj: QtCore.QObject, signal: Any, *target: Any) -> bool:
    """Connect a signal, given by its signature, to a callable or to `receiver, "slot()"`."""
    if isinstance(signal, QtCore.QObject):  # PySide6 itself, inside QTimer.singleShot
        return bool(QtCore.QObject.connect(signal, *target))
    signature = _normalised(signal)
    if len(target) >= 2:
        receiver, slot = target[0], _normalised(target[1])
        function = _object_getattribute(receiver, slot[: slot.index("(")])
        slot_arguments = _argument_count(slot)
    else:
        (function,) = target
        slot_arguments = None
    if not callable(function):
        msg = f"connect('{signal}'): expected a callable, got {type(function).__name__}"
        raise TypeError(msg)

    counts = [c for c in (_argument_count(signature), slot_arguments, _accepted_arguments(function)) if c is not None]
    count = min(counts)

    def call(*arguments: Any) -> None:
        function(*arguments[:count])

    bound_signal = _signal(obj, signature)
    if bound_signal is None:
        unknown_signals.append(f"{signal} on {type(obj).__name__}")
        sys.stderr.write(f"PythonQt: QObject::connect() signal '{signal}' does not exist on {type(obj).__name__}\n")
        return False
    bound_signal.connect(call)
    key = (shiboken6.getCppPointer(obj)[0], signature)
    if key not in _connections:
        _forget_when_destroyed(obj)
    _connections.setdefault(key, []).append((function, lambda: bound_signal.disconnect(call)))
    return True


def _disconnect(obj: QtCore.QObject, signal: str, *target: Any) -> bool:
    """Undo `_connect`; without a target, undo all connections of that signal."""
    signature = _normalised(signal)
    if len(target) >= 2:
        slot = _normalised(target[1])
        function = _object_getattribute(target[0], slot[: slot.index("(")])
    else:
        function = target[0] if target else None
    made = _connections.get((shiboken6.getCppPointer(obj)[0], signature), [])
    matching = [pair for pair in made if function is None or pair[0] == function]
    for pair in matching:
        pair[1]()
        made.remove(pair)
    return bool(matching)


def _forget_when_destroyed(obj: QtCore.QObject) -> None:
    address = shiboken6.getCppPointer(obj)[0]

    def forget() -> None:
        for key in [key for key in _connections if key[0] == address]:
            del _connections[key]

    _object_getattribute(obj, "destroyed").connect(forget)


# --- methods that PythonQt adds -------------------------------------------------------------------------------


class _ExtraMethod:
    """A method (or, with `is_value`, a value) that PythonQt gives to every object of some classes."""

    def __init__(self, function: Callable, classes: tuple[type, ...] = (), is_value: bool = False) -> None:
        self.function, self.classes, self.is_value = function, classes, is_value

    def applies(self, cls: type) -> bool:
        return not self.classes or issubclass(cls, self.classes)

    def bind(self, obj: QtCore.QObject) -> Any:
        if self.is_value:
            return self.function(obj)
        return lambda *args, **kwargs: self.function(obj, *args, **kwargs)


def _class_name(obj: QtCore.QObject) -> str:
    return type(obj).__name__


def _delete(obj: QtCore.QObject) -> None:
    shiboken6.delete(obj)


def _matching_children(obj: QtCore.QObject, kind: Any = QtCore.QObject, name: str = "") -> list[QtCore.QObject]:
    every = _object_getattribute(obj, "findChildren")(QtCore.QObject, name or None)
    if isinstance(kind, str):
        return [child for child in every if any(base.__name__ == kind for base in type(child).__mro__)]
    return [child for child in every if isinstance(child, kind)]


def _find_child(obj: QtCore.QObject, kind: Any = QtCore.QObject, name: str = "") -> QtCore.QObject | None:
    return next(iter(_matching_children(obj, kind, name)), None)


def _object_name(obj: QtCore.QObject) -> str:
    return _object_getattribute(obj, "objectName")()


_EXTRA_METHODS: dict[str, _ExtraMethod] = {
    "connect": _ExtraMethod(_connect),
    "disconnect": _ExtraMethod(_disconnect),
    "className": _ExtraMethod(_class_name),
    "delete": _ExtraMethod(_delete),
    "findChild": _ExtraMethod(_find_child),
    "findChildren": _ExtraMethod(_matching_children),
    "name": _ExtraMethod(_object_name, is_value=True),
}


def _make_constants_immortal() -> None:
    """Give None, True and False so many references that losing some does no harm.

    They are immortal from Python 3.12 on. PySide6's wheels (seen in 6.12) rely on that and, on 3.10 and 3.11, give away
    references that they do not own: after some thousand property reads the interpreter would abort.
    """
    if sys.version_info < (3, 12):
        for constant in (None, True, False):
            ctypes.c_ssize_t.from_address(id(constant)).value += 1 << 40


def install() -> None:
    """Change PySide6 for this process; a second call does nothing."""
    if getattr(QtCore.QObject, "_host_installed", False):
        return
    if not issubclass(QtCore.QProcess.ProcessState, int):
        msg = (
            "PySide6 was imported before the Slicer host, so its enums are not integers as in Slicer. "
            "Import slicer_host first (Testing/host/conftest.py does)."
        )
        raise RuntimeError(msg)
    _make_constants_immortal()
    QtCore.QObject._host_installed = True
    for module in (QtCore, QtGui, QtWidgets):
        for name in dir(module):  # not vars(): PySide6 creates its classes on first access
            cls = getattr(module, name)
            if not isinstance(cls, type) or not issubclass(cls, QtCore.QObject):
                continue
            if "__getattribute__" in vars(cls):
                _getattribute_of_class[cls] = cls.__getattribute__
            if cls is not QtCore.QObject:
                cls.__setattr__ = _setattr
    for cls in _getattribute_of_class:
        cls.__getattribute__ = _getattribute
    for cls in (QtWidgets.QDialog, QtWidgets.QMenu, QtCore.QEventLoop, QtGui.QDrag, QtWidgets.QApplication):
        cls.exec_ = cls.exec  # PySide6's own exec_ warns
