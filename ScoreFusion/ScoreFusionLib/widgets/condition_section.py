"""One selector for each input that the model cannot do without, and what was understood of the first."""

from __future__ import annotations

from typing import Any

import qt
import slicer

from ScoreFusionLib.i18n import tr as _
from ScoreFusionLib.logic import conditions
from ScoreFusionLib.logic.geometry import affine_from_node, world_affine
from ScoreFusionLib.logic.models import Condition, ModelInfo
from ScoreFusionLib.logic.sequences import frame_count
from ScoreFusionLib.logic.understanding import Understanding, understand_node


class ConditionSection:
    """The selectors write node references of the parameter node; `show` reads them back."""

    def __init__(self, ui: Any) -> None:
        self._ui = ui
        self._parameter_node: Any = None
        self._model: ModelInfo | None = None
        self._selectors: dict[str, Any] = {}
        self._labels: list[Any] = []

    @property
    def selectors(self) -> dict[str, Any]:
        """Condition name to selector."""
        return dict(self._selectors)

    def show(self, model: ModelInfo | None, parameter_node: Any | None) -> None:
        """Show the inputs of a model as they are chosen in a parameter node."""
        if model is not self._model:
            self._build(model)
        self._parameter_node = parameter_node
        for name, selector in self._selectors.items():
            node = conditions.condition_node(parameter_node, name) if parameter_node is not None else None
            if selector.currentNode() is not node:
                blocked = selector.blockSignals(True)
                selector.setCurrentNode(node)
                selector.blockSignals(blocked)

    def suggest(self) -> None:
        """Fill empty selectors of required inputs with fitting volumes of the scene."""
        if self._model is None or self._parameter_node is None:
            return
        for condition in _required(self._model):
            if conditions.condition_node(self._parameter_node, condition.name) is not None:
                continue
            taken = self.chosen().values()
            node = conditions.suggest_node(slicer.mrmlScene, condition.contrasts, taken)
            if node is not None:
                conditions.set_condition_node(self._parameter_node, condition.name, node)

    def chosen(self) -> dict[str, Any]:
        """Return condition name to volume node."""
        if self._parameter_node is None or self._model is None:
            return {}
        return conditions.chosen_nodes(self._parameter_node, [c.name for c in _required(self._model)])

    def understanding(self) -> Understanding | None:
        """Return what was understood of the first input; None while it has no voxels."""
        node = next(iter(self.chosen().values()), None)
        if node is None or node.GetImageData() is None or self._model is None:
            return None
        affine = world_affine(node)
        return understand_node(node, affine_from_node(node) if affine is None else affine, self._model.spacing)

    def show_understanding(self, understanding: Understanding | None) -> None:
        """Write it beside the choices that correct it."""
        ui = self._ui
        node = next(iter(self.chosen().values()), None)
        is_sharpening = self._model is not None and self._model.task == "super_resolution"
        ui.framesContainer.setVisible(node is not None and frame_count(node) > 1)
        for widget in (ui.axisLabel, ui.axisSelector, ui.thicknessLabel, ui.thicknessSpinBox):
            widget.setVisible(is_sharpening)
        if understanding is None:
            ui.gridValue.setText(_("No input yet."))
            return
        lines = [understanding.describe_grid()]
        if is_sharpening:
            lines.append(_("Thick axis: {axis}").format(axis=understanding.describe_thick_axis()))
        if understanding.describe_series():
            lines.append(_("DICOM: {series}").format(series=understanding.describe_series()))
        contrast = understanding.contrast.upper() if understanding.contrast else _("not told by the name")
        lines.append(_("Contrast: {contrast}").format(contrast=contrast))
        ui.gridValue.setText("\n".join(lines))

    def _build(self, model: ModelInfo | None) -> None:
        layout = self._ui.conditionsContainer.layout()
        for widget in [*self._labels, *self._selectors.values()]:
            layout.removeWidget(widget)
            widget.hide()
            widget.deleteLater()
        self._labels, self._selectors, self._model = [], {}, model
        for condition in _required(model):
            label = qt.QLabel(condition.label + ":")
            selector = self._make_selector(condition.name, condition.description)
            layout.addRow(label, selector)
            self._labels.append(label)
            self._selectors[condition.name] = selector

    def _make_selector(self, name: str, description: str) -> Any:
        selector = slicer.qMRMLNodeComboBox()
        selector.objectName = f"condition_{name}"
        selector.nodeTypes = ["vtkMRMLScalarVolumeNode"]
        selector.showChildNodeTypes = False  # no label maps, no colour images
        selector.addEnabled = False
        selector.removeEnabled = False
        selector.noneEnabled = True
        selector.noneDisplay = _("Choose a volume")
        selector.setToolTip(description or _("Volume for this input of the model."))
        selector.setSizePolicy(qt.QSizePolicy.Expanding, qt.QSizePolicy.Fixed)
        selector.setMRMLScene(slicer.mrmlScene)
        selector.connect("currentNodeChanged(vtkMRMLNode*)", lambda node, name=name: self._on_chosen(name, node))
        return selector

    def _on_chosen(self, name: str, node: Any | None) -> None:
        if self._parameter_node is not None:
            conditions.set_condition_node(self._parameter_node, name, node)


def _required(model: ModelInfo | None) -> list[Condition]:
    return [condition for condition in model.conditions if not condition.optional] if model is not None else []
