"""The choice of a device, filled when the worker has answered what there is."""

from __future__ import annotations

from typing import Any

from ScoreFusionLib.logic.devices import Device, DeviceProbe, devices_from_report
from ScoreFusionLib.logic.signal import Signal


class DeviceMenu:
    """Signals: `chosen(device name)`, when the user picks one; `missing(device name)`, when the wanted one is not here;
    `estimated()`, when times are known; `shown(devices)`, when the list was filled.
    """

    def __init__(self, ui: Any) -> None:
        self.chosen, self.missing, self.shown = Signal(), Signal(), Signal()
        self._selector = ui.deviceSelector
        self._wanted = "auto"
        self._probe: DeviceProbe | None = None
        self._devices: list[Device] = []
        self._seconds: dict[tuple[str, str], float] = {}
        self.estimated = Signal()
        self._show(devices_from_report(""))
        self._selector.connect("currentIndexChanged(int)", self._on_index_changed)

    @property
    def device(self) -> Device | None:
        """The device that a run would take: with "Automatic" the first one after it, as the engine decides."""
        index = self._selector.currentIndex
        if index == 0 and len(self._devices) > 1:
            return self._devices[1]
        return self._devices[index] if 0 <= index < len(self._devices) else None

    def fill(self) -> None:
        """Ask the worker once; the panel does not wait for the answer."""
        if self._probe is None:
            self._probe = DeviceProbe()
            self._probe.found.connect(self._on_found)
            self._probe.estimated.connect(self._remember)
            self._probe.start()

    def seconds_for(self, model_id: str, preset: str) -> float | None:
        """Return how long a whole head takes here; None while that is not known."""
        return self._seconds.get((model_id, preset))

    def _remember(self, seconds: dict[tuple[str, str], float]) -> None:
        self._seconds = seconds
        self.estimated.emit()

    def select(self, name: str) -> None:
        """Show a device without telling anyone; also one that is not there, since a scene may come from elsewhere."""
        self._wanted = name
        if name not in [device.name for device in self._devices]:
            self._show([*self._devices, Device(name, name)])
            return
        index = [device.name for device in self._devices].index(name)
        if self._selector.currentIndex != index:
            blocked = self._selector.blockSignals(True)
            self._selector.setCurrentIndex(index)
            self._selector.blockSignals(blocked)

    def close(self) -> None:
        """Stop asking."""
        if self._probe is not None:
            self._probe.stop()

    def _on_found(self, devices: list[Device]) -> None:
        self._show(devices)
        if self._wanted not in [device.name for device in devices]:
            self.missing.emit(self._wanted)

    def _show(self, devices: list[Device]) -> None:
        self._devices = devices
        blocked = self._selector.blockSignals(True)
        self._selector.clear()
        for device in devices:
            self._selector.addItem(device.label)
        self._selector.blockSignals(blocked)
        self.select(self._wanted)
        self.shown.emit(devices)

    def _on_index_changed(self, index: int) -> None:
        if 0 <= index < len(self._devices):
            self._wanted = self._devices[index].name
            self.chosen.emit(self._wanted)
