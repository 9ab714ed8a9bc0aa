"""Translated text: Slicer's `tr` where there is an application, the source text in a bare MRML scene."""

from __future__ import annotations

try:
    from slicer.i18n import tr
except ImportError:  # slicer-core wheel: real MRML, no application

    def tr(text: str) -> str:
        """Return `text` as it is written in the source."""
        return text


__all__ = ["tr"]
