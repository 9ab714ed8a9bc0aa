"""`@parameterPack`: a class whose members are parameters of their own."""

from __future__ import annotations

import logging
import typing
from typing import Any

import slicer

from .annotations import Default, IsInstance, NotNone, find, splitAnnotations, unannotatedType
from .serializers import Serializer, createSerializer, parameterNodeSerializer

_RESERVED = ("allParameters", "dataType", "getValue", "setValue", "_pack_values", "_pack_binding")


class PackMember:
    """One member of a pack: its type, serializer and default."""

    def __init__(self, owner: type, name: str, hint: Any) -> None:
        kind, annotations = splitAnnotations(hint)
        self.name, self.hint = name, hint
        self.serializer, unused = createSerializer(kind, annotations)
        given = find(unused, Default)
        unused = [annotation for annotation in unused if annotation is not given]
        if hasattr(owner, name):
            self.default = Default(getattr(owner, name))
        else:
            self.default = given or Default(generator=self.serializer.default)
        self.unused = unused


def isParameterPack(classOrObject: Any) -> bool:
    """Tell whether a class, or the class of an object, is a pack."""
    return getattr(classOrObject, "_is_parameter_pack", False)


def check_member(pack: Any, name: str) -> None:
    """Raise ValueError if a (dotted) member name does not exist."""
    top, _, rest = name.partition(".")
    if not isParameterPack(pack) or top not in pack.allParameters:
        msg = f"Cannot find a member named '{name}' in {getattr(pack, '__name__', type(pack).__name__)}"
        raise ValueError(msg)
    if rest:
        check_member(unannotatedType(pack.allParameters[top].hint), rest)


def _property(name: str) -> property:
    def get(self: Any) -> Any:
        if self._pack_binding is not None:
            node, prefix = self._pack_binding
            return self.allParameters[name].serializer.read(node, f"{prefix}.{name}")
        return self._pack_values[name]

    def set_value(self: Any, value: Any) -> None:
        member = self.allParameters[name]
        member.serializer.validate(value)
        if self._pack_binding is not None:
            node, prefix = self._pack_binding
            member.serializer.write(node, f"{prefix}.{name}", value)
        else:
            self._pack_values[name] = value

    return property(get, set_value)


def _init(self: Any, *args: Any, **kwargs: Any) -> None:
    names = list(self.allParameters)
    if len(args) > len(names):
        msg = f"{type(self).__name__} has {len(names)} members, got {len(args)} values"
        raise ValueError(msg)
    given = dict(zip(names, args, strict=False))
    for name, value in kwargs.items():
        if name not in names:
            msg = f"{type(self).__name__} has no member named '{name}'; members: {', '.join(names)}"
            raise ValueError(msg)
        if name in given:
            msg = f"Member '{name}' of {type(self).__name__} was given twice"
            raise ValueError(msg)
        given[name] = value
    self.__dict__["_pack_binding"] = None
    self.__dict__["_pack_values"] = {}
    for name, member in self.allParameters.items():
        setattr(self, name, given[name] if name in given else member.default.value)


def _get_value(self: Any, name: str) -> Any:
    check_member(type(self), name)
    top, _, rest = name.partition(".")
    value = getattr(self, top)
    return value.getValue(rest) if rest else value


def _set_value(self: Any, name: str, value: Any) -> None:
    check_member(type(self), name)
    top, _, rest = name.partition(".")
    if rest:
        getattr(self, top).setValue(rest, value)
    else:
        setattr(self, top, value)


def _data_type(cls: type, name: str) -> Any:
    check_member(cls, name)
    top, _, rest = name.partition(".")
    hint = cls.allParameters[top].hint
    return unannotatedType(hint).dataType(rest) if rest else hint


def _equal(self: Any, other: Any) -> bool:
    if not isinstance(other, type(self)) and not isinstance(self, type(other)):
        return NotImplemented
    return all(getattr(self, name) == getattr(other, name) for name in self.allParameters)


def _text(self: Any) -> str:
    members = ", ".join(f"{name}={getattr(self, name)!r}" for name in self.allParameters)
    return f"{type(self).__name__}({members})"


def parameterPack(classtype: type | None = None) -> Any:
    """Class decorator: make a pack of parameters out of an annotated class."""

    def wrap(cls: type) -> type:
        hints = typing.get_type_hints(cls, include_extras=True)
        members = {name: PackMember(cls, name, hint) for name, hint in hints.items()}
        for name in (*_RESERVED, "_is_parameter_pack"):
            if name in hints or name in vars(cls):
                msg = f"Cannot use the reserved name '{name}' in a parameterPack"
                raise ValueError(msg)
        for member in members.values():
            if member.unused:
                logging.warning("Unused annotations: %s", member.unused)
            setattr(cls, member.name, _property(member.name))
        cls.allParameters = members
        cls._is_parameter_pack = True
        if "__init__" not in vars(cls):
            cls.__init__ = _init
        cls._pack_init = _init
        cls.getValue, cls.setValue = _get_value, _set_value
        cls.dataType = classmethod(_data_type)
        cls.__eq__, cls.__hash__ = _equal, None
        cls.__repr__ = cls.__str__ = _text
        return cls

    return wrap if classtype is None else wrap(classtype)


@parameterNodeSerializer
class PackSerializer(Serializer):
    """A pack: `name.<member>` for each member. What is read is bound to the node: setting a member writes it."""

    @staticmethod
    def canSerialize(kind: Any) -> bool:
        return isinstance(kind, type) and isParameterPack(kind)

    @staticmethod
    def create(kind: Any) -> Serializer:
        return PackSerializer(kind)

    def __init__(self, kind: Any) -> None:
        self.kind = kind
        self.members = {name: member.serializer for name, member in kind.allParameters.items()}

    def default(self) -> Any:
        return self.kind()

    def validate(self, value: Any) -> None:
        NotNone().validate(value)
        IsInstance(self.kind).validate(value)
        for name, serializer in self.members.items():
            serializer.validate(getattr(value, name))

    def isIn(self, node: Any, name: str) -> bool:
        return all(serializer.isIn(node, f"{name}.{member}") for member, serializer in self.members.items())

    def write(self, node: Any, name: str, value: Any) -> None:
        self.validate(value)
        with slicer.util.NodeModify(node):
            for member, serializer in self.members.items():
                serializer.write(node, f"{name}.{member}", getattr(value, member))

    def read(self, node: Any, name: str) -> Any:
        bound = self.kind.__new__(self.kind)
        bound.__dict__["_pack_values"] = {}
        bound.__dict__["_pack_binding"] = (node, name)
        return bound

    def remove(self, node: Any, name: str) -> None:
        for member, serializer in self.members.items():
            serializer.remove(node, f"{name}.{member}")


class FloatRange:
    """Two numbers, the first not above the second."""

    _minimum: float
    _maximum: float

    def __init__(self, minimum: float = 0.0, maximum: float = 0.0) -> None:
        if minimum > maximum:
            msg = f"FloatRange: minimum {minimum} is above maximum {maximum}"
            raise ValueError(msg)
        self._pack_init(float(minimum), float(maximum))

    @property
    def minimum(self) -> float:
        """The lower end."""
        return self._minimum

    @minimum.setter
    def minimum(self, value: float) -> None:
        if value > self._maximum:
            msg = f"FloatRange: minimum {value} is above maximum {self._maximum}"
            raise ValueError(msg)
        self._minimum = value

    @property
    def maximum(self) -> float:
        """The upper end."""
        return self._maximum

    @maximum.setter
    def maximum(self, value: float) -> None:
        if value < self._minimum:
            msg = f"FloatRange: maximum {value} is below minimum {self._minimum}"
            raise ValueError(msg)
        self._maximum = value


FloatRange = parameterPack(FloatRange)
