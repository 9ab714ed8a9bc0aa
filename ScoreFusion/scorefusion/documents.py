"""The one way to read JSON and YAML: plain values, of bounded size and depth, so that no file can hang or crash us.

Every number is finite and fits 64 bits, every text can be printed on a terminal, no key is given twice, and what YAML
could make beyond that (dates, binary data, sets, objects, references that multiply or lead in a circle) is refused.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from scorefusion.errors import DocumentError

LARGEST_JSON = 64 * 1024**2
LARGEST_YAML = 256 * 1024
"""Bytes. PyYAML needs seconds for a megabyte, and no recipe is a hundredth of that."""
DEEPEST = 32
MOST_VALUES = 100_000
"""In a YAML file, references followed: ten lines of them can stand for more values than there are atoms."""

_DIGITS = 19  # of a whole number of 64 bits
_UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")
_Pairs = list[tuple[str, Any]]


def read_json(path: Path, *, largest: int = LARGEST_JSON, foreign: bool = False) -> Any:
    """The plain values of a JSON file.

    Args:
        largest: bytes; what is larger is not read at all.
        foreign: by programs that we do not know, of which a few keys are looked at: numbers may be beyond all bounds
            (they come as floats, perhaps infinite or NaN), keys may be given twice, texts may hold anything.

    Raises:
        DocumentError: it cannot be read or holds what it must not; the message names file and reason.
    """
    return _read(path, largest, lambda content: parse_json(content, foreign=foreign))


def read_yaml(path: Path) -> Any:
    """The plain values of a YAML file; raises as `read_json`. Needs PyYAML."""
    return _read(path, LARGEST_YAML, parse_yaml)


def parse_json(content: bytes, *, foreign: bool = False) -> Any:
    """As `read_json`, from bytes. The message is what follows the file's name: ``is not valid JSON (...)``."""
    text = _decode(content)
    try:
        if foreign:
            value = json.loads(text, parse_int=lambda digits: (int if len(digits) <= _DIGITS else float)(digits))
        else:
            value = json.loads(text, parse_int=_whole, object_pairs_hook=_once_each)
    except RecursionError as error:
        raise DocumentError(_too_deep()) from error
    except ValueError as error:
        msg = f"is not valid JSON ({error})"
        raise DocumentError(msg) from error
    _check_values(value, printable=not foreign)
    return value


def parse_yaml(content: bytes | str) -> Any:
    """As `parse_json`, from YAML."""
    import yaml

    text = content if isinstance(content, str) else _decode(content)
    try:
        value = yaml.safe_load(text)
    except RecursionError as error:
        raise DocumentError(_too_deep()) from error
    except Exception as error:  # beside its own kind, PyYAML lets out whatever odd tags, dates and numbers raise
        msg = f"is not valid YAML: {' '.join(str(error).split())[:300]}"
        raise DocumentError(msg) from error
    _check_values(value, printable=True, most=MOST_VALUES)
    return value


def _read(path: Path, largest: int, parse: Callable[[bytes], Any]) -> Any:
    try:
        if not path.is_file():
            msg = "is no file" if path.exists() else "does not exist"
            raise DocumentError(msg)
        with path.open("rb") as file:
            content = file.read(largest + 1)
        if len(content) > largest:
            msg = f"is larger than {largest // 1024} KiB, which no such file is"
            raise DocumentError(msg)
        return parse(content)
    except OSError as error:
        msg = f"{str(path)!r} cannot be read ({error.strerror})"
        raise DocumentError(msg) from error
    except DocumentError as error:
        msg = f"{str(path)!r} {error}"
        raise DocumentError(msg) from error


def _decode(content: bytes) -> str:
    try:
        return content.decode("utf-8-sig")  # some editors on Windows put a mark before the text
    except UnicodeDecodeError as error:
        msg = "is no text in UTF-8"
        raise DocumentError(msg) from error


def _whole(digits: str) -> int:
    if len(digits.lstrip("-")) > _DIGITS:
        msg = f"a whole number of {len(digits)} digits, {digits[:12]}..."
        raise ValueError(msg)
    return int(digits)


def _once_each(pairs: _Pairs) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        msg = f"the key {twice[:60]!r} is given twice"
        raise ValueError(msg)
    return found


def _check_values(value: Any, *, printable: bool, most: int | None = None) -> None:
    """Refuse what is too deep, too much or no plain value. Without recursion: the values may be nested without end."""
    waiting, seen = [(value, 1)], 0
    while waiting:
        inner, depth = waiting.pop()
        seen += 1
        if depth > DEEPEST:
            raise DocumentError(_too_deep())
        if most is not None and seen > most:
            msg = f"holds more than {most} values, references counted each time"
            raise DocumentError(msg)
        if isinstance(inner, dict):
            if odd := next((key for key in inner if not isinstance(key, str)), None):
                msg = f"has the key {_short(odd)}; keys must be text (put it in quotes)"
                raise DocumentError(msg)
            waiting += [(key, depth) for key in inner] + [(item, depth + 1) for item in inner.values()]
        elif isinstance(inner, list):
            waiting += [(item, depth + 1) for item in inner]
        elif problem := _problem(inner) if printable else None:
            msg = f"holds {problem}"
            raise DocumentError(msg)


def _problem(value: Any) -> str | None:
    """What is wrong with a value that is no list and no mapping."""
    if isinstance(value, str):
        return f"text that cannot be shown, {_short(value)}" if _UNPRINTABLE.search(value) else None
    if value is None or isinstance(value, bool):
        return None
    if isinstance(value, int):
        return None if -(10**_DIGITS) < value < 10**_DIGITS else "a whole number beyond 64 bits"
    if isinstance(value, float):
        return None if math.isfinite(value) else f"{value}, which is no finite number"
    return f"{_short(value)}, a {type(value).__name__}; only text, numbers, lists and mappings can stand there"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _too_deep() -> str:
    return f"is nested deeper than {DEEPEST} levels"
