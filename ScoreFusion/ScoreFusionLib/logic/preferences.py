"""What the user chose last, kept in Slicer's settings for the next session. A scene keeps choices of its own."""

from __future__ import annotations

from typing import Any

import slicer

from ScoreFusionLib.logic.models import ModelInfo
from ScoreFusionLib.logic.settings import Preset

_DEVICE = "ScoreFusion/Device"
_PRESET = "ScoreFusion/Preset"


def remember_device(name: str) -> None:
    """Keep the name of a device for the next session."""
    slicer.app.userSettings().setValue(_DEVICE, name)


def remember_preset(preset: Preset) -> None:
    """Keep a preset for the next session."""
    slicer.app.userSettings().setValue(_PRESET, preset.value)


def remembered_device() -> str:
    """Return the device of last time; it need not be there any more."""
    return str(slicer.app.userSettings().value(_DEVICE, "auto"))


def remembered_preset() -> Preset | None:
    """Return the preset of last time, None if there was none."""
    value = slicer.app.userSettings().value(_PRESET, "")
    return next((preset for preset in Preset if preset.value == value), None)


def fill(parameters: Any) -> None:
    """Write what is remembered into a parameter node that nobody has filled yet."""
    parameters.device = remembered_device()
    parameters.preset = remembered_preset() or parameters.preset


def preset_for(model: ModelInfo, current: Preset) -> Preset:
    """Return the preset of last time or, if the model does not have it, the current one, else that of every model."""
    wanted = (remembered_preset(), current)
    return next((preset for preset in wanted if preset is not None and preset.value in model.presets), Preset.FAST)
