"""What the model changed: result minus input, made by the worker, shown in colours of its own."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from module_host import thick_head

slicer = pytest.importorskip("slicer")


def run(host: Any, widget: Any, model: str, node: Any) -> Any:
    widget.ui.modelSelector.setCurrentIndex(widget.panel.models.ids().index(model))
    next(iter(widget.panel.conditions.selectors.values())).setCurrentNode(node)
    widget.ui.changeCheckBox.setChecked(True)
    widget.ui.applyButton.click()
    host.wait_until(lambda: not widget.panel.run.is_busy, timeout=120)
    assert widget.panel.run.job.error is None, widget.panel.run.job.error
    return widget.panel.run.job.result


class TestChangeMap:
    @pytest.fixture
    def result(self, host: Any, widget: Any) -> Any:
        return run(host, widget, "test-sr", thick_head())

    def test_it_is_result_minus_interpolated_input_in_its_units(self, result: Any) -> None:
        change = slicer.util.arrayFromVolume(result.change_map)
        sharp = slicer.util.arrayFromVolume(result.node)
        coarse = slicer.util.arrayFromVolume(slicer.util.getNode("MRHead T1")).astype(float)
        places = np.clip((np.arange(32) + 0.5) / 4 - 0.5, 0, 7)  # slice centres of the result among those of the input
        low = np.minimum(places.astype(int), 6)
        share = (places - low)[:, None, None]
        expected = sharp - ((1 - share) * coarse[low] + share * coarse[low + 1])
        assert change.shape == sharp.shape
        assert np.allclose(change, expected, atol=0.01)
        assert change.min() < -50
        assert change.max() > 50

    def test_it_lies_on_the_result_s_grid(self, result: Any) -> None:
        assert np.allclose(result.change_map.GetSpacing(), result.node.GetSpacing())
        assert np.allclose(result.change_map.GetOrigin(), result.node.GetOrigin())

    def test_zero_is_in_the_middle_of_diverging_colours(self, result: Any) -> None:
        display = result.change_map.GetDisplayNode()
        assert display.GetColorNode().GetName() == "ScoreFusion change"
        assert display.GetLevel() == 0
        colour = [0.0] * 4
        display.GetColorNode().GetColor(127, colour)
        assert max(colour[:3]) < 0.1  # dark where nothing changed

    def test_it_is_nowhere_called_an_error(self, result: Any, widget: Any) -> None:
        legend = slicer.vtkSlicerColorLogic.GetColorLegendDisplayNode(result.change_map)
        titles = [widget.ui.overlaySelector.itemText(i) for i in range(widget.ui.overlaySelector.count)]
        words = [result.change_map.GetName(), legend.GetTitleText(), *titles]
        assert result.change_map.GetName().endswith("what changed")
        assert "Result minus input (input units)" in words
        assert "What changed" in titles
        assert not any("error" in word.lower() for word in words)

    def test_it_can_be_laid_over_the_result(self, result: Any, widget: Any) -> None:
        from ScoreFusionLib.logic.compare import RESULT_VIEW

        widget.ui.overlaySelector.setCurrentIndex(1)
        composite = slicer.app.layoutManager().sliceWidget(RESULT_VIEW).sliceLogic().GetSliceCompositeNode()
        assert composite.GetForegroundVolumeID() == result.change_map.GetID()


class TestOtherContrast:
    def test_a_translation_does_not_offer_it(self, host: Any, widget: Any) -> None:
        assert run(host, widget, "test-flair", thick_head()).change_map is None
        assert not widget.ui.changeCheckBox.visible

    def test_the_console_is_told_why(self, host: Any, widget: Any) -> None:
        from ScoreFusionLib.logic.errors import RunError

        with pytest.raises(RunError, match="makes another contrast: result minus input would mean nothing"):
            widget.logic.translate(thick_head(), model="test-flair", change=True)
