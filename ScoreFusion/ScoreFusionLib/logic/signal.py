"""A signal in plain Python. Qt signals declared in Python are not available under PythonQt, hence this one."""

from __future__ import annotations

from collections.abc import Callable


class Signal:
    """Calls each connected function, in the order of connection.

    >>> heard = []
    >>> changed = Signal()
    >>> changed.connect(heard.append)
    >>> changed.emit(3)
    >>> heard
    [3]
    """

    def __init__(self) -> None:
        self._slots: list[Callable[..., object]] = []

    def connect(self, slot: Callable[..., object]) -> None:
        """Call `slot` at each `emit`, with the arguments of `emit`."""
        self._slots.append(slot)

    def disconnect(self, slot: Callable[..., object]) -> None:
        """Stop calling `slot`; an unknown one is ignored, since a cleanup may run twice."""
        if slot in self._slots:
            self._slots.remove(slot)

    def emit(self, *args: object) -> None:
        """Call all slots. The list is copied: a slot may disconnect itself."""
        for slot in list(self._slots):
            slot(*args)
