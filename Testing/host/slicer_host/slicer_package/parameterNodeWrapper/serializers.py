"""How values of each type are kept in the parameter node.

A serializer knows one type. `write` validates first, so that a refused value leaves the node as it was.
"""

from __future__ import annotations

import abc
import enum
import importlib
import logging
import pathlib
import typing
from typing import Any

import qt
import slicer

from .annotations import IsInstance, NotNone, Validator, is_union, splitAnnotations

_PATH_TYPES = (
    pathlib.Path,
    pathlib.PosixPath,
    pathlib.WindowsPath,
    pathlib.PurePath,
    pathlib.PurePosixPath,
    pathlib.PureWindowsPath,
)
_registered: list[type[Serializer]] = []


class Serializer(abc.ABC):
    """Reads and writes the values of one type. Made by `create`, for the types that `canSerialize` accepts."""

    cached = True

    @staticmethod
    @abc.abstractmethod
    def canSerialize(kind: Any) -> bool:
        """Tell whether this class is meant for a type."""

    @staticmethod
    @abc.abstractmethod
    def create(kind: Any) -> Serializer:
        """Make the serializer for a type."""

    @abc.abstractmethod
    def default(self) -> Any:
        """Return the value of a parameter for which no other default is given."""

    @abc.abstractmethod
    def write(self, node: Any, name: str, value: Any) -> None:
        """Validate a value and put it into the node."""

    @abc.abstractmethod
    def read(self, node: Any, name: str) -> Any:
        """Return the value that is in the node."""

    def isIn(self, node: Any, name: str) -> bool:
        """Tell whether the node has a value."""
        return node.HasParameter(name)

    def remove(self, node: Any, name: str) -> None:
        """Take the value out of the node."""
        node.UnsetParameter(name)

    def validate(self, value: Any) -> None:  # noqa: B027  a serializer that accepts everything need not have it
        """Raise ValueError or TypeError if the value may not be written."""

    def supportsCaching(self) -> bool:
        """Tell whether a value that was read may be kept until the node changes."""
        return self.cached


def parameterNodeSerializer(cls: type[Serializer] | None = None) -> Any:
    """Class decorator: make a serializer known."""

    def register(serializer: type[Serializer]) -> type[Serializer]:
        _registered.append(serializer)
        return serializer

    return register if cls is None else register(cls)


class ValidatedSerializer(Serializer):
    """A serializer with further validators from the annotations."""

    canSerialize = staticmethod(lambda kind: False)
    create = staticmethod(lambda kind: None)

    def __init__(self, inner: Serializer, validators: list[Validator]) -> None:
        self.inner, self.validators = inner, validators

    def default(self) -> Any:
        return self.inner.default()

    def validate(self, value: Any) -> None:
        self.inner.validate(value)
        for validator in self.validators:
            validator.validate(value)

    def write(self, node: Any, name: str, value: Any) -> None:
        self.validate(value)
        self.inner.write(node, name, value)

    def read(self, node: Any, name: str) -> Any:
        return self.inner.read(node, name)

    def isIn(self, node: Any, name: str) -> bool:
        return self.inner.isIn(node, name)

    def remove(self, node: Any, name: str) -> None:
        self.inner.remove(node, name)

    def supportsCaching(self) -> bool:
        return self.inner.supportsCaching()


def createSerializer(hint: Any, annotations: list[Any] | None = None) -> tuple[ValidatedSerializer, list[Any]]:
    """Make the serializer for a type.

    Args:
        hint: a type; with `Annotated[...]` only if `annotations` is None.
        annotations: the annotations of that type.

    Returns:
        The serializer, and the annotations that it does not use.
    """
    kind, annotations = splitAnnotations(hint) if annotations is None else (hint, annotations)
    given = [a for a in annotations if isinstance(a, Serializer)]
    validators = [a for a in annotations if isinstance(a, Validator)]
    unused = [a for a in annotations if not isinstance(a, (Serializer, Validator))]
    if len(given) > 1:
        msg = f"Multiple serializers for {kind}"
        raise ValueError(msg)
    for cls in [] if given else _registered:
        if cls.canSerialize(kind):
            given = [cls.create(kind)]
            break
    if not given:
        msg = f"Unable to create a serializer for type {kind}"
        raise TypeError(msg)
    return ValidatedSerializer(given[0], validators), unused


def element_serializer(hint: Any) -> ValidatedSerializer:
    """Make the serializer of a container's elements."""
    serializer, unused = createSerializer(hint)
    if unused:
        logging.warning("Unused annotations: %s", unused)
    return serializer


class _TextSerializer(Serializer):
    """A value kept as one parameter: as its text, and read back by its type."""

    kinds: tuple[Any, ...] = ()

    @classmethod
    def canSerialize(cls, kind: Any) -> bool:
        return kind in cls.kinds

    @classmethod
    def create(cls, kind: Any) -> Serializer:
        return cls(kind)

    def __init__(self, kind: Any, *accepted: Any) -> None:
        self.kind = kind
        self.checks = (NotNone(), IsInstance(*(accepted or (kind,))))

    def default(self) -> Any:
        return self.kind()

    def validate(self, value: Any) -> None:
        for check in self.checks:
            check.validate(value)

    def encode(self, value: Any) -> str:
        """Return the text of a value."""
        return str(value)

    def decode(self, text: str) -> Any:
        """Return the value of a text."""
        return self.kind(text)

    def write(self, node: Any, name: str, value: Any) -> None:
        self.validate(value)
        node.SetParameter(name, self.encode(value))

    def read(self, node: Any, name: str) -> Any:
        return self.decode(node.GetParameter(name))


@parameterNodeSerializer
class NumberSerializer(_TextSerializer):
    """int and float; a float parameter accepts an int, not the other way round."""

    kinds = (int, float)

    @classmethod
    def create(cls, kind: Any) -> Serializer:
        return cls(kind, *((int, float) if kind is float else (int,)))

    def default(self) -> int:
        return 0


@parameterNodeSerializer
class StringSerializer(_TextSerializer):
    """str."""

    kinds = (str,)


@parameterNodeSerializer
class PathSerializer(_TextSerializer):
    """The path classes of pathlib."""

    kinds = _PATH_TYPES


@parameterNodeSerializer
class BoolSerializer(_TextSerializer):
    """bool."""

    kinds = (bool,)

    def decode(self, text: str) -> bool:
        return text == "True"


@parameterNodeSerializer
class EnumSerializer(_TextSerializer):
    """An enumeration, by the name of its member."""

    @classmethod
    def canSerialize(cls, kind: Any) -> bool:
        return isinstance(kind, type) and issubclass(kind, enum.Enum)

    def default(self) -> enum.Enum:
        return next(iter(self.kind))

    def encode(self, value: enum.Enum) -> str:
        return value.name

    def decode(self, text: str) -> enum.Enum:
        if text not in self.kind.__members__:
            msg = f"{self.kind.__name__} has no member named '{text}'"
            raise ValueError(msg)
        return self.kind[text]


@parameterNodeSerializer
class ColorSerializer(_TextSerializer):
    """A colour, as #aarrggbb."""

    @classmethod
    def canSerialize(cls, kind: Any) -> bool:
        return kind is qt.QColor

    cached = False

    def encode(self, value: Any) -> str:
        return value.name(qt.QColor.HexArgb)


@parameterNodeSerializer
class NodeSerializer(Serializer):
    """An MRML node: a node reference, and an empty parameter that marks "is set", so that None is a value."""

    @staticmethod
    def canSerialize(kind: Any) -> bool:
        return isinstance(kind, type) and issubclass(kind, slicer.vtkMRMLNode)

    @staticmethod
    def create(kind: Any) -> Serializer:
        return NodeSerializer(kind)

    def __init__(self, kind: Any) -> None:
        self.check = IsInstance(kind)

    def default(self) -> None:
        return None

    def validate(self, value: Any) -> None:
        self.check.validate(value)

    def write(self, node: Any, name: str, value: Any) -> None:
        self.validate(value)
        node.SetParameter(name, "")
        node.SetNodeReferenceID(name, value.GetID() if value is not None else None)

    def read(self, node: Any, name: str) -> Any:
        return node.GetNodeReference(name)

    def remove(self, node: Any, name: str) -> None:
        node.UnsetParameter(name)
        node.RemoveNodeReferenceIDs(name)


@parameterNodeSerializer
class UnionSerializer(Serializer):
    """A value of one of several types, kept under the index of its type."""

    @staticmethod
    def canSerialize(kind: Any) -> bool:
        return is_union(kind)

    @staticmethod
    def create(kind: Any) -> Serializer:
        return UnionSerializer(typing.get_args(kind))

    def __init__(self, kinds: tuple[Any, ...]) -> None:
        self.choices = [_NoneSerializer() if kind is type(None) else element_serializer(kind) for kind in kinds]
        self.optional = type(None) in kinds

    def default(self) -> Any:
        return None if self.optional else self.choices[0].default()

    def _index_for(self, value: Any) -> int:
        refusals = []
        order = range(len(self.choices))
        if value is None:  # a node serializer accepts None too, but None itself comes first
            order = sorted(order, key=lambda i: not isinstance(self.choices[i], _NoneSerializer))
        for index in order:
            try:
                self.choices[index].validate(value)
            except (TypeError, ValueError) as error:
                refusals.append(str(error))
            else:
                return index
        msg = f"No type of the union accepts {value!r}: " + "; ".join(refusals)
        raise ValueError(msg)

    def validate(self, value: Any) -> None:
        self._index_for(value)

    def _index_in(self, node: Any, name: str) -> int | None:
        return next((i for i, choice in enumerate(self.choices) if choice.isIn(node, f"{name}.{i}")), None)

    def isIn(self, node: Any, name: str) -> bool:
        return self._index_in(node, name) is not None

    def write(self, node: Any, name: str, value: Any) -> None:
        index, previous = self._index_for(value), self._index_in(node, name)
        with slicer.util.NodeModify(node):
            self.choices[index].write(node, f"{name}.{index}", value)
            if previous is not None and previous != index:
                self.choices[previous].remove(node, f"{name}.{previous}")

    def read(self, node: Any, name: str) -> Any:
        index = self._index_in(node, name)
        return None if index is None else self.choices[index].read(node, f"{name}.{index}")

    def remove(self, node: Any, name: str) -> None:
        index = self._index_in(node, name)
        if index is not None:
            self.choices[index].remove(node, f"{name}.{index}")

    def supportsCaching(self) -> bool:
        return all(choice.supportsCaching() for choice in self.choices)


class _NoneSerializer(Serializer):
    """None inside a union: the text "True"."""

    canSerialize = staticmethod(lambda kind: False)
    create = staticmethod(lambda kind: None)

    def default(self) -> None:
        return None

    def validate(self, value: Any) -> None:
        if value is not None:
            msg = f"Value must be None, got {value!r}"
            raise ValueError(msg)

    def write(self, node: Any, name: str, value: None) -> None:
        self.validate(value)
        node.SetParameter(name, "True")

    def read(self, node: Any, name: str) -> None:
        return None


@parameterNodeSerializer
class AnySerializer(Serializer):
    """A value of any type that has a serializer; the type stands beside the value."""

    cached = False

    @staticmethod
    def canSerialize(kind: Any) -> bool:
        return kind is typing.Any

    @staticmethod
    def create(kind: Any) -> Serializer:
        return AnySerializer()

    def default(self) -> None:
        return None

    def isIn(self, node: Any, name: str) -> bool:
        return node.HasParameter(f"{name}.type.0")

    def write(self, node: Any, name: str, value: Any) -> None:
        kind = type(value)
        serializer = _NoneSerializer() if value is None else element_serializer(kind)
        serializer.validate(value)
        with slicer.util.NodeModify(node):
            self.remove(node, name)
            node.SetParameter(f"{name}.type.0", kind.__module__)
            node.SetParameter(f"{name}.type.1", kind.__qualname__)
            serializer.write(node, f"{name}.value", value)

    def _serializer_in(self, node: Any, name: str) -> Serializer:
        kind: Any = importlib.import_module(node.GetParameter(f"{name}.type.0"))
        for part in node.GetParameter(f"{name}.type.1").split("."):
            if part == "NoneType":
                return _NoneSerializer()
            kind = getattr(kind, part)
        return element_serializer(kind)

    def read(self, node: Any, name: str) -> Any:
        return self._serializer_in(node, name).read(node, f"{name}.value")

    def remove(self, node: Any, name: str) -> None:
        if self.isIn(node, name):
            self._serializer_in(node, name).remove(node, f"{name}.value")
            node.UnsetParameter(f"{name}.type.0")
            node.UnsetParameter(f"{name}.type.1")


from . import containers, packs  # noqa: E402, F401  they register their serializers
