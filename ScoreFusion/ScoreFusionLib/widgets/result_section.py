"""The quality box and the comparison of input and result."""

from __future__ import annotations

import html
from typing import Any

import qt
import slicer

from ScoreFusionLib.i18n import tr as _
from ScoreFusionLib.logic.compare import CompareView, layout_manager, orientation_for
from ScoreFusionLib.logic.display import renew_legend
from ScoreFusionLib.logic.job import TranslateJob
from ScoreFusionLib.logic.results import JobResult
from ScoreFusionLib.logic.signal import Signal
from ScoreFusionLib.logic.wording import duration, moved_lines, quality_table

_MAP_OPACITY = 0.6


class ResultSection:
    """Shows the last result of this session. Holds node ids, since the user may delete any node.

    Signal: `guides_wanted(finished job)`, when the user asks what its guides changed.
    """

    def __init__(self, ui: Any) -> None:
        self.guides_wanted = Signal()
        self._guided: TranslateJob | None = None
        self._ui = ui
        self._manager = layout_manager()
        self._view = CompareView(self._manager)
        self._input_id = ""
        self._orientation = "Axial"
        self._layers: list[tuple[str, str, str]] = []  # title, id below, id on top
        ui.compareButton.connect("toggled(bool)", self._on_compare)
        ui.fadeSlider.connect("valueChanged(int)", self._on_fade)
        ui.overlaySelector.connect("currentIndexChanged(int)", self._on_overlay)
        ui.guidesButton.connect("clicked(bool)", lambda *_args: self.guides_wanted.emit(self._guided))
        if self._manager is not None:
            self._manager.connect("layoutChanged(int)", self._follow_layout)
        scene = slicer.mrmlScene
        self._observation = scene, scene.AddObserver(scene.NodeRemovedEvent, self._on_node_removed)

    @property
    def view(self) -> CompareView:
        """The two views."""
        return self._view

    def show(self, result: JobResult, input_node: Any, thick_axis_name: str | None, *, compare: bool = True) -> None:
        """Show a result, beside its input if `compare`: not while the user is busy in another module."""
        self._input_id = input_node.GetID()
        self._orientation = orientation_for(thick_axis_name)
        node_id = result.node.GetID()
        self._layers = [(_("Result over input"), self._input_id, node_id)]
        if result.uncertainty is not None:
            self._layers.append((_("Uncertainty over result"), node_id, result.uncertainty.GetID()))
        if result.change_map is not None:
            self._layers.append((_("What changed"), node_id, result.change_map.GetID()))
        if result.error_map is not None:
            self._layers.append((_("Error over result"), node_id, result.error_map.GetID()))
        text = _("<b>{name}</b><br>made in {time}").format(name=result.node.GetName(), time=duration(result.seconds))
        moved = "".join(f"<br>{html.escape(line)}" for line in moved_lines(result.provenance))
        self._ui.qualityLabel.setText(f"{text}{moved}<br>{quality_table(result.quality)}")
        self._fill_overlays()
        self._ui.resultSection.collapsed = False
        self._ui.compareButton.setEnabled(True)
        if self._ui.compareButton.checked:
            self._on_compare(True)
        elif compare:
            self._ui.compareButton.setChecked(True)

    def offer_guides(self, job: TranslateJob | None) -> None:
        """Offer to show what the guides of a finished job changed; None: it had none."""
        self._guided = job
        self._ui.guidesButton.setVisible(job is not None)

    def add_guides_map(self, result: JobResult) -> None:
        """Show the map of what the guides changed, over the result if that is still the one shown."""
        node_id = result.node.GetID()
        if not self._layers or self._layers[0][2] != node_id or result.guides_map is None:
            return
        title = _("What the guides changed")
        kept = [layer for layer in self._layers if layer[0] != title]
        self._layers = [*kept, (title, node_id, result.guides_map.GetID())]
        self._fill_overlays()
        self._ui.overlaySelector.setCurrentIndex(len(kept))

    def forget(self) -> None:
        """The scene was closed, or the result deleted."""
        self.offer_guides(None)
        self._end_comparison()
        self._ui.qualityLabel.setText(_("No result yet."))

    def close(self) -> None:
        """The module goes away: give the user's layout back."""
        if self._manager is not None:
            self._manager.disconnect("layoutChanged(int)", self._follow_layout)
        scene, tag = self._observation
        scene.RemoveObserver(tag)
        self._view.leave()

    def _end_comparison(self) -> None:
        """There is nothing to compare any more."""
        self._layers, self._input_id = [], ""
        self._view.leave()
        self._follow_layout()
        self._ui.compareButton.setEnabled(False)

    def _follow_layout(self, *_args: object) -> None:
        """Show whether the comparison is on the screen: the user may pick another layout at any time."""
        is_comparing = self._view.is_shown and bool(self._layers)
        blocked = self._ui.compareButton.blockSignals(True)
        self._ui.compareButton.setChecked(is_comparing)
        self._ui.compareButton.blockSignals(blocked)
        self._ui.fadeContainer.setEnabled(is_comparing)

    def _on_node_removed(self, *_args: object) -> None:
        if any(self._nodes(index) is None for index in range(len(self._layers))):
            qt.QTimer.singleShot(0, self._drop_deleted)  # a closing scene removes many

    def _drop_deleted(self) -> None:
        """Offer only what is still in the scene."""
        if not self._layers:
            return
        result_id = self._layers[0][2]
        kept = [layer for index, layer in enumerate(self._layers) if self._nodes(index) is not None]
        if slicer.mrmlScene.GetNodeByID(result_id) is None:
            self.forget()
        elif kept[:1] != self._layers[:1]:  # the input
            self._end_comparison()
        elif kept != self._layers:
            self._layers = kept
            self._fill_overlays()
            self._on_overlay(0)

    def _fill_overlays(self) -> None:
        selector = self._ui.overlaySelector
        blocked = selector.blockSignals(True)
        selector.clear()
        for title, _below, _top in self._layers:
            selector.addItem(title)
        selector.setCurrentIndex(0)
        selector.blockSignals(blocked)
        self._set_fade(100)

    def _on_compare(self, wanted: bool) -> None:
        nodes = self._nodes(0)
        if not wanted:
            self._view.leave()
        elif nodes is not None:
            self._view.show(*nodes, self._orientation)
            self._on_overlay(self._ui.overlaySelector.currentIndex)
        self._follow_layout()

    def _on_overlay(self, index: int) -> None:
        nodes = self._nodes(index)
        if nodes is None:
            return
        self._set_fade(100 if index == 0 else int(100 * _MAP_OPACITY))
        self._view.show_over(*nodes, self._ui.fadeSlider.value / 100.0)
        renew_legend(nodes[1])

    def _on_fade(self, value: int) -> None:
        self._view.fade(value / 100.0)

    def _set_fade(self, percent: int) -> None:
        blocked = self._ui.fadeSlider.blockSignals(True)
        self._ui.fadeSlider.setValue(percent)
        self._ui.fadeSlider.blockSignals(blocked)

    def _nodes(self, index: int) -> tuple[Any, Any] | None:
        if not 0 <= index < len(self._layers):
            return None
        _title, below_id, top_id = self._layers[index]
        below, top = slicer.mrmlScene.GetNodeByID(below_id), slicer.mrmlScene.GetNodeByID(top_id)
        return (below, top) if below is not None and top is not None else None
