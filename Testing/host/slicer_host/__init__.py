"""A small, honest Slicer: unmodified scripted modules over PySide6 and a real MRML scene. See README.md beside it."""

from __future__ import annotations

import os

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")

from slicer_host import pythonqt  # noqa: E402  before anything imports PySide6

pythonqt.install()

from slicer_host import dialogs, environment  # noqa: E402

dialogs.install()
environment.make_importable()

from slicer_host.app import add_widgets_to_slicer  # noqa: E402

add_widgets_to_slicer()

from slicer_host.host import Host  # noqa: E402

__all__ = ["Host"]
