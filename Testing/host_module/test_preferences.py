"""Device and preset are remembered from one session to the next, as far as model and computer still have them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from models_on_disk import SHARPENING, write_model
from module_host import MODULE

slicer = pytest.importorskip("slicer")

REPORT = '{"devices": [{"name": "cpu", "chosen": true}, {"name": "cuda:0"}]}'


@pytest.fixture
def new_session(host: Any, fake_worker: Any) -> Callable[[], Any]:
    """Open the module as after a restart of Slicer: an empty scene, a new panel, the settings that were written."""

    def open_again() -> Any:
        if hasattr(slicer.modules, "scorefusion"):
            host.unload(slicer.modules.scorefusion)
        for node in slicer.util.getNodesByClass("vtkMRMLScriptedModuleNode"):
            slicer.mrmlScene.RemoveNode(node)
        return host.open(host.load_module(MODULE))

    return open_again


def pick_preset(widget: Any, name: str) -> None:
    """Choose a preset as a user does: only that makes the menu say `activated`."""
    index = ["fast", "balanced", "best"].index(name)
    widget.ui.presetSelector.setCurrentIndex(index)
    widget.ui.presetSelector.activated.emit(index)


def choose_model(widget: Any, model_id: str) -> None:
    widget.ui.modelSelector.setCurrentIndex(widget.panel.models.ids().index(model_id))


@pytest.fixture
def devices(monkeypatch: pytest.MonkeyPatch, fake_worker: Any) -> None:
    """A computer with a CPU and one graphics card."""
    from ScoreFusionLib.logic import devices

    monkeypatch.setattr(
        devices.engine, "engine_command", lambda *_a, **_k: [sys.executable, "-c", f"print('''{REPORT}''')"]
    )


class TestPreset:
    def test_it_is_there_in_the_next_session(self, new_session: Any) -> None:
        pick_preset(new_session(), "balanced")
        assert new_session()._parameterNode.preset.value == "balanced"

    def test_what_a_scene_says_goes_first_and_is_not_remembered(self, new_session: Any) -> None:
        widget = new_session()
        pick_preset(widget, "balanced")
        widget.ui.presetSelector.setCurrentIndex(0)  # as a scene does when it is loaded
        widget.enter()
        assert widget._parameterNode.preset.value == "fast"
        assert new_session()._parameterNode.preset.value == "balanced"

    def test_a_model_without_it_gets_its_own_and_the_next_model_gets_it_back(
        self, new_session: Any, models_folder: Path
    ) -> None:
        presets = {name: {"steps": 1, "solver": "ddim", "start": 999, "samples": 1} for name in ("fast", "best")}
        write_model(models_folder / "test-slow", {**SHARPENING, "title": "Slow", "presets": presets})
        widget = new_session()
        choose_model(widget, "test-slow")
        pick_preset(widget, "best")
        choose_model(widget, "test-sr")
        assert widget._parameterNode.preset.value == "fast"
        choose_model(widget, "test-slow")
        assert widget._parameterNode.preset.value == "best"

    def test_it_is_there_after_the_scene_was_closed(self, host: Any, new_session: Any) -> None:
        widget = new_session()
        pick_preset(widget, "balanced")
        host.close_scene()
        assert widget._parameterNode.preset.value == "balanced"


class TestDevice:
    def test_it_is_there_in_the_next_session(self, host: Any, devices: None, new_session: Any) -> None:
        widget = new_session()
        host.wait_until(lambda: widget.ui.deviceSelector.count == 3, timeout=20)
        widget.ui.deviceSelector.setCurrentIndex(2)
        widget = new_session()
        assert widget._parameterNode.device == "cuda:0"
        host.wait_until(lambda: widget.ui.deviceSelector.count == 3, timeout=20)
        assert widget._parameterNode.device == "cuda:0"

    def test_one_that_is_gone_leaves_the_choice_to_the_engine(self, host: Any, devices: None, new_session: Any) -> None:
        slicer.app.userSettings().setValue("ScoreFusion/Device", "cuda:1")
        widget = new_session()
        host.wait_until(lambda: widget.ui.deviceSelector.itemText(0) == "Automatic: cpu", timeout=20)
        assert widget._parameterNode.device == "auto"
        assert widget.ui.deviceSelector.currentIndex == 0

    def test_rubbish_in_the_settings_does_no_harm(self, new_session: Any) -> None:
        slicer.app.userSettings().setValue("ScoreFusion/Preset", "7")
        assert new_session()._parameterNode.preset.value == "fast"
