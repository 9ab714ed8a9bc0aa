"""What a model and a file in it may be called, so that a name means the same on every system."""

from __future__ import annotations

import re
import unicodedata
from typing import Any

LONGEST_PATH = 200
LONGEST_NAME = 100
DEEPEST_PATH = 8

_DEVICES = {"con", "prn", "aux", "nul", *(f"{port}{number}" for port in ("com", "lpt") for number in range(1, 10))}


def is_bundle_id(value: Any) -> bool:
    """Whether a value can name a bundle and its folder: lower-case letters, digits, dots, dashes, underscores."""
    return isinstance(value, str) and re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,63}", value) is not None and is_plain(value)


def is_safe_path(path: Any) -> bool:
    """Whether a path from outside stays inside the bundle and is the only way to write it.

    Relative, forward slashes, at most 200 characters in 8 parts, each of which `is_plain`: so no ``..`` or ``.``, no
    drive letter, no empty part.
    """
    if not isinstance(path, str) or len(path) > LONGEST_PATH:
        return False
    parts = path.split("/")
    return len(parts) <= DEEPEST_PATH and all(map(is_plain, parts))


def is_plain(name: str) -> bool:
    """Whether a name in a folder is one on Linux, macOS and Windows alike.

    Refused are what Windows cuts off (dots and spaces at the end), its devices (``nul.txt``), and characters that are
    special to a system or that nobody sees (controls, zero-width, direction marks, halves of pairs).
    """
    return (
        0 < len(name) <= LONGEST_NAME
        and not name.endswith((".", " "))
        and not any(letter in '<>:"|?*\\' or unicodedata.category(letter).startswith("C") for letter in name)
        and name.partition(".")[0].strip().casefold() not in _DEVICES
    )


def same_name(path: str) -> str:
    """Two paths with the same result are one file on a system that ignores case or composes letters its own way."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", path).casefold())
