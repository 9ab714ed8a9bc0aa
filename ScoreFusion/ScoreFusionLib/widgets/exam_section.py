"""The scans of an exam: one row for each scan beside the one to restore, with its role."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import qt
import slicer

from ScoreFusionLib.i18n import tr as _
from ScoreFusionLib.logic import exam
from ScoreFusionLib.logic.exam import Scan
from ScoreFusionLib.logic.models import ModelInfo

_NARROW = 60  # pixels that a selector of volumes can do with


@dataclass(frozen=True)
class Row:
    """The two widgets of a row, and the id of the volume that it shows."""

    volume: Any
    role: Any
    node_id: str


class ExamSection:
    """Shows the rows that the parameter node keeps, or those that are proposed while nobody has edited them."""

    def __init__(self, ui: Any) -> None:
        self.rows: list[Row] = []
        self._ui = ui
        self._grid = qt.QGridLayout(ui.examRows)
        self._grid.setContentsMargins(0, 0, 0, 0)
        self._grid.setColumnStretch(0, 1)
        self._model: ModelInfo | None = None
        self._taken: list[Any] = []  # the scan to restore, then the model's other required inputs
        self._contrast: str | None = None
        self._parameter_node: Any = None
        ui.addScanButton.connect("clicked(bool)", lambda *_args: self.add())

    @property
    def scans(self) -> list[Scan]:
        """The rows as they are kept; none while there is nothing to choose."""
        return exam.read_scans(self._parameter_node) if self._is_offered else []

    def guides(self) -> dict[str, Any]:
        """Return condition name to volume node."""
        return exam.guides_of(self.scans)

    def stacks(self) -> list[Any]:
        """Return the further stacks of the scan to restore."""
        return exam.stacks_of(self.scans)

    def show(self, model: ModelInfo | None, required: Sequence[Any], contrast: str | None, parameter_node: Any) -> None:
        """Show the rows, after a new proposal where nobody has edited them.

        Args:
            model: The chosen model.
            required: Volumes of its required inputs, the scan to restore first.
            contrast: What that scan shows; None = unknown.
            parameter_node: Keeps the rows.
        """
        is_other_model = model is not self._model
        self._model, self._taken, self._contrast = model, list(required), contrast
        self._parameter_node = parameter_node
        has_guides = model is not None and bool(exam.optional_conditions(model))
        self._ui.examContainer.setVisible(has_guides)
        self._ui.addScanButton.setEnabled(self._is_offered)
        self._ui.registerCheckBox.setEnabled(self._is_offered)
        if not self._is_offered:
            self._show([], {}, rebuild=is_other_model)
            return
        assert model is not None, "only a model offers rows"
        base = self._taken[0]
        proposed = exam.propose(model, base, contrast, exam.scans_beside(base, self._taken))
        if not exam.are_edited(parameter_node, model, base):
            exam.write_scans(parameter_node, proposed, model, base, edited=False)
        judged = exam.propose(model, base, contrast, [scan.node for scan in self.scans if scan.node is not None])
        reasons = {scan.node.GetID(): scan.reason for scan in [*judged, *proposed] if scan.node is not None}
        self._show(self.scans, reasons, rebuild=is_other_model)

    def add(self) -> None:
        """Add a row: with a volume of the scene that fits a role which is still free, or an empty one."""
        if not self._is_offered or self._model is None:
            return
        scans = self.scans
        listed = [*self._taken, *(scan.node for scan in scans if scan.node is not None)]
        found = exam.next_scan(self._model, self._taken[0], self._contrast, listed)
        role = exam.UNUSED if found.role in exam.guides_of(scans) else found.role
        self._keep([*scans, replace(found, role=role)])

    @property
    def _is_offered(self) -> bool:
        return (
            self._model is not None
            and self._parameter_node is not None
            and bool(exam.optional_conditions(self._model))
            and bool(self._taken)
            and self._taken[0].GetScene() is not None
            and self._taken[0].GetImageData() is not None
        )

    def _keep(self, scans: Sequence[Scan]) -> None:
        if self._model is not None:
            exam.write_scans(self._parameter_node, scans, self._model, self._taken[0], edited=True)

    # -- the widgets -----------------------------------------------------------------------------------------------

    def _show(self, scans: Sequence[Scan], reasons: dict[str, str], *, rebuild: bool) -> None:
        roles = exam.roles_of(self._model) if self._model is not None else {}
        usual = _(
            "What this scan is for: a guide of that contrast, or a stack: the scan to restore once more, cut otherwise."
        )
        if rebuild or len(scans) != len(self.rows):
            self._build(len(scans), roles)
        for index, (row, scan) in enumerate(zip(self.rows, scans, strict=True)):
            for widget in (row.volume, row.role):
                widget.blockSignals(True)
            row.volume.setCurrentNode(scan.node)
            row.role.setCurrentIndex(list(roles).index(scan.role if scan.role in roles else exam.UNUSED))
            for widget in (row.volume, row.role):
                widget.blockSignals(False)
            node_id = scan.node.GetID() if scan.node is not None else ""
            self.rows[index] = replace(row, node_id=node_id)
            reason = reasons.get(node_id, "") if scan.role == exam.UNUSED else ""
            row.role.setToolTip(reason or usual)
            row.volume.setToolTip(scan.node.GetName() if scan.node is not None else _("Choose a scan of this person."))

    def _build(self, count: int, roles: dict[str, str]) -> None:
        for row in self.rows:
            for widget in (row.volume, row.role):
                self._grid.removeWidget(widget)
                widget.hide()
                widget.deleteLater()
        self.rows = []
        for index in range(count):
            row = Row(self._make_selector(index), self._make_roles(index, roles), "")
            self._grid.addWidget(row.volume, index, 0)
            self._grid.addWidget(row.role, index, 1)
            self.rows.append(row)

    def _make_selector(self, index: int) -> Any:
        selector = slicer.qMRMLNodeComboBox()
        selector.objectName = f"scan_{index}"
        selector.nodeTypes = ["vtkMRMLScalarVolumeNode"]
        selector.showChildNodeTypes = False
        selector.addEnabled = False
        selector.removeEnabled = False
        selector.noneEnabled = True
        selector.noneDisplay = _("No scan")
        selector.setMinimumWidth(_NARROW)
        selector.setSizePolicy(qt.QSizePolicy.Expanding, qt.QSizePolicy.Fixed)
        selector.setMRMLScene(slicer.mrmlScene)
        selector.connect("currentNodeChanged(vtkMRMLNode*)", lambda node: self._on_node(index, node))
        return selector

    def _make_roles(self, index: int, roles: dict[str, str]) -> Any:
        selector = qt.QComboBox()
        selector.objectName = f"role_{index}"
        for text in roles.values():
            selector.addItem(text)
        names = list(roles)
        selector.connect("currentIndexChanged(int)", lambda chosen: self._on_role(index, names[chosen]))
        return selector

    def _on_node(self, index: int, node: Any | None) -> None:
        """Take what was chosen; later, since a selector goes on to another volume before its own is deleted."""
        if not slicer.mrmlScene.IsClosing() and index < len(self.rows):
            shown = self.rows[index].node_id
            qt.QTimer.singleShot(0, lambda: self._accept(index, shown, node))

    def _accept(self, index: int, shown: str, node: Any | None) -> None:
        if not self._is_offered or self._model is None:
            return
        if shown and slicer.mrmlScene.GetNodeByID(shown) is None:  # deleted: nobody has chosen another one
            left = [scan for scan in self.scans if scan.node is not None]
            edited = exam.are_edited(self._parameter_node, self._model, self._taken[0])
            exam.write_scans(self._parameter_node, left, self._model, self._taken[0], edited=edited)
        else:
            self._change(index, None if node is None else lambda scan: replace(scan, node=node))

    def _on_role(self, index: int, role: str) -> None:
        self._change(index, lambda scan: replace(scan, role=role))

    def _change(self, index: int, change: Callable[[Scan], Scan] | None) -> None:
        """Change a row, or take it out."""
        scans = self.scans
        if index < len(scans):
            self._keep([*scans[:index], *([change(scans[index])] if change else []), *scans[index + 1 :]])
