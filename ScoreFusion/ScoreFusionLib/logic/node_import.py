"""Files of the worker to volume nodes, beside the input in the hierarchy."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import slicer
import vtk
from numpy.typing import DTypeLike, NDArray
from vtk.util import numpy_support

from ScoreFusionLib.i18n import tr as _
from ScoreFusionLib.logic.geometry import affine_to_node
from ScoreFusionLib.logic.nifti import read_steps

ATTRIBUTE_PREFIX = "ScoreFusion."
SYNTHETIC = "synthetic"  # stays in English: other software looks for the word


def load_steps(path: Path) -> Iterator[tuple[vtk.vtkImageData, NDArray[np.float64]] | None]:
    """Read a volume into a new VTK image, in steps.

    Yields:
        None between the steps; at the end the image, float32, and its affine.
    """
    image = vtk.vtkImageData()

    def allocate(spatial_shape: tuple[int, int, int], _dtype: DTypeLike) -> NDArray:
        image.SetDimensions(*spatial_shape)
        image.AllocateScalars(vtk.VTK_FLOAT, 1)
        return numpy_support.vtk_to_numpy(image.GetPointData().GetScalars())

    for header in read_steps(path, allocate):
        yield None if header is None else (image, header.affine)


def result_name(input_name: str, label: str) -> str:
    """Return the name of a result, e.g. `MRHead - synthetic FLAIR`."""
    return f"{input_name} - {SYNTHETIC} {label}"


def volume_node(scene: Any, name: str, existing: Any | None) -> Any:
    """Return the node that receives a result: `existing` if there is one, else a new one.

    A node that the user named keeps its name, but never without the word *synthetic*.
    """
    if existing is None:
        return scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", scene.GenerateUniqueName(name))
    if SYNTHETIC not in existing.GetName().lower():
        existing.SetName(f"{existing.GetName()} - {SYNTHETIC}")
    return existing


def fill_node(node: Any, image: vtk.vtkImageData, affine: NDArray[np.float64], transform_id: str | None) -> None:
    """Put voxels and geometry into a node, and the node under a transform or none."""
    was_modified = node.StartModify()
    node.SetAndObserveImageData(image)
    affine_to_node(node, affine)
    node.SetAndObserveTransformNodeID(transform_id)
    node.EndModify(was_modified)


def place_beside(node: Any, neighbour: Any) -> None:
    """Put `node` under the same subject, study or folder as `neighbour`."""
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(node.GetScene())
    if hierarchy is None or neighbour is None or neighbour.GetScene() is None:
        return
    item = hierarchy.GetItemByDataNode(node) or hierarchy.CreateItem(hierarchy.GetSceneItemID(), node)
    beside = hierarchy.GetItemByDataNode(neighbour)
    if beside:
        hierarchy.SetItemParent(item, hierarchy.GetItemParent(beside))


def write_provenance(node: Any, provenance: Mapping[str, Any], *, role: str) -> None:
    """Write where a volume comes from into the node: a few attributes to read, and everything as JSON.

    Args:
        node: Result, uncertainty or error map.
        provenance: The engine's record of the run.
        role: `result`, `uncertainty`, `error`, `change` or `guides`.
    """
    for key, value in _leaves(provenance).items():
        node.SetAttribute(ATTRIBUTE_PREFIX + key, value)
    node.SetAttribute(ATTRIBUTE_PREFIX + "Synthetic", "true")
    node.SetAttribute(ATTRIBUTE_PREFIX + "Role", role)
    node.SetAttribute(ATTRIBUTE_PREFIX + "Provenance", json.dumps(provenance, default=str))
    node.SetDescription(_("Synthetic image made by ScoreFusion. For research, not for diagnosis."))


def read_provenance(node: Any) -> dict[str, Any]:
    """Return the record written by `write_provenance`; empty for any other node."""
    return json.loads(node.GetAttribute(ATTRIBUTE_PREFIX + "Provenance") or "{}")


def _leaves(provenance: Mapping[str, Any]) -> dict[str, str]:
    """Return the entries worth an attribute of their own: `{"Model": {"Id": "x"}}` becomes `{"ModelId": "x"}`.

    What was moved by how much becomes `Registration.t1.MovedMm` and its like.
    """
    flat: dict[str, Any] = {}
    for moved in provenance.get("Registration") or ():
        flat |= {f"Registration.{moved.get('Input')}.{key}": value for key, value in moved.items() if key != "Input"}
    for key, value in provenance.items():
        flat |= {key + inner: v for inner, v in value.items()} if isinstance(value, Mapping) else {key: value}
    return {key: str(value) for key, value in flat.items() if isinstance(value, (str, int, float, bool))}
