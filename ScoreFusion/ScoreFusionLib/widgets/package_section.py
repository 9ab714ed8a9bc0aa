"""The worker's packages: their versions, whether a graphics card is seen, and their installation."""

from __future__ import annotations

import html
from collections.abc import Callable
from typing import Any

import slicer

from ScoreFusionLib.i18n import tr as _
from ScoreFusionLib.logic import install, packages
from ScoreFusionLib.logic.devices import Device
from ScoreFusionLib.logic.signal import Signal


class PackageSection:
    """Signal: `progressed(line)`, with each line that an installation prints, and an empty one when it has ended."""

    def __init__(self, ui: Any) -> None:
        self.progressed = Signal()
        self.is_busy = False
        self.is_closed = False
        self._ui = ui
        self._devices: list[Device] | None = None
        ui.packagesSection.connect("contentsCollapsed(bool)", lambda *_args: self.show())

    def ensure(self) -> None:
        """Install what is missing, after one question. Raises RunError."""
        self._run(install.ensure_installed)

    def reinstall(self) -> None:
        """Repeat the installation, after one question. Raises RunError."""
        self._run(install.reinstall)

    def show_devices(self, devices: list[Device]) -> None:
        """Remember what can compute, as far as the worker has told."""
        self._devices = devices
        self.show()

    def show(self) -> None:
        """Write the table; nothing while nobody looks."""
        if self._ui.packagesSection.collapsed:
            return
        rows = [*packages.versions(), (_("Graphics card"), self._graphics())]
        cells = "".join(
            f"<tr><td>{html.escape(name)}&nbsp;&nbsp;</td><td>{html.escape(text)}</td></tr>" for name, text in rows
        )
        self._ui.packagesLabel.setText(f"<table>{cells}</table>")

    def close(self) -> None:
        """The module goes away, perhaps while packages are installed: its widgets are not touched any more."""
        self.is_closed = True

    def _tell(self, line: str) -> None:
        if not self.is_closed:
            self.progressed.emit(line)

    def _graphics(self) -> str:
        if self._devices is None or not packages.is_satisfied("torch" + packages.TORCH):
            return _("not known: PyTorch has not answered")
        cards = [device.title for device in self._devices if device.name not in ("auto", "cpu")]
        return "; ".join(cards) or _("none seen, the processor computes")

    def _run(self, action: Callable[..., None]) -> None:
        self.is_busy = True
        try:
            action(lambda text: slicer.util.confirmOkCancelDisplay(text, _("ScoreFusion")), self._tell)
        finally:
            self.is_busy = False
            self._tell("")
