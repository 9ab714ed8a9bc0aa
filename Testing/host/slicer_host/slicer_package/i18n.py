"""Translation of texts; without translation files every text stays as it is."""

from __future__ import annotations

import inspect
import logging
import string
from pathlib import Path

import slicer


def translate(context: str, text: str) -> str:
    """Translate a text within a context."""
    app = getattr(slicer, "app", None)
    return app.translate(context, text) if app is not None else text


def getContext(sourceFile: str) -> str:  # noqa: N802, N803
    """Return the translation context of a source file: its stem, after the name of its package if it is in one."""
    path = Path(sourceFile)
    return f"{path.parent.name}.{path.stem}" if (path.parent / "__init__.py").is_file() else path.stem


def _placeholders(text: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(text) if name is not None}


def tr(text: str) -> str:
    """Translate a text within the context of the calling file."""
    frame = inspect.currentframe()
    caller = frame.f_back if frame is not None else None
    context = getContext(caller.f_code.co_filename) if caller is not None else ""
    translated = translate(context, text)
    if translated != text and _placeholders(translated) != _placeholders(text):
        logging.warning("Translation of %r in context %s has other placeholders: %r", text, context, translated)
        return text
    return translated
