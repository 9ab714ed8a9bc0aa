"""What may stand in `Annotated[T, ...]`: defaults, validators, and settings of the widget."""

from __future__ import annotations

import abc
import types
import typing
from collections.abc import Callable
from typing import Any

_NOT_GIVEN = object()


def splitAnnotations(hint: Any) -> tuple[Any, list[Any]]:
    """Split `Annotated[T, a, b]` into `T` and `[a, b]`; any other hint has no annotations."""
    if typing.get_origin(hint) is typing.Annotated:
        return hint.__origin__, list(hint.__metadata__)
    return hint, []


def unannotatedType(hint: Any) -> Any:
    """Return the type without its annotations."""
    return splitAnnotations(hint)[0]


def is_union(hint: Any) -> bool:
    """Tell whether a hint is `Union[...]`, `Optional[...]` or `X | Y`."""
    return typing.get_origin(hint) in (typing.Union, types.UnionType)


def find(annotations: list[Any], kind: type | tuple[type, ...]) -> Any:
    """Return the first annotation of a kind, or None."""
    return next((annotation for annotation in annotations if isinstance(annotation, kind)), None)


class Default:
    """The value of a parameter that is not in the node yet: `Default(value)` or `Default(generator=f)`."""

    def __init__(self, value: Any = _NOT_GIVEN, *, generator: Callable[[], Any] | None = None) -> None:
        if (value is _NOT_GIVEN) == (generator is None):
            msg = "Default expects either a value or a generator"
            raise ValueError(msg)
        self._value, self._generator = value, generator

    @property
    def value(self) -> Any:
        """The default, made anew if there is a generator."""
        return self._generator() if self._generator is not None else self._value


class Decimals:
    """Number of decimals that the widget shows."""

    def __init__(self, value: int) -> None:
        self.value = value


class SingleStep:
    """Step of the widget's arrows."""

    def __init__(self, value: float) -> None:
        self.value = value


class Validator(abc.ABC):
    """Checks a value before it is written."""

    @abc.abstractmethod
    def validate(self, value: Any) -> None:
        """Raise ValueError or TypeError if the value may not be written."""


class NotNone(Validator):
    """The value may not be None."""

    def validate(self, value: Any) -> None:
        """Check the value."""
        if value is None:
            msg = "Value must not be None"
            raise ValueError(msg)


class IsInstance(Validator):
    """The value must be None or of one of the types."""

    def __init__(self, *kinds: Any) -> None:
        self.kinds = tuple(kind for entry in kinds for kind in (entry if isinstance(entry, tuple) else (entry,)))

    def validate(self, value: Any) -> None:
        """Check the value."""
        if value is not None and not isinstance(value, self.kinds):
            expected = " or ".join(kind.__name__ for kind in self.kinds)
            msg = f"Value must be of type {expected}, got {type(value).__name__} ({value!r})"
            raise TypeError(msg)


class Minimum(Validator):
    """The value must not be below a bound."""

    def __init__(self, minimum: float) -> None:
        self.minimum = minimum

    def validate(self, value: Any) -> None:
        """Check the value."""
        if value < self.minimum:
            msg = f"Value must be at least {self.minimum}, got {value}"
            raise ValueError(msg)


class Maximum(Validator):
    """The value must not be above a bound."""

    def __init__(self, maximum: float) -> None:
        self.maximum = maximum

    def validate(self, value: Any) -> None:
        """Check the value."""
        if value > self.maximum:
            msg = f"Value must be at most {self.maximum}, got {value}"
            raise ValueError(msg)


class WithinRange(Validator):
    """The value must lie between two bounds, or on one."""

    def __init__(self, minimum: float, maximum: float) -> None:
        if minimum > maximum:
            msg = f"WithinRange: minimum {minimum} is above maximum {maximum}"
            raise ValueError(msg)
        self.minimum, self.maximum = minimum, maximum

    def validate(self, value: Any) -> None:
        """Check the value."""
        if not self.minimum <= value <= self.maximum:
            msg = f"Value must be within the range [{self.minimum}, {self.maximum}], got {value}"
            raise ValueError(msg)


class Choice(Validator):
    """The value must be one of a list."""

    def __init__(self, choices: list[Any]) -> None:
        self.choices = list(choices)

    def validate(self, value: Any) -> None:
        """Check the value."""
        if value not in self.choices:
            msg = f"Value must be one of {self.choices}, got {value!r}"
            raise ValueError(msg)


class Exclude(Validator):
    """The value must not be one of a list."""

    def __init__(self, values: list[Any]) -> None:
        self.values = list(values)

    def validate(self, value: Any) -> None:
        """Check the value."""
        if value in self.values:
            msg = f"Value must not be one of {self.values}, got {value!r}"
            raise ValueError(msg)


class RangeBounds(Validator):
    """Both ends of a range must lie between two bounds, or on them."""

    def __init__(self, minimum: float, maximum: float) -> None:
        self.minimum, self.maximum = minimum, maximum

    def validate(self, value: Any) -> None:
        """Check the range."""
        if value.minimum < self.minimum or value.maximum > self.maximum:
            msg = f"Range must lie within [{self.minimum}, {self.maximum}], got [{value.minimum}, {value.maximum}]"
            raise ValueError(msg)
