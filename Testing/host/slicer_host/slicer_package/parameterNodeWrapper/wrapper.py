"""The class decorator `parameterNodeWrapper`."""

from __future__ import annotations

import logging
import typing
import weakref
from typing import Any

import slicer
import vtk

from .annotations import Default, find, splitAnnotations, unannotatedType
from .connectors import GuiConnector, create_connector
from .packs import check_member
from .serializers import createSerializer

SlicerParameterNamePropertyName = "SlicerParameterName"


class ParameterInfo:
    """One parameter of a wrapper class."""

    def __init__(self, owner: type, name: str, hint: Any) -> None:
        kind, annotations = splitAnnotations(hint)
        try:
            self.serializer, unused = createSerializer(kind, annotations)
        except Exception as error:
            msg = f"Unable to create serializer for {owner} member {name}"
            raise Exception(msg) from error  # noqa: TRY002  Slicer raises the bare class too
        given = find(unused, Default)
        unused = [annotation for annotation in unused if annotation is not given]
        if hasattr(owner, name):
            self.default = Default(getattr(owner, name))
        else:
            self.default = given or Default(generator=self.serializer.default)
        self.basename, self.unalteredType, self.unused = name, hint, unused


class _Parameter:
    """A parameter within one node."""

    def __init__(self, info: ParameterInfo, node: Any, prefix: str) -> None:
        self.info, self.node, self.name = info, node, prefix + info.basename
        self.serializer = info.serializer
        if not self.serializer.isIn(node, self.name):
            self.serializer.write(node, self.name, info.default.value)

    def read(self) -> Any:
        if not self.serializer.isIn(self.node, self.name):
            self.serializer.write(self.node, self.name, self.info.default.value)
        return self.serializer.read(self.node, self.name)

    def write(self, value: Any) -> None:
        self.serializer.write(self.node, self.name, value)


class _CachedParameter(_Parameter):
    """Keeps the value that was read until the node is modified."""

    def __init__(self, info: ParameterInfo, node: Any, prefix: str) -> None:
        super().__init__(info, node, prefix)
        self._value = super().read()
        self._writing = False
        # The node must not keep the wrapper alive, so the observer holds a weak reference.
        me = weakref.ref(self)

        def on_modified(caller: Any, event: str) -> None:
            parameter = me()
            if parameter is not None and not parameter._writing:
                parameter._value = _Parameter.read(parameter)

        self._tag = node.AddObserver(vtk.vtkCommand.ModifiedEvent, on_modified)

    def __del__(self) -> None:
        if hasattr(self, "_tag"):
            self.node.RemoveObserver(self._tag)

    def read(self) -> Any:
        return self._value

    def write(self, value: Any) -> None:
        self._writing = True
        try:
            # Observers may ask for the value, so it must be up to date before they are called.
            with slicer.util.NodeModify(self.node):
                super().write(value)
                self._value = super().read()
        finally:
            self._writing = False


class _Methods:
    """The members that every wrapper has; none of these names can be a parameter."""

    allParameters: dict[str, ParameterInfo]

    def default(self, paramName: str) -> Default:
        """Return the default of a parameter, as a `Default`."""
        _check_name(type(self), paramName)
        return self.allParameters[paramName].default

    def isCached(self, paramName: str) -> bool:
        """Tell whether reads of a parameter are cached."""
        _check_name(type(self), paramName)
        return isinstance(self._parameters[paramName], _CachedParameter)

    def getValue(self, name: str) -> Any:
        """Return the value of a parameter; a dotted name reaches into a pack."""
        _check_name(type(self), name)
        top, _, rest = name.partition(".")
        value = self._parameters[top].read()
        return value.getValue(rest) if rest else value

    def setValue(self, name: str, value: Any) -> None:
        """Write a parameter; a dotted name reaches into a pack."""
        _check_name(type(self), name)
        top, _, rest = name.partition(".")
        if rest:
            self._parameters[top].read().setValue(rest, value)
        else:
            self._parameters[top].write(value)

    # --- the node ---

    def StartModify(self) -> Any:
        """Hold back the node's events."""
        return self.parameterNode.StartModify()

    def EndModify(self, wasModifying: Any) -> Any:
        """Send the events that were held back."""
        return self.parameterNode.EndModify(wasModifying)

    def AddObserver(self, event: Any, callback: Any, priority: float = 0.0) -> int:
        """Observe the node."""
        return self.parameterNode.AddObserver(event, callback, priority)

    def RemoveObserver(self, tag: int) -> None:
        """Stop observing the node."""
        self.parameterNode.RemoveObserver(tag)

    def Modified(self) -> None:
        """Mark the node as modified."""
        self.parameterNode.Modified()

    # --- widgets ---

    def connectGui(self, gui: Any) -> int:
        """Bind all widgets that have the property `SlicerParameterName`, and return a tag for `disconnectGui`."""
        is_widget = getattr(gui, "isWidgetType", lambda: False)()
        candidates = slicer.util.findChildren(gui) if is_widget else list(vars(gui).values())
        mapping = {}
        for widget in candidates:
            name = widget.property(SlicerParameterNamePropertyName)
            if name:
                mapping[name] = widget
        return self.connectParametersToGui(mapping)

    def connectParametersToGui(self, mapping: dict[str, Any]) -> int:
        """Bind widgets (or connectors) to parameters by name, and return a tag for `disconnectGui`."""
        for name in mapping:
            _check_name(type(self), name)
        connectors = {
            name: target if isinstance(target, GuiConnector) else create_connector(target, self.dataType(name))
            for name, target in mapping.items()
        }
        for name, connector in connectors.items():
            connector.write(self.getValue(name))
            connector.onChanged(_write_from_widget(self, name, connector))
        me = weakref.ref(self)

        def on_modified(caller: Any, event: str) -> None:
            wrapper = me()
            if wrapper is not None:
                wrapper._update_widgets()

        tag = self._next_gui_tag
        self._next_gui_tag += 1
        self._guis[tag] = (connectors, self.AddObserver(vtk.vtkCommand.ModifiedEvent, on_modified))
        return tag

    def disconnectGui(self, tag: int | None) -> None:
        """Undo `connectGui`; an unknown tag is ignored."""
        if tag in self._guis:
            connectors, observer = self._guis.pop(tag)
            for connector in connectors.values():
                connector.onChanged(None)
            self.RemoveObserver(observer)

    def _update_widgets(self) -> None:
        if self._updatingGUIFromParameterNode:
            return
        self._updatingGUIFromParameterNode = True
        try:
            with slicer.util.NodeModify(self):
                for connectors, _ in list(self._guis.values()):
                    for name, connector in connectors.items():
                        connector.write(self.getValue(name))
        finally:
            self._updatingGUIFromParameterNode = False


def _write_from_widget(wrapper: Any, name: str, connector: GuiConnector) -> Any:
    def write() -> None:
        with slicer.util.NodeModify(wrapper):
            if not wrapper._updatingGUIFromParameterNode:
                wrapper.setValue(name, connector.read())

    return write


def _check_name(cls: Any, name: str) -> None:
    top, _, rest = name.partition(".")
    if top not in cls.allParameters:
        msg = f"Cannot find a param with the given name: {top}; parameters: {', '.join(cls.allParameters)}"
        raise ValueError(msg)
    if rest:
        check_member(unannotatedType(cls.allParameters[top].unalteredType), rest)


def _init(self: Any, parameterNode: Any, prefix: str | None = None) -> None:
    self.parameterNode = parameterNode
    self._guis: dict[int, Any] = {}
    self._next_gui_tag = 0
    self._updatingGUIFromParameterNode = False
    self._parameters = {
        name: (_CachedParameter if info.serializer.supportsCaching() else _Parameter)(info, parameterNode, prefix or "")
        for name, info in self.allParameters.items()
    }


def _property(name: str) -> property:
    return property(lambda self: self._parameters[name].read(), lambda self, value: self._parameters[name].write(value))


def isParameterNodeWrapper(classOrObject: Any) -> bool:
    """Tell whether a class, or the class of an object, is a wrapper."""
    return getattr(classOrObject, "_is_parameter_node_wrapper", False)


def parameterNodeWrapper(classtype: type | None = None) -> Any:
    """Class decorator: make a wrapper of a parameter node out of an annotated class."""

    def wrap(cls: type) -> type:
        hints = typing.get_type_hints(cls, include_extras=True)
        members = {name: member for name, member in vars(_Methods).items() if not name.startswith("__")}
        members |= {"allParameters": {}, "dataType": None, "_is_parameter_node_wrapper": True}
        for name in members:
            if name in hints or hasattr(cls, name):
                msg = f"Cannot use reserved name '{name}' in a parameterNodeWrapper"
                raise ValueError(msg)
        infos = {name: ParameterInfo(cls, name, hint) for name, hint in hints.items()}
        for info in infos.values():
            if info.unused and not all(_is_widget_setting(annotation) for annotation in info.unused):
                logging.warning("Unused annotations: %s", info.unused)
            setattr(cls, info.basename, _property(info.basename))

        def data_type(name: str) -> Any:
            _check_name(cls, name)
            top, _, rest = name.partition(".")
            hint = infos[top].unalteredType
            return unannotatedType(hint).dataType(rest) if rest else hint

        members |= {"allParameters": infos, "dataType": staticmethod(data_type), "__init__": _init}
        for name, member in members.items():
            setattr(cls, name, member)
        return cls

    return wrap if classtype is None else wrap(classtype)


def _is_widget_setting(annotation: Any) -> bool:
    from .annotations import Decimals, SingleStep

    return isinstance(annotation, (Decimals, SingleStep))
