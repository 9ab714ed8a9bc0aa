"""What can compute here, asked of the worker so that the GUI never imports torch."""

from __future__ import annotations

import json
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ScoreFusionLib.i18n import tr as _
from ScoreFusionLib.logic import engine
from ScoreFusionLib.logic.signal import Signal
from ScoreFusionLib.logic.worker import Worker

GIB = 1 << 30
LOW_MEMORY = 4 * GIB  # bytes free, below which a whole head is better done in tiles


@dataclass(frozen=True)
class Device:
    """A device: its name on the command line, what to show, and bytes of memory (0 = not known)."""

    name: str
    title: str
    memory: int = 0
    free: int = 0

    @property
    def label(self) -> str:
        """Text of the menu, e.g. `cuda:0 - RTX 4090 (22.1 of 24.0 GB free)`."""
        if self.memory and self.free:
            return _("{title} ({free:.1f} of {memory:.1f} GB free)").format(
                title=self.title, free=self.free / GIB, memory=self.memory / GIB
            )
        if self.memory:
            return _("{title} ({memory:.1f} GB)").format(title=self.title, memory=self.memory / GIB)
        return self.title


def automatic(chosen: Device | None) -> Device:
    """Return the choice that leaves the decision to the engine; `chosen` is what it would take, if known."""
    if chosen is None:
        return Device("auto", _("Automatic"))
    title = _("Automatic: {device}").format(device=chosen.name)
    return Device("auto", title, memory=chosen.memory, free=chosen.free)


class DeviceProbe:
    """Runs `scorefusion doctor --json` beside the GUI.

    Signals: `found(list of Device)`; without an answer (torch missing, say) the list is [Automatic, CPU]. And
    `estimated(seconds by model and preset)`, for a whole head on this computer.
    """

    def __init__(self) -> None:
        self.found = Signal()
        self.estimated = Signal()
        self._worker: Worker | None = None
        self._folder: Path | None = None
        self._timer: Any = None

    def start(self) -> None:
        """Ask; the answer comes after some seconds, when torch has been loaded in the worker."""
        import qt

        if self._worker is not None:
            return
        self._folder = Path(tempfile.mkdtemp(prefix="ScoreFusion-"))
        command = engine.engine_command(["doctor", "--json"])
        self._worker = Worker(command, env=engine.worker_environment(), folder=self._folder)
        try:
            self._worker.start()
        except OSError:
            self._finish()
            return
        self._timer = qt.QTimer()
        self._timer.setInterval(200)
        self._timer.connect("timeout()", self._poll)
        self._timer.start()

    def stop(self) -> None:
        """Give up; for a module that is being closed."""
        self._clean()

    def _poll(self) -> None:
        if self._worker is None:
            return
        self._worker.poll()
        if not self._worker.is_running:
            self._finish()

    def _finish(self) -> None:
        text = ""
        if self._folder is not None and (self._folder / "events.jsonl").is_file():
            text = (self._folder / "events.jsonl").read_text(encoding="utf-8", errors="replace")
        self._clean()
        self.found.emit(devices_from_report(text))
        self.estimated.emit(estimates_from_report(text))

    def _clean(self) -> None:
        if self._timer is not None:
            self._timer.stop()
            self._timer.disconnect("timeout()", self._poll)
            self._timer = None
        if self._worker is not None:
            self._worker.kill()
            self._worker = None
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None


def devices_from_report(text: str) -> list[Device]:
    """Return the working devices of a `doctor --json` report, after "Automatic"; the one it would take first."""
    try:
        report = json.loads(text[text.index("{") :])
        entries = report.get("devices", [])
        devices = [
            Device(
                name=str(entry["name"]),
                title=_title(entry),
                memory=int(entry.get("memory_total") or 0),
                free=int(entry.get("memory_free") or 0),
            )
            for entry in sorted(entries, key=lambda entry: not entry.get("chosen"))
            if not entry.get("problem")
        ]
    except (ValueError, KeyError, TypeError, AttributeError):
        devices = []
    return [automatic(devices[0] if devices else None), *(devices or [Device("cpu", "CPU")])]


def estimates_from_report(text: str) -> dict[tuple[str, str], float]:
    """Return (model id, preset) to seconds for a whole head, as far as a `doctor --json` report knows them."""
    try:
        models = json.loads(text[text.index("{") :]).get("models", [])
        return {
            (str(model["id"]), str(name)): float(preset["seconds"])
            for model in models
            for name, preset in model.get("presets", {}).items()
            if preset.get("seconds")
        }
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}


def _title(entry: dict[str, Any]) -> str:
    name, description = str(entry["name"]), str(entry.get("description") or "")
    return f"{name} - {description}" if description else name
