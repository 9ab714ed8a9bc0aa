"""How sizes are said to a user."""

from __future__ import annotations


def mm(values: tuple[float, ...]) -> str:
    """`1 x 1 x 5`, for a message."""
    return " x ".join(f"{value:.3g}" for value in values)


MIB = 1024**2
GIB = 1024**3


def readable(size: float) -> str:
    """Bytes in words: ``readable(3 * 1024**3)`` is ``"3.0 GiB"``."""
    return f"{size / GIB:.1f} GiB" if size >= GIB else f"{size / MIB:.0f} MiB"
