"""The other scans of an exam: found beside the scan to restore, given a role, and kept in the parameter node.

What is found is only proposed. As long as nobody has edited the rows they follow the scene; a new scan to restore or
another model begins a new proposal.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import slicer
import vtk
from numpy.typing import NDArray

from ScoreFusionLib.i18n import tr as _
from ScoreFusionLib.logic.geometry import affine_from_node, world_affine
from ScoreFusionLib.logic.models import Condition, ModelInfo
from ScoreFusionLib.logic.node_import import ATTRIBUTE_PREFIX
from ScoreFusionLib.logic.understanding import describing_text, guess_contrast
from ScoreFusionLib.logic.wording import scan_label

UNUSED = "unused"
STACK = "stack"
_SHARPER = 0.95  # of the spacing of the scan to restore: less than that is worth showing to a network
_REFERENCE = "Scan."
_OF = "ScansOf"  # reference to the scan that the rows belong to
_ROLES, _MODEL, _EDITED = "ScanRoles", "ScansModel", "ScansEdited"


@dataclass(frozen=True)
class Scan:
    """A further scan of the exam.

    Attributes:
        node: Volume node; None in a row that is not filled yet.
        role: Name of an optional condition of the model, `STACK` or `UNUSED`.
        reason: Why it is proposed as `UNUSED`, in a sentence; empty for any other role.
    """

    node: Any | None
    role: str = UNUSED
    reason: str = field(default="", compare=False)


def optional_conditions(model: ModelInfo) -> list[Condition]:
    """Return the inputs of a model that may be missing."""
    return [condition for condition in model.conditions if condition.optional]


def roles_of(model: ModelInfo) -> dict[str, str]:
    """Return the roles that a model knows and their texts."""
    roles = {condition.name: scan_label(condition.name) for condition in optional_conditions(model)}
    if model.task == "super_resolution":
        roles[STACK] = _("Stack")
    return {**roles, UNUSED: _("Not used")}


def guides_of(scans: Iterable[Scan]) -> dict[str, Any]:
    """Return condition name to volume node."""
    return {scan.role: scan.node for scan in scans if scan.node is not None and scan.role not in (STACK, UNUSED)}


def stacks_of(scans: Iterable[Scan]) -> list[Any]:
    """Return the further stacks of the scan to restore."""
    return [scan.node for scan in scans if scan.node is not None and scan.role == STACK]


def problem_of(scans: Iterable[Scan]) -> str:
    """Return why these scans cannot go into one run; empty if they can."""
    roles = Counter(scan.role for scan in scans if scan.node is not None and scan.role not in (STACK, UNUSED))
    twice = next((role for role, count in roles.items() if count > 1), None)
    if twice is None:
        return ""
    return _("Two scans have the role '{role}'. Set one of them to 'Not used'.").format(role=scan_label(twice))


# -- the proposal ------------------------------------------------------------------------------------------------------


def scans_beside(base: Any, taken: Iterable[Any]) -> list[Any]:
    """Return the other scans of the patient of `base` in the subject hierarchy, those of its own study first.

    Args:
        base: The scan to restore. Without a patient or study above it nothing is beside it.
        taken: Volumes that are inputs already.
    """
    branch = _patient_of(base) or _study_of(base)
    if not branch:
        return []
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(base.GetScene())
    found = vtk.vtkCollection()
    hierarchy.GetDataNodesInBranch(branch, found, "vtkMRMLScalarVolumeNode")
    nodes = [found.GetItemAsObject(index) for index in range(found.GetNumberOfItems())]
    used = {base.GetID(), *(node.GetID() for node in taken)}
    nodes = [node for node in nodes if node.GetID() not in used and is_scan(node)]
    return sorted(nodes, key=lambda node: _study_of(node) != _study_of(base))


def is_scan(node: Any) -> bool:
    """True for a grey 3D volume of the scene that is no label map and was not made by us."""
    image, scene = node.GetImageData(), node.GetScene()
    return (
        scene is not None
        and scene.GetNodeByID(node.GetID()) is node  # the hierarchy keeps a deleted one a little longer
        and node.GetClassName() == "vtkMRMLScalarVolumeNode"
        and image is not None
        and image.GetNumberOfScalarComponents() == 1
        and min(image.GetDimensions()) > 1
        and node.GetAttribute(ATTRIBUTE_PREFIX + "Synthetic") is None
    )


def propose(model: ModelInfo, base: Any, contrast: str | None, nodes: Sequence[Any]) -> list[Scan]:
    """Give each scan a role; of two with the same one the sharpest keeps it.

    Args:
        model: Its optional conditions are the roles.
        base: The scan to restore.
        contrast: What `base` shows; None = unknown.
        nodes: The other scans.
    """
    scans = [_judge(model, base, contrast, node) for node in nodes]
    best: dict[str, Any] = {}
    for scan in sorted(scans, key=lambda scan: _coarseness(scan.node, base)):
        best.setdefault(scan.role, scan.node)
    return [
        scan if scan.role == UNUSED or best[scan.role] is scan.node else _second(scan, best[scan.role])
        for scan in scans
    ]


def next_scan(model: ModelInfo, base: Any, contrast: str | None, listed: Iterable[Any]) -> Scan:
    """Return a row for a scan to add: a volume of the scene whose role is clear and still free, else an empty one."""
    scene, known = base.GetScene(), {base.GetID(), *(node.GetID() for node in listed)}
    nodes = [scene.GetNthNodeByClass(index, "vtkMRMLScalarVolumeNode") for index in range(_count(scene))]
    free = [node for node in nodes if node.GetID() not in known and is_scan(node)]
    used = [scan for scan in propose(model, base, contrast, free) if scan.role != UNUSED]
    return used[0] if used else Scan(None)


def _judge(model: ModelInfo, base: Any, contrast: str | None, node: Any) -> Scan:
    found = guess_contrast(describing_text(node))
    names = {"volume": node.GetName(), "contrast": scan_label(found or ""), "base": base.GetName()}
    visits = {_study_of(node), _study_of(base)} - {0}
    if len(visits) > 1:
        return Scan(node, UNUSED, _("'{volume}' is of another visit than '{base}'.").format(**names))
    if found is None:
        text = _("Neither the name nor DICOM tells the contrast of '{volume}': choose its role.")
        return Scan(node, UNUSED, text.format(**names))
    is_sharpening = model.task == "super_resolution"
    if is_sharpening and found == contrast:
        text = _(
            "'{volume}' shows the same contrast ({contrast}) as the scan to restore. If it is another stack of it, "
            "choose 'Stack'."
        )
        return Scan(node, UNUSED, text.format(**names))
    role = next((c.name for c in optional_conditions(model) if found in (c.contrasts or (c.name,))), None)
    if role is None:
        return Scan(node, UNUSED, _("This model has no use for {contrast}.").format(**names))
    if is_sharpening and not (_spacing_along(node, base) < _SHARPER * _spacing_along(base, base)).any():
        text = _("'{volume}' is in no direction sharper than the scan to restore.")
        return Scan(node, UNUSED, text.format(**names))
    return Scan(node, role)


def _second(scan: Scan, best: Any) -> Scan:
    text = _("'{best}' has the role '{role}', too, and is sharper.")
    return Scan(scan.node, UNUSED, text.format(best=best.GetName(), role=scan_label(scan.role)))


def _coarseness(node: Any, base: Any) -> tuple[float, float]:
    """Order scans: first by what they show where the scan to restore shows least, then by the size of a voxel."""
    thick = int(np.argmax(_spacing_along(base, base)))
    return float(_spacing_along(node, base)[thick]), float(np.prod(node.GetSpacing()))


def _spacing_along(node: Any, base: Any) -> NDArray[np.float64]:
    """Return the voxel size of `node` in mm along the three voxel axes of `base`."""
    axes = _axes(base) / np.linalg.norm(_axes(base), axis=0)
    own = _axes(node)
    spacing = np.linalg.norm(own, axis=0)
    return np.linalg.norm(spacing[:, None] * ((own / spacing).T @ axes), axis=0)


def _axes(node: Any) -> NDArray[np.float64]:
    affine = world_affine(node)
    return (affine_from_node(node) if affine is None else affine)[:3, :3]


def _study_of(node: Any) -> int:
    return _above(node, slicer.vtkMRMLSubjectHierarchyConstants.GetDICOMLevelStudy())


def _patient_of(node: Any) -> int:
    return _above(node, slicer.vtkMRMLSubjectHierarchyConstants.GetDICOMLevelPatient())


def _above(node: Any, level: str) -> int:
    """Return the item of a level above a node in the subject hierarchy, 0 without one."""
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(node.GetScene())
    item = hierarchy.GetItemByDataNode(node) if hierarchy is not None else 0
    return int(hierarchy.GetItemAncestorAtLevel(item, level)) if item else 0


def _count(scene: Any) -> int:
    return int(scene.GetNumberOfNodesByClass("vtkMRMLScalarVolumeNode"))


# -- kept with the scene -----------------------------------------------------------------------------------------------


def read_scans(parameter_node: Any) -> list[Scan]:
    """Return the rows that a parameter node holds."""
    roles = (parameter_node.GetParameter(_ROLES) or "").split()
    return [Scan(parameter_node.GetNodeReference(f"{_REFERENCE}{row}"), role) for row, role in enumerate(roles)]


def are_edited(parameter_node: Any, model: ModelInfo, base: Any) -> bool:
    """True if the user has edited the rows, for this scan to restore and this model."""
    return (
        parameter_node.GetParameter(_EDITED) == "true"
        and parameter_node.GetParameter(_MODEL) == model.id
        and parameter_node.GetNodeReference(_OF) is base
    )


def write_scans(parameter_node: Any, scans: Sequence[Scan], model: ModelInfo, base: Any, *, edited: bool) -> None:
    """Keep the rows; nothing is modified where they are the same.

    References, since an id in a text parameter would not survive that a scene is imported into another one.
    """
    was_modified = parameter_node.StartModify()
    for row in range(max(len(scans), len(read_scans(parameter_node)))):
        node = scans[row].node if row < len(scans) else None
        if parameter_node.GetNodeReference(f"{_REFERENCE}{row}") is not node:
            parameter_node.SetNodeReferenceID(f"{_REFERENCE}{row}", node.GetID() if node is not None else None)
    if parameter_node.GetNodeReference(_OF) is not base:
        parameter_node.SetNodeReferenceID(_OF, base.GetID())
    roles = " ".join(scan.role for scan in scans)
    for name, value in {_ROLES: roles, _MODEL: model.id, _EDITED: "true" if edited else "false"}.items():
        if parameter_node.GetParameter(name) != value:
            parameter_node.SetParameter(name, value)
    parameter_node.EndModify(was_modified)
