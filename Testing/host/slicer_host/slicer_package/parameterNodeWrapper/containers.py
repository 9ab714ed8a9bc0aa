"""list, tuple and dict parameters. A list or dict that was read writes itself back whenever it is changed."""

from __future__ import annotations

import typing
from collections.abc import MutableMapping, MutableSequence
from typing import Any

import slicer

from .annotations import IsInstance, NotNone
from .serializers import Serializer, element_serializer, parameterNodeSerializer


class ObservedList(MutableSequence):
    """A list bound to its parameter."""

    def __init__(self, serializer: ListSerializer, node: Any, name: str, items: list[Any]) -> None:
        self._serializer, self._node, self._name, self._items = serializer, node, name, items

    def _save(self) -> None:
        try:
            self._serializer.write(self._node, self._name, self._items)
        finally:
            # Read back: what was refused disappears again, and new inner lists become observed ones.
            self._items = self._serializer.read(self._node, self._name)._items

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: Any) -> Any:
        return self._items[index]

    def __setitem__(self, index: Any, value: Any) -> None:
        self._items[index] = value
        self._save()

    def __delitem__(self, index: Any) -> None:
        del self._items[index]
        self._save()

    def insert(self, index: int, value: Any) -> None:
        """Insert a value before an index."""
        self._items.insert(index, value)
        self._save()

    def __iadd__(self, other: Any) -> ObservedList:
        self._items += other
        self._save()
        return self

    def __imul__(self, count: int) -> ObservedList:
        self._items *= count
        self._save()
        return self

    def _refuse(self, other: Any) -> Any:
        msg = "An observed list supports += and *=, not + and *: their result would not be in the parameter node"
        raise NotImplementedError(msg)

    __add__ = __radd__ = __mul__ = __rmul__ = _refuse

    def __eq__(self, other: object) -> bool:
        return self._items == (other._items if isinstance(other, ObservedList) else other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"ObservedList({self._items})"

    def sort(self, *, key: Any = None, reverse: bool = False) -> None:
        """Sort in place."""
        self._items.sort(key=key, reverse=reverse)
        self._save()

    def copy(self) -> list[Any]:
        """Return a plain list."""
        return list(self._items)


class ObservedDict(MutableMapping):
    """A dict bound to its parameter; keeps the order."""

    def __init__(self, serializer: DictSerializer, node: Any, name: str, items: dict[Any, Any]) -> None:
        self._serializer, self._node, self._name, self._items = serializer, node, name, items

    def _save(self) -> None:
        try:
            self._serializer.write(self._node, self._name, self._items)
        finally:
            self._items = self._serializer.read(self._node, self._name)._items

    def __getitem__(self, key: Any) -> Any:
        return self._items[key]

    def __setitem__(self, key: Any, value: Any) -> None:
        self._items[key] = value
        self._save()

    def __delitem__(self, key: Any) -> None:
        del self._items[key]
        self._save()

    def __iter__(self) -> Any:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __eq__(self, other: object) -> bool:
        return self._items == (other._items if isinstance(other, ObservedDict) else other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"ObservedDict({self._items})"


def _write_elements(element: Serializer, node: Any, name: str, values: list[Any]) -> None:
    """Write `name.len`, `name.0`, `name.1`, ...; all values are valid already."""
    old_length = int(node.GetParameter(f"{name}.len") or 0)
    with slicer.util.NodeModify(node):
        node.SetParameter(f"{name}.len", str(len(values)))
        for index, value in enumerate(values):
            element.write(node, f"{name}.{index}", value)
        for index in range(len(values), old_length):
            element.remove(node, f"{name}.{index}")


@parameterNodeSerializer
class ListSerializer(Serializer):
    """list[T]."""

    @staticmethod
    def canSerialize(kind: Any) -> bool:
        return typing.get_origin(kind) is list

    @staticmethod
    def create(kind: Any) -> Serializer:
        arguments = typing.get_args(kind)
        if len(arguments) != 1:
            msg = f"A list parameter needs the type of its elements, got {kind}"
            raise TypeError(msg)
        return ListSerializer(element_serializer(arguments[0]))

    def __init__(self, element: Serializer) -> None:
        self.element = element

    def default(self) -> list[Any]:
        return []

    def validate(self, value: Any) -> None:
        NotNone().validate(value)
        IsInstance(list, ObservedList).validate(value)
        for item in value:
            self.element.validate(item)

    def isIn(self, node: Any, name: str) -> bool:
        return node.HasParameter(f"{name}.len")

    def write(self, node: Any, name: str, value: Any) -> None:
        self.validate(value)
        _write_elements(self.element, node, name, list(value))

    def read(self, node: Any, name: str) -> ObservedList:
        count = int(node.GetParameter(f"{name}.len"))
        return ObservedList(self, node, name, [self.element.read(node, f"{name}.{i}") for i in range(count)])

    def remove(self, node: Any, name: str) -> None:
        for index in range(int(node.GetParameter(f"{name}.len") or 0)):
            self.element.remove(node, f"{name}.{index}")
        node.UnsetParameter(f"{name}.len")

    def supportsCaching(self) -> bool:
        return self.element.supportsCaching()


@parameterNodeSerializer
class TupleSerializer(Serializer):
    """tuple[A, B, ...] of fixed length."""

    @staticmethod
    def canSerialize(kind: Any) -> bool:
        return typing.get_origin(kind) is tuple

    @staticmethod
    def create(kind: Any) -> Serializer:
        arguments = typing.get_args(kind)
        if not arguments or Ellipsis in arguments:
            msg = f"A tuple parameter needs the type of each element, got {kind}"
            raise TypeError(msg)
        return TupleSerializer([element_serializer(argument) for argument in arguments])

    def __init__(self, elements: list[Serializer]) -> None:
        self.elements = elements

    def default(self) -> tuple[Any, ...]:
        return tuple(element.default() for element in self.elements)

    def validate(self, value: Any) -> None:
        NotNone().validate(value)
        IsInstance(tuple).validate(value)
        if len(value) != len(self.elements):
            msg = f"Tuple must have {len(self.elements)} elements, got {len(value)}"
            raise ValueError(msg)
        for element, item in zip(self.elements, value, strict=True):
            element.validate(item)

    def isIn(self, node: Any, name: str) -> bool:
        return self.elements[0].isIn(node, f"{name}.0")

    def write(self, node: Any, name: str, value: tuple[Any, ...]) -> None:
        self.validate(value)
        with slicer.util.NodeModify(node):
            for index, (element, item) in enumerate(zip(self.elements, value, strict=True)):
                element.write(node, f"{name}.{index}", item)

    def read(self, node: Any, name: str) -> tuple[Any, ...]:
        return tuple(element.read(node, f"{name}.{index}") for index, element in enumerate(self.elements))

    def remove(self, node: Any, name: str) -> None:
        for index, element in enumerate(self.elements):
            element.remove(node, f"{name}.{index}")

    def supportsCaching(self) -> bool:
        return all(element.supportsCaching() for element in self.elements)


@parameterNodeSerializer
class DictSerializer(Serializer):
    """dict[K, V], kept as a list of pairs."""

    @staticmethod
    def canSerialize(kind: Any) -> bool:
        return typing.get_origin(kind) is dict

    @staticmethod
    def create(kind: Any) -> Serializer:
        arguments = typing.get_args(kind)
        return DictSerializer(TupleSerializer([element_serializer(argument) for argument in arguments]))

    def __init__(self, pair: TupleSerializer) -> None:
        self.pair = pair

    def default(self) -> dict[Any, Any]:
        return {}

    def validate(self, value: Any) -> None:
        NotNone().validate(value)
        IsInstance(dict, ObservedDict).validate(value)
        for item in value.items():
            self.pair.validate(item)

    def isIn(self, node: Any, name: str) -> bool:
        return node.HasParameter(f"{name}.len")

    def write(self, node: Any, name: str, value: Any) -> None:
        self.validate(value)
        _write_elements(self.pair, node, name, list(value.items()))

    def read(self, node: Any, name: str) -> ObservedDict:
        count = int(node.GetParameter(f"{name}.len"))
        return ObservedDict(self, node, name, dict(self.pair.read(node, f"{name}.{i}") for i in range(count)))

    def remove(self, node: Any, name: str) -> None:
        for index in range(int(node.GetParameter(f"{name}.len") or 0)):
            self.pair.remove(node, f"{name}.{index}")
        node.UnsetParameter(f"{name}.len")

    def supportsCaching(self) -> bool:
        return self.pair.supportsCaching()
