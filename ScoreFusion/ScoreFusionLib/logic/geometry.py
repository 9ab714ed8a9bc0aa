"""Where a volume node lies in the world, and in which frame a run takes place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import vtk
from numpy.typing import NDArray

from ScoreFusionLib.i18n import tr as _
from ScoreFusionLib.logic.errors import RunError

_SHEAR_TOLERANCE = 1e-3  # cosine between voxel axes; a right angle less 0.06 degrees


@dataclass(frozen=True)
class Frame:
    """The space of a run.

    Either the world, with all transforms of the inputs applied (as `exportNode(world=True)` does, the scene
    untouched), or the space below a transform that all inputs share, which the result is then put under.

    Attributes:
        affines: For each input, float64 (4, 4), voxel index to RAS mm of this frame.
        transform_id: MRML id of the transform the result must be put under, None for the world.
        notes: What the user should know, in sentences.
    """

    affines: dict[str, NDArray[np.float64]]
    transform_id: str | None = None
    notes: list[str] = field(default_factory=list)


def affine_from_node(node: Any) -> NDArray[np.float64]:
    """Return voxel index to RAS mm of a volume node, float64 (4, 4), without its parent transform."""
    matrix = vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(matrix)
    return array_from_matrix(matrix)


def affine_to_node(node: Any, affine: NDArray[np.float64]) -> None:
    """Set voxel index to RAS mm of a volume node."""
    node.SetIJKToRASMatrix(matrix_from_array(affine))


def array_from_matrix(matrix: vtk.vtkMatrix4x4) -> NDArray[np.float64]:
    """Return a VTK matrix as float64 (4, 4)."""
    return np.array([[matrix.GetElement(row, column) for column in range(4)] for row in range(4)])


def matrix_from_array(array: NDArray[np.float64]) -> vtk.vtkMatrix4x4:
    """Return a (4, 4) array as a VTK matrix."""
    matrix = vtk.vtkMatrix4x4()
    for row in range(4):
        for column in range(4):
            matrix.SetElement(row, column, float(array[row, column]))
    return matrix


def world_affine(node: Any) -> NDArray[np.float64] | None:
    """Return voxel index to world RAS mm, None if a transform above the node is not linear."""
    transform = node.GetParentTransformNode()
    if transform is None:
        return affine_from_node(node)
    if not transform.IsTransformToWorldLinear():
        return None
    to_world = vtk.vtkMatrix4x4()
    transform.GetMatrixTransformToWorld(to_world)
    return array_from_matrix(to_world) @ affine_from_node(node)


def is_sheared(affine: NDArray[np.float64]) -> bool:
    """True if the voxel axes are not at right angles."""
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    return bool(np.abs(axes.T @ axes - np.eye(3)).max() > _SHEAR_TOLERANCE)


def plan_frame(nodes: Mapping[str, Any]) -> Frame:
    """Choose the frame of a run.

    Args:
        nodes: Input name to volume node.

    Raises:
        RunError: The inputs lie under different transforms, one of which is not linear or shears.
    """
    in_world = {name: world_affine(node) for name, node in nodes.items()}
    bent = [name for name, affine in in_world.items() if affine is None or _adds_shear(nodes[name], affine)]
    if not bent:
        return Frame(affines={name: affine for name, affine in in_world.items() if affine is not None})
    transforms = {node.GetTransformNodeID() for node in nodes.values()}
    if len(transforms) == 1:
        node = nodes[bent[0]]
        note = _(
            "'{volume}' lies under the transform '{transform}', which bends or shears it. The volume is processed as "
            "it was acquired, and the result is put under the same transform."
        ).format(volume=node.GetName(), transform=node.GetParentTransformNode().GetName())
        affines = {name: affine_from_node(node) for name, node in nodes.items()}
        return Frame(affines=affines, transform_id=transforms.pop(), notes=[note])
    msg = _(
        "'{volume}' lies under a transform that bends or shears it, and the other inputs do not. Put all inputs under "
        "the same transform, or resample it first (module Resample Scalar/Vector/DWI Volume), then run again."
    ).format(volume=nodes[bent[0]].GetName())
    raise RunError(msg)


def _adds_shear(node: Any, in_world: NDArray[np.float64]) -> bool:
    """True if the transform shears the volume; a volume that was acquired so is the engine's business."""
    return is_sheared(in_world) and not is_sheared(affine_from_node(node))
